"""Exponential moving average of a model's weights (Polyak and Juditsky 1992, as used since Mean Teacher)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foveal.training.sharding import placed_like


class WeightAverage:
    """Running average of a model's trainable parameters.

    Whatever is not trained by gradient (BatchNorm statistics, frozen weights, momentum teachers) is taken
    from the model as it is whenever the averaged weights are read, so it costs nothing a step.

    Args:
        model: to follow; the average starts at its weights.
        decay: share of the old average that stays at each update, in [0, 1).
        warmup: bound the decay by (1 + t) / (10 + t), so that the first weights are forgotten fast.
    """

    def __init__(self, model: nn.Module, decay: float, *, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._names = list(trained)
        self._parameters: list[Tensor] = list(trained.values())
        self._averages = [value.detach().clone() for value in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model after update number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(self._averages, self._parameters, 1.0 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Overwrite the model's trainable parameters with their averages."""
        torch._foreach_copy_(self._parameters, self._averages)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lend the averages to the model for the duration of a `with` block."""
        own = [value.detach().clone() for value in self._parameters]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, own)

    def state(self) -> dict[str, Tensor]:
        """Averages by parameter name."""
        return dict(zip(self._names, self._averages, strict=True))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: its names are not the model's.
        """
        if state.keys() != set(self._names):
            odd = sorted(state.keys() ^ set(self._names))
            raise ValueError(f"averaged weights do not fit the model; differing names: {odd[:5]}")
        for name, value in zip(self._names, self._averages, strict=True):
            value.copy_(placed_like(state[name], value))
