"""What a model is worth on every subset of its channels (ChannelViT, arXiv 2309.16108)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, pstdev

import numpy as np

Subset = tuple[int, ...]


@dataclass(frozen=True)
class SubsetScores:
    """Scores of subsets of channels.

    Attributes:
        scores: by subset, whose channels are in rising order; higher is better.
    """

    scores: Mapping[Subset, float]

    def by_size(self) -> dict[int, tuple[float, float, int]]:
        """Mean, standard deviation and number of the subsets of each size."""
        sizes = sorted({len(subset) for subset in self.scores})
        rows = {m: [score for subset, score in self.scores.items() if len(subset) == m] for m in sizes}
        return {size: (fmean(row), pstdev(row), len(row)) for size, row in rows.items()}

    def worst(self, size: int | None = None) -> tuple[Subset, float]:
        """The subset, of a size or of any, with the lowest score.

        Raises:
            ValueError: no subset of that size was scored.
        """
        those = {s: score for s, score in self.scores.items() if size is None or len(s) == size}
        if not those:
            raise ValueError(f"no subset of {size} channels was scored; sizes: {sorted(self.by_size())}")
        subset = min(those, key=those.__getitem__)
        return subset, those[subset]

    def table(self) -> str:
        """Mean, deviation and worst subset of every size, as a Markdown table."""
        lines = ["| channels | subsets | mean | sd | worst |", "|---|---|---|---|---|"]
        for size, (mean, deviation, count) in self.by_size().items():
            subset, score = self.worst(size)
            told = f"{score:.3f} ({', '.join(map(str, subset))})"
            lines.append(f"| {size} | {count} | {mean:.3f} | {deviation:.3f} | {told} |")
        return "\n".join(lines)


def evaluate_all_subsets(
    score: Callable[[Subset], float],
    channels: int,
    *,
    sizes: Sequence[int] | None = None,
    max_subsets: int | None = None,
    seed: int = 0,
) -> SubsetScores:
    """Score every subset of the channels but the empty one: 2^C - 1 of them.

    Args:
        score: of a subset, e.g. the accuracy of a model that is given these channels.
        channels: C.
        sizes: only subsets of these sizes.
        max_subsets: of each size score that many at most, drawn at random without repetition.
        seed: of that draw.

    Raises:
        ValueError: sizes or `max_subsets` out of range.
    """
    sizes = list(sizes) if sizes is not None else list(range(1, channels + 1))
    if not sizes or min(sizes) < 1 or max(sizes) > channels:
        raise ValueError(f"sizes {sizes} of subsets of {channels} channels; allowed: 1 to {channels}")
    if max_subsets is not None and max_subsets < 1:
        raise ValueError(f"max_subsets {max_subsets}; allowed: 1 at least, or None for all")
    generator = np.random.default_rng(seed)
    chosen: list[Subset] = []
    for size in sizes:
        subsets = list(combinations(range(channels), size))
        if max_subsets is not None and len(subsets) > max_subsets:
            kept = np.sort(generator.choice(len(subsets), max_subsets, replace=False))
            subsets = [subsets[index] for index in kept]
        chosen += subsets
    return SubsetScores({subset: float(score(subset)) for subset in chosen})


def leave_groups_out(
    score: Callable[[Subset], float], groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Score without each group of channels, such as those of one sensor.

    Args:
        score: of a subset.
        groups: channels by the name of the group; together all channels.

    Raises:
        ValueError: fewer than two groups.
    """
    if len(groups) < 2:
        raise ValueError(f"groups {list(groups)}; two at least are wanted, or nothing is left")
    every = sorted({channel for group in groups.values() for channel in group})
    return {
        name: float(score(tuple(channel for channel in every if channel not in group)))
        for name, group in groups.items()
    }
