"""Layers of kept tiles: equal to masked ones, saved as tiles, made again at loading."""

import copy

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from foveal.blocks.block_sparse_linear import BlockSparseLinear, kept_of, kept_text
from foveal.blocks.changes import change_model
from foveal.encoders import create_encoder
from foveal.encoders.saving import load_weights, open_model, write_model
from foveal.kernels.block_sparse import tile_grid

BLOCK = (16, 16)


def some(layer, share=0.6, block=BLOCK):
    grid = tile_grid((layer.out_features, layer.in_features), block)
    return torch.rand(grid, generator=torch.Generator().manual_seed(3)) < share


def test_it_equals_the_layer_whose_other_weights_are_zero():
    layer = nn.Linear(40, 70)
    sparse = BlockSparseLinear(layer, some(layer), BLOCK)
    mask = sparse.weight != 0
    assert 0 < mask.sum() < mask.numel()
    with torch.no_grad():
        layer.weight.mul_(mask)
        x = torch.randn(2, 9, 40)
        torch.testing.assert_close(sparse(x), layer(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(sparse.weight, layer.weight)


def encoder():
    settings = {"patch_size": 8, "image_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    return create_encoder("timm/vit_small_patch16_224", **settings).eval()


def changed():
    model = encoder()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    layers = {name: kept_text(some(layer)) for name, layer in linear.items() if "blocks" in name}
    change_model(model, "block-sparse-linear", block=list(BLOCK), layers=layers)
    return model


def test_a_saved_model_holds_the_tiles_alone_and_is_itself_again(tmp_path):
    model, images = changed(), torch.rand(2, 3, 32, 32)
    write_model(tmp_path, model, {})
    again = encoder()
    _, config = open_model(tmp_path)
    load_weights(again, tmp_path, config["changes"])
    with torch.no_grad():
        assert torch.equal(model(images).pooled, again(images).pooled)
    stored = load_file(tmp_path / "model.safetensors")
    name = next(name for name in stored if name.endswith("0.mlp.fc1.tiles"))
    assert name.replace("tiles", "weight") not in stored
    assert stored[name].numel() < 0.8 * 128 * 32
    assert sum(tensor.numel() for tensor in stored.values()) < sum(p.numel() for p in encoder().parameters())


def test_gradients_and_copies_work():
    model = changed()
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    copy.deepcopy(model)(images).patches[0, 0, 0].backward()
    assert images.grad.abs().sum() > 0
    with torch.no_grad():
        alone = model(images).pooled
    torch.testing.assert_close(model(images).pooled, alone)


def test_an_exported_program_gives_the_same():
    model, x = nn.Sequential(changed().get_submodule("backbone.blocks.0.mlp")), torch.randn(2, 17, 32)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-5)


def test_what_is_no_linear_layer_or_has_other_tiles_is_refused():
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=32, depth=1, num_heads=2, img_size=32)
    text = kept_text(torch.ones(6, 2, dtype=torch.bool))
    for name, what in (("blocks.0.attn.q", "nothing"), ("blocks.0.norm1", "a LayerNorm")):
        with pytest.raises(ValueError, match=f"'{name}' is {what}"):
            change_model(model, "block-sparse-linear", block=[16, 16], layers={name: text})
    with pytest.raises(ValueError, match="are 2 bytes, 48 are wanted"):
        change_model(model, "block-sparse-linear", block=[4, 2], layers={"blocks.0.attn.qkv": text})
    with pytest.raises(ValueError, match="bool"):
        BlockSparseLinear(nn.Linear(32, 32), torch.ones(2, 2), BLOCK)
    with pytest.raises(ValueError, match="Base64"):
        kept_of("???", (6, 2))
