"""Maps of images and volumes too large to be explained at once, tile by tile (arXiv 2110.08429)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.blocks.tiles import tile_starts
from foveal.explanation.methods import ask, explain
from foveal.explanation.targets import Target, score_of, weights_of

Blend = Literal["core", "mean"]
Slices = tuple[slice, ...]


@dataclass(frozen=True)
class TiledRelevance:
    """A map that was put together from tiles.

    Attributes:
        values: (B, ...) on the images' grid.
        corners: of the tiles, one index an axis.
        scores: (tiles, B), what was explained in each.
        repeated: numbers of the tiles that were not finite at lower precision and were explained again.
    """

    values: Tensor
    corners: tuple[tuple[int, ...], ...]
    scores: Tensor
    repeated: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Tile:
    corner: tuple[int, ...]
    whole: Slices
    core: Slices
    inner: Slices


def explain_tiled(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: str,
    tile: int | Sequence[int],
    overlap: float = 0.25,
    blend: Blend = "core",
    autocast: torch.dtype | None = None,
    **options: Any,
) -> TiledRelevance:
    """Explain tiles one after the other, each by its own score, and lay their maps together.

    Of a segmenter the target's weights are those of the whole image, from outputs laid together in the same
    way, so that a tile's score is the sum over the target in the tile. Of a classifier every tile is asked
    about the same class; where none is given, that which the mean of the tiles' outputs says.

    Where no output depends on pixels further away than half of the overlap, "core" gives the map of the whole
    image exactly for methods that add up over outputs, such as gradients.

    Args:
        model: in evaluation mode; takes images of the size of a tile.
        images: (B, C, H, W) or (B, C, T, H, W).
        target: as for `explain`.
        method: as for `explain`.
        tile: sides of a tile in pixels, or one for all; at most those of the images are taken.
        overlap: share of a tile that neighbours share at least, in [0, 0.9].
        blend: "core" takes each pixel from the tile in whose middle it lies, "mean" averages all tiles that
            hold it, as the published code does.
        autocast: a lower precision to run in; tiles whose map is then not finite are explained again without.
        **options: of the method.

    Raises:
        ValueError: as `explain`, or a tile or an overlap out of range.
    """
    sides = tuple(images.shape[2:])
    tiles = list(_tiles(sides, _tile_sides(tile, sides), overlap))
    weights = _weights(model, images, target, tiles)
    total = torch.zeros(images.shape[:1] + sides, device=images.device)
    count = torch.zeros(sides, device=images.device)
    scores, repeated = [], []
    everything = (slice(None),)
    for number, each in enumerate(tiles):
        part = images[(slice(None), slice(None), *each.whole)]
        part_weights = weights if weights.ndim == 2 else weights[(slice(None), slice(None), *each.whole)]

        def fixed(_outputs: Tensor, part_weights: Tensor = part_weights) -> Tensor:
            return part_weights

        asked = ask(model, part, fixed)
        scores.append(score_of(asked.outputs, part_weights))
        lower = nullcontext() if autocast is None else torch.autocast(images.device.type, dtype=autocast)
        with lower:
            found = explain(model, part, fixed, method=method, **options)
        if autocast is not None and not bool(torch.isfinite(found).all()):
            repeated.append(number)
            found = explain(model, part, fixed, method=method, **options)
        if blend == "core":
            total[everything + each.core] = found[everything + each.inner]
            count[each.core] = 1
        else:
            total[everything + each.whole] += found
            count[each.whole] += 1
    corners = tuple(each.corner for each in tiles)
    return TiledRelevance(total / count, corners, torch.stack(scores).detach(), tuple(repeated))


def cut_tiles(images: Tensor, tile: int | Sequence[int], overlap: float) -> list[Tensor]:
    """The tiles of images, as `explain_tiled` cuts them."""
    sides = tuple(images.shape[2:])
    tiles = _tiles(sides, _tile_sides(tile, sides), overlap)
    return [images[(slice(None), slice(None), *each.whole)] for each in tiles]


def _weights(model: nn.Module, images: Tensor, target: Target, tiles: Sequence[_Tile]) -> Tensor:
    """Weights of the whole image's outputs, or (B, K) of those of each tile."""
    whole: Tensor | None = None
    pooled: list[Tensor] = []
    with torch.no_grad():
        for each in tiles:
            part = images[(slice(None), slice(None), *each.whole)]
            outputs = model(part)
            if outputs.ndim == 2:
                pooled.append(outputs)
                continue
            if outputs.shape[2:] != part.shape[2:]:
                raise ValueError(
                    f"outputs on a grid of {tuple(outputs.shape[2:])} for a tile of {tuple(part.shape[2:])}; "
                    "only segmenters that keep the size can be explained in tiles"
                )
            if whole is None:
                whole = outputs.new_zeros(*outputs.shape[:2], *images.shape[2:])
            whole[(slice(None), slice(None), *each.core)] = outputs[(slice(None), slice(None), *each.inner)]
    return weights_of(torch.stack(pooled).mean(dim=0) if whole is None else whole, target)


def _tiles(sides: tuple[int, ...], tile: tuple[int, ...], overlap: float) -> Iterator[_Tile]:
    """Tiles that cover an image, and their cores, which part it at the middle of each overlap."""
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap is {overlap}; allowed: a share from 0 to 0.9")
    axes = []
    for side, length in zip(sides, tile, strict=True):
        starts = tile_starts(side, length, overlap)
        borders = [0, *((a + length + b) // 2 for a, b in pairwise(starts)), side]
        axes.append([(start, *core) for start, core in zip(starts, pairwise(borders), strict=True)])
    for places in product(*axes):
        yield _Tile(
            corner=tuple(start for start, _, _ in places),
            whole=tuple(slice(start, start + n) for (start, _, _), n in zip(places, tile, strict=True)),
            core=tuple(slice(low, high) for _, low, high in places),
            inner=tuple(slice(low - start, high - start) for start, low, high in places),
        )


def _tile_sides(tile: int | Sequence[int], sides: tuple[int, ...]) -> tuple[int, ...]:
    wanted = (tile,) * len(sides) if isinstance(tile, int) else tuple(tile)
    if len(wanted) != len(sides) or min(wanted) < 1:
        raise ValueError(f"tile is {tile}; allowed: {len(sides)} sides in pixels, each at least 1")
    return tuple(min(a, b) for a, b in zip(wanted, sides, strict=True))
