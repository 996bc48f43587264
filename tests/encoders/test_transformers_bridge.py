import json

import pytest
import torch
import transformers

from foveal.encoders import create_encoder

PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
}
DINO = {key: value for key, value in PLAIN.items() if key != "intermediate_size"}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2], "window_size": 4, "image_size": 64}
MODELS = {
    "vit": (PLAIN, (16,)),
    "deit": (PLAIN, (16,)),
    "vit_mae": (PLAIN, (16,)),
    "dinov2": (DINO, (16,)),
    "dinov2_with_registers": ({**DINO, "num_register_tokens": 3}, (16,)),
    "dinov3_vit": ({**PLAIN, "num_register_tokens": 4}, (16,)),
    "beit": ({**PLAIN, "use_relative_position_bias": True}, (16,)),
    "clip": ({"vision_config": PLAIN}, (16,)),
    "clip_vision_model": (PLAIN, (16,)),
    "siglip_vision_model": (PLAIN, (16,)),
    "swin": (SWIN, (4, 8, 16, 32)),
    "swinv2": (SWIN, (4, 8, 16, 32)),
    "convnext": (STAGES, (4, 8, 16, 32)),
    "convnextv2": (STAGES, (4, 8, 16, 32)),
    "dinov3_convnext": (STAGES, (4, 8, 16, 32)),
    "resnet": ({**STAGES, "embedding_size": 8}, (4, 8, 16, 32)),
}
OWN = {"vit": "ViTModel", "dinov2": "Dinov2Model", "siglip_vision_model": "SiglipVisionModel"}


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_models_keep_the_contract_at_other_sizes_and_with_two_channels(kind):
    config, strides = MODELS[kind]
    encoder = create_encoder(f"transformers/{kind}", config=config, in_channels=2).eval()
    assert encoder.pyramid_strides == strides
    for height, width in ((64, 64), (96, 160)):
        features = encoder(torch.rand(2, 2, height, width))
        assert features.grid == (height // strides[-1], width // strides[-1])
        assert features.patches.shape == (2, features.grid[0] * features.grid[1], encoder.dim)
        assert features.pooled.shape == (2, encoder.dim)
        assert [m.shape[1] for m in features.pyramid] == list(encoder.pyramid_channels)
        assert [width // m.shape[-1] for m in features.pyramid] == list(strides)
        torch.testing.assert_close(features.pyramid[-1].flatten(2).mT, features.patches)
    # Rebuilt from its settings it is the same model.
    again = create_encoder(encoder.name, **json.loads(json.dumps(encoder.settings))).eval()
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(1, 2, 64, 64)
    torch.testing.assert_close(again(images).pooled, encoder(images).pooled)


@pytest.fixture(params=["vit", "dinov2", "clip", "swin"])
def folder(request, tmp_path):
    torch.manual_seed(0)
    settings, _ = MODELS[request.param]
    config = transformers.AutoConfig.for_model(request.param, **settings)
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(
        image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], size={"height": 64, "width": 64}
    )
    processor.save_pretrained(tmp_path)
    return tmp_path, model.eval()


@torch.no_grad()
def test_a_saved_folder_gives_the_models_own_numbers(folder):
    path, model = folder
    encoder = create_encoder(f"transformers/{path}").eval()
    side = 128 if encoder.model_type == "swin" else 64  # its last stage holds a window
    images = torch.rand(2, 3, side, side)
    tower = getattr(model, "vision_model", model)
    output = tower(images)
    cells = encoder(images).grid[0] * encoder(images).grid[1]
    torch.testing.assert_close(encoder(images).patches, output.last_hidden_state[:, -cells:])
    expected = output.last_hidden_state[:, 0] if encoder.model_type == "vit" else output.pooler_output
    torch.testing.assert_close(encoder(images).pooled, expected)
    assert encoder.preprocess.model_dump() == {"size": 64, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


@torch.no_grad()
def test_a_grey_camera_gets_the_summed_kernel(folder):
    path, _ = folder
    colour = create_encoder(f"transformers/{path}").eval()
    grey = create_encoder(f"transformers/{path}", in_channels=1).eval()
    images = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(
        grey(images).pooled, colour(images.expand(1, 3, 64, 64)).pooled, atol=1e-5, rtol=1e-4
    )
    assert grey.preprocess.mean == pytest.approx((0.2,))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown transformers model type 'dinov22'; did you mean 'dinov2'"):
        create_encoder("transformers/dinov22", config={})
    with pytest.raises(ValueError, match="unknown setting of vit 'hidden_sise'; did you mean 'hidden_size'"):
        create_encoder("transformers/vit", config={"hidden_sise": 3})
    with pytest.raises(ValueError, match="unknown setting of clip_vision_model 'drop_path_rate'"):
        create_encoder("transformers/clip_vision_model", config=PLAIN, drop_path=0.1)
    with pytest.raises(ValueError, match="bert is no vision model"):
        create_encoder("transformers/bert", config={})
    with pytest.raises(FileNotFoundError, match=r"finds no model '/no/such/folder'.*local_files_only=False"):
        create_encoder("transformers//no/such/folder")
    with pytest.raises(ValueError, match=r"images of shape \(1, 4, 64, 64\); allowed: \(B, 3, H, W\)"):
        create_encoder("transformers/vit", config=PLAIN)(torch.rand(1, 4, 64, 64))


def test_stochastic_depth_reaches_the_model():
    encoder = create_encoder("transformers/dinov2", config=DINO, drop_path=0.2)
    assert encoder.settings["config"]["drop_path_rate"] == 0.2
