"""Where windows of shifted-window attention lie in the image, told by what their module says of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class Windows:
    """How a layer parts a grid of patches (Swin, arXiv 2103.14030).

    Attributes:
        grid: (h, w) of the patches.
        size: (a, b) of a window.
        shift: by how much the grid was rolled up and left before.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int]

    @property
    def count(self) -> int:
        """How many windows an image has; those at the far edges may reach beyond it."""
        return math.prod(math.ceil(side / window) for side, window in zip(self.grid, self.size, strict=True))

    def laid_out(self, values: Tensor) -> Tensor:
        """Values of the patches of each window, (W, ..., a b), on the grid: (..., h, w).

        Raises:
            ValueError: another number of windows, or of patches in one.
        """
        if len(values) != self.count or values.shape[-1] != math.prod(self.size):
            raise ValueError(
                f"values of shape {tuple(values.shape)}; {self.count} windows of {math.prod(self.size)} are "
                "wanted"
            )
        down = math.ceil(self.grid[0] / self.size[0])
        whole = rearrange(
            values, "(down across) ... (a b) -> ... (down a) (across b)", down=down, a=self.size[0]
        )
        return whole[..., : self.grid[0], : self.grid[1]].roll(self.shift, (-2, -1))


def windows_of(model: nn.Module, attention: str) -> Windows | None:
    """The windows of an attention layer, from `window_size`, `shift_size` and `input_resolution` of the block
    around it, as timm's Swin transformers have them; None where no such block tells them.

    Args:
        model: that has the layer.
        attention: name of the layer's module.
    """
    parts = attention.split(".")
    for end in range(len(parts), 0, -1):
        block: Any = model.get_submodule(".".join(parts[:end]))
        told = [getattr(block, name, None) for name in ("input_resolution", "window_size", "shift_size")]
        if all(isinstance(value, tuple | list) and len(value) == 2 for value in told):
            grid, size, shift = ((int(value[0]), int(value[1])) for value in told)  # type: ignore[index]
            return Windows(grid, size, shift)
    return None
