"""Widths of vessels along their skeletons, by a walk that marches to both sides of each pixel.

Source: the rules are those of PVBM 3's central retinal equivalents (Fhima et al., ECCV Workshops 2022,
arXiv 2208.00392; current package).
"""

from typing import NamedTuple

import numpy as np

from foveal.kernels.compiled import compiled


class WidthTree(NamedTuple):
    """Parts of the walks from each start, and the widths measured in them.

    Attributes:
        pixels: (P,) int64 pixel where each part begins; parts are in order of creation.
        parents: (P,) int64 part that each follows on, -1 for that of a start.
        ends: (P,) int64 pixel where each was left last.
        parts: (W,) int64 part of each width, in the order of measurement.
        widths: (W,) int64 in pixels.
    """

    pixels: np.ndarray
    parents: np.ndarray
    ends: np.ndarray
    parts: np.ndarray
    widths: np.ndarray


def measure_widths(
    links: np.ndarray,
    positions: np.ndarray,
    starts: np.ndarray,
    within: np.ndarray,
    mask: np.ndarray,
    *,
    least_steps: int,
    look_back: int,
) -> WidthTree:
    """Walk from each start and measure the width at each pixel `least_steps` or more after a fork.

    The pixel left for last is walked on from first; of a pixel's neighbours that is the last one. A pixel
    with more than one neighbour not yet met is a fork and begins a part of the tree, as does each pixel less
    than `least_steps` after one. The start counts as one step, and is met again from its first neighbour.

    A width is the number of mask pixels on both sides of a pixel, without itself, along the normal to the
    line from the pixel `look_back` steps before. Two sides that differ by more than one give none.

    Args:
        links: (N, 8) int32 of `pixel_links`.
        positions: (N, 2) int32 row and column.
        starts: (S,) int32 pixel numbers, each of another connected part.
        within: (N,) bool; no walk goes on from a pixel where it is False.
        mask: (H, W) bool, True on vessels.
        least_steps: 1 or more.
        look_back: 1 or more.
    """
    mask = np.ascontiguousarray(mask, bool).view(np.uint8)
    return WidthTree(*_widths(links, positions, starts, within.view(np.uint8), mask, least_steps, look_back))


def measure_widths_reference(
    links: np.ndarray,
    positions: np.ndarray,
    starts: np.ndarray,
    within: np.ndarray,
    mask: np.ndarray,
    *,
    least_steps: int,
    look_back: int,
) -> WidthTree:
    """The same with lists; see `measure_widths`."""
    pixels: list[int] = []
    parents: list[int] = []
    ends: list[int] = []
    parts: list[int] = []
    widths: list[int] = []

    def begin(pixel: int, parent: int) -> int:
        pixels.append(pixel)
        parents.append(parent)
        ends.append(-1)
        if parent >= 0:
            ends[parent] = pixel
        return len(pixels) - 1

    def inside(row: int, column: int) -> bool:
        return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]

    def width(pixel: int, before: int) -> int | None:
        (row, column), (from_row, from_column) = positions[pixel].tolist(), positions[before].tolist()
        norm = np.sqrt((row - from_row) ** 2 + (column - from_column) ** 2)
        normal = -(column - from_column) / norm, (row - from_row) / norm
        sides = [0, 0]
        while True:
            reached = [
                (int(row + sign * (side + 1) * normal[0]), int(column + sign * (side + 1) * normal[1]))
                for sign, side in zip((1, -1), sides, strict=True)
            ]
            if not all(inside(*place) for place in reached) or not any(mask[place] for place in reached):
                return sum(sides) if abs(sides[0] - sides[1]) <= 1 else None
            sides = [side + int(mask[place]) for side, place in zip(sides, reached, strict=True)]

    met = set()
    for start in starts.tolist():
        stack: list[tuple[int, int, tuple[int, ...], int]] = [(start, 1, (start,), begin(start, -1))]
        while stack:
            pixel, steps, path, part = stack.pop()
            onward = [other for other in links[pixel].tolist() if other >= 0 and other not in met]
            if steps < least_steps:
                part = begin(pixel, part)
            elif len(path) > look_back:
                found = width(pixel, path[-1 - look_back])
                if found is not None:
                    parts.append(part)
                    widths.append(found)
            if not within[pixel] or not onward:
                ends[part] = pixel
                continue
            if len(onward) > 1:
                part, steps = begin(pixel, part), 0
            for other in onward:
                met.add(other)
                stack.append((other, steps + 1, (*path, other), part))
    return WidthTree(*(np.array(column, np.int64) for column in (pixels, parents, ends, parts, widths)))


