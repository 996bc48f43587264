"""Accuracy against sparsity: trainings, criteria, shares and seeds in one table, and paired differences."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats
from torch import Tensor, nn

from foveal.compression.magnitude_pruning import (
    Criterion,
    attention_entropies,
    magnitude_masks,
    mean_gradients,
    sparsity_rows,
)
from foveal.evaluation.figure_style import COLOURS, STYLE
from foveal.markdown import table
from foveal.metrics.comparison import Estimate
from foveal.objectives.base import Objective
from foveal.objectives.classification import ClassificationObjective
from foveal.training.sampling import SampledDataset

TENTHS = tuple(round(0.1 * tenth, 1) for tenth in range(10))


@dataclass(frozen=True)
class SweepRow:
    """One pruned model.

    Attributes:
        training: name of how it was trained.
        criterion: of what was taken.
        amount: share of the weights that was taken.
        seed: of the training.
        score: of the pruned model, such as its accuracy.
        nonzero: numbers that are learnt and not 0, of the whole model.
        sparsity: share of zeros of each pruned tensor.
        entropy: mean entropy of attention of each layer, nats.
        masks_sha256: hash of the masks.
    """

    training: str
    criterion: Criterion
    amount: float
    seed: int
    score: float
    nonzero: int
    sparsity: Mapping[str, float]
    entropy: Mapping[str, float]
    masks_sha256: str


def pruning_sweep(
    trainings: Mapping[str, Callable[[int], nn.Module]],
    score: Callable[[nn.Module], float],
    images: Tensor,
    *,
    amounts: Sequence[float] = TENTHS,
    seeds: Sequence[int] = (0,),
    criteria: Sequence[Criterion] = ("magnitude",),
    samples: SampledDataset | None = None,
    make_objective: Callable[[nn.Module], Objective] = ClassificationObjective,
    include_norm: bool = True,
) -> list[SweepRow]:
    """Train with every seed, prune every model in every way in one shot, and score what is left.

    For a fair comparison the trainings differ in nothing but what is compared: the same steps, schedule,
    order of samples and, for each seed, the same first weights.

    Args:
        trainings: by name, from a seed to a trained model.
        score: of a model; higher is better.
        images: (B, C, ...) whose attention is measured.
        amounts: shares of the weights to take, 0 to 1.
        seeds: of the trainings and of random pruning.
        criteria: see `magnitude_masks`.
        samples: with labels, for "gradient".
        make_objective: from a model to the loss of these gradients.
        include_norm: see `prunable_weights`.

    Raises:
        ValueError: nothing to do, "gradient" without samples, or see `magnitude_masks`.

    Example:
        >>> rows = pruning_sweep({"plain": plain, "penalty": penalised}, accuracy, images)  # doctest: +SKIP
        >>> paired_difference(rows, "penalty", "plain").difference  # doctest: +SKIP
    """
    if not (trainings and amounts and seeds and criteria):
        raise ValueError("a sweep needs one training, amount, seed and criterion or more")
    if "gradient" in criteria and samples is None:
        raise ValueError("the criterion 'gradient' needs samples, on which gradients are taken")
    rows = []
    for seed in seeds:
        for name, train in trainings.items():
            trained = train(seed).eval()
            gradients = None
            if "gradient" in criteria and samples is not None:
                gradients = mean_gradients(make_objective(trained), trained, samples, seed=seed)
                trained.eval()
            for criterion in criteria:
                for amount in amounts:
                    model = deepcopy(trained)
                    masks = magnitude_masks(
                        model, amount, criterion=criterion, include_norm=include_norm, gradients=gradients,
                        seed=seed,
                    )  # fmt: skip
                    masks.apply(model)
                    rows.append(
                        SweepRow(
                            name, criterion, amount, seed, score(model),
                            sum(int(value.count_nonzero()) for value in model.parameters()),
                            {row["name"]: row["sparsity"] for row in sparsity_rows(model, masks)},
                            attention_entropies(model, images),
                            masks.sha256,
                        )
                    )  # fmt: skip
    return rows


@dataclass(frozen=True)
class PairedDifference:
    """Score of one way minus that of another, of the same seeds and amounts.

    Attributes:
        difference: mean over amounts and seeds, with a 95% bootstrap interval over the seeds; the ends are
            NaN of a single seed.
        by_amount: the same for each amount.
        by_seed: means over the amounts.
    """

    difference: Estimate
    by_amount: dict[float, Estimate]
    by_seed: dict[int, float]


def paired_difference(
    rows: Sequence[SweepRow],
    first: str,
    second: str,
    *,
    criteria: tuple[Criterion, Criterion] = ("magnitude", "magnitude"),
    amounts: Sequence[float] | None = None,
    resamples: int = 2000,
) -> PairedDifference:
    """How far one training (or criterion) is above another, in pairs of the same seed and amount.

    Args:
        rows: of a sweep.
        first, second: names of trainings.
        criteria: of the first and of the second.
        amounts: to average over; None takes all but 0.
        resamples: of the bootstrap.

    Raises:
        ValueError: the sweep has no such pairs.
    """
    found: dict[tuple[float, int], dict[int, float]] = {}
    for row in rows:
        for side, (name, criterion) in enumerate(zip((first, second), criteria, strict=True)):
            if (row.training, row.criterion) == (name, criterion):
                found.setdefault((row.amount, row.seed), {})[side] = row.score
    wanted = sorted({amount for amount, _ in found if amount} if amounts is None else set(amounts))
    seeds = sorted({seed for _, seed in found})
    pairs = [[found.get((amount, seed), {}) for seed in seeds] for amount in wanted]
    if not pairs or not seeds or any(len(pair) < 2 for line in pairs for pair in line):
        have = ", ".join(sorted({f"{row.training} by {row.criterion}" for row in rows}))
        raise ValueError(
            f"no pairs of {first} by {criteria[0]} and {second} by {criteria[1]} at {wanted}; the sweep has "
            f"{have or 'no rows'}"
        )
    apart = np.array([[pair[0] - pair[1] for pair in line] for line in pairs])
    return PairedDifference(
        _estimate(apart.mean(axis=0), resamples),
        {amount: _estimate(line, resamples) for amount, line in zip(wanted, apart, strict=True)},
        dict(zip(seeds, apart.mean(axis=0).tolist(), strict=True)),
    )


def sweep_csv(rows: Sequence[SweepRow]) -> str:
    """One line a pruned model; sparsity of each tensor and entropy of each layer in columns of their own."""
    head = ["training", "criterion", "amount", "seed", "score", "nonzero", "mean_entropy", "masks_sha256"]
    tensors = list(dict.fromkeys(name for row in rows for name in row.sparsity))
    layers = list(dict.fromkeys(name for row in rows for name in row.entropy))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*head, *(f"sparsity {name}" for name in tensors), *(f"entropy {name}" for name in layers)]
    )
    for row in rows:
        writer.writerow(
            [row.training, row.criterion, row.amount, row.seed, f"{row.score:.6g}", row.nonzero,
             f"{_entropy([row]):.6g}", row.masks_sha256,
             *(f"{row.sparsity[name]:.6g}" if name in row.sparsity else "" for name in tensors),
             *(f"{row.entropy[name]:.6g}" if name in row.entropy else "" for name in layers)]
        )  # fmt: skip
    return text.getvalue()


def sweep_table(rows: Sequence[SweepRow]) -> str:
    """Mean score over the seeds at each amount, with the entropy of attention before pruning; Markdown."""
    amounts = sorted({row.amount for row in rows})
    lines = []
    for (training, criterion), own in _lines(rows).items():
        means = [fmean(row.score for row in own if row.amount == amount) for amount in amounts]
        whole = _entropy([row for row in own if row.amount == amounts[0]])
        lines.append([training, criterion, *(f"{mean:.3f}" for mean in means), f"{whole:.3f}"])
    told = [f"{amount:.0%}" for amount in amounts]
    return table(["training", "criterion", *told, f"entropy at {told[0]}"], lines)


def sweep_picture(rows: Sequence[SweepRow]) -> bytes:
    """Score against the share of weights taken, a line a training and criterion, its spread shaded; PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    made = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for number, ((training, criterion), own) in enumerate(_lines(rows).items()):
            amounts = sorted({row.amount for row in own})
            scores = [[row.score for row in own if row.amount == amount] for amount in amounts]
            mean, spread = (np.array([function(each) for each in scores]) for function in (np.mean, np.std))
            colour = COLOURS[number % len(COLOURS)]
            label = f"{training}, {criterion}"
            axes.plot(amounts, mean, marker="o", markersize=3, color=colour, label=label)
            axes.fill_between(amounts, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)
        axes.set_xlabel("share of the weights taken")
        axes.set_ylabel("score")
        axes.legend(frameon=False)
        figure.savefig(made, format="png", dpi=110)
    return made.getvalue()


def _lines(rows: Sequence[SweepRow]) -> dict[tuple[str, Criterion], list[SweepRow]]:
    found: dict[tuple[str, Criterion], list[SweepRow]] = {}
    for row in rows:
        found.setdefault((row.training, row.criterion), []).append(row)
    return found


def _entropy(rows: Sequence[SweepRow]) -> float:
    values = [value for row in rows for value in row.entropy.values()]
    return fmean(values) if values else float("nan")


def _estimate(values: np.ndarray, resamples: int) -> Estimate:
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, float("nan"), float("nan"))
    if not np.ptp(values):
        return Estimate(mean, mean, mean)
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))
