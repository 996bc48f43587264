"""Where in a photograph the retina is: the camera's circular or rectangular field."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from foveal.scans.boxes import Box, crop, crop_padded, place_back
from foveal.scans.circle import Circle
from foveal.scans.outline import Limits, find_outline, refine_outline, working_copy

__all__ = [
    "Box",
    "FieldOfView",
    "crop",
    "crop_padded",
    "field_square",
    "find_field_of_view",
    "place_back",
    "square_box",
]

MIN_CONTRAST = 6.0  # grey levels; an image with less range everywhere holds nothing to see
FULL_SHARE = 0.98  # of the frame; a field that covers more than this is called "full"


@dataclass(frozen=True)
class FieldOfView:
    """The part of a photograph that shows the eye.

    Attributes:
        mask: (H, W) bool, the fitted shape inside the frame (dark vessels and dim edges included).
        center: row and column of the fitted circle or rectangle, pixels; may lie outside the frame.
        diameter: of the fitted circle, else the longer side of the rectangle or frame, pixels.
        shape: "circle", "rectangle", or "full" where the field covers (nearly) the whole frame.
        box: half-open bounds (top, left, bottom, right) of the mask.
        completeness: share of the fitted circle's area inside the frame, 0 to 1 (1 without a circle).
    """

    mask: np.ndarray
    center: tuple[float, float]
    diameter: float
    shape: Literal["circle", "rectangle", "full"]
    box: Box
    completeness: float


def find_field_of_view(image: np.ndarray) -> FieldOfView:
    """Find the camera's field in a photograph.

    The background is whatever flat colour the corners hold (black, white, grey, noisy), so swapped
    channels and negatives make no difference. Constant borders are cut off first: a border of any width
    gives the same field. At about 320 pixels several thresholds on the difference to the background
    propose outlines; the consensus circle (or rounded rectangle) that is seen along most of its visible
    length, with a sharp edge and a flat surrounding, wins and is refined at full resolution.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        The field; `shape` is "full" where no border can be told from the retina.

    Raises:
        ValueError: wrong shape or type, or an image without content (all black or constant).
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    top, left, bottom, right = _trim(image)
    inner = np.ascontiguousarray(image[top:bottom, left:right])
    working, factor = working_copy(inner)
    contrast = np.ptp(np.percentile(working, (0.5, 99.5), axis=(0, 1)), axis=0).max()
    if contrast < MIN_CONTRAST:
        raise ValueError(
            f"image holds no field of view: its grey levels span {contrast:.1f}, at least "
            f"{MIN_CONTRAST:g} are needed (mean level {image.mean():.1f}); is it blank?"
        )
    found = find_outline(working)
    trimmed = inner.shape != image.shape
    if found is None:
        limits = (0.0, 0.0, float(inner.shape[0]), float(inner.shape[1]))
        return _describe(image.shape[:2], (top, left), limits, None, 0.0, trimmed)
    limits, circle, corner = refine_outline(inner, found, factor)
    return _describe(image.shape[:2], (top, left), limits, circle, corner, trimmed)


def square_box(field: FieldOfView) -> Box:
    """The square around the fitted circle or rectangle, side = diameter rounded up; may exceed the frame."""
    side = int(np.ceil(field.diameter))
    top = int(np.floor(field.center[0] - side / 2 + 0.5))
    left = int(np.floor(field.center[1] - side / 2 + 0.5))
    return top, left, top + side, left + side


def field_square(image: np.ndarray, field: FieldOfView, *, size: int) -> np.ndarray:
    """The square around the field of view as (size, size, 3) uint8, black outside the field."""
    inside = np.where(field.mask[..., None], image, np.uint8(0))
    square = Image.fromarray(crop_padded(inside, square_box(field)))
    return np.array(square.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0))


def _trim(image: np.ndarray) -> Box:
    """Bounds of what is left when the rows and columns of exactly one corner's colour are cut off."""
    height, width = image.shape[:2]
    top, left, bottom, right = 0, 0, height, width
    for color in np.unique(image[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0):
        sides = (image[0], image[-1], image[:, 0], image[:, -1])
        if not any((side == color).all() for side in sides):
            continue
        content = np.zeros((height, width), dtype=bool)
        for channel in range(3):
            content |= image[:, :, channel] != color[channel]
        rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
        if len(rows):
            top, left = max(top, int(rows[0])), max(left, int(columns[0]))
            bottom, right = min(bottom, int(rows[-1]) + 1), min(right, int(columns[-1]) + 1)
    return (top, left, bottom, right) if bottom > top and right > left else (0, 0, height, width)


def _describe(
    shape: tuple[int, int],
    origin: tuple[int, int],
    limits: Limits,
    circle: Circle | None,
    corner: float,
    trimmed: bool,
) -> FieldOfView:
    """The field in the frame's coordinates, from an outline in those of the trimmed image at `origin`."""
    top, left, bottom, right = (round(v + origin[i % 2]) for i, v in enumerate(limits))
    if circle is not None:
        circle = Circle(circle.row + origin[0], circle.column + origin[1], circle.radius)
        mask = _disc_mask(shape, circle)
        mask[:top] = mask[bottom:] = False
        mask[:, :left] = mask[:, right:] = False
        center, diameter = (circle.row, circle.column), 2.0 * circle.radius
        completeness = min(1.0, float(mask.sum() / (np.pi * circle.radius**2)))
        kind: Literal["circle", "rectangle", "full"] = "full" if mask.mean() >= FULL_SHARE else "circle"
    else:
        mask = _rectangle_mask(shape, (top, left, bottom, right), corner)
        center = ((top + bottom - 1) / 2, (left + right - 1) / 2)
        diameter, completeness = float(max(bottom - top, right - left)), 1.0
        kind = "full" if not trimmed and mask.mean() >= FULL_SHARE else "rectangle"
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return FieldOfView(mask, center, diameter, kind, box, completeness)


def _disc_mask(shape: tuple[int, int], circle: Circle) -> np.ndarray:
    rows = np.arange(shape[0])[:, None] - circle.row
    half = np.sqrt(np.maximum(circle.radius**2 - rows**2, -1.0).clip(0)) - (np.abs(rows) > circle.radius)
    columns = np.arange(shape[1], dtype=np.float32)[None, :]
    first, last = (circle.column - half).astype(np.float32), (circle.column + half).astype(np.float32)
    return (columns >= first) & (columns <= last)


def _rectangle_mask(shape: tuple[int, int], box: Box, corner: float) -> np.ndarray:
    top, left, bottom, right = box
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    side = int(np.ceil(corner))
    if side >= 1:
        steps = np.arange(side) + 0.5
        outside = np.hypot(corner - steps[:, None], corner - steps[None, :]) > corner
        for rows, flip_rows in ((slice(top, top + side), 1), (slice(bottom - side, bottom), -1)):
            for columns, flip_columns in ((slice(left, left + side), 1), (slice(right - side, right), -1)):
                mask[rows, columns] &= ~outside[::flip_rows, ::flip_columns]
    return mask
