"""Box masses of a mask at several box sizes after it was rotated, without an image of the rotated mask."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.transform import SimilarityTransform, rotate

from foveal.kernels.compiled import compiled


class RotatedMasses(NamedTuple):
    """Mass of a rotated mask in the boxes of several sizes.

    Attributes:
        masses: one (ceil(H' / s), ceil(W' / s)) float64 array for each box size s; the boxes at the lower
            and right edge of the rotated image may be cut.
        shape: (H', W') of the rotated image.
        highest: largest value of the rotated image.
        lowest: smallest value of the rotated image.
    """

    masses: list[np.ndarray]
    shape: tuple[int, int]
    highest: float
    lowest: float


def rotated_shape(shape: tuple[int, int], degrees: float) -> tuple[int, int]:
    """(H', W') of the image that holds a rotated one, by `skimage.transform.rotate(resize=True)`."""
    return _rotation(shape, degrees)[1]


def framed_clearance(mask: np.ndarray) -> np.ndarray:
    """How far each pixel is from the mask, by which a rotation passes over what is empty.

    Args:
        mask: (H, W) bool with both True and False pixels.

    Returns:
        (H + 2, W + 2) uint8, with a frame of one pixel around the image: 0 on the mask, else the chessboard
        distance (the larger of rows and columns) to its nearest pixel, 255 for what is farther.

    Raises:
        ValueError: `mask` is not a two-dimensional bool array, or all its pixels are the same.
    """
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"mask must be a bool array (H, W), got {mask.dtype} of shape {mask.shape}")
    if not mask.any() or mask.all():
        raise ValueError("mask must have both True and False pixels, but all of them are the same")
    distance = ndimage.distance_transform_cdt(~np.pad(mask, 1), "chessboard")
    return np.minimum(distance, 255).astype(np.uint8)


def rotated_box_masses(clearance: np.ndarray, degrees: float, sizes: np.ndarray) -> RotatedMasses:
    """Rotate a mask, enlarging the image to hold it, and sum it up in boxes of each of several sizes.

    The rotated image is that of `skimage.transform.rotate` (bilinear, zero outside) and the sums are those
    of NumPy, over the rows of a box and then over its columns, all to the last bit on a processor that does
    not fuse multiplication with addition. Where that matters: a box right at a limit.

    Args:
        clearance: (H + 2, W + 2) uint8 of `framed_clearance`; the mask is where it is 0.
        degrees: counter-clockwise.
        sizes: (S,) side lengths of the boxes in pixels, 1 or more.

    Returns:
        The masses, and the range of the rotated image's values.

    Raises:
        ValueError: `clearance` is not a two-dimensional uint8 array, or a size is less than 1.
    """
    clearance, sizes = _validated(clearance, sizes)
    matrix, shape = _rotation((clearance.shape[0] - 2, clearance.shape[1] - 2), degrees)
    flat, offsets, lowest, highest = _masses(clearance, _extent(clearance), matrix, *shape, sizes)
    masses = [flat[offsets[i] : offsets[i + 1]].reshape(-(-shape[0] // s), -1) for i, s in enumerate(sizes)]
    return RotatedMasses(masses, shape, highest, lowest)


def rotated_box_masses_reference(clearance: np.ndarray, degrees: float, sizes: np.ndarray) -> RotatedMasses:
    """The same with the image rotated by scikit-image and summed up by NumPy; see `rotated_box_masses`."""
    clearance, sizes = _validated(clearance, sizes)
    image = (clearance[1:-1, 1:-1] == 0).astype(np.float64)
    rotated = rotate(image, degrees, resize=True, mode="constant", cval=0)
    height, width = rotated.shape
    masses = []
    for size in sizes:
        bands = np.stack([rotated[row : row + size].sum(axis=0) for row in range(0, height, size)])
        blocks = [bands[:, column : column + size].sum(axis=1) for column in range(0, width, size)]
        masses.append(np.stack(blocks, axis=1))
    return RotatedMasses(masses, (height, width), float(rotated.max()), float(rotated.min()))


def _validated(clearance: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.asarray(sizes, np.int64)
    if clearance.ndim != 2 or clearance.dtype != np.uint8 or min(clearance.shape) < 3:
        raise ValueError(
            "clearance must be that of framed_clearance, uint8 (H + 2, W + 2), "
            f"got {clearance.dtype} of shape {clearance.shape}"
        )
    if sizes.ndim != 1 or not len(sizes) or sizes.min() < 1:
        raise ValueError(f"sizes must be one or more box sides of 1 pixel or more, got {sizes}")
    return np.ascontiguousarray(clearance), sizes


def _extent(clearance: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row and column of the image with mass."""
    rows, columns = (np.flatnonzero(clearance.min(axis=axis) == 0) for axis in (1, 0))
    return int(rows[0]) - 1, int(rows[-1]) - 1, int(columns[0]) - 1, int(columns[-1]) - 1


