"""Between a photograph and a small square map of its field: cut the square out, and carry the map back.

Each is one pass over the photograph without arrays in between: fresh memory for twelve megapixels takes
longer than the arithmetic.
"""

import numpy as np
import torch
from torch.nn import functional as F

from foveal.kernels.compiled import compiled

Box = tuple[int, int, int, int]


def cut_square(image: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """The part of a photograph inside a box, black outside the mask and the photograph.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        box: half-open (top, left, bottom, right); may exceed the photograph.

    Returns:
        (bottom - top, right - left, 3) uint8.

    Raises:
        ValueError: the mask is not of the photograph's shape, or the box is empty.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image of {image.shape[:2]} and mask of {mask.shape} must have the same shape")
    top, left, bottom, right = box
    if bottom <= top or right <= left:
        raise ValueError(f"box (top, left, bottom, right) is empty: {box}")
    cut = np.zeros((bottom - top, right - left, 3), np.uint8)
    _cut(np.ascontiguousarray(image), _as_bytes(mask), top, left, cut)
    return cut


def cut_square_reference(image: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """The same by padding; see `cut_square`."""
    top, left, bottom, right = box
    around = max(0, -top, -left, bottom - mask.shape[0], right - mask.shape[1])
    padded = np.pad(np.where(mask[..., None], image, np.uint8(0)), ((around,) * 2, (around,) * 2, (0, 0)))
    return padded[top + around : bottom + around, left + around : right + around]


def enlarge(values: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """Carry a square map to the photograph's size by bilinear interpolation.

    Args:
        values: (S, S) float32, of the square `box`.
        mask: (H, W) bool, where values are wanted.
        box: half-open (top, left, bottom, right) in the photograph, a square; may exceed it.

    Returns:
        (H, W) float32, within 0 to 1 where the values are; 0 off the mask and outside the box.

    Raises:
        ValueError: the map or the box is not square.
    """
    full = np.zeros(mask.shape, np.float32)
    _enlarge(_checked(values, box), _as_bytes(mask), *box[:2], box[2] - box[0], full)
    return full


def enlarge_reference(values: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """The same from torch's interpolation; see `enlarge`."""
    side = box[2] - box[0]
    square = torch.from_numpy(_checked(values, box))[None, None]
    large = F.interpolate(square, size=(side, side), mode="bilinear", align_corners=False)[0, 0].numpy()
    rows, columns = np.meshgrid(*(np.arange(size) for size in mask.shape), indexing="ij")
    inside = mask & (rows >= box[0]) & (rows < box[2]) & (columns >= box[1]) & (columns < box[3])
    full = np.zeros(mask.shape, np.float32)
    full[inside] = large[rows[inside] - box[0], columns[inside] - box[1]]
    return full


def enlarge_where(
    values: np.ndarray, mask: np.ndarray, box: Box, *, at_least: float
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels at which the enlarged map reaches a level, without the map: most pixels are below it.

    Args:
        values: see `enlarge`.
        mask: see `enlarge`.
        box: see `enlarge`.
        at_least: the level, above 0.

    Returns:
        (m,) int64 places in the flattened photograph, ascending, and (m,) float32 values there.

    Raises:
        ValueError: the map or the box is not square, or the level is not above 0.
    """
    if not at_least > 0:
        raise ValueError(f"the level must be above 0, which is the value off the mask; got {at_least}")
    level = np.float32(at_least)
    return _enlarge_where(_checked(values, box), _as_bytes(mask), *box[:2], box[2] - box[0], level)


def enlarge_where_reference(
    values: np.ndarray, mask: np.ndarray, box: Box, *, at_least: float
) -> tuple[np.ndarray, np.ndarray]:
    """The same from the whole enlarged map; see `enlarge_where`."""
    full = enlarge(values, mask, box).ravel()
    places = np.flatnonzero(full >= np.float32(at_least))
    return places, full[places]


def _checked(values: np.ndarray, box: Box) -> np.ndarray:
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise ValueError(f"the map must be square (S, S), got shape {values.shape}")
    if box[2] <= box[0] or box[2] - box[0] != box[3] - box[1]:
        raise ValueError(f"box must be a square (top, left, bottom, right), got {box}")
    return np.ascontiguousarray(values, dtype=np.float32)


def _as_bytes(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask, dtype=bool).view(np.uint8)


@compiled
def _cut(image, mask, top, left, cut):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    first, last = max(0, -left), min(cut.shape[1], width - left)
    for i in range(max(0, -top), min(cut.shape[0], height - top)):
        for j in range(first, last):
            inside = mask[i + top, j + left]
            for channel in range(3):
                cut[i, j, channel] = image[i + top, j + left, channel] * inside


@compiled
def _places(side, count):  # type: ignore[no-untyped-def]
    """Of each of `side` pixels: the first of the two of `count` values around it, and the second's weight."""
    first, weight = np.empty(side, np.int64), np.empty(side, np.float32)
    for j in range(side):
        at = max((j + 0.5) * count / side - 0.5, 0.0)
        first[j] = min(int(at), max(count - 2, 0))
        weight[j] = np.float32(min(at - first[j], 1.0))
    return first, weight


@compiled
def _between(values, first, weight, line):  # type: ignore[no-untyped-def]
    """A line of the map, between two of its rows; returns its largest value."""
    count = values.shape[1]
    second = min(first + 1, count - 1)
    most = np.float32(-np.inf)
    for k in range(count):
        line[k] = values[first, k] + weight * (values[second, k] - values[first, k])
        most = max(most, line[k])
    line[count] = line[count - 1]
    return most


@compiled
def _enlarge(values, mask, top, left, side, full):  # type: ignore[no-untyped-def]
    count = values.shape[0]
    first, weight = _places(side, count)
    line = np.empty(count + 1, np.float32)
    begin, end = max(0, left), min(mask.shape[1], left + side)
    for row in range(max(0, top), min(mask.shape[0], top + side)):
        _between(values, first[row - top], weight[row - top], line)
        for column in range(begin, end):
            if mask[row, column]:
                k = first[column - left]
                full[row, column] = line[k] + weight[column - left] * (line[k + 1] - line[k])


@compiled
def _enlarge_where(values, mask, top, left, side, level):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    count = values.shape[0]
    first, weight = _places(side, count)
    begins = np.full(count + 1, side, np.int64)  # the first pixel that lies behind each value
    for j in range(side - 1, -1, -1):
        begins[first[j]] = j
    for k in range(count - 1, -1, -1):
        begins[k] = min(begins[k], begins[k + 1])
    line = np.empty(count + 1, np.float32)
    places, reached = np.empty(1 << 14, np.int64), np.empty(1 << 14, np.float32)
    found = 0
    for row in range(max(0, top), min(height, top + side)):
        if _between(values, first[row - top], weight[row - top], line) < level:
            continue
        if found + width > len(places):
            more, more_reached = (
                np.empty(2 * found + width, np.int64),
                np.empty(2 * found + width, np.float32),
            )
            more[:found], more_reached[:found] = places[:found], reached[:found]
            places, reached = more, more_reached
        for k in range(count):
            if line[k] < level and line[k + 1] < level:
                continue
            for j in range(max(begins[k], -left), min(begins[k + 1], width - left)):
                value = line[k] + weight[j] * (line[k + 1] - line[k])
                if value >= level and mask[row, j + left]:
                    places[found], reached[found] = row * width + j + left, value
                    found += 1
    return places[:found].copy(), reached[:found].copy()
