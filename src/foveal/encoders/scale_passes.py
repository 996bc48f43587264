"""Every scale of an image through a model, tile by tile, and joined on one grid (S2, arXiv 2403.13043)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from foveal.blocks.tiles import Corners, blend_tiles, merge_tiles, tile_corners, tile_window
from foveal.encoders.scale_plan import ScalePlan


@dataclass(frozen=True)
class TileOutputs:
    """What a model says of tiles: maps (n, C, g, g), and vectors (n, P, C) that belong to no place."""

    maps: tuple[Tensor, ...]
    prefix: Tensor | None

    def pick(self, places: Tensor) -> TileOutputs:
        """Those of the tiles at `places`."""
        prefix = None if self.prefix is None else self.prefix[places]
        return TileOutputs(tuple(m[places] for m in self.maps), prefix)


Seen = tuple[tuple[Tensor, ...], Tensor | None]


def run_scales(
    run: Callable[[Tensor], TileOutputs],
    images: Tensor,
    plans: Sequence[ScalePlan],
    *,
    out_index: int,
    tile_batch: int | None,
    resize: str,
    antialias: bool,
    norm_per_scale: bool,
    overlap: float,
    reuse_constant_tiles: bool,
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Run a model on the tiles of all scales and join what it says along the channels.

    Args:
        run: tiles (n, C, t, t) to what the model says of them.
        images: (B, C, H, W) float.
        plans: of `plan_scales`.
        out_index: scale on whose grid the maps come out.
        tile_batch: tiles in the model at once; None for all of a scale.
        resize: interpolation of the images.
        antialias: of that interpolation.
        norm_per_scale: every scale's vectors to zero mean and unit variance.
        overlap: share of a tile that neighbours share at least, in [0, 0.9].
        reuse_constant_tiles: run one of all tiles of the same single colour.

    Returns:
        Maps (B, K C, h, w) of every level, and prefix tokens (B, P, K C) or None.

    Raises:
        ValueError: `overlap` or `tile_batch` out of range, maps that no whole number of pixels a cell fits.
    """
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap {overlap}; allowed: a share in [0, 0.9]")
    if tile_batch is not None and tile_batch < 1:
        raise ValueError(f"tile_batch {tile_batch}; allowed: 1 at least, or None for all tiles at once")

    run_all = partial(_run_tiles, run, tile_batch=tile_batch, reuse_constant=reuse_constant_tiles)
    fitted: dict[int, Seen] = {}
    grids: list[torch.Size] = []
    # The scale that gives the grid comes first, so that the maps of the others need not be kept whole.
    for index in sorted(range(len(plans)), key=lambda index: index != out_index):
        plan = plans[index]
        resized = _resized(images, plan.size, mode=resize, antialias=antialias)
        split = _overlapping if overlap and plan.tiles > 1 else _side_by_side
        maps, prefix = split(run_all, resized, plan, overlap)
        grids = grids or [map_.shape[-2:] for map_ in maps]
        maps = tuple(_to_grid(map_, grid) for map_, grid in zip(maps, grids, strict=True))
        if norm_per_scale:
            maps = tuple(F.layer_norm(m.movedim(1, -1), m.shape[1:2]).movedim(-1, 1) for m in maps)
            prefix = None if prefix is None else F.layer_norm(prefix, prefix.shape[-1:])
        fitted[index] = maps, prefix
    scales = [fitted[index] for index in range(len(plans))]
    joined = tuple(torch.cat(level, dim=1) for level in zip(*(maps for maps, _ in scales), strict=True))
    prefixes = [prefix for _, prefix in scales if prefix is not None]
    return joined, torch.cat(prefixes, dim=-1) if prefixes else None


