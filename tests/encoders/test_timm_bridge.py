import pytest
import timm
import torch

from foveal.encoders import create_encoder
from foveal.encoders.checkpoints import load_official

THIN = {"depth": 1, "embed_dim": 96, "num_heads": 3}

# One small model a family: name, settings, side of the images, strides of the pyramid.
FAMILIES = [
    ("vit_tiny_patch16_224", {}, 64, (16,)),
    ("vit_small_patch14_reg4_dinov2", {"depth": 2}, 70, (14,)),
    ("deit_tiny_distilled_patch16_224", {"depth": 2}, 64, (16,)),
    ("deit3_small_patch16_224", {"depth": 2}, 64, (16,)),
    ("eva02_tiny_patch14_224", {"depth": 2}, 70, (14,)),
    ("vit_small_patch16_dinov3", {"depth": 2}, 64, (16,)),
    ("beit_base_patch16_224", {**THIN, "image_size": 64}, 64, (16,)),
    ("vit_base_patch16_siglip_224", THIN, 64, (16,)),
    ("vit_relpos_small_patch16_224", {"depth": 2, "image_size": 64}, 64, (16,)),
    ("mixer_s32_224", {"image_size": 64}, 64, (32,)),
    ("cait_xxs24_224", {"depth": 2, "image_size": 64}, 64, (16,)),
    ("xcit_nano_12_p16_224", {"depth": 2}, 64, (16,)),
    ("resnet10t", {}, 64, (2, 4, 8, 16, 32)),
    ("mobilenetv3_small_050", {}, 64, (2, 4, 8, 16, 32)),
    ("efficientvit_b0", {}, 64, (4, 8, 16, 32)),
    ("convnext_atto", {}, 64, (4, 8, 16, 32)),
    ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, 64, (4, 8, 16, 32)),
    ("levit_128s", {"image_size": 64}, 64, (16, 32, 64)),
    ("pvt_v2_b0", {}, 64, (4, 8, 16, 32)),
    ("mobilevit_xxs", {}, 64, (2, 4, 8, 16, 32)),
    ("vit_tiny_r_s16_p8_224", {"depth": 2}, 64, (32,)),
    ("poolformer_s12", {}, 64, (4, 8, 16, 32)),
    ("ghostnet_050", {}, 64, (2, 4, 8, 16, 32)),
    ("regnetx_002", {}, 64, (2, 4, 8, 16, 32)),
]


