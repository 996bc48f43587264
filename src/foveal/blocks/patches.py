"""Images to patch tokens, and the learned positions of those tokens at any grid."""

from __future__ import annotations

from typing import cast

from einops import rearrange
from torch import Tensor, nn


class PatchEmbed(nn.Conv2d):
    """Square patches of an image to tokens: (B, C, H, W) to (B, h, w, D).

    Args:
        in_channels: C.
        dim: D.
        patch_size: side of a patch, pixels.
        stride: pixels from patch to patch; `patch_size` by default, less for overlapping patches.
        padding: pixels of zeros on all sides.
        bias: whether the projection has one.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        *,
        patch_size: int,
        stride: int | None = None,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, dim, patch_size, stride or patch_size, padding, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Cut and project.

        Raises:
            ValueError: another number of channels, an image smaller than a patch, or one whose sides no
                whole number of patches fills.
        """
        side, step, padding = self.kernel_size[0], self.stride[0], 2 * cast(int, self.padding[0])
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images of shape {tuple(images.shape)}; allowed: (B, {self.in_channels}, H, W)")
        for pixels in images.shape[-2:]:
            if pixels + padding < side or (pixels + padding - side) % step:
                raise ValueError(
                    f"images of {images.shape[-2]} x {images.shape[-1]} px do not divide into patches of "
                    f"{side} px every {step} px; resize or pad them"
                )
        return rearrange(super().forward(images), "b d h w -> b h w d")


class LearnedPositions(nn.Module):
    """A learned vector for each cell of a grid, resized to the grid that comes: adds to (B, h, w, D).

    Args:
        grid: (h, w) of training.
        dim: D.
        resize: interpolate (bicubic, antialiased) for other grids; else another grid is an error.
    """

    def __init__(self, grid: tuple[int, int], dim: int, *, resize: bool = True) -> None:
        super().__init__()
        self.grid, self.resize = grid, resize
        self.table = nn.Parameter(nn.init.trunc_normal_(Tensor(1, grid[0] * grid[1], dim), std=0.02))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"table"}

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens with their positions added."""
        return tokens + self.at((tokens.shape[1], tokens.shape[2]))

    def at(self, grid: tuple[int, int]) -> Tensor:
        """Positions (1, h, w, D) of a grid.

        Raises:
            ValueError: a grid other than that of training, with resizing off.
        """
        table = self.table
        if grid != self.grid:
            if not self.resize:
                raise ValueError(
                    f"a grid of {grid[0]} x {grid[1]} tokens, positions were made for "
                    f"{self.grid[0]} x {self.grid[1]}; set resize=True or resize the images"
                )
            from timm.layers.pos_embed import resample_abs_pos_embed  # slow to import, and seldom wanted

            table = resample_abs_pos_embed(table, list(grid), list(self.grid), num_prefix_tokens=0)
        return rearrange(table, "1 (h w) d -> 1 h w d", h=grid[0])
