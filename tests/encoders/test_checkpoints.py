import argparse

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import nn

from foveal.blocks.patches import LearnedPositions, PatchEmbed
from foveal.encoders import checkpoints
from foveal.encoders.base import Encoder
from foveal.encoders.checkpoints import load_official, read_checkpoint, register_layout, rename_keys


class TinyEncoder(Encoder):
    """A patch kernel, positions and one layer, for checkpoints made here."""

    registered_name = "tiny-of-tests"

    def __init__(self, *, image_size: int = 32, patch_size: int = 8, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.patches = PatchEmbed(in_channels, 6, patch_size=patch_size)
        self.positions = LearnedPositions((image_size // patch_size,) * 2, 6)
        self.norm = nn.BatchNorm2d(6)


@pytest.fixture
def layouts(monkeypatch):
    monkeypatch.setattr(checkpoints, "_LAYOUTS", {})


def official(side=4, patch=8, channels=3):
    generator = torch.Generator().manual_seed(0)
    return {
        "patch_embed.proj.weight": torch.randn(6, channels, patch, patch, generator=generator),
        "patch_embed.proj.bias": torch.randn(6, generator=generator),
        "pos_embed": torch.randn(1, side**2, 6, generator=generator),
        "norm.weight": torch.randn(6, generator=generator),
        "norm.bias": torch.randn(6, generator=generator),
        "norm.running_mean": torch.randn(6, generator=generator),
        "norm.running_var": torch.rand(6, generator=generator),
        "head.weight": torch.randn(5, 6, generator=generator),
        "head.bias": torch.randn(5, generator=generator),
    }


RULES = [(r"^patch_embed\.proj", "patches"), (r"^pos_embed$", "positions.table"), (r"^head\.", None)]


def register_official():
    @register_layout("tiny-of-tests", "official")
    def convert(state):
        head = {"weight": state["head.weight"], "bias": state["head.bias"]}
        return rename_keys(state, RULES), head


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": {f"module.{k}": v for k, v in s.items()}}])
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_file_of_the_official_layout_loads(layouts, tmp_path, wrap, kind):
    register_official()
    state, file = official(), tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save(wrap(state) | {"args": argparse.Namespace(lr=1e-3), "epoch": 3}, file)
    else:
        wrapped = wrap(state)
        save_file(wrapped.get("model", wrapped), file)
    encoder = TinyEncoder()
    loaded = load_official(encoder, file)
    assert loaded.layout == "official"
    assert loaded.fitted == ()
    assert loaded.head is not None
    torch.testing.assert_close(loaded.head["weight"], state["head.weight"])
    torch.testing.assert_close(encoder.patches.weight.data, state["patch_embed.proj.weight"])
    torch.testing.assert_close(encoder.positions.table.data, state["pos_embed"])


def test_positions_kernels_and_channels_are_fitted_to_the_encoder(layouts):
    register_official()
    state, encoder = official(), TinyEncoder(image_size=96, patch_size=16, in_channels=1)
    loaded = load_official(encoder, state)
    expected = resample_patch_embed(state["patch_embed.proj.weight"].sum(1, keepdim=True), [16, 16])
    torch.testing.assert_close(encoder.patches.weight.data, expected)
    positions = resample_abs_pos_embed(state["pos_embed"], [6, 6], [4, 4], num_prefix_tokens=0)
    torch.testing.assert_close(encoder.positions.table.data, positions)
    assert loaded.fitted == (
        "patches.weight: (6, 3, 8, 8) to (6, 1, 16, 16)",
        "positions.table: (1, 16, 6) to (1, 36, 6)",
    )


def test_the_layout_that_explains_most_is_taken_and_our_own_always_is_known(layouts):
    register_official()

    @register_layout("tiny-of-tests", "older")
    def convert(state):
        return {f"older.{name}": tensor for name, tensor in state.items()}

    encoder = TinyEncoder()
    assert load_official(encoder, official()).layout == "official"
    assert load_official(encoder, TinyEncoder().state_dict()).layout == "foveal"
    with pytest.raises(ValueError, match="unknown layout of TinyEncoder 'oficial'; did you mean 'official'"):
        load_official(encoder, official(), layout="oficial")
    with pytest.raises(ValueError, match=r"has no 'head\.weight', which the layout 'official'"):
        load_official(encoder, TinyEncoder().state_dict(), layout="official")
    with pytest.raises(ValueError, match=r"none that TinyEncoder reads.*its keys begin conv\.weight"):
        load_official(encoder, {"conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="registered already"):
        register_official()


def test_what_does_not_fit_is_named_and_nothing_is_changed(layouts):
    register_official()
    state = official()
    state["extra.weight"] = torch.zeros(2, 3)
    state["norm.weight"] = torch.zeros(7)
    del state["patch_embed.proj.bias"]
    encoder = TinyEncoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_official(encoder, state)
    assert "1 missing: patches.bias (6,)" in str(error.value)
    assert "1 unexpected: extra.weight (2, 3)" in str(error.value)
    assert "1 misshapen: norm.weight (7,), (6,) is wanted" in str(error.value)
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tensor, before[name])
    state["norm.weight"] = torch.zeros(6)
    assert load_official(encoder, state, skip=("^extra", r"patches\.bias")).skipped == (
        "extra.weight",
        "patches.bias",
    )


def test_files_with_code_in_them_are_refused(tmp_path):
    torch.save({"model": TinyEncoder()}, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match="cannot be read as tensors and plain values"):
        read_checkpoint(tmp_path / "whole.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "broken.safetensors")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor; a dictionary"):
        read_checkpoint(tmp_path / "tensor.pth")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="no tensors"):
        checkpoints.unwrap_state({"model": {"epoch": 3}})


def test_names_that_fall_together_are_refused():
    with pytest.raises(ValueError, match=r"became 'a'"):
        rename_keys({"a": torch.zeros(1), "b": torch.zeros(1)}, [("^b$", "a")])
