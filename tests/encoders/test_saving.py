import json

import pytest
import torch

from foveal.encoders import ConvPyramid, Encoder, create_encoder
from foveal.models import Classifier, ClassifierConfig

VIT = {"depth": 1, "embed_dim": 24, "num_heads": 2}
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 16,
    "image_size": 32,
}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("conv-pyramid", {"widths": (4, 6), "in_channels": 2}),
        ("timm/vit_tiny_patch16_224", {**VIT, "in_channels": 2, "image_size": 64}),
        ("timm/resnet10t", {"in_channels": 2, "out_indices": (1, 2)}),
        ("transformers/dinov2", {"config": TINY, "in_channels": 2}),
    ],
)
@torch.no_grad()
def test_a_saved_encoder_comes_back_bit_by_bit(tmp_path, name, settings):
    torch.manual_seed(0)
    encoder = create_encoder(name, **settings).eval()
    again = Encoder.from_pretrained(encoder.save_pretrained(tmp_path, card="# An encoder\n"))
    images = torch.rand(1, 2, 64, 64)
    assert type(again) is type(encoder)
    assert torch.equal(again(images).pooled, encoder(images).pooled)
    assert not again.training
    assert again.preprocess == encoder.preprocess
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["encoder"] == name


def test_pretrained_weights_are_not_fetched_again_by_a_saved_encoder():
    assert "pretrained" not in create_encoder("timm/resnet10t", pretrained=False).settings


def test_settings_are_noted_however_the_encoder_is_made():
    assert ConvPyramid(widths=(4, 6)).settings == {"widths": (4, 6)}
    assert create_encoder("conv-pyramid", fold=1).settings == {"fold": 1}


def test_what_cannot_be_saved_or_loaded_is_named(tmp_path):
    class Nameless(Encoder):
        pass

    with pytest.raises(ValueError, match="Nameless cannot be saved: Nameless has no registered name"):
        Nameless().save_pretrained(tmp_path)
    around = ConvPyramid(widths=(4, 6))
    around.inner = Nameless()
    with pytest.raises(ValueError, match="ConvPyramid cannot be saved: Nameless has no registered name"):
        around.save_pretrained(tmp_path)
    encoder = ConvPyramid(widths=(4, 6))
    encoder.settings["widths"] = {4, 6}
    with pytest.raises(ValueError, match="its settings are no JSON values"):
        encoder.save_pretrained(tmp_path)
    config = ClassifierConfig(encoder="conv-pyramid", encoder_settings={"widths": [4, 6]}, classes=("a", "b"))
    folder = Classifier(config).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="holds a Classifier, not an Encoder"):
        Encoder.from_pretrained(folder)
    folder = create_encoder("timm/resnet10t").save_pretrained(tmp_path / "timm")
    with pytest.raises(ValueError, match="holds a TimmEncoder, not a ConvPyramid"):
        ConvPyramid.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        Encoder.from_pretrained("/no/such/folder/here")
