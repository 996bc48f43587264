"""Images in tiles and back: grids of tiles that merge exactly, and overlapping tiles that are blended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

Corners = Sequence[tuple[int, int]]


def split_tiles(images: Tensor, rows: int, columns: int) -> Tensor:
    """Images (B, C, H, W) as (rows columns B, C, H / rows, W / columns).

    Tile-major: all images of the tile at the top left, then those of the tile to its right, and so on.

    Raises:
        ValueError: a side that does not divide into that many tiles.
    """
    if images.shape[-2] % rows or images.shape[-1] % columns:
        raise ValueError(
            f"images of {images.shape[-2]} x {images.shape[-1]} px do not divide into {rows} x {columns} "
            "equal tiles; resize or pad them"
        )
    return rearrange(images, "b c (r h) (k w) -> (r k b) c h w", r=rows, k=columns)


def merge_tiles(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `split_tiles`, also for maps of another size: (rows columns B, C, h, w) to (B, C, H, W).

    Raises:
        ValueError: the number of tiles is no multiple of rows x columns.
    """
    if len(tiles) % (rows * columns):
        raise ValueError(f"{len(tiles)} tiles are no whole number of images of {rows} x {columns} tiles")
    return rearrange(tiles, "(r k b) c h w -> b c (r h) (k w)", r=rows, k=columns)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Evenly spread starts of the fewest tiles that cover `length` with at least the overlap wanted.

    Args:
        length: to be covered.
        tile: length of a tile.
        overlap: share of a tile that two neighbours share at least, in [0, 1).
    """
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_corners(height: int, width: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """(top, left) of the overlapping tiles of an area, row by row; see `tile_starts`."""
    return [
        (top, left)
        for top in tile_starts(height, tile, overlap)
        for left in tile_starts(width, tile, overlap)
    ]


def tile_window(
    tile: int, *, profile: Literal["linear", "cosine"] = "linear", device: torch.device | None = None
) -> Tensor:
    """(tile, tile) weights in (0, 1] that fall to the border, linearly or as a raised cosine."""
    ramp = torch.arange(tile, device=device, dtype=torch.float32) + 0.5
    if profile == "linear":
        line = torch.minimum(ramp, tile - ramp) / (tile / 2)
    else:
        line = torch.sin(torch.pi * ramp / tile).square()
    return torch.outer(line, line).clamp_min(1e-3)


def blend_tiles(tiles: Tensor, corners: Corners, height: int, width: int, window: Tensor) -> Tensor:
    """Weighted mean of overlapping tiles: (corners B, C, t, t) to (B, C, height, width).

    Args:
        tiles: tile-major, as in `split_tiles`.
        corners: (top, left) of each, in cells of the map; together they cover it.
        height: of the map.
        width: of the map.
        window: (t, t) weights above 0.
    """
    parts = tiles.chunk(len(corners))
    side = len(window)
    total = tiles.new_zeros(*parts[0].shape[:2], height, width)
    weight = tiles.new_zeros(height, width)
    window = window.to(tiles.dtype)
    for part, (top, left) in zip(parts, corners, strict=True):
        total[..., top : top + side, left : left + side] += part * window
        weight[top : top + side, left : left + side] += window
    return total / weight


def fold_tokens(maps: Tensor, factor: int) -> Tensor:
    """Fewer, longer tokens: (B, C, H, W) to (B, C factor^2, H', W'), each from factor x factor of them.

    A grid that does not divide is filled with zeros at its right and bottom.
    """
    filled = F.pad(maps, (0, -maps.shape[-1] % factor, 0, -maps.shape[-2] % factor))
    return F.pixel_unshuffle(filled, factor)