def _rotation(shape: tuple[int, ...], degrees: float) -> tuple[np.ndarray, tuple[int, int]]:
    """The map from the rotated to the given image (x, y) and the rotated image's shape, as scikit-image
    puts them together: other orders of the same product differ in the last bits."""
    height, width = shape
    center = np.array((width, height)) / 2.0 - 0.5
    turn = (
        SimilarityTransform(translation=-center)
        + SimilarityTransform(rotation=np.deg2rad(degrees))
        + SimilarityTransform(translation=center)
    )
    corners = np.array([[0, 0], [0, height - 1], [width - 1, height - 1], [width - 1, 0]])
    corners = turn.inverse(corners)
    first, last = corners.min(axis=0), corners.max(axis=0)
    columns, rows = np.around(last - first + 1)
    matrix = (SimilarityTransform(translation=first) + turn).params
    return matrix[:2], (int(rows), int(columns))


@compiled
def _masses(clearance, extent, matrix, height, width, sizes):  # type: ignore[no-untyped-def]
    count = len(sizes)
    offsets = np.zeros(count + 1, np.int64)
    for s in range(count):
        offsets[s + 1] = offsets[s] + -(-height // sizes[s]) * -(-width // sizes[s])
    flat = np.zeros(offsets[-1], np.float64)
    bands = np.zeros((width, count), np.float64)  # sums of the columns of each size's present band of boxes
    filled = np.zeros(count, np.bool_)
    limits = ((extent[2] - 1, extent[3] + 1), (extent[0] - 1, extent[1] + 1))  # of x, then of y
    x_column, x_shift, y_column, y_shift = matrix[0, 0], matrix[0, 2], matrix[1, 0], matrix[1, 2]
    occupied = 0
    lowest, highest = np.inf, 0.0
    for row in range(height):
        # The pixels of this row that lie over the vessels' box: between its sides, in x and in y.
        begin, end = 0, width
        for axis in range(2):
            slope = matrix[axis, 0]
            rest = matrix[axis, 1] * row + matrix[axis, 2]
            low, high = limits[axis]
            if abs(slope) < 1e-9:
                if not low - 1 < rest < high + 1:
                    end = 0
            else:
                one, other = (low - rest) / slope, (high - rest) / slope
                begin = max(begin, int(np.ceil(max(min(one, other), -1.0))) - 1)
                end = min(end, int(np.floor(min(max(one, other), width))) + 2)
        x_row, y_row = matrix[0, 1] * row, matrix[1, 1] * row
        before = occupied
        column = max(begin, 0)
        while column < end:
            x = x_column * column + x_row + x_shift
            y = y_column * column + y_row + y_shift
            left, top = np.floor(x), np.floor(y)
            i, j = int(top) + 1, int(left) + 1
            if i < 0 or j < 0 or i > clearance.shape[0] - 2 or j > clearance.shape[1] - 2:
                column += 1
                continue
            if clearance[i, j] > 1:
                # n steps on, the four pixels around are at most n + 2 rows or columns away from this one.
                column += max(clearance[i, j] - 2, 1)
                continue
            right, down = x - left, y - top
            upper = (1 - right) * (clearance[i, j] == 0) + right * (clearance[i, j + 1] == 0)
            lower = (1 - right) * (clearance[i + 1, j] == 0) + right * (clearance[i + 1, j + 1] == 0)
            value = min((1 - down) * upper + down * lower, 1.0)
            if value > 0:
                occupied += 1
                lowest, highest = min(lowest, value), max(highest, value)
                here = bands[column]
                for s in range(count):
                    here[s] += value
            column += 1
        filled |= occupied > before
        for s in range(count):
            size = sizes[s]
            if (row + 1) % size == 0 or row + 1 == height:
                if filled[s]:
                    place = offsets[s] + row // size * -(-width // size)
                    for column in range(0, width, size):
                        flat[place] = _pairwise_sum(bands, s, column, min(size, width - column))
                        place += 1
                    bands[:, s] = 0.0
                filled[s] = False
    if occupied < height * width:
        lowest = 0.0
    return flat, offsets, lowest, highest


@compiled
def _pairwise_sum(bands, s, first, count):  # type: ignore[no-untyped-def]
    """Sum of bands[first : first + count, s] in NumPy's order: halves, down to blocks of up to 128."""
    if count < 8:
        total = 0.0
        for i in range(first, first + count):
            total += bands[i, s]
        return total
    if count <= 128:
        return _block_sum(bands, s, first, count)
    half = count // 2
    half -= half % 8
    return _pairwise_sum(bands, s, first, half) + _pairwise_sum(bands, s, first + half, count - half)


@compiled
def _block_sum(bands, s, first, count):  # type: ignore[no-untyped-def]
    sums = (
        bands[first, s],
        bands[first + 1, s],
        bands[first + 2, s],
        bands[first + 3, s],
        bands[first + 4, s],
        bands[first + 5, s],
        bands[first + 6, s],
        bands[first + 7, s],
    )
    r0, r1, r2, r3, r4, r5, r6, r7 = sums
    whole = count - count % 8
    for i in range(first + 8, first + whole, 8):
        r0 += bands[i, s]
        r1 += bands[i + 1, s]
        r2 += bands[i + 2, s]
        r3 += bands[i + 3, s]
        r4 += bands[i + 4, s]
        r5 += bands[i + 5, s]
        r6 += bands[i + 6, s]
        r7 += bands[i + 7, s]
    total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
    for i in range(first + whole, first + count):
        total += bands[i, s]
    return total
