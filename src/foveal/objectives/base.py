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
    has to remember (momentum teachers, queues, learnt temperatures) belongs to it as parameter or buffer.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalar losses by name.

        Args:
            batch: collated samples, already on the objective's device; the keys of `Batch`.

        Returns:
            Scalars, each a mean over the batch; `"loss"` is the one that is minimised, the others are logged.
        """
