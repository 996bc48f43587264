"""Tiles of a trained transformer are chosen, pruned, held at zero while it learns, and run block-sparse."""

import itertools
import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from foveal.blocks.block_sparse_linear import BlockSparseLinear
from foveal.compression.block_allocation import (
    Choices,
    exact_allocation,
    hull_allocation,
    slope_allocation,
    total,
)
from foveal.compression.block_pruning import (
    best_tiles,
    block_of,
    make_fast,
    mean_logits,
    prune_blocks,
    prune_uniformly,
    tile_mask,
)
from foveal.compression.costs import macs_of
from foveal.compression.methods import Material, compress_model, parse_target
from foveal.compression.onnx_models import export_onnx
from foveal.compression.run import CompressSettings, compress
from foveal.kernels.block_sparse import in_tiles, tile_grid
from foveal.models import Classifier, ClassifierConfig
from foveal.objectives.classification import ClassificationObjective
from foveal.training.loop import fit
from foveal.training.settings import TrainingSettings

IMAGES = torch.rand(32, 1, 32, 32, generator=torch.Generator().manual_seed(5))


def random_choices(layers, options, seed):
    draws = np.random.default_rng(seed)
    found = {}
    for name in range(layers):
        steps = draws.random(options - 1) ** 3
        kept = np.arange(options)[::-1]
        found[f"layer {name}"] = Choices(
            kept, draws.integers(1, 9) * kept + 1.0, np.append(0, steps.cumsum())
        )
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_allocation_is_that_of_trying_all(seed):
    choices = random_choices(3, 6, seed)
    whole = sum(each.operations[0] for each in choices.values())
    budget = 0.55 * whole
    every = (dict(zip(choices, pick, strict=True)) for pick in itertools.product(range(6), repeat=3))
    best = min(total(choices, each)[1] for each in every if total(choices, each)[0] <= budget)
    assert total(choices, exact_allocation(choices, budget))[1] == pytest.approx(best, rel=1e-6)


def test_no_random_allocation_beats_it_and_more_budget_is_never_worse():
    choices = random_choices(12, 51, 0)
    whole = sum(each.operations[0] for each in choices.values())
    draws = np.random.default_rng(1)
    before = {name: len(each.kept) for name, each in choices.items()}
    last = np.inf
    for share in (0.2, 0.3, 0.5, 0.7, 0.9):
        exact, hull = (find(choices, share * whole) for find in (exact_allocation, hull_allocation))
        assert total(choices, exact)[1] <= total(choices, hull)[1] + 1e-12 <= last + 1e-9
        last = total(choices, exact)[1] + 1e-6
        assert sum(hull[name] > before[name] for name in hull) == 0
        before = hull
    budget, tried = 0.5 * whole, 0
    best = total(choices, exact_allocation(choices, budget))[1]
    while tried < 1000:
        power = draws.uniform(0.2, 5)
        pick = {name: int(51 * draws.random() ** power) for name in choices}
        spent, objective = total(choices, pick)
        if spent <= budget:
            tried += 1
            assert objective >= best * (1 - 1e-6)


def test_equal_slopes_of_smooth_curves_meet_the_target():
    x = np.linspace(0, 1, 101)
    choices, curves = {}, {}
    for name, steep in (("a", 1.0), ("b", 3.0), ("c", 9.0)):
        curves[name] = steep * x**2
        choices[name] = Choices(100 - np.arange(101), 100.0 - np.arange(101), curves[name]).at_least(5)
    found, within = slope_allocation(choices, curves, 150.0, tolerance=6.0)
    assert within
    assert found["a"] > found["b"] > found["c"]


def test_masks_are_whole_tiles_ragged_edges_included():
    kept = best_tiles(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), 5)
    mask = tile_mask(torch.ones(50, 41, dtype=torch.bool), kept, (16, 16))
    assert mask.shape == (50, 41)
    for r, c in itertools.product(range(4), range(3)):
        tile = mask[16 * r : 16 * r + 16, 16 * c : 16 * c + 16]
        assert tile.all() if kept[r, c] else not tile.any()
    assert int(kept.sum()) == 5


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("search", ["exact", "hull"])
def test_operations_are_those_wanted_and_no_layer_is_emptied(classifier, target, search):
    state = deepcopy(classifier.state_dict())
    found = prune_blocks(classifier, IMAGES, target, block=8, search=search)
    assert target - 0.02 <= found.operations <= target + 1e-9
    floor = min(0.05, (1 - target) / 2)
    for layer in found.layers:
        kept = found.kept[layer.name]
        assert kept.shape == tile_grid((layer.outputs, layer.inputs), (8, 8))
        assert kept.float().mean() >= floor
    assert all(torch.equal(value, state[name]) for name, value in classifier.state_dict().items())


def test_less_power_is_taken_with_its_term(classifier):
    off, on = (prune_blocks(classifier, IMAGES, 0.5, block=8, power=power) for power in (0.0, 1.0))
    assert on.power[0] <= off.power[0]
    assert 0.48 <= on.operations <= 0.5


