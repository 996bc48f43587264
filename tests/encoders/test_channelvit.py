import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from foveal.blocks.channel_tokens import stack_channels
from foveal.encoders import create_encoder
from foveal.encoders.channelvit import ChannelViT
from foveal.encoders.checkpoints import load_official

SMALL = {"dim": 24, "depth": 2, "heads": 3, "image_size": 32, "patch_size": 8}


def _model(**settings) -> ChannelViT:
    torch.manual_seed(0)
    return ChannelViT(**{**SMALL, "in_channels": 4, **settings}).eval()


def _vit(channels: int = 3) -> VisionTransformer:
    torch.manual_seed(1)
    vit = VisionTransformer(
        img_size=32, patch_size=8, in_chans=channels, embed_dim=24, depth=2, num_heads=3, num_classes=0
    )
    return vit.eval()


IMAGES = torch.rand(2, 4, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("merge", ["mean", "attention", "concat"])
def test_encoder_keeps_the_contract(merge):
    encoder = create_encoder("channelvit", **SMALL, in_channels=4, merge=merge, sampling="none").eval()
    features = encoder(IMAGES)
    assert features.patches.shape == (2, 16, 24)
    assert features.pooled.shape == (2, 24)
    assert features.grid == (4, 4)
    (map_,) = features.pyramid
    assert map_.shape == (2, *encoder.pyramid_channels, 4, 4)
    assert encoder.tokens(IMAGES).shape == (2, 4, 4, 4, 24)


def test_one_channel_without_its_vector_is_a_vision_transformer():
    vit = _vit(1)
    model = ChannelViT.from_rgb_vit(vit, in_channels=3).eval()
    grey = IMAGES[:, :1]
    torch.testing.assert_close(model(grey, [1]).pooled, vit(grey), atol=1e-5, rtol=0)


def test_a_grey_image_gives_the_tokens_of_the_colour_transformer_it_started_from():
    vit = _vit()
    model = ChannelViT.from_rgb_vit(vit, in_channels=8).eval()
    grey = IMAGES[:, :1]
    tokens = vit.forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model(grey, [5]).patches, tokens[:, 1:], atol=1e-5, rtol=0)


def test_a_transformer_of_another_kind_is_refused():
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=0, init_values=0.1
    )
    with pytest.raises(ValueError, match="other parts"):
        ChannelViT.from_rgb_vit(vit)


def test_permuting_channels_with_their_indices_changes_nothing_and_without_them_something():
    model = _model()
    order = [2, 0, 3, 1]
    wanted = model(IMAGES).pooled
    torch.testing.assert_close(model(IMAGES[:, order], order).pooled, wanted, atol=1e-5, rtol=0)
    assert (model(IMAGES[:, order]).pooled - wanted).abs().max() > 1e-3


def test_a_missing_channel_equals_tokens_that_nobody_attends_to():
    model = _model()
    masked = model(IMAGES, torch.tensor([[0, -1, 2, 3]] * 2))
    left_out = model(IMAGES[:, [0, 2, 3]], [0, 2, 3])
    torch.testing.assert_close(masked.pooled, left_out.pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(masked.patches, left_out.patches, atol=1e-5, rtol=0)


def test_channel_sets_of_each_image_in_one_batch_equal_image_by_image():
    model = _model()
    sets = [[0, 2, 3], [1], [3, 0]]
    images = [torch.rand(len(s), 32, 32) for s in sets]
    together = model(*stack_channels(images, sets))
    for row, (image, own) in enumerate(zip(images, sets, strict=True)):
        alone = model(image[None], own)
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.patches[row], alone.patches[0], atol=1e-5, rtol=0)


def test_parameters_follow_the_closed_formula():
    dim, depth, channels, classes, patch, grid = 384, 12, 8, 161, 16, 14
    model = ChannelViT(size="small", in_channels=channels)
    head = dim * classes + classes
    block = 4 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (8 * dim * dim + 5 * dim)
    formula = (
        patch**2 * dim + dim + channels * dim + dim + (1 + grid**2) * dim + depth * block + 2 * dim + head
    )
    assert sum(p.numel() for p in model.parameters()) + head == formula


def test_sequence_has_a_token_for_each_channel_and_patch_and_one_more():
    model, lengths = _model(), []
    model.blocks[0].register_forward_hook(lambda _, args, __: lengths.append(args[0].shape[1]))
    model(IMAGES[:, :1], [0])
    model(IMAGES)
    model.train()(IMAGES)
    assert lengths[:2] == [17, 65]
    assert lengths[2] in (17, 33, 49, 65)


def test_training_takes_channels_away_and_evaluation_none():
    model, lengths = _model().train(), []
    model.blocks[0].register_forward_hook(lambda _, args, __: lengths.append(args[0].shape[1]))
    for _ in range(20):
        model(IMAGES).pooled.sum().backward()
    assert set(lengths) == {17, 33, 49, 65}
    assert model.tokenizer.embedding.grad.abs().sum(dim=1).gt(0).all()


