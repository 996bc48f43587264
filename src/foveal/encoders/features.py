"""What every encoder returns: patch tokens, one pooled vector and, for dense tasks, a pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Features of a batch of images or volumes.

    Attributes:
        patches: (B, N, D) patch tokens, row-major over `grid`.
        grid: (H, W) or (T, H, W) of the patch tokens; N == prod(grid).
        pooled: (B, D) one vector an image.
        pyramid: (B, C_i, H_i, W_i) maps, finest first, for dense tasks; empty where there is none.

    Raises:
        ValueError: `grid` does not hold as many cells as there are patch tokens.
    """

    patches: Tensor
    grid: tuple[int, ...]
    pooled: Tensor
    pyramid: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        """Check that the tokens fill the grid."""
        if self.patches.ndim != 3 or self.patches.shape[1] != prod(self.grid):
            raise ValueError(
                f"patches of shape {tuple(self.patches.shape)} do not fill a grid of {self.grid}: "
                f"(B, {prod(self.grid)}, D) is wanted"
            )
