"""The area of a binary image in each of equal boxes."""

import numpy as np

from foveal.kernels.compiled import compiled


def box_areas(mask: np.ndarray, boxes: int, *, corner: tuple[int, int], side: int) -> np.ndarray:
    """Area of the mask in each of boxes x boxes equal boxes that divide a square exactly.

    A pixel is a square of side one and is shared out by area among the boxes that it touches, so that the
    side of the square need not be a multiple of the number of boxes.

    Args:
        mask: (H, W) bool; what lies outside the square is ignored.
        boxes: number of boxes along each side of the square, 1 to `side`.
        corner: (row, column) of the square's first pixel; may lie outside the image.
        side: pixels along each side of the square.

    Returns:
        (boxes, boxes) int64 areas in units of 1 / boxes^2 of a pixel; integers, hence exact.

    Raises:
        ValueError: `mask` is not two-dimensional or has no pixel, `boxes` is not 1 to `side`, or their
            product is 2^31 or more, where the integers could overflow.
    """
    mask = _validated(mask)
    _validate_square(boxes, side)
    return _areas(mask, int(boxes), int(corner[0]), int(corner[1]), int(side))


def box_areas_reference(mask: np.ndarray, boxes: int, *, corner: tuple[int, int], side: int) -> np.ndarray:
    """The same by cutting each pixel into boxes x boxes parts; see `box_areas`."""
    mask = _validated(mask)
    _validate_square(boxes, side)
    row, column = np.nonzero(mask)
    row, column = row - corner[0], column - corner[1]
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    square = np.zeros((side, side), np.int64)
    square[row[inside], column[inside]] = 1
    parts = np.kron(square, np.ones((boxes, boxes), np.int64))
    return parts.reshape(boxes, side, boxes, side).sum(axis=(1, 3))


def _validated(mask: np.ndarray) -> np.ndarray:
    mask = np.ascontiguousarray(mask, dtype=bool)
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"mask must be a non-empty (H, W) array, got shape {mask.shape}")
    return mask


def _validate_square(boxes: int, side: int) -> None:
    if not 1 <= boxes <= side or boxes * side >= 1 << 31:
        raise ValueError(
            f"boxes must be 1 to side and boxes * side less than 2^31, got {boxes} boxes and side {side}"
        )


@compiled
def _areas(mask, boxes, top, left, side):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    # Lengths are in 1 / boxes of a pixel: there a pixel is `boxes` long and a box is `side` long, hence a
    # pixel touches two boxes at most. What it does not share with the first falls into the next.
    first = np.empty(side, np.int64)
    share = np.empty(side, np.int64)
    for pixel in range(side):
        first[pixel] = pixel * boxes // side
        share[pixel] = min(boxes, (first[pixel] + 1) * side - pixel * boxes)
    areas = np.zeros((boxes + 1, boxes + 1), np.int64)  # the last row and column stay 0
    strip = np.empty(boxes + 1, np.int64)
    first_column, end_column = max(0, left), min(width, left + side)
    for row in range(max(0, top), min(height, top + side)):
        strip[:] = 0
        for column in range(first_column, end_column):
            if mask[row, column]:
                box, here = first[column - left], share[column - left]
                strip[box] += here
                strip[box + 1] += boxes - here
        box, here = first[row - top], share[row - top]
        for column in range(boxes):
            areas[box, column] += here * strip[column]
            areas[box + 1, column] += (boxes - here) * strip[column]
    return areas[:boxes, :boxes].copy()
