"""Which sizes and tiles a multi-scale pass takes, and what it costs (S2, arXiv 2403.13043)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foveal.settings import unknown_name

Shape = Literal["square", "any", "dynamic"]


@dataclass(frozen=True)
class ScalePlan:
    """One scale of a multi-scale pass.

    Attributes:
        size: (height, width) in pixels that the images are resized to.
        rows: tiles from top to bottom.
        columns: tiles from left to right.
    """

    size: tuple[int, int]
    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        """How many tiles an image has."""
        return self.rows * self.columns

    @property
    def tile(self) -> int:
        """Side of a tile, pixels."""
        return self.size[0] // self.rows

    def __post_init__(self) -> None:
        if self.size[0] % self.rows or self.size[1] % self.columns:
            raise ValueError(
                f"{self.size[0]} x {self.size[1]} px do not divide into {self.rows} x {self.columns} tiles; "
                "choose scales or sizes that are multiples of max_tile"
            )


def plan_scales(
    height: int,
    width: int,
    *,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    max_tile: int | None = None,
    shape: Shape = "square",
    max_tiles: int = 12,
) -> tuple[ScalePlan, ...]:
    """Sizes and tiles of every scale.

    Of a square image a scale s is int(S s) pixels wide, and cut into n x n tiles with n = ceil(size / M).
    Tiles are smaller than M where the size is no multiple of it.

    Args:
        height: of the images, pixels.
        width: of the images, pixels.
        scales: multiples of the input's (shorter) side S; int(S s) is cut off, not rounded.
        sizes: pixels instead, of the (shorter) side; for photographs larger than the encoder's input.
        max_tile: M; by default S with scales, and the smallest of the sizes with sizes.
        shape: "square": square images only. "any": each scale keeps the shape of the image, but for a
            resize to whole tiles of M x M. "dynamic": the scales are square whatever the image, and one
            scale is added whose rows x columns of tiles of M x M are nearest to the image's shape (the most
            tiles where several are equally near).
        max_tiles: most tiles of the added scale of "dynamic".

    Raises:
        ValueError: neither or both of scales and sizes, none or not all above 0, an image that is not
            square with "square", a size that does not divide into its tiles, or an unknown shape.
    """
    if (scales is None) == (sizes is None):
        raise ValueError(f"scales {scales} and sizes {sizes}; allowed: exactly one of them, the other None")
    if shape not in ("square", "any", "dynamic"):
        raise ValueError(unknown_name("shape", shape, ["square", "any", "dynamic"]))
    if shape == "square" and height != width:
        raise ValueError(
            f"images of {height} x {width} px are not square; crop or pad them, or set shape='any' "
            "or 'dynamic'"
        )
    side = min(height, width)
    wanted = [int(side * scale) for scale in scales] if scales is not None else list(sizes or ())
    if not wanted or min(wanted) < 1:
        raise ValueError(f"scales or sizes come to {wanted} px; allowed: one at least, each of 1 px at least")
    largest = max_tile or (side if scales is not None else min(wanted))
    if largest < 1:
        raise ValueError(f"max_tile {largest}; allowed: 1 px at least")
    if shape == "any":
        return tuple(_keep_shape(size, height / side, width / side, largest) for size in wanted)
    squares = tuple(ScalePlan((size, size), *[math.ceil(size / largest)] * 2) for size in wanted)
    return squares if shape == "square" else (*squares, _nearest_shape(height / width, largest, max_tiles))


def _keep_shape(size: int, height: float, width: float, tile: int) -> ScalePlan:
    rows, columns = math.ceil(int(size * height) / tile), math.ceil(int(size * width) / tile)
    return ScalePlan((rows * tile, columns * tile), rows, columns)


def _nearest_shape(ratio: float, tile: int, most: int) -> ScalePlan:
    if most < 1:
        raise ValueError(f"max_tiles {most}; allowed: 1 at least")
    choices = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
    rows, columns = min(
        choices, key=lambda rc: (round(abs(math.log(rc[0] / rc[1] / ratio)), 9), -rc[0] * rc[1])
    )
    return ScalePlan((rows * tile, columns * tile), rows, columns)


def cost_ratio(plans: Sequence[ScalePlan], *, reference: int = 0) -> float:
    """About how many times the arithmetic of one scale all of them take: pixels, as tiles are independent."""
    pixels = [plan.size[0] * plan.size[1] for plan in plans]
    return sum(pixels) / pixels[reference]


def token_budget(plans: Sequence[ScalePlan], *, patch_size: int, out_index: int = 0) -> str:
    """What a multi-scale pass takes, as lines to print before it runs.

    Args:
        plans: of `plan_scales`.
        patch_size: pixels of a tile that a token covers along each axis.
        out_index: scale whose grid the tokens come out on.
    """
    lines, total = [], 0
    for index, plan in enumerate(plans):
        tokens = plan.tiles * (plan.tile // patch_size) ** 2
        total += tokens
        lines.append(
            f"scale {index}: {plan.size[0]} x {plan.size[1]} px, {plan.rows} x {plan.columns} tiles of "
            f"{plan.tile} px, {tokens} tokens"
        )
    kept = plans[out_index].tiles * (plans[out_index].tile // patch_size) ** 2
    lines.append(
        f"all: {sum(plan.tiles for plan in plans)} tiles, {total} tokens run, {kept} come out with "
        f"{len(plans)} times the channels; about {cost_ratio(plans):.1f} times the arithmetic of scale 0"
    )
    return "\n".join(lines)
