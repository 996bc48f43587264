"""Weights of the JAX releases of ViT: a file made here, read as timm itself reads it."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from foveal.encoders import create_encoder
from foveal.encoders.checkpoints import load_official, read_checkpoint

SIZES = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def released(path: Path, *, big_vision: bool, prefix: str = "", classes: int = 5) -> Path:
    """Random weights by the names and shapes of a release, 32 px in patches of 8."""
    draws = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return draws.standard_normal(shape).astype(np.float32)

    attention, mlp, second = (0, 0, 1) if big_vision else (1, 3, 2)
    positions = "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding"
    made = {
        "cls": array(1, 1, 24), positions: array(1, 17, 24),
        "embedding/kernel": array(8, 8, 3, 24), "embedding/bias": array(24),
        "Transformer/encoder_norm/scale": array(24), "Transformer/encoder_norm/bias": array(24),
        "head/kernel": array(24, classes), "head/bias": array(classes),
    }  # fmt: skip
    for index in range(2):
        block = f"Transformer/encoderblock_{index}"
        for number in (0, second):
            made[f"{block}/LayerNorm_{number}/scale"] = array(24)
            made[f"{block}/LayerNorm_{number}/bias"] = array(24)
        inside = f"{block}/MultiHeadDotProductAttention_{attention}"
        for part in ("query", "key", "value"):
            made[f"{inside}/{part}/kernel"], made[f"{inside}/{part}/bias"] = array(24, 2, 12), array(2, 12)
        made[f"{inside}/out/kernel"], made[f"{inside}/out/bias"] = array(2, 12, 24), array(24)
        for layer, (inputs, outputs) in enumerate(((24, 96), (96, 24))):
            made[f"{block}/MlpBlock_{mlp}/Dense_{layer}/kernel"] = array(inputs, outputs)
            made[f"{block}/MlpBlock_{mlp}/Dense_{layer}/bias"] = array(outputs)
    np.savez(path, **{f"{prefix}{name}": value for name, value in made.items()})
    return path


@pytest.mark.parametrize(("big_vision", "prefix"), [(False, ""), (False, "opt/target/"), (True, "params/")])
def test_weights_are_those_that_timm_reads(tmp_path, big_vision, prefix) -> None:
    path = released(tmp_path / "vit.npz", big_vision=big_vision, prefix=prefix)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **SIZES)
    theirs.load_pretrained(str(path))
    ours = create_encoder("timm/vit_tiny_patch16_224", image_size=32, **SIZES)
    loaded = load_official(ours, path)
    assert loaded.layout == "timm"
    for name, value in ours.backbone.state_dict().items():
        assert value.equal(theirs.state_dict()[name])
    assert loaded.head is not None
    assert loaded.head["weight"].equal(theirs.head.weight)
    assert loaded.head["bias"].equal(theirs.head.bias)


def test_positions_are_fitted_to_other_sizes_of_images(tmp_path) -> None:
    path = released(tmp_path / "vit.npz", big_vision=False)
    encoder = create_encoder("timm/vit_tiny_patch16_224", image_size=48, **SIZES)
    load_official(encoder, path)
    positions = torch.from_numpy(np.load(path)["Transformer/posembed_input/pos_embedding"])
    assert encoder.backbone.pos_embed.shape == (1, 37, 24)
    assert encoder.backbone.pos_embed[:, 0].equal(positions[:, 0])


def test_pickled_arrays_and_broken_files_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "objects.npz", a=np.array([{"code": 1}], dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    for name in ("objects.npz", "broken.npz"):
        with pytest.raises(ValueError, match="cannot be read as tensors and plain values"):
            read_checkpoint(tmp_path / name)
