"""Which samples a step sees, and with what randomness: pure functions of the seed and the position.

The samples of a run form one endless stream. Position p belongs to epoch p // n and takes the entry p % n
of that epoch's order; step t takes positions t B to (t + 1) B - 1. Batches cross the borders of epochs: all
have the same size, no sample is dropped, and a data set may be smaller than a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from foveal.training.randomness import seed_cpu, without_touching_randomness

_ORDER, _SAMPLE = 1, 2  # separate the streams that grow from one seed


@runtime_checkable
class SampledDataset(Protocol):
    """A map-style data set whose augmentation draws from the generator that it is handed."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Sample `index`, augmented by draws from `generator` alone."""
        ...


@runtime_checkable
class IndexedDataset(Protocol):
    """A plain map-style data set; draws from the global generators are seeded for each sample."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Sample `index`."""
        ...


def sample_seed(seed: int, position: int) -> int:
    """Seed of the sample at `position` of the stream; 32 bits, as torch's CPU generator uses no more."""
    return int(np.random.SeedSequence([seed, _SAMPLE, position]).generate_state(1)[0])


def epoch_order(length: int, seed: int, epoch: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Order in which one epoch visits the data.

    Without weights a permutation. With weights systematic resampling: sample i comes up
    length * weight_i / sum(weights) times, rounded down or up at random, so that an epoch is as near to the
    weights as whole numbers allow; then shuffled.

    Args:
        length: samples in the data set, and entries in an epoch.
        seed: of the run.
        epoch: from 0.
        weights: (length,) relative frequencies, at least 0.

    Returns:
        (length,) int64 sample numbers.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, _ORDER, epoch]))
    if weights is None:
        return generator.permutation(length)
    edges = np.cumsum(weights / weights.sum()) * length
    edges[-1] = length  # rounding must not let a point fall behind the last edge
    points = generator.random() + np.arange(length)
    chosen = np.minimum(np.searchsorted(edges, points, side="right"), np.flatnonzero(weights)[-1])
    return generator.permutation(chosen)


def check_weights(weights: Any, length: int) -> np.ndarray:
    """Return `weights` as (length,) float64.

    Raises:
        ValueError: wrong length, negative or not finite, or all zero.
    """
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (length,):
        raise ValueError(f"weights have shape {array.shape}; allowed: ({length},), one a sample")
    if not np.isfinite(array).all() or (array < 0).any() or array.sum() <= 0:
        raise ValueError("weights have to be finite, at least 0, and not all 0")
    return array


class StreamPositions(Sampler[list[tuple[int, int]]]):
    """Batches of (sample number, position) that one process reads, from any step on.

    Args:
        length: samples in the data set.
        seed: of the run.
        batch_size: samples a step, over all processes and rounds.
        rounds: gradient accumulation.
        first_step: step to begin with.
        last_step: step to end before.
        rank: this process.
        processes: how many there are; every one reads other positions.
        weights: (length,) relative frequencies, or None.

    Raises:
        ValueError: the data set is empty, or the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int,
        rounds: int = 1,
        first_step: int = 0,
        last_step: int,
        rank: int = 0,
        processes: int = 1,
        weights: np.ndarray | None = None,
    ) -> None:
        if length < 1:
            raise ValueError("the data set is empty")
        if batch_size % (rounds * processes):
            raise ValueError(
                f"batch_size {batch_size} cannot be shared evenly by {processes} processes x {rounds} rounds "
                f"of accumulation; allowed: multiples of {rounds * processes}"
            )
        self.length, self.seed, self.weights = length, seed, weights
        self.batch_size, self.rounds = batch_size, rounds
        self.first_step, self.last_step = first_step, last_step
        self.rank, self.processes = rank, processes
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Batches left for this process, accumulation rounds counted singly."""
        return (self.last_step - self.first_step) * self.rounds

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield one list a round."""
        part = self.batch_size // (self.rounds * self.processes)
        for step in range(self.first_step, self.last_step):
            for turn in range(self.rounds):
                start = step * self.batch_size + (turn * self.processes + self.rank) * part
                yield [(self._index(position), position) for position in range(start, start + part)]

    def _index(self, position: int) -> int:
        epoch, entry = divmod(position, self.length)
        if epoch not in self._orders:
            self._orders.pop(epoch - 2, None)
            self._orders[epoch] = epoch_order(self.length, self.seed, epoch, self.weights)
        return int(self._orders[epoch][entry])


class _Keyed(Dataset):
    """Turns (sample number, position) into a sample whose randomness depends on these two alone."""

    def __init__(self, data: SampledDataset | IndexedDataset, seed: int) -> None:
        self.data, self.seed = data, seed
        self.takes_generator = callable(getattr(data, "sample", None))

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, position = key
        seed = sample_seed(self.seed, position)
        if self.takes_generator:
            return self.data.sample(index, torch.Generator().manual_seed(seed))  # type: ignore[union-attr]
        with without_touching_randomness():
            seed_cpu(seed)
            return self.data[index]  # type: ignore[index]


def stream_loader(
    data: SampledDataset | IndexedDataset,
    positions: StreamPositions,
    *,
    workers: int = 0,
    collate: Callable[[Sequence[Any]], Any] | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """Loader over `positions`; it neither reads nor advances the global random state of this process."""
    return DataLoader(
        _Keyed(data, positions.seed),
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(positions.seed % 2**32),
    )
