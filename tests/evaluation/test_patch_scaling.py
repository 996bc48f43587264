"""The patch-size sweep: plans, runs, tables and errors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.evaluation.patch_scaling import PatchSweep, SweepResult
from foveal.training import TrainingSettings


@dataclass(frozen=True)
class Squares:
    """16 px images with a bright square in the left or the right half."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {"images": self.images[index], "labels": self.labels[index]}


def squares(count: int = 24) -> Squares:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, 16, 16, generator=draw) * 0.3
    labels = torch.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        image[:, 6:9, 3 + 8 * label : 6 + 8 * label] += 0.7
    return Squares(images, labels, images[:10], labels[:10])


ADVENTURER = {"dim": 32, "depth": 1, "states": 4}
SHORT = TrainingSettings(steps=2, batch_size=4, tensorboard=False, log_every=2)


def sweep(**options: Any) -> PatchSweep:
    given = {"encoder": "adventurer", "settings": ADVENTURER, "patch_sizes": (8, 4, 2, 1), "training": SHORT}
    return PatchSweep(data=squares(), **(given | options))


@pytest.fixture(scope="module")
def swept() -> SweepResult:
    return sweep(seeds=(0, 1), strata=["small", "large"] * 5).run()


def test_a_sweep_has_a_run_for_each_patch_size_and_seed_and_a_law(swept: SweepResult) -> None:
    first = swept.runs[:4]
    assert [(r.plan.patch_size, r.plan.tokens) for r in first] == [(8, 4), (4, 16), (2, 64), (1, 256)]
    assert len(swept.runs) == 8
    assert [r.flops for r in first] == sorted(r.flops for r in first)
    assert set(swept.runs[0].strata) == {"small", "large"}
    assert -1 <= swept.rank_correlation() <= 1
    assert swept.law.floor >= 0


def test_a_sweep_is_written_as_a_table_and_as_json(swept: SweepResult, tmp_path: Path) -> None:
    swept.write(tmp_path)
    stored = json.loads((tmp_path / "patch_scaling.json").read_text())
    assert [run["seed"] for run in stored["runs"]] == [0] * 4 + [1] * 4
    assert stored["law"]["better"] in ("power", "line")
    table = (tmp_path / "patch_scaling.md").read_text()
    assert "| patch | tokens | parameters | loss | accuracy | small | large | steps | TFLOP |" in table


def test_the_estimate_of_memory_is_near_what_a_step_takes(swept: SweepResult) -> None:
    finest = swept.runs[3]
    activations = finest.plan.estimated_bytes - 4 * 4 * finest.plan.parameters
    assert activations == pytest.approx(finest.peak_bytes, rel=0.4)


@pytest.mark.parametrize(
    ("encoder", "settings"),
    [
        ("vim", {"dim": 16, "depth": 1, "states": 4}),
        ("timm/vit_tiny_patch16_224", {"embed_dim": 16, "depth": 1, "num_heads": 2}),
    ],
)
def test_other_encoders_are_swept_and_their_memory_extrapolated(
    encoder: str, settings: dict[str, Any]
) -> None:
    result = sweep(encoder=encoder, settings=settings).run()
    finest = result.runs[3]
    activations = finest.plan.estimated_bytes - 4 * 4 * finest.plan.parameters
    assert activations == pytest.approx(finest.peak_bytes, rel=0.4)


def test_equal_operations_give_fewer_steps_to_finer_patches() -> None:
    plans = sweep(flops=1e9).plan()
    assert all(plan.steps * plan.step_flops == pytest.approx(1e9, rel=0.3) for plan in plans)
    assert plans[0].steps > 8 * plans[-1].steps


def test_the_wider_baseline_costs_what_the_finest_patches_do() -> None:
    plans = sweep(baseline_dim="same_flops").plan()
    assert plans[-1].baseline
    assert plans[-1].patch_size == 8
    assert plans[-1].settings["dim"] > 32
    assert plans[-1].step_flops == pytest.approx(plans[-2].step_flops, rel=0.25)


def test_the_same_seed_gives_the_same_loss(swept: SweepResult) -> None:
    assert [r.loss for r in sweep().run().runs] == [r.loss for r in swept.runs[:4]]


def test_what_cannot_be_swept_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="four or more different"):
        sweep(patch_sizes=(8, 4, 2))
    with pytest.raises(ValueError, match="images of 16 px do not divide into patches of 3 px"):
        sweep(patch_sizes=(8, 4, 3, 2))
    with pytest.raises(
        ValueError, match=r"patch size 1 \(256 tokens\) takes about .* MiB a step, the memory budget"
    ):
        sweep(memory_budget=4 << 20).run()
    with pytest.raises(ValueError, match="3 strata for 10 test images"):
        sweep(strata=["a"] * 3)