@pytest.mark.parametrize(("name", "settings", "side", "strides"), FAMILIES, ids=[f[0] for f in FAMILIES])
@torch.no_grad()
def test_models_of_all_kinds_keep_the_contract_with_two_channels(name, settings, side, strides):
    encoder = create_encoder(f"timm/{name}", in_channels=2, **settings).eval()
    features = encoder(torch.rand(1, 2, side, side))
    assert encoder.pyramid_strides == strides
    assert encoder.patch_size == strides[-1]
    assert features.patches.shape == (1, features.grid[0] * features.grid[1], encoder.dim)
    assert features.pooled.shape == (1, encoder.dim)
    assert [m.shape[1] for m in features.pyramid] == list(encoder.pyramid_channels)
    assert [-(-side // m.shape[-1]) for m in features.pyramid] == list(strides)
    torch.testing.assert_close(features.pyramid[-1].flatten(2).mT, features.patches)


@torch.no_grad()
def test_plain_transformers_give_their_own_tokens_and_class_vector_at_any_size():
    torch.manual_seed(0)
    encoder = create_encoder("timm/vit_tiny_patch16_224", depth=2).eval()
    for height, width in ((224, 224), (96, 64)):
        images = torch.rand(1, 3, height, width)
        tokens = encoder.backbone.forward_features(images)
        features = encoder(images)
        torch.testing.assert_close(features.patches, tokens[:, 1:])
        torch.testing.assert_close(features.pooled, tokens[:, 0])
        assert features.grid == (height // 16, width // 16)


@torch.no_grad()
def test_layers_of_a_plain_transformer_can_be_asked_for():
    encoder = create_encoder("timm/vit_tiny_patch16_224", depth=4, out_indices=(1, 3)).eval()
    features = encoder(torch.rand(1, 3, 64, 32))
    assert encoder.pyramid_strides == (16, 16)
    assert [tuple(m.shape) for m in features.pyramid] == [(1, 192, 4, 2)] * 2


@torch.no_grad()
def test_swin_takes_sizes_that_it_was_not_built_for():
    encoder = create_encoder("timm/swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)).eval()
    assert encoder(torch.rand(1, 3, 96, 160)).grid == (3, 5)


def test_a_model_built_for_one_size_says_so():
    encoder = create_encoder("timm/mixer_s32_224")
    with pytest.raises(ValueError, match=r"images of 64 x 96 px.*built for 224 x 224.*image_size="):
        encoder(torch.rand(1, 3, 64, 96))


def test_stochastic_depth_and_settings_reach_the_model():
    encoder = create_encoder("timm/vit_tiny_patch16_224", depth=2, drop_path=0.3)
    assert encoder.backbone.blocks[1].drop_path1.drop_prob == pytest.approx(0.3)
    assert encoder.name == "timm/vit_tiny_patch16_224"
    assert encoder.settings == {"depth": 2, "drop_path": 0.3}
    with pytest.raises(ValueError, match=r"timm cannot make resnet10t.*no_such"):
        create_encoder("timm/resnet10t", no_such=1)


def test_preprocessing_is_that_of_the_weights():
    preprocess = create_encoder("timm/vit_base_patch16_siglip_224", in_channels=1, **THIN).preprocess
    assert (preprocess.size, preprocess.mean, preprocess.std) == (224, (0.5,), (0.5,))
    assert create_encoder("timm/vit_tiny_patch16_224", image_size=64, depth=1).preprocess.size == 64
    assert create_encoder("timm/resnet10t", in_channels=4).preprocess.mean == (0.485, 0.456, 0.406, 0.485)


@pytest.mark.parametrize(
    ("name", "settings", "head"),
    [
        ("vit_tiny_patch16_224", {"depth": 2}, "head"),
        ("convnext_atto", {}, "head.fc"),
        ("resnet10t", {}, "fc"),
    ],
)
def test_official_weights_load_through_timms_own_mapping(name, settings, head):
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=5, **settings).eval()
    encoder = create_encoder(f"timm/{name}", in_channels=1, **settings).eval()
    loaded = load_official(encoder, {"model": whole.state_dict()})
    assert loaded.layout == "timm"
    assert loaded.head is not None
    torch.testing.assert_close(loaded.head["weight"], whole.get_submodule(head).weight.data)
    # A kernel of one channel is the sum over the colours: grey images give what they gave in colour.
    colour = create_encoder(f"timm/{name}", **settings).eval()
    load_official(colour, whole.state_dict())
    grey = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        expected = colour(grey.expand(1, 3, 64, 64)).pooled
        torch.testing.assert_close(encoder(grey).pooled, expected, atol=1e-4, rtol=1e-4)


def test_names_timm_does_not_know_are_told_with_the_nearest():
    with pytest.raises(ValueError, match="unknown timm model 'resnet_18'; did you mean 'resnet18'"):
        create_encoder("timm/resnet_18")


def test_a_model_of_colours_only_says_so():
    with pytest.raises(ValueError, match="in_channels 2: timm's csatv2 takes colour photographs only"):
        create_encoder("timm/csatv2", in_channels=2)


@torch.no_grad()
def test_register_tokens_of_flexible_transformers_are_split_off():
    encoder = create_encoder("timm/naflexvit_base_patch16_gap", depth=1, embed_dim=48, num_heads=2).eval()
    assert encoder(torch.rand(1, 3, 384, 384)).grid == (24, 24)


def test_weights_of_a_masked_autoencoder_load_without_their_decoder():
    torch.manual_seed(0)
    whole = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0)
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 197, 8)}
    decoder["decoder_blocks.0.norm1.weight"] = torch.zeros(8)
    encoder = create_encoder("timm/vit_tiny_patch16_224", depth=2, global_pool="avg", image_size=160)
    skip = ["decoder_", "mask_token", r"^backbone\.(fc_)?norm\."]
    loaded = load_official(encoder, {"model": whole.state_dict() | decoder}, skip=skip)
    assert loaded.skipped == tuple(
        f"backbone.{key}"
        for key in (
            "decoder_blocks.0.norm1.weight",
            "decoder_pos_embed",
            "fc_norm.bias",
            "fc_norm.weight",
            "norm.bias",
            "norm.weight",
        )
    )
    torch.testing.assert_close(encoder.backbone.blocks[1].mlp.fc1.weight, whole.blocks[1].mlp.fc1.weight)
    assert encoder.backbone.pos_embed.shape == (1, 101, 192)
