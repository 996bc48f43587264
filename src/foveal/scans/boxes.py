"""Cutting boxes out of images and putting the results back where they were."""

import numpy as np

__all__ = ["Box", "crop", "crop_padded", "place_back"]

Box = tuple[int, int, int, int]
"""Half-open (top, left, bottom, right), pixels."""


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """The part (a view) of an (H, W, ...) array inside `box`.

    Raises:
        ValueError: the box is empty or exceeds the array (see `crop_padded` for boxes that do).
    """
    top, left, bottom, right = _check_box(box)
    if top < 0 or left < 0 or bottom > array.shape[0] or right > array.shape[1]:
        raise ValueError(
            f"box {box} exceeds the array of {array.shape[:2]}; use crop_padded to pad what is outside"
        )
    return array[top:bottom, left:right]


def crop_padded(array: np.ndarray, box: Box, fill: float = 0) -> np.ndarray:
    """A copy of the part of an (H, W, ...) array inside `box`, `fill` where the box exceeds the array."""
    top, left, bottom, right = _check_box(box)
    out = np.full((bottom - top, right - left, *array.shape[2:]), fill, dtype=array.dtype)
    outer, inner = _overlap(box, array.shape)
    out[inner] = array[outer]
    return out


def place_back(array: np.ndarray, box: Box, shape: tuple[int, ...], fill: float = 0) -> np.ndarray:
    """Put a crop back where it was cut: the inverse of `crop` and `crop_padded` inside `box`.

    Args:
        array: (h, w, ...) with h and w the box's sides.
        box: where it came from; what lies outside the frame is dropped.
        shape: of the frame, (H, W) or longer; only the first two numbers are read.
        fill: value of the frame outside the box.

    Returns:
        (H, W, ...) array of the crop's type.

    Raises:
        ValueError: the array's sides are not the box's.
    """
    top, left, bottom, right = _check_box(box)
    if array.shape[:2] != (bottom - top, right - left):
        raise ValueError(
            f"array of {array.shape[:2]} does not fill box {box} of {(bottom - top, right - left)}"
        )
    out = np.full((*shape[:2], *array.shape[2:]), fill, dtype=array.dtype)
    outer, inner = _overlap(box, out.shape)
    out[outer] = array[inner]
    return out


def _check_box(box: Box) -> Box:
    top, left, bottom, right = box
    if bottom <= top or right <= left:
        raise ValueError(
            f"box must be (top, left, bottom, right) with top < bottom and left < right, got {box}"
        )
    return box


def _overlap(box: Box, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the frame and of the box that show the same pixels."""
    outer, inner = [], []
    for low, high, size in zip(box[:2], box[2:], shape[:2], strict=True):
        start, stop = min(max(low, 0), size), max(min(high, size), 0)
        stop = max(start, stop)
        outer.append(slice(start, stop))
        inner.append(slice(start - low, stop - low))
    return (outer[0], outer[1]), (inner[0], inner[1])
