"""Patch-size sweeps: how the loss falls with the number of tokens, all else equal (arXiv 2502.03738)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.evaluation.power_law import PowerLaw, fit_power_law
from foveal.evaluation.step_cost import StepCost, step_cost
from foveal.files import write_atomically
from foveal.models.classifier import Classifier, ClassifierConfig
from foveal.objectives.classification import ClassificationObjective
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness

logger = logging.getLogger(__name__)

_TEST_TOKENS = 1 << 16  # at once, over the images of a batch


class SweepData(Protocol):
    """Images (N, C, S, S) in [0, 1] with labels (N,), to learn from and to be tested on."""

    @property
    def images(self) -> Tensor:
        """(N, C, S, S) to learn from."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""

    @property
    def test_images(self) -> Tensor:
        """(M, C, S, S) to be tested on."""

    @property
    def test_labels(self) -> Tensor:
        """(M,) int64."""

    def __len__(self) -> int:
        """Images to learn from."""

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One image to learn from: `images` and `labels`."""


@dataclass(frozen=True)
class Plan:
    """What is known of a patch size before training.

    Attributes:
        patch_size: pixels.
        tokens: L, patches of an image.
        settings: of the encoder.
        parameters: of the classifier.
        steps: updates of the weights.
        step_flops: of one step, forward and backward.
        estimated_bytes: of a step's activations with weights, gradients and the optimiser's state.
        baseline: whether it is the wider model at the coarsest patch size with the cost of the finest.
    """

    patch_size: int
    tokens: int
    settings: dict[str, Any]
    parameters: int
    steps: int
    step_flops: float
    estimated_bytes: int
    baseline: bool = False


@dataclass(frozen=True)
class Run:
    """One trained model: loss (cross-entropy) and accuracy on the test images, and what it took.

    `strata` is the accuracy on each group of test images; `peak_bytes` counts the tensors of one step of
    one round of the batch, `flops` the whole training.
    """

    plan: Plan
    seed: int
    loss: float
    accuracy: float
    strata: dict[str, float]
    seconds: float
    peak_bytes: int
    flops: float


@dataclass(frozen=True)
class SweepResult:
    """All runs, and the law of the loss over the number of tokens."""

    encoder: str
    image_size: int
    runs: tuple[Run, ...]
    law: PowerLaw

    def select(self, patch_size: int, *, baseline: bool = False) -> list[Run]:
        """Runs of a patch size, one a seed."""
        return [r for r in self.runs if r.plan.patch_size == patch_size and r.plan.baseline is baseline]

    def rank_correlation(self) -> float:
        """Spearman's, of the loss with the number of tokens, over all runs."""
        from scipy.stats import spearmanr

        runs = [run for run in self.runs if not run.plan.baseline]
        return float(spearmanr([r.plan.tokens for r in runs], [r.loss for r in runs]).statistic)

    def table(self) -> str:
        """Markdown: one row a patch size, means over seeds; equal steps and equal operations side by side."""
        groups = sorted({(run.plan.baseline, -run.plan.patch_size) for run in self.runs})
        strata = list(self.runs[0].strata)
        head = ["patch", "tokens", "parameters", "loss", "accuracy", *strata]
        head += ["steps", "TFLOP", "seconds", "peak MiB", "estimated MiB"]
        rows = []
        for baseline, negative in groups:
            runs = self.select(-negative, baseline=baseline)
            plan = runs[0].plan
            named = f"{-negative} (wider)" if baseline else f"{-negative}"
            columns = [[r.loss for r in runs], [r.accuracy for r in runs]]
            columns += [[r.strata[name] for r in runs] for name in strata]
            figures = [_mean_spread(column) for column in columns]
            cost = [
                f"{plan.steps}",
                f"{runs[0].flops / 1e12:.3g}",
                f"{np.mean([r.seconds for r in runs]):.3g}",
            ]
            memory = [f"{runs[0].peak_bytes / 2**20:.3g}", f"{plan.estimated_bytes / 2**20:.3g}"]
            rows.append([named, f"{plan.tokens}", f"{plan.parameters}", *figures, *cost, *memory])
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def verdict(self) -> str:
        """The fitted laws in words."""
        law = self.law
        exponent, slope = ("{:.3g} to {:.3g}".format(*i) for i in (law.exponent_interval, law.slope_interval))
        misses = ", ".join(f"{name} {error:.3g}" for name, error in law.left_out.items())
        return (
            f"loss = {law.floor:.4g} + {law.scale:.4g} L^-{law.exponent:.4g} (95 % of the exponent: "
            f"{exponent}); line: {law.slope:.4g} by each doubling of L (95 %: {slope}). Error at a size left "
            f"out: {misses}; nearer: {law.better}."
        )

    def as_json(self) -> str:
        """Everything, machine-readable; numbers that are not finite become null."""
        content = {
            "encoder": self.encoder,
            "image_size": self.image_size,
            "runs": [asdict(run) for run in self.runs],
            "law": asdict(self.law) | {"better": self.law.better},
        }
        return json.dumps(_without_nan(content), indent=1)

    def write(self, folder: Path) -> None:
        """Write `patch_scaling.json` and `patch_scaling.md` to a folder, made when missing."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "patch_scaling.json", self.as_json())
        write_atomically(folder / "patch_scaling.md", f"{self.table()}\n\n{self.verdict()}\n")


@dataclass(frozen=True, kw_only=True)
class PatchSweep:
    """Train one classifier a patch size and seed at a fixed image size, and fit its test loss.

    Attributes:
        encoder: name for `create_encoder`, with settings `patch_size` and `image_size`; any will do.
        data: what to learn from and to test on.
        patch_sizes: four or more, each a divisor of the side of the images.
        settings: further ones of the encoder.
        training: of the loop; its `steps` are those of every patch size where `flops` is None.
        flops: of a whole training; the steps of a patch size are what this allows, so that all cost the same.
        seeds: of weights and order; two or more give intervals.
        memory_budget: bytes that a training step may take; None has no bound.
        baseline_dim: `dim` of a wider model at the coarsest patch size, so that more computation and finer
            patches can be told apart; "same_flops" searches for the width at which a step costs what it does
            at the finest one, in multiples of `dim_multiple`. None trains no such model.
        dim_name: the encoder's setting of its width; "embed_dim" for timm's.
        dim_multiple: what widths are multiples of.
        strata: name of the group of each test image, such as the diameter of its lesion.

    Raises:
        ValueError: fewer than four patch sizes, one that does not divide the images, or strata for another
            number of images; from `run`, a patch size whose estimate is above the memory budget.
    """

    encoder: str
    data: SweepData
    patch_sizes: Sequence[int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    flops: float | None = None
    seeds: Sequence[int] = (0,)
    memory_budget: int | None = None
    baseline_dim: int | str | None = None
    dim_name: str = "dim"
    dim_multiple: int = 32
    strata: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be swept, before hours of training."""
        side = self.data.images.shape[-1]
        if len(set(self.patch_sizes)) < 4:
            raise ValueError(
                f"patch_sizes={tuple(self.patch_sizes)}; a law of the loss needs four or more different ones"
            )
        for patch_size in self.patch_sizes:
            if patch_size < 1 or side % patch_size:
                raise ValueError(f"images of {side} px do not divide into patches of {patch_size} px")
        if self.strata is not None and len(self.strata) != len(self.data.test_images):
            raise ValueError(f"{len(self.strata)} strata for {len(self.data.test_images)} test images")

    @property
    def image_size(self) -> int:
        """Pixels along each side."""
        return int(self.data.images.shape[-1])

    def plan(self) -> list[Plan]:
        """Cost and memory of each patch size, coarsest first, and of the wider baseline.

        The operations are counted in a step with one image. Memory is what the encoder's own
        `training_bytes` estimates, else it is extrapolated from the two coarsest patch sizes by one part
        that is linear and one that is quadratic in the tokens, as attention's may be.
        """
        sizes = sorted(set(self.patch_sizes), reverse=True)
        costs = {size: self._cost(self._settings(size)) for size in sizes}
        linear, square = _memory_law([(self._tokens(size), costs[size].peak_bytes) for size in sizes[:2]])
        plans = [
            self._plan(
                size,
                self._settings(size),
                costs[size],
                round(linear * self._tokens(size) + square * self._tokens(size) ** 2),
            )
            for size in sizes
        ]
        if self.baseline_dim is not None:
            settings = self._wider(sizes[0], costs[sizes[-1]].flops)
            cost = self._cost(settings)
            plans.append(replace(self._plan(sizes[0], settings, cost, cost.peak_bytes), baseline=True))
        return plans

    def run(self) -> SweepResult:
        """Plan, check the memory, train all, and fit."""
        plans = self.plan()
        for plan in plans:
            logger.info(
                "patch size %d: %d tokens, %d parameters, %d steps of %.3g GFLOP, about %.3g MiB",
                plan.patch_size, plan.tokens, plan.parameters, plan.steps, plan.step_flops / 1e9,
                plan.estimated_bytes / 2**20,
            )  # fmt: skip
        if self.memory_budget is not None:
            for plan in plans:
                if plan.estimated_bytes > self.memory_budget:
                    raise ValueError(
                        f"patch size {plan.patch_size} ({plan.tokens} tokens) takes about "
                        f"{plan.estimated_bytes / 2**20:.4g} MiB a step, the memory budget is "
                        f"{self.memory_budget / 2**20:.4g} MiB; raise gradient_accumulation, turn the "
                        "encoder's checkpointing on, or leave this patch size out"
                    )
        peaks = [self._cost(plan.settings, images=self._round()).peak_bytes for plan in plans]
        runs = tuple(
            self._train(plan, seed, peak)
            for seed in self.seeds
            for plan, peak in zip(plans, peaks, strict=True)
        )
        fitted = [plan for plan in plans if not plan.baseline]
        losses = [[r.loss for r in runs if r.plan is plan] for plan in fitted]
        law = fit_power_law(np.array([plan.tokens for plan in fitted]), np.array(losses))
        return SweepResult(self.encoder, self.image_size, runs, law)

    def _tokens(self, patch_size: int) -> int:
        return (self.image_size // patch_size) ** 2

    def _settings(self, patch_size: int) -> dict[str, Any]:
        channels = int(self.data.images.shape[1])
        sizes = {"patch_size": patch_size, "image_size": self.image_size}
        return {"in_channels": channels, **self.settings, **sizes}

    def _round(self) -> int:
        return self.training.batch_size // self.training.gradient_accumulation

    def _plan(self, patch_size: int, settings: dict[str, Any], cost: StepCost, one_image: int) -> Plan:
        model = self._model(settings)
        tokens, at_once = self._tokens(patch_size), self._round()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        own = getattr(model.encoder, "training_bytes", None)
        activations = own(tokens, batch=at_once) if own is not None else at_once * one_image
        step_flops = float(cost.flops) * self.training.batch_size
        steps = self.training.steps if self.flops is None else max(1, round(self.flops / step_flops))
        parameters = sum(p.numel() for p in model.parameters())
        return Plan(
            patch_size, tokens, settings, parameters, steps, step_flops, int(activations) + 4 * weights
        )

    def _model(self, settings: dict[str, Any]) -> Classifier:
        std, mean = torch.std_mean(self.data.images, dim=(0, 2, 3))
        classes = int(max(self.data.labels.max(), self.data.test_labels.max())) + 1
        return Classifier(
            ClassifierConfig(
                encoder=self.encoder,
                encoder_settings=settings,
                classes=tuple(f"class {number}" for number in range(max(classes, 2))),
                size=self.image_size,
                mean=tuple(mean.tolist()),
                std=tuple(std.clamp_min(1e-3).tolist()),
            )
        )

    def _cost(self, settings: dict[str, Any], images: int = 1) -> StepCost:
        batch = {"images": self.data.images[:images], "labels": self.data.labels[:images]}
        with without_touching_randomness():
            return step_cost(ClassificationObjective(self._model(settings)), batch)

    def _wider(self, patch_size: int, flops: float) -> dict[str, Any]:
        """Settings of the wider baseline."""
        settings = self._settings(patch_size)
        if self.baseline_dim != "same_flops":
            return settings | {self.dim_name: self.baseline_dim}
        start = int(self.settings[self.dim_name])
        # Between linear and quadratic in the width: bracket by doubling, then halve the bracket.
        low, high = start, 2 * start
        while self._cost(settings | {self.dim_name: high}).flops < flops:
            low, high = high, 2 * high
        while high - low > self.dim_multiple:
            middle = (low + high) // 2 // self.dim_multiple * self.dim_multiple
            if middle <= low:
                break
            if self._cost(settings | {self.dim_name: middle}).flops < flops:
                low = middle
            else:
                high = middle
        return settings | {self.dim_name: high}

    def _train(self, plan: Plan, seed: int, peak: int) -> Run:
        settings = self.training.replace(steps=plan.steps, seed=seed)
        with without_touching_randomness():
            torch.manual_seed(seed)
            model = self._model(plan.settings)
            result = fit(ClassificationObjective(model), self.data, settings, progress=False)
            logits = _logits(model.eval(), self.data.test_images, max(1, _TEST_TOKENS // plan.tokens))
        labels = self.data.test_labels
        right = (logits.argmax(dim=-1) == labels).double()
        strata = {}
        for name in dict.fromkeys(self.strata or ()):
            members = torch.tensor([other == name for other in self.strata or ()])
            strata[name] = float(right[members].mean())
        return Run(
            plan=plan,
            seed=seed,
            loss=float(F.cross_entropy(logits, labels)),
            accuracy=float(right.mean()),
            strata=strata,
            seconds=result.seconds,
            peak_bytes=peak,
            flops=plan.step_flops * plan.steps,
        )


@torch.inference_mode()
def _logits(model: Classifier, images: Tensor, batch_size: int) -> Tensor:
    device = model.head.weight.device
    return torch.cat([model(part.to(device)).double().cpu() for part in images.split(batch_size)])


def _memory_law(points: list[tuple[int, int]]) -> tuple[float, float]:
    """Linear and quadratic part, neither below 0, of memory over tokens, from two points."""
    (few, little), (many, much) = points
    square = max((much / many - little / few) / (many - few), 0.0)
    return max(much / many - square * many, 0.0), square


def _mean_spread(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{spread}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
