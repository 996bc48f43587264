"""Thinning of a mask to lines of one pixel, by Zhang and Suen's method, in time linear in the mask's pixels.

T. Y. Zhang and C. Y. Suen, "A fast parallel algorithm for thinning digital patterns", 1984, delete border
pixels in two alternating passes until nothing changes. The usual way looks at the whole image in each pass.
Here a pixel is looked at again only after one of its neighbours went.

The method as published deletes a square of two by two pixels whole, and leaves diagonal lines two pixels
wide. ImageJ, and scikit-image after it, mend that by other decisions in 25 of the 256 neighbourhoods. These
are taken over, so that a skeleton is the same as scikit-image's, pixel for pixel. Two of them eat staircases
along one diagonal from their ends, until nothing is left of some straight lines at 45 degrees:
`thin_keeping_diagonals` decides these two otherwise.
"""

import numpy as np
from scipy import ndimage

from foveal.kernels.compiled import compiled

# The neighbours clockwise from the north: bit i of a neighbourhood's number is the i-th one.
_COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
_STEPS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))

# Neighbourhoods decided otherwise than in the paper, by the passes that may delete the pixel: bit 0 the
# first, bit 1 the second. The corner of a staircase may go; a pixel at a diagonal line goes in the pass of
# the line's side, so that a line two pixels wide never loses both of its sides at once.
_DEPARTURES = {
    0b00: ("SE S", "W NW"),
    0b01: (
        *("NW N", "N NE", "NE E", "N NE E", "W NW N"),
        *("NW N E", "S W NW", "SW W N", "W N NE", "SW W N NE"),
    ),
    0b10: (
        *("E SE", "S SW", "SW W", "E SE S", "S SW W"),
        *("N E SE", "E S SW", "SE S W", "NE E S SW"),
    ),
    0b11: ("N E", "E S", "S W", "W N"),
}
_ENDS_OF_STAIRCASES = ("E SE", "NW N")  # deleted in one pass above


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a mask to lines of one pixel that keep its connections.

    All that lies outside the array counts as background.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool skeleton, the same as that of `skimage.morphology.skeletonize`.

    Raises:
        ValueError: `mask` is not two-dimensional.
    """
    return _thin(_validated(mask).view(np.uint8), _TABLE, _NEW_PASSES)


def thin_reference(mask: np.ndarray) -> np.ndarray:
    """The same by looking at the whole image in each pass; see `thin`."""
    return _thin_by_passes(mask, _TABLE)


def thin_keeping_diagonals(mask: np.ndarray) -> np.ndarray:
    """Thin a mask to lines of one pixel that keep its connections, and its diagonals their ends.

    As `thin`, but a pixel whose only neighbours are east and south-east, or north-west and north, stays: it
    is the end of a staircase along the main diagonal.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool skeleton.

    Raises:
        ValueError: `mask` is not two-dimensional.
    """
    return _thin(_validated(mask).view(np.uint8), _DIAGONAL_TABLE, _NEW_DIAGONAL_PASSES)


def thin_keeping_diagonals_reference(mask: np.ndarray) -> np.ndarray:
    """The same by looking at the whole image in each pass; see `thin_keeping_diagonals`."""
    return _thin_by_passes(mask, _DIAGONAL_TABLE)


def _thin_by_passes(mask: np.ndarray, table: np.ndarray) -> np.ndarray:
    image = _validated(mask).copy()
    weights = np.zeros((3, 3), np.int64)
    for bit, (row, column) in enumerate(_STEPS):
        weights[1 + row, 1 + column] = 1 << bit
    before = -1
    while before != image.sum():
        before = image.sum()
        for deletes in (1, 2):
            neighbourhood = ndimage.correlate(image.astype(np.int64), weights, mode="constant")
            image &= table[neighbourhood] & deletes == 0
    return image


def _validated(mask: np.ndarray) -> np.ndarray:
    if mask.ndim != 2:
        raise ValueError(f"mask must be two-dimensional (H, W), got shape {mask.shape}")
    return np.ascontiguousarray(mask, dtype=bool)


def _deleting_passes() -> np.ndarray:
    """(256,) uint8: the passes that delete a pixel, by the number of its neighbourhood."""
    number = np.arange(256)
    p = {name: number >> bit & 1 for bit, name in enumerate(_COMPASS)}
    around = [p[name] for name in _COMPASS]
    neighbours = sum(around)
    arcs = sum((1 - one) & following for one, following in zip(around, around[1:] + around[:1], strict=True))
    border = (neighbours >= 2) & (neighbours <= 6) & (arcs == 1)
    north, east, south, west = (p[name] == 1 for name in ("N", "E", "S", "W"))
    first = border & ~(north & east & south) & ~(east & south & west)
    second = border & ~(north & east & west) & ~(north & south & west)
    table = (first + 2 * second).astype(np.uint8)
    for deletes, neighbourhoods in _DEPARTURES.items():
        for names in neighbourhoods:
            table[_number(names)] = deletes
    return table


def _number(names: str) -> int:
    """The neighbourhood that holds these neighbours alone."""
    return sum(1 << _COMPASS.index(name) for name in names.split())


_TABLE = _deleting_passes()
_DIAGONAL_TABLE = _TABLE.copy()
_DIAGONAL_TABLE[[_number(names) for names in _ENDS_OF_STAIRCASES]] = 0


# What is known of a pixel is one number: its neighbourhood, the passes it waits for, whether it is there.
_WAITS, _THERE = 8, 1 << 10


def _new_passes(table: np.ndarray) -> np.ndarray:
    """(2048,) uint8: the passes that a pixel does not wait for yet but that would delete it."""
    known = np.arange(2 * _THERE)
    return np.where(known & _THERE, table[known & 255] & ~(known >> _WAITS), 0).astype(np.uint8)


_NEW_PASSES, _NEW_DIAGONAL_PASSES = _new_passes(_TABLE), _new_passes(_DIAGONAL_TABLE)


@compiled
def _thin(mask, table, new_passes):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    stride = width + 2  # a frame of background around the image
    framed = np.zeros((height + 2, stride), np.uint16)
    count = 0
    for row in range(height):
        for column in range(width):
            framed[row + 1, column + 1] = mask[row, column] * np.uint16(_THERE)
            count += mask[row, column]
    known = framed.reshape(-1)
    steps = np.array([row * stride + column for row, column in _STEPS])
    left = np.array([0xFFFF - (1 << (bit + 4) % 8) for bit in range(8)], np.uint16)
    waiting = np.empty((2, count), np.int64)
    deleted = np.empty(count, np.int64)
    length = np.zeros(2, np.int64)
    for row in range(1, height + 1):
        for column in range(1, width + 1):
            if framed[row, column] == 0:
                continue
            p = row * stride + column
            number = 0
            for bit in range(8):
                number |= (known[p + steps[bit]] >= _THERE) << bit
            known[p] |= number
            passes = table[number]
            if passes:
                known[p] |= np.uint16(passes) << _WAITS
                for which in range(2):
                    if passes >> which & 1:
                        waiting[which, length[which]] = p
                        length[which] += 1

    while length[0] + length[1] > 0:
        for which in range(2):
            gone = 0
            for i in range(length[which]):
                p = waiting[which, i]
                if known[p] & _THERE and table[known[p] & 255] >> which & 1:
                    known[p] = 0
                    deleted[gone] = p
                    gone += 1
                else:
                    known[p] &= ~(1 << (_WAITS + which))
            length[which] = 0
            for i in range(gone):
                for bit in range(8):
                    q = deleted[i] + steps[bit]
                    known[q] &= left[bit]
                    passes = new_passes[known[q]]
                    if passes:
                        known[q] |= np.uint16(passes) << _WAITS
                        for later in range(2):
                            if passes >> later & 1:
                                waiting[later, length[later]] = q
                                length[later] += 1

    skeleton = np.empty((height, width), np.bool_)
    for row in range(height):
        for column in range(width):
            skeleton[row, column] = framed[row + 1, column + 1] >= _THERE
    return skeleton
