"""Which patches of an image are kept: samplers, and the pixels that they leave (MaskEmbed, arXiv 2410.11087).

A mask is boolean, (..., n) over the n patches in row-major order; true keeps the patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isqrt, log, prod, sqrt
from typing import Literal, Self

import torch
from einops import rearrange, repeat
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from foveal.settings import Settings

_TRIES = 10  # places tried for a block before another size is drawn


class MaskSettings(Settings):
    """The masks of one image; `per_image` tells how many there are.

    Each of the `draws` is one mask, with `antithetic` followed by its complement; with `whole` the last mask
    of the image keeps everything.
    """

    kind: Literal["uniform", "bernoulli", "blockwise"] = "uniform"
    keep_ratio: float | None = Field(
        None, ge=0, le=1, description="share of patches that are KEPT; needless with uniform, which draws it"
    )
    blocks: Literal["kept", "dropped"] = Field("kept", description="which patches blocks cover; blockwise")
    smallest_block: int = Field(16, ge=1, description="patches; at most what is wanted; blockwise")
    aspect: float = Field(0.3, gt=0, le=1, description="blocks' height over width, from this to 1 / this")
    draws: int = Field(1, ge=0, description="masks drawn independently")
    antithetic: bool = Field(True, description="add the complement of each drawn mask")
    whole: bool = Field(True, description="add the mask that keeps all patches (the null mask)")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.kind == "uniform" and self.keep_ratio is not None:
            raise ValueError("keep_ratio with kind='uniform', which draws it; name bernoulli or blockwise")
        if not self.draws and not self.whole:
            raise ValueError("draws=0 and whole=False leave no mask")
        return self

    @property
    def per_image(self) -> int:
        """Masks R of one image."""
        return self.draws * (2 if self.antithetic else 1) + self.whole


def draw_masks(
    settings: MaskSettings,
    images: int,
    grid: int | Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Masks (B, R, n): drawn ones each with its complement behind it, the whole image last, as settings say.

    Args:
        settings: kind and number.
        images: B.
        grid: (h, w) of the patches, or their number n.
        generator: of the device; None draws from the global one.
        device: of the masks, where no generator is given.

    Raises:
        ValueError: block-wise masks on a grid that is not square.
    """
    device = device if generator is None else generator.device
    patches = grid if isinstance(grid, int) else prod(grid)
    count = images * settings.draws
    if settings.kind == "uniform":
        drawn = uniform_masks(count, patches, generator=generator, device=device)
    elif settings.kind == "bernoulli":
        ratio = 0.5 if settings.keep_ratio is None else settings.keep_ratio
        drawn = bernoulli_masks(count, patches, keep_ratio=ratio, generator=generator, device=device)
    else:
        ratio = 0.4 if settings.keep_ratio is None else settings.keep_ratio
        drawn = blockwise_masks(
            count, grid, keep_ratio=ratio, blocks=settings.blocks, smallest=settings.smallest_block,
            aspect=settings.aspect, generator=generator,
        ).to(device)  # fmt: skip
    drawn = drawn.view(images, settings.draws, patches)
    if settings.antithetic:
        drawn = rearrange([drawn, ~drawn], "pair b r n -> b (r pair) n")
    if settings.whole:
        drawn = torch.cat([drawn, drawn.new_ones(images, 1, patches)], dim=1)
    return drawn