def test_names_tell_channels():
    model = _model(channel_names=["IR", "BAF", "green", "blue"])
    torch.testing.assert_close(
        model(IMAGES[:, :2], ["green", "IR"]).pooled, model(IMAGES[:, :2], [2, 0]).pooled
    )
    with pytest.raises(ValueError, match=r"'gren'.*did you mean 'green'"):
        model(IMAGES[:, :1], ["gren"])


def test_weights_of_other_channels_are_taken_over_by_name_and_new_ones_get_the_mean():
    stored = _model(channel_names=["IR", "BAF", "green", "blue"]).state_dict()
    other = _model(in_channels=3, channel_names=["green", "OCT", "IR"])
    other.load_state_dict(stored)
    vectors = stored["tokenizer.embedding"]
    wanted = torch.stack([vectors[2], vectors.mean(dim=0), vectors[0]])
    assert torch.equal(other.tokenizer.embedding, wanted)
    assert bytes(other.state_dict()["stored_names"].tolist()) == b'["green", "OCT", "IR"]'


@pytest.mark.parametrize("gathered", [True, False])
def test_checkpoints_of_the_authors_layout_load(gathered):
    model, vit = _model(), _vit()
    official = dict(vit.state_dict())
    kernel = official["patch_embed.proj.weight"]
    official["patch_embed.proj.weight"] = kernel.sum(dim=1, keepdim=True)[:, :, None]
    vectors = torch.rand(4, 24)
    if gathered:
        official["patch_embed.channel_embed.weight"] = vectors
    else:
        official["patch_embed.channel_embed"] = vectors.T[None, :, :, None, None]
    assert load_official(model, official).layout == "official"
    reference = ChannelViT.from_rgb_vit(vit, in_channels=4).eval()
    with torch.no_grad():
        reference.tokenizer.embedding.copy_(vectors)
    torch.testing.assert_close(model(IMAGES).pooled, reference(IMAGES).pooled)


def test_official_positions_are_the_resize_that_two_channels_pass_through():
    shared, official = _model(), _model(pos_mode="official")
    torch.testing.assert_close(official(IMAGES[:, :1], [0]).pooled, shared(IMAGES[:, :1], [0]).pooled)
    table = shared.positions.table.reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    resized = F.interpolate(table, scale_factor=4.1 / 4, mode="bicubic").permute(0, 2, 3, 1)
    with torch.no_grad():
        shared.positions.table.copy_(resized.reshape(1, 16, 24))
    torch.testing.assert_close(official(IMAGES).pooled, shared(IMAGES).pooled)


def test_many_tokens_raise_a_warning():
    model = ChannelViT(dim=8, depth=1, heads=1, image_size=64, patch_size=2, in_channels=5).eval()
    with pytest.warns(UserWarning, match="5121 tokens"):
        model(torch.rand(1, 5, 64, 64))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"size": "smal"}, "did you mean 'small'"),
        ({"image_size": 30}, "no multiple"),
        ({"merge": "concat"}, "needs all channels"),
        ({"merge": "sum"}, "allowed: mean"),
        ({"pos_mode": "own"}, "allowed: shared"),
        ({"channel_names": ["a", "a", "b", "c"]}, "4 different names"),
    ],
)
def test_wrong_settings_are_named(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        _model(**settings)


def test_sides_that_no_patch_fills_are_refused():
    with pytest.raises(ValueError, match="do not divide into patches"):
        _model()(torch.rand(1, 4, 30, 32))


def test_missing_indices_are_asked_for():
    with pytest.raises(ValueError, match=r"channels=\[0, 1\]"):
        _model()(IMAGES[:, :2])


MASKED = {"encoder": "conv-pyramid", "encoder_settings": {"widths": (8, 8)}, "in_channels": 4}


def test_masked_channels_are_zeros_and_a_rescale_in_front_of_any_encoder():
    torch.manual_seed(0)
    model = create_encoder("masked-channels", **MASKED).eval()
    torch.testing.assert_close(model(IMAGES).pooled, model.encoder(IMAGES).pooled)
    fed = torch.zeros_like(IMAGES)
    fed[:, [3, 0]] = 2 * IMAGES[:, :2]
    wanted = model.encoder(fed).pooled
    torch.testing.assert_close(model(IMAGES[:, :2], [3, 0]).pooled, wanted)
    torch.testing.assert_close(model(fed / 2).pooled, wanted)  # channels that are 0 everywhere are missing


def test_masked_channels_draw_in_training_only():
    torch.manual_seed(0)
    model = create_encoder("masked-channels", **MASKED)
    present = []
    model.encoder.register_forward_pre_hook(
        lambda _, args: present.append(int((args[0] != 0).any(dim=(0, 2, 3)).sum()))
    )
    for _ in range(20):
        model(IMAGES)
    assert set(present) == {1, 2, 3, 4}
