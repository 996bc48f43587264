"""Heads and MLP units taken out: the model is really smaller, and says the same where they said nothing."""

from copy import deepcopy

import pytest
import torch
from transformers import ViTConfig, ViTModel

from foveal.blocks.changes import change_model
from foveal.blocks.narrow_blocks import attention_heads, mlp_units
from foveal.compression.costs import macs_of
from foveal.compression.narrowing import narrow_blocks_to, take_out
from foveal.compression.run import CompressSettings, compress
from foveal.models import Classifier, ClassifierConfig


def silence(encoder: torch.nn.Module, name: str, head: int, units: slice) -> None:
    """A head and units that write nothing."""
    attention = attention_heads(encoder)[name]
    block = name.rsplit(".", 1)[0]
    with torch.no_grad():
        columns = slice(head * attention.size, (head + 1) * attention.size)
        encoder.get_parameter(f"{name}.{attention.out}.weight")[:, columns] = 0
        encoder.get_parameter(f"{block}.mlp.fc2.weight")[:, units] = 0


def others(count: int, gone: list[int]) -> torch.Tensor:
    return torch.tensor([index for index in range(count) if index not in gone])


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_what_wrote_nothing_is_not_missed(classifier, kind) -> None:
    if kind == "timm":
        encoder, inside = deepcopy(classifier.encoder), "backbone.blocks.1.attn"
        images = torch.rand(2, 1, 32, 32)
    else:
        torch.manual_seed(0)
        config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                           image_size=32, patch_size=8)  # fmt: skip
        encoder, images = ViTModel(config).eval(), torch.rand(2, 3, 32, 32)
        inside = next(name for name in attention_heads(encoder) if ".1." in name)
    silence(encoder, inside, 0, slice(0, 5))
    block = inside.rsplit(".", 1)[0]
    units = mlp_units(encoder)[f"{block}.mlp"].count

    def said() -> torch.Tensor:
        found = encoder(images)
        return found.pooled if kind == "timm" else found.last_hidden_state

    with torch.no_grad():
        before, size = said(), sum(p.numel() for p in encoder.parameters())
        take_out(encoder, {inside: others(2, [0])}, {f"{block}.mlp": others(units, list(range(5)))})
        assert torch.allclose(said(), before, atol=1e-5)
    assert sum(p.numel() for p in encoder.parameters()) < size


def test_operations_left_are_within_the_share_and_close_to_it(classifier) -> None:
    images = torch.rand(2, 1, 32, 32)
    for share in (0.8, 0.6):
        model = deepcopy(classifier)
        found = narrow_blocks_to(model, images, share)
        assert found.share == macs_of(model, images) / macs_of(classifier, images)
        assert share - 0.12 < found.share <= share  # a head of six is much
        assert all(1 <= row["left"] <= row["before"] for row in found.rows)
        assert model(images).shape == (2, 2)


def test_the_command_saves_what_loads_with_its_speed(npz, folder, tmp_path) -> None:
    settings = CompressSettings(
        rounds=1, memory=False, batch=2, calibration=8, tune=2, options={"remove": "heads and units"}
    )
    found = compress(folder, npz, tmp_path / "n", method="sparse-then-prune", target="2x", settings=settings)
    assert found.costs["after"].macs <= 0.5 * found.costs["before"].macs
    assert found.costs["after"].bytes < 0.6 * found.costs["before"].bytes
    loaded = Classifier.from_pretrained(tmp_path / "n")
    kinds = [change["kind"] for change in loaded.encoder.changes]
    assert kinds == ["narrow-blocks"]
    assert "MLP units are left" in (tmp_path / "n" / "README.md").read_text()


def test_models_and_counts_that_do_not_suit_are_refused(classifier) -> None:
    images = torch.rand(1, 3, 32, 32)
    config = ClassifierConfig(
        encoder="conv-pyramid", encoder_settings={"widths": (8, 8)}, classes=("a", "b"), size=32
    )
    with pytest.raises(ValueError, match="has no heads and MLP units to take out; allowed: transformers"):
        narrow_blocks_to(Classifier(config).eval(), images, 0.5)
    with pytest.raises(ValueError, match="of the operations are left with one head and one unit a layer"):
        narrow_blocks_to(deepcopy(classifier), images[:, :1], 0.01)
    encoder = deepcopy(classifier.encoder)
    with pytest.raises(ValueError, match="no heads to take from 'attn'"):
        change_model(encoder, "narrow-blocks", heads={"attn": 1}, units={})
    with pytest.raises(ValueError, match="allowed: 1 to 128"):
        change_model(encoder, "narrow-blocks", heads={}, units={"backbone.blocks.0.mlp": 0})
