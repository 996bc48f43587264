"""Scores while pixels go in order of relevance: deletion, insertion (RISE), pixel flipping, ROAD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.explanation.imputation import impute
from foveal.explanation.methods import Question
from foveal.explanation.perturbing import (
    Baseline,
    Order,
    Reading,
    baseline_images,
    changed_readings,
    pixels_of,
    relevance_ranks,
)

ROAD_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
"""Shares of pixels that T-TAME (arXiv 2403.04523) removes."""


@dataclass(frozen=True)
class Curve:
    """Readings of images against the share of their pixels that is changed.

    Attributes:
        shares: (S,) rising, 0 to 1.
        readings: (B, S).
    """

    shares: Tensor
    readings: Tensor

    @property
    def area(self) -> Tensor:
        """(B,) areas under the curves by trapezoids, over the range of shares that they span."""
        shares = self.shares.to(self.readings)
        if len(shares) == 1:
            return self.readings[:, 0]
        return torch.trapezoid(self.readings, shares, dim=1) / (shares[-1] - shares[0])

    @property
    def mean(self) -> Tensor:
        """(B,) means over the shares."""
        return self.readings.mean(dim=1)


def deletion(
    asked: Question,
    relevance: Tensor,
    *,
    steps: int = 50,
    baseline: Baseline = "mean",
    order: Order = "most relevant first",
    reading: Reading = "score",
    batch_size: int = 32,
) -> Curve:
    """Readings while pixels are replaced by a baseline (RISE, arXiv 1806.07421); a small area is better.

    Args:
        asked: the question that the relevance answers.
        relevance: (B, ...) or (B, C, ...); channels are summed.
        steps: after each, pixels more are gone: of N, round(N step / steps).
        baseline: what stands for a pixel that is gone; see `perturbing.baseline_images`.
        order: which pixels go first; the least relevant first is the counter-test.
        reading: see `perturbing.read`; RISE reads probabilities.
        batch_size: images through the model at once.

    Returns:
        A curve of steps + 1 readings, from the unchanged image to the baseline.

    Raises:
        ValueError: relevance on another grid, fewer than one step.
    """
    base = baseline_images(asked.images, baseline)
    return _replaced(asked, relevance, steps, asked.images, base, order, reading, batch_size)


def insertion(
    asked: Question,
    relevance: Tensor,
    *,
    steps: int = 50,
    baseline: Baseline = "blur",
    order: Order = "most relevant first",
    reading: Reading = "score",
    batch_size: int = 32,
) -> Curve:
    """Readings while pixels are put into a baseline (RISE, arXiv 1806.07421); a large area is better.

    Like `deletion`, from the baseline to the unchanged image.
    """
    base = baseline_images(asked.images, baseline)
    return _replaced(asked, relevance, steps, base, asked.images, order, reading, batch_size)


def pixel_flipping(
    asked: Question,
    relevance: Tensor,
    *,
    pixels_a_step: int = 1,
    baseline: Baseline = 0.0,
    order: Order = "most relevant first",
    reading: Reading = "probability",
    batch_size: int = 32,
) -> Curve:
    """Readings after every so many pixels flipped to a baseline (Bach et al. 2015), the last step the rest.

    It differs from `deletion` in that the unchanged image is no point of the curve and that steps are told in
    pixels. Quantus takes the trapezoids with steps of length 1 for the area.

    Raises:
        ValueError: see `deletion`.
    """
    if pixels_a_step < 1:
        raise ValueError(f"pixels_a_step is {pixels_a_step}; at least 1 is wanted")
    total = pixels_of(relevance, asked.images)[0].numel()
    counts = torch.arange(pixels_a_step, total + pixels_a_step, pixels_a_step).clamp_max(total)
    after = baseline_images(asked.images, baseline)
    return _walked(asked, relevance, counts, asked.images, after, order, reading, batch_size)


def road(
    asked: Question,
    relevance: Tensor,
    *,
    shares: Sequence[float] = ROAD_SHARES,
    noise: float = 0.01,
    order: Order = "most relevant first",
    reading: Reading = "decision",
    seed: int = 0,
    batch_size: int = 32,
) -> Curve:
    """Readings after removing shares of the pixels by noisy linear imputation (ROAD, arXiv 2202.00449).

    With the most relevant first a faithful map's readings fall fast, with the least relevant first late. The
    mean over images of "decision" is the accuracy that the paper plots.

    Args:
        asked: the question that the relevance answers.
        relevance: (B, ...) or (B, C, ...); channels are summed.
        shares: of the pixels, above 0 and below 1; of N, round(N share) go.
        noise: standard deviation of what is added to filled pixels, in units of the images.
        order: which pixels go first.
        reading: see `perturbing.read`.
        seed: of the noise.
        batch_size: images through the model at once.

    Raises:
        ValueError: a share that is out of range, relevance on another grid.
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares are {list(shares)}; allowed: one or more, each above 0 and below 1")
    ranks = relevance_ranks(pixels_of(relevance, asked.images), order)
    counts = [min(round(share * ranks[0].numel()), ranks[0].numel() - 1) for share in shares]

    def change(images: Tensor, at: Tensor, number: Tensor) -> Tensor:
        pairs = zip(images, at.tolist(), number.tolist(), strict=True)
        return torch.stack(
            [
                impute(x, ranks[a] < counts[n], noise=noise, seed=seed + a * len(shares) + n)
                for x, a, n in pairs
            ]
        )

    found = changed_readings(asked, len(counts), change, reading=reading, batch_size=batch_size)
    return Curve(torch.tensor(list(shares), device=found.device), found)


def _replaced(
    asked: Question,
    relevance: Tensor,
    steps: int,
    before: Tensor,
    after: Tensor,
    order: Order,
    reading: Reading,
    batch_size: int,
) -> Curve:
    total = pixels_of(relevance, asked.images)[0].numel()
    if not 1 <= steps <= total:
        raise ValueError(f"steps is {steps}; allowed: 1 to {total}, the number of pixels")
    counts = (torch.arange(steps + 1, dtype=torch.float64) * total / steps).round().long()
    return _walked(asked, relevance, counts, before, after, order, reading, batch_size)


def _walked(
    asked: Question,
    relevance: Tensor,
    counts: Tensor,
    before: Tensor,
    after: Tensor,
    order: Order,
    reading: Reading,
    batch_size: int,
) -> Curve:
    """Readings with so many pixels from `after` and the others from `before`."""
    ranks = relevance_ranks(pixels_of(relevance, asked.images), order)
    limits = counts.to(ranks.device).view(-1, *[1] * (ranks.ndim - 1))

    def change(_images: Tensor, at: Tensor, number: Tensor) -> Tensor:
        return torch.where((ranks[at] < limits[number]).unsqueeze(1), after[at], before[at])

    found = changed_readings(asked, len(counts), change, reading=reading, batch_size=batch_size)
    return Curve(counts.to(found.device) / ranks[0].numel(), found)