def uniform_masks(
    count: int, patches: int, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """(count, n) masks whose number of kept patches is uniform on 0..n, every patch as likely as another.

    keep_i = [U_i > u] with one u and all U_i uniform on [0, 1].
    """
    draws = torch.rand(count, patches + 1, generator=generator, device=device)
    return draws[:, 1:] > draws[:, :1]


def bernoulli_masks(
    count: int,
    patches: int,
    *,
    keep_ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(count, n) masks that keep each patch with probability `keep_ratio`, independently."""
    return torch.rand(count, patches, generator=generator, device=device) < keep_ratio


def blockwise_masks(
    count: int,
    grid: int | Sequence[int],
    *,
    keep_ratio: float,
    blocks: Literal["kept", "dropped"] = "kept",
    smallest: int = 16,
    aspect: float = 0.3,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(count, n) masks of rectangles, after BEiT (arXiv 2106.08254); exactly round(keep_ratio n) are kept.

    Rectangles of a random area and aspect are laid until the wanted number is covered; the last is cut short.

    Args:
        count: masks.
        grid: (h, h) of the patches, or their number h h.
        keep_ratio: share of the patches that are kept.
        blocks: whether the rectangles are what is kept, or what is dropped.
        smallest: patches of a rectangle, or as many as are still wanted.
        aspect: height over width is log-uniform from this to 1 / this.
        generator: on the CPU; None draws from the global one.

    Raises:
        ValueError: the grid is not square.
    """
    sides = (isqrt(grid), isqrt(grid)) if isinstance(grid, int) else tuple(grid)
    if len(sides) != 2 or sides[0] != sides[1] or (isinstance(grid, int) and prod(sides) != grid):
        raise ValueError(
            f"block-wise masks need a square grid of patches, found {grid}; "
            "take square images, or uniform or bernoulli masks"
        )
    side, n = sides[0], prod(sides)
    wanted = round((keep_ratio if blocks == "kept" else 1 - keep_ratio) * n)
    covered = torch.zeros(count, side, side, dtype=torch.bool)
    for mask in covered:
        _cover(mask, wanted, smallest, aspect, generator)
    covered = covered.flatten(1)
    return covered if blocks == "kept" else ~covered


def _cover(
    mask: Tensor, wanted: int, smallest: int, aspect: float, generator: torch.Generator | None
) -> None:
    """Lay rectangles on a mask (h, h) until so many places are covered."""
    side, left = len(mask), wanted
    while left:
        for area, ratio, top, start in torch.rand(
            _TRIES, 4, generator=generator, dtype=torch.float64
        ).tolist():
            size = min(smallest, left) + area * max(0, left - smallest)
            shape = exp((2 * ratio - 1) * log(1 / aspect))
            height = min(side, max(1, round(sqrt(size * shape))))
            width = min(side, max(1, round(sqrt(size / shape))))
            y, x = int(top * (side - height + 1)), int(start * (side - width + 1))
            block = mask[y : y + height, x : x + width]
            free = (~block).nonzero()[:left]
            if len(free):
                block[free[:, 0], free[:, 1]] = True
                left -= len(free)
                break


def masked_images(images: Tensor, masks: Tensor, patch_size: int | Sequence[int]) -> Tensor:
    """Images with the pixels of dropped patches set to 0: the mean colour, where they are standardised.

    Pixels beyond the last whole patch, at the right and the bottom, are always 0.

    Args:
        images: (B, C, H, W), standardised.
        masks: (B, R, n) over the whole patches.
        patch_size: pixels, or (height, width) in pixels.

    Returns:
        (B R, C, H, W), the R masked copies of an image one after the other.

    Raises:
        ValueError: the masks do not have as many patches as the images.
    """
    high, wide = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    height, width = images.shape[-2:]
    rows, columns = height // high, width // wide
    if masks.ndim != 3 or masks.shape[0] != len(images) or masks.shape[2] != rows * columns:
        raise ValueError(
            f"masks of shape {tuple(masks.shape)}; {len(images)} images of {height} x {width} px in patches "
            f"of {high} x {wide} px want ({len(images)}, R, {rows * columns})"
        )
    pixels = repeat(
        masks.to(images.dtype), "b r (h w) -> (b r) 1 (h p) (w q)", h=rows, w=columns, p=high, q=wide
    )
    pixels = F.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2]))
    return images.repeat_interleave(masks.shape[1], dim=0) * pixels