def _run_tiles(
    run: Callable[[Tensor], TileOutputs],
    images: Tensor,
    corners: Corners,
    side: int,
    *,
    tile_batch: int | None,
    reuse_constant: bool,
) -> TileOutputs:
    """What the model says of all tiles, tile-major; only those in the model are copied out of the images."""
    batch = len(images)
    views = [images[..., top : top + side, left : left + side] for top, left in corners]
    needed, places = torch.arange(batch * len(views), device=images.device), None
    if reuse_constant:
        needed, places = _representatives(views).unique(return_inverse=True)
    parts = []
    for chunk in needed.split(tile_batch or len(needed)):
        if len(views) == 1 and len(chunk) == batch:
            parts.append(run(views[0]))
        else:
            parts.append(run(torch.stack([views[i // batch][i % batch] for i in chunk.tolist()])))
    prefixes = [part.prefix for part in parts if part.prefix is not None]
    outputs = TileOutputs(
        tuple(torch.cat(level) for level in zip(*(part.maps for part in parts), strict=True)),
        torch.cat(prefixes) if prefixes else None,
    )
    return outputs if places is None else outputs.pick(places)


def _side_by_side(run: Callable[..., TileOutputs], images: Tensor, plan: ScalePlan, _: float) -> Seen:
    side = plan.tile
    corners = [(row * side, column * side) for row in range(plan.rows) for column in range(plan.columns)]
    outputs = run(images, corners, side)
    maps = tuple(merge_tiles(map_, plan.rows, plan.columns) for map_ in outputs.maps)
    return maps, _mean_of_tiles(outputs.prefix, plan.tiles)


def _overlapping(run: Callable[..., TileOutputs], images: Tensor, plan: ScalePlan, overlap: float) -> Seen:
    """Tiles at whole cells of the coarsest map, blended; a dry run on one tile tells the grids."""
    side = plan.tile
    with torch.no_grad():
        grids = [map_.shape[-1] for map_ in run(images[:1], [(0, 0)], side).maps]
    coarsest = min(grids)
    if side % coarsest or any(grid % coarsest for grid in grids):
        raise ValueError(
            f"tiles of {side} px give maps of {grids} cells, which do not fit each other; "
            "overlap needs a whole number of pixels for each cell"
        )
    cells = tile_corners(plan.rows * coarsest, plan.columns * coarsest, coarsest, overlap)
    pixels = side // coarsest
    outputs = run(images, [(top * pixels, left * pixels) for top, left in cells], side)
    maps = []
    for map_, grid in zip(outputs.maps, grids, strict=True):
        finer = grid // coarsest
        corners = [(top * finer, left * finer) for top, left in cells]
        window = tile_window(grid, profile="cosine", device=map_.device)
        maps.append(blend_tiles(map_, corners, plan.rows * grid, plan.columns * grid, window))
    return tuple(maps), _mean_of_tiles(outputs.prefix, len(cells))


def _mean_of_tiles(prefix: Tensor | None, tiles: int) -> Tensor | None:
    if prefix is None or tiles == 1:
        return prefix
    return rearrange(prefix, "(t b) p c -> t b p c", t=tiles).mean(dim=0)


def _representatives(views: Sequence[Tensor]) -> Tensor:
    """(n,) for each tile the number of the tile to run for it: the first of those of its single colour."""
    low = torch.cat([view.amin(dim=(2, 3)) for view in views])
    high = torch.cat([view.amax(dim=(2, 3)) for view in views])
    constant = (high - low <= 1e-5 * high.abs().clamp_min(1)).all(dim=1).nonzero()[:, 0]
    places = torch.arange(len(low), device=low.device)
    if len(constant) > 1:
        _, colours = low[constant].mul(1e4).round().unique(dim=0, return_inverse=True)
        firsts = torch.full((int(colours.max()) + 1,), len(low), device=low.device)
        firsts.scatter_reduce_(0, colours, constant, "amin")
        places[constant] = firsts[colours]
    return places


def _resized(images: Tensor, size: tuple[int, int], *, mode: str, antialias: bool) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    resized = F.interpolate(images.float(), size=size, mode=mode, align_corners=False, antialias=antialias)
    return resized.to(images.dtype)


def _to_grid(map_: Tensor, grid: Sequence[int]) -> Tensor:
    if tuple(map_.shape[-2:]) == tuple(grid):
        return map_
    return F.interpolate(map_.float(), size=tuple(grid), mode="area").to(map_.dtype)
