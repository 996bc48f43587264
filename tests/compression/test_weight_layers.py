"""What layers are for and what they cost, in timm's and transformers' transformers and a CNN."""

import pytest
import timm
import torch

from foveal.compression.layers import role_of, weight_layers


def test_a_timm_transformer_has_its_known_layers_and_operations() -> None:
    model = timm.create_model("deit_tiny_patch16_224").eval()
    layers = weight_layers(model, torch.zeros(2, 3, 224, 224))
    assert len(layers) == 1 + 4 * 12 + 1
    assert [layer.role for layer in layers[:5]] == [
        "patches", "query, key, value", "projection", "first of MLP", "second of MLP",
    ]  # fmt: skip
    assert layers[0].rows == 196
    assert (layers[1].rows, layers[1].inputs, layers[1].outputs) == (197, 192, 576)
    assert layers[-1].role == "head"
    assert layers[-1].rows == 1
    per_block = 12 * 192**2 * 197
    assert sum(layer.macs for layer in layers) == 196 * 768 * 192 + 12 * per_block + 192 * 1000


def test_roles_are_told_by_the_names_of_transformers_too() -> None:
    layer = "vit.encoder.layer.3"
    assert role_of(f"{layer}.attention.attention.query") == "query, key, value"
    assert role_of(f"{layer}.attention.output.dense") == "projection"
    assert role_of(f"{layer}.intermediate.dense") == "first of MLP"
    assert role_of(f"{layer}.output.dense") == "second of MLP"
    assert role_of("vit.embeddings.patch_embeddings.projection") == "patches"
    assert role_of("layer4.0.conv1") == "other"


def test_roles_that_are_not_there_are_told() -> None:
    model = timm.create_model("resnet10t").eval()
    with pytest.raises(ValueError, match="no layers for first of MLP"):
        weight_layers(model, torch.zeros(1, 3, 64, 64), roles=["first of MLP"])