@compiled
def _widths(links, positions, starts, within, mask, least_steps, look_back):  # type: ignore[no-untyped-def]
    count = len(links)
    met = np.zeros(count, np.uint8)
    # A pixel's predecessor on its path gives the pixel `look_back` steps before without a copy of the path.
    # Items are kept after they are taken from the stack, as others look back to them.
    capacity = count + len(starts)
    pixel_of = np.empty(capacity, np.int64)
    before_of = np.empty(capacity, np.int64)
    steps_of = np.empty(capacity, np.int64)
    part_of = np.empty(capacity, np.int64)
    stack = np.empty(capacity, np.int64)
    pixels = []
    parents = []
    ends = []
    parts = []
    widths = []
    items = 0
    for start in starts:
        pixels.append(np.int64(start))
        parents.append(np.int64(-1))
        ends.append(np.int64(-1))
        pixel_of[items], before_of[items], steps_of[items], part_of[items] = start, -1, 1, len(pixels) - 1
        stack[0] = items
        items += 1
        top = 0
        while top >= 0:
            item = stack[top]
            top -= 1
            pixel, steps, part = pixel_of[item], steps_of[item], part_of[item]
            onward = 0
            for k in range(8):
                other = links[pixel, k]
                if other >= 0 and not met[other]:
                    onward += 1
            if steps < least_steps:
                ends[part] = pixel
                pixels.append(pixel)
                parents.append(part)
                ends.append(np.int64(-1))
                part = len(pixels) - 1
            else:
                earlier, back = item, 0
                while earlier >= 0 and back < look_back:
                    earlier = before_of[earlier]
                    back += 1
                if earlier >= 0:
                    width = _width(positions, pixel, pixel_of[earlier], mask)
                    if width >= 0:
                        parts.append(np.int64(part))
                        widths.append(np.int64(width))
            if not within[pixel] or onward == 0:
                ends[part] = pixel
                continue
            if onward > 1:
                ends[part] = pixel
                pixels.append(pixel)
                parents.append(part)
                ends.append(np.int64(-1))
                part, steps = len(pixels) - 1, 0
            for k in range(8):
                other = links[pixel, k]
                if other >= 0 and not met[other]:
                    met[other] = 1
                    pixel_of[items], before_of[items] = other, item
                    steps_of[items], part_of[items] = steps + 1, part
                    top += 1
                    stack[top] = items
                    items += 1
    return np.array(pixels), np.array(parents), np.array(ends), np.array(parts), np.array(widths)


@compiled
def _width(positions, pixel, before, mask):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    row, column = positions[pixel, 0], positions[pixel, 1]
    along_rows, along_columns = row - positions[before, 0], column - positions[before, 1]
    norm = np.sqrt(float(along_rows * along_rows + along_columns * along_columns))
    normal_row, normal_column = -along_columns / norm, along_rows / norm
    one, other = 0, 0
    while True:
        # int() cuts towards zero, so that a position up to one pixel before the first one is still inside.
        i, j = int(row + (one + 1) * normal_row), int(column + (one + 1) * normal_column)
        k, m = int(row - (other + 1) * normal_row), int(column - (other + 1) * normal_column)
        if not (0 <= i < height and 0 <= j < width and 0 <= k < height and 0 <= m < width):
            break
        if not mask[i, j] and not mask[k, m]:
            break
        one += mask[i, j]
        other += mask[k, m]
    return one + other if abs(one - other) <= 1 else -1