def test_pruned_weights_stay_zero_through_every_step(classifier):
    model = deepcopy(classifier)
    masks = prune_blocks(model, IMAGES, 0.5, block=8).masks(model)
    samples = [{"images": image, "labels": n % 2} for n, image in enumerate(IMAGES)]
    worst = []

    class Watched(ClassificationObjective):
        def forward(self, batch):
            values = dict(model.named_parameters())
            worst.append(max(float((values[n].detach() * ~m).abs().max()) for n, m in masks.kept.items()))
            return super().forward(batch)

    with masks.held(model):
        settings = TrainingSettings(steps=8, batch_size=8, learning_rate=1e-2, weight_decay=0.5, seed=0)
        fit(Watched(model), samples, settings, progress=False)
    assert len(worst) == 8
    assert max(worst) == 0
    assert max(float((model.get_parameter(n).detach() * ~m).abs().max()) for n, m in masks.kept.items()) == 0


def test_what_runs_is_the_masked_model_in_fewer_operations(classifier):
    model = deepcopy(classifier)
    found = prune_blocks(model, IMAGES, 0.5, block=8)
    found.masks(model).apply(model)
    with torch.no_grad():
        wanted = model(IMAGES[:4])
        make_fast(model, found)
        torch.testing.assert_close(model(IMAGES[:4]), wanted, atol=1e-5, rtol=1e-5)
    assert macs_of(model, IMAGES) < 0.65 * macs_of(classifier, IMAGES)


def test_the_command_writes_a_smaller_model_that_loads_as_it_was(npz, folder, tmp_path):
    settings = CompressSettings(
        options={"block": 8, "fisher": "batches"},
        calibration=64,
        tune=60,
        rounds=1,
        memory=False,
        batch=2,
        training={"learning_rate": 2e-3},
    )
    found = compress(folder, npz, tmp_path / "out", method="lpvit", target="2x", settings=settings)
    before, after = found.costs["before"], found.costs["after"]
    assert after.macs < 0.65 * before.macs
    assert after.bytes < 0.65 * before.bytes
    assert found.scores["after"].accuracy[0] > found.scores["before"].accuracy[0] - 0.1
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["changes"][0]["kind"] == "block-sparse-linear"
    assert "tiles" in repr(Classifier.from_pretrained(tmp_path / "out"))
    assert "% of their operations are left" in (tmp_path / "out" / "README.md").read_text()


def test_the_mean_logits_of_the_calibration_images_stay(classifier):
    material = Material(None, IMAGES)
    for centred in (True, False):
        model = deepcopy(classifier)
        compress_model("lpvit", model, material, parse_target("30%"), {"block": 16, "centred": centred})
        stayed = torch.allclose(mean_logits(model, IMAGES), mean_logits(classifier, IMAGES), atol=1e-4)
        assert stayed == centred


def test_a_hierarchical_model_keeps_its_tiles_and_loads_again(tmp_path):
    torch.manual_seed(0)
    settings = {
        "in_channels": 1, "image_size": 32, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4),
        "window_size": 4,
    }  # fmt: skip
    config = ClassifierConfig(
        encoder="timm/swin_tiny_patch4_window7_224", encoder_settings=settings, classes=("left", "right"),
        size=32, mean=(0.25,), std=(0.25,),
    )  # fmt: skip
    model = Classifier(config).eval()
    with pytest.raises(ValueError, match="take at most 16 x 16"):
        compress_model("lpvit", model, Material(None, IMAGES[:8]), parse_target("2x"), {})
    done = compress_model("lpvit", model, Material(None, IMAGES[:8]), parse_target("2x"), {"block": 16})
    masked = model(IMAGES[:2])
    done.finish(model)
    again = Classifier.from_pretrained(model.save_pretrained(tmp_path))
    assert any(isinstance(part, BlockSparseLinear) for part in again.modules())
    torch.testing.assert_close(again(IMAGES[:2]), masked, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_pruned_model_goes_to_onnx_as_it_is(classifier, tmp_path):
    model = deepcopy(classifier)
    found = prune_blocks(model, IMAGES, 0.5, block=8)
    make_fast(model, found)
    assert export_onnx(model, tmp_path, IMAGES[:3]) < 1e-5


def test_uniform_pruning_keeps_the_same_share_of_all(classifier):
    kept = prune_uniformly(classifier, IMAGES, 0.5, block=8)
    assert all(each.float().mean() == pytest.approx(0.5, abs=0.13) for each in kept.values())


def test_wrong_values_are_refused(classifier):
    for target in (0.0, 1.0, 1.5, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            prune_blocks(classifier, IMAGES, target, block=8)
    with pytest.raises(ValueError, match=r"larger than .* take at most 32 x 32"):
        prune_blocks(classifier, IMAGES, 0.5, block=64)
    with pytest.raises(ValueError, match="unknown search"):
        prune_blocks(classifier, IMAGES, 0.5, block=8, search="slopes")
    with pytest.raises(ValueError, match="unknown ranking"):
        prune_blocks(classifier, IMAGES, 0.5, block=8, ranking="taylr")
    with pytest.raises(ValueError, match="least_kept -1"):
        prune_blocks(classifier, IMAGES, 0.5, block=8, least_kept=-1)
    with pytest.raises(ValueError, match="block is '8x'"):
        block_of("8x")
    assert block_of("64x32") == (64, 32) == block_of([64, 32])
    assert block_of(16) == (16, 16) == block_of("16")


def test_tiles_of_a_matrix_are_it_again():
    matrix = torch.randn(5, 7)
    assert in_tiles(matrix, (2, 3)).shape == (3, 3, 2, 3)
