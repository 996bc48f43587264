"""The contract of a learning signal: from a batch to named scalar losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

Batch: TypeAlias = Mapping[str, Any]
"""A collated batch. Each objective documents which of these keys it reads:

- `images`: (B, C, H, W) float; `volumes`: (B, C, T, H, W) float.
- `labels`: (B,) int64 classes, or (B, K) float for several findings at once.
- `masks`: (B, H, W) or (B, K, H, W) float targets in [0, 1].
- `valid`: (B, H, W) float in [0, 1], where a mask is to be trusted (for example the field of view).
- `texts`: list of B strings; `tokens`: (B, L) int64.
- `groups`: (B,) int64, patient or site; `ids`: list of B strings that name the samples.
"""


class Objective(nn.Module, ABC):
    """A learning signal that owns the model or models that it trains.

    The training loop moves, wraps, averages and saves an objective as a whole, so every weight that a run
    has to remember (momentum teachers, queues, learnt temperatures) belongs to it as parameter or
    persistent buffer.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalar losses by name.

        Args:
            batch: collated samples, already on the objective's device; the keys of `Batch`.

        Returns:
            Scalars, each a mean over the batch; `"loss"` is the one that is minimised, the others are logged.
        """


def check_losses(losses: Any, objective: nn.Module) -> None:
    """Refuse what `objective` returned when it breaks the contract.

    Raises:
        ValueError: no dict, no key "loss", or a value that is no scalar tensor; names the objective.
    """
    name = type(objective).__name__
    if not isinstance(losses, dict) or "loss" not in losses:
        found = sorted(losses) if isinstance(losses, dict) else type(losses).__name__
        raise ValueError(
            f"{name} returned {found}; an objective returns a dict of scalars with the key 'loss'"
        )
    for key, value in losses.items():
        if not isinstance(value, Tensor) or value.ndim:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} returned {key!r} as {shape}; every loss is a scalar tensor")
