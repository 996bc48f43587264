"""Where in a photograph the retina is: the camera's circular or rectangular field, found without colour rules."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from foveal.scans.circle import Circle, find_circle, fit_circle

__all__ = ["Box", "FieldOfView", "crop", "crop_padded", "find_field_of_view", "place_back", "square_box"]

Box = tuple[int, int, int, int]
"""Half-open (top, left, bottom, right), pixels."""

WORKING_SIDE = 320  # longer side of the copy on which the field is searched, pixels
THRESHOLDS = (4.0, 7.0, 12.0, 20.0, 34.0)  # grey levels by which the field may differ from the background
TOLERANCE = 1.2  # distance of a boundary point that still lies on the fitted outline, working pixels
MIN_CONTRAST = 6.0  # grey levels; an image with less range everywhere holds nothing to see
MIN_ARC = 0.06  # share of a circumference that must be seen before a circle is believed
RAYS = np.linspace(0.0, 2.0 * np.pi, 720, endpoint=False)


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


@dataclass(frozen=True)
class _Candidate:
    """An outline proposed at working resolution; `circle` is None for a rectangle."""

    score: float
    background: np.ndarray
    bounds: tuple[float, float, float, float]  # straight limits top, left, bottom, right (working pixels)
    circle: Circle | None
    corner_radius: float = 0.0


def find_field_of_view(image: np.ndarray) -> FieldOfView:
    """Find the camera's field in a photograph.

    The background is whatever flat colour the corners hold (black, white, grey, noisy), so swapped channels and
    negatives make no difference. Constant borders are cut off first: a border of any width gives the same field.
    At about 320 pixels several thresholds on the difference to the background propose outlines; a consensus circle
    (or a rounded rectangle) that has a sharp edge along most of its visible length wins and is refined to a
    fraction of a pixel at full resolution.

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
    stride = max(1, -(-max(inner.shape[:2]) // WORKING_SIDE))
    working = np.asarray(Image.fromarray(inner).reduce(stride), dtype=np.float32)
    working = ndimage.median_filter(working, size=(3, 3, 1), mode="nearest")
    contrast = np.ptp(np.percentile(working, (0.5, 99.5), axis=(0, 1)), axis=0).max()
    if contrast < MIN_CONTRAST:
        raise ValueError(
            f"image holds no field of view: its grey levels span {contrast:.1f}, at least {MIN_CONTRAST:g} are "
            f"needed (mean level {image.mean():.1f}); is it blank or was the shutter closed?"
        )
    found = _best_candidate(working)
    trimmed = inner.shape != image.shape
    if found is None:
        bounds = (0.0, 0.0, float(inner.shape[0]), float(inner.shape[1]))
        return _describe(image.shape[:2], (top, left), bounds, None, 0.0, trimmed)
    bounds, circle, corner = _refine(inner, found, stride)
    return _describe(image.shape[:2], (top, left), bounds, circle, corner, trimmed)


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
    """A copy of the part of an (H, W, ...) array inside `box`, with `fill` where the box exceeds the array."""
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


def square_box(field: FieldOfView) -> Box:
    """The square around the fitted circle (or rectangle), side = diameter rounded up; may exceed the frame."""
    side = int(np.ceil(field.diameter))
    top = int(np.floor(field.center[0] - side / 2 + 0.5))
    left = int(np.floor(field.center[1] - side / 2 + 0.5))
    return top, left, top + side, left + side


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


def _trim(image: np.ndarray) -> Box:
    """Bounds of what is left when rows and columns of exactly one corner's colour are cut off."""
    height, width = image.shape[:2]
    top, left, bottom, right = 0, 0, height, width
    for color in np.unique(image[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0):
        # Lines first seen on every 8th pixel: the full comparison is needed only near the content.
        if not any(_is_line(image[line], color) for line in (0, -1)) and not any(
            _is_line(image[:, line], color) for line in (0, -1)
        ):
            continue
        content = np.zeros((height, width), dtype=bool)
        for channel in range(3):
            content |= image[:, :, channel] != color[channel]
        rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
        if len(rows):
            top, left = max(top, int(rows[0])), max(left, int(columns[0]))
            bottom, right = min(bottom, int(rows[-1]) + 1), min(right, int(columns[-1]) + 1)
    return (top, left, bottom, right) if bottom > top and right > left else (0, 0, height, width)


def _is_line(line: np.ndarray, color: np.ndarray) -> bool:
    return bool((line == color).all())


def _backgrounds(working: np.ndarray) -> list[np.ndarray]:
    """Colours that the background may have: the corners' medians, similar ones merged, darkest first."""
    size = 3
    corners = [working[r, c].reshape(-1, 3) for r in (slice(size), slice(-size, None))
               for c in (slice(size), slice(-size, None))]  # fmt: skip
    colors: list[np.ndarray] = []
    for color in sorted((np.median(corner, axis=0) for corner in corners), key=lambda c: float(c.sum())):
        if all(np.abs(color - other).max() > 8.0 for other in colors):
            colors.append(color)
    return colors


def _best_candidate(working: np.ndarray) -> _Candidate | None:
    best: _Candidate | None = None
    for background in _backgrounds(working):
        difference = np.abs(working - background).max(axis=2)
        for threshold in THRESHOLDS:
            region = _largest_region(difference > threshold)
            if region is None:
                continue
            for candidate in _outlines(region, difference, background):
                if best is None or candidate.score > best.score:
                    best = candidate
        if best is not None and best.score > 0.9:
            break
    return best


def _largest_region(foreground: np.ndarray) -> np.ndarray | None:
    """Largest connected part with its holes filled, or None where it covers under 4 % of the frame."""
    outside, _ = ndimage.label(~np.pad(foreground, 1))
    filled = (outside != outside[0, 0])[1:-1, 1:-1]
    # Background enclosed between the field and the frame (a circle cut by the frame) is outside, too.
    edge = np.zeros_like(foreground)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    cut_off = np.unique(outside[1:-1, 1:-1][edge & ~foreground])
    filled &= ~np.isin(outside[1:-1, 1:-1], cut_off[cut_off > 0])
    parts, count = ndimage.label(filled)
    if count == 0:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    return parts == 1 + int(np.argmax(sizes)) if sizes.max() >= 0.04 * foreground.size else None


def _outlines(region: np.ndarray, difference: np.ndarray, background: np.ndarray) -> Iterator[_Candidate]:
    """Circle and rectangle that may bound `region`, each only where it explains the region's outline."""
    height, width = region.shape
    boundary = region & ~ndimage.binary_erosion(region, border_value=1)
    points = np.argwhere(boundary)
    margin = 2
    free = ((points >= margin) & (points < np.array(region.shape) - margin)).all(axis=1)
    points = points[free]
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    bounds = (float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1))
    short, long = min(height, width), max(height, width)
    circle = find_circle(points, radius_range=(0.12 * short, 1.5 * long), tolerance=TOLERANCE)
    if circle is not None:
        limits = _straight_cuts(points, bounds, circle, region.shape)
        score = _circle_score(points, limits, circle, difference)
        if score > 0:
            yield _Candidate(score, background, limits, circle)
    yield from _rectangle(region, points, bounds, difference, background)


def _straight_cuts(
    points: np.ndarray, bounds: tuple[float, float, float, float], circle: Circle, shape: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """Where the circle is cut straight inside the frame; the frame's own bounds where it is not."""
    limits = [0.0, 0.0, float(shape[0]), float(shape[1])]
    center = (circle.row, circle.column)
    for side, limit in enumerate(bounds):
        axis = side % 2
        line = limit if side < 2 else limit - 1.0
        depth = circle.radius - abs(line - center[axis])
        if depth < 0.02 * circle.radius + TOLERANCE:
            continue
        chord = 2.0 * np.sqrt(max(circle.radius**2 - (line - center[axis]) ** 2, 0.0))
        on_line = np.abs(points[:, axis] - line) <= 1.0
        seen = len(np.unique(points[on_line, 1 - axis]))
        if seen > 0.6 * min(chord, shape[1 - axis]):
            limits[side] = limit
    return limits[0], limits[1], limits[2], limits[3]


def _circle_score(
    points: np.ndarray, limits: tuple[float, float, float, float], circle: Circle, difference: np.ndarray
) -> float:
    """Share of the visible circumference with a sharp edge on it; 0 where too little is seen to believe it."""
    margin = 2.0
    outline = circle.points(RAYS)
    low, high = np.array(limits[:2]) + margin, np.array(limits[2:]) - margin
    visible = ((outline >= low) & (outline <= high)).all(axis=1)
    on_circle = np.abs(circle.distance(points)) <= TOLERANCE
    if not on_circle.any() or visible.mean() < MIN_ARC:
        return 0.0
    near = points[on_circle]
    angles = np.arctan2(near[:, 0] - circle.row, near[:, 1] - circle.column)
    touched = np.zeros(len(RAYS), dtype=bool)
    touched[np.round(angles / (2 * np.pi) * len(RAYS)).astype(int) % len(RAYS)] = True
    gap = int(np.ceil(1.5 * len(RAYS) / (2 * np.pi * circle.radius)))
    touched = ndimage.maximum_filter1d(touched, 2 * gap + 1, mode="wrap")
    arc = touched & visible
    sharp = _sharpness(circle, RAYS[arc], difference) if arc.any() else 0.0
    if arc.mean() < MIN_ARC or sharp < 0.45:
        return 0.0
    share = float(arc.sum() / visible.sum())
    return share if share >= 0.4 else 0.0


def _sharpness(circle: Circle, angles: np.ndarray, difference: np.ndarray) -> float:
    """Median share of the change across the outline (over +-10 % of the radius) that falls within 2 pixels."""
    reach = 0.1 * circle.radius + 2.0
    radii = circle.radius + np.array([-reach, -2.0, 2.0, reach])
    profile = _sample(difference, circle.points(angles[:, None], radii[None, :]))
    change = profile[:, 0] - profile[:, 3]
    step = profile[:, 1] - profile[:, 2]
    return float(np.median(step / np.maximum(np.maximum(np.abs(change), np.abs(step)), 1.0)))


def _rectangle(
    region: np.ndarray,
    points: np.ndarray,
    bounds: tuple[float, float, float, float],
    difference: np.ndarray,
    background: np.ndarray,
) -> Iterator[_Candidate]:
    """A (rounded) rectangle, where one explains most of the region's outline and something lies outside of it."""
    top, left, bottom, right = bounds
    height, width = bottom - top, right - left
    if len(points) < 12 or region.sum() < 0.9 * height * width:
        return
    # Rounding takes (1 - pi / 4) r^2 of area at each of the four corners.
    corner = float(np.sqrt(max(height * width - region.sum(), 0.0) / (4.0 - np.pi)))
    corner = min(corner, 0.5 * min(height, width))
    half = np.array([height / 2 - corner, width / 2 - corner])
    offset = np.abs(points + 0.5 - ((top + bottom) / 2, (left + right) / 2)) - half
    outside = np.hypot(*np.maximum(offset, 0.0).T)
    distance = outside + np.minimum(offset.max(axis=1), 0.0) - corner
    share = float((np.abs(distance + 0.5) <= TOLERANCE).mean())
    inner, outer = np.median(difference[region]), np.median(difference[~region])
    if share >= 0.6 and inner - outer > 2.0 * MIN_CONTRAST:
        # Slightly below a circle of the same quality: a circle has one degree of freedom fewer.
        yield _Candidate(0.95 * share, background, bounds, None, corner)


def _sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear values (...) of an (H, W) image at (..., 2) row/column points, NaN-free: edges are repeated."""
    return ndimage.map_coordinates(
        image, np.moveaxis(points, -1, 0), order=1, mode="nearest", output=np.float32
    )


def _refine(
    inner: np.ndarray, found: _Candidate, stride: int
) -> tuple[tuple[float, float, float, float], Circle | None, float]:
    """Limits, circle and corner radius in full-resolution pixels, placed at the half-height of the edge."""
    size = inner.shape[:2]
    limits = [min(v * stride, size[i % 2]) for i, v in enumerate(found.bounds)]
    circle = None
    if found.circle is not None:
        half = (stride - 1) / 2
        circle = Circle(
            found.circle.row * stride + half,
            found.circle.column * stride + half,
            (found.circle.radius + 0.5) * stride,
        )
        for reach in (3.0 * stride + 2.0, 1.5 * stride + 2.0):
            circle = fit_circle(
                _edge_points(inner, found.background, circle, reach), circle, scale=0.5 * stride + 0.5
            )
    for side in range(4):
        on_frame = limits[side] == (0, 0, *size)[side]
        if circle is None or not on_frame:
            limits[side] = _refine_side(inner, found.background, limits, side, 3 * stride + 2)
    return (limits[0], limits[1], limits[2], limits[3]), circle, found.corner_radius * stride


def _edge_points(inner: np.ndarray, background: np.ndarray, circle: Circle, reach: float) -> np.ndarray:
    """(N, 2) points near `circle` where, going inwards, the difference to the background passes half its height."""
    steps = np.linspace(-reach, reach, 2 * int(np.ceil(reach)) + 1)
    points = circle.points(RAYS[:, None], circle.radius + steps[None, :])
    size = np.array(inner.shape[:2])
    points = points[((points >= 0) & (points <= size - 1)).all(axis=(1, 2))]
    if len(points) == 0:
        return np.zeros((0, 2))
    profile = np.max([np.abs(_sample(inner[:, :, c], points) - background[c]) for c in range(3)], axis=0)
    quarter = max(len(steps) // 4, 1)
    inside, outside = np.median(profile[:, :quarter], axis=1), np.median(profile[:, -quarter:], axis=1)
    level = 0.5 * (inside + outside)
    above = profile >= level[:, None]
    last = profile.shape[1] - 1 - np.argmax(above[:, ::-1], axis=1)
    clear = (inside - outside > THRESHOLDS[0]) & (last < profile.shape[1] - 1)
    points, profile, level, last = points[clear], profile[clear], level[clear], last[clear]
    each = np.arange(len(points))
    high, low = profile[each, last], profile[each, last + 1]
    part = ((high - level) / np.maximum(high - low, 1e-6))[:, None]
    return points[each, last] * (1 - part) + points[each, last + 1] * part


def _refine_side(
    inner: np.ndarray, background: np.ndarray, limits: list[float], side: int, reach: int
) -> float:
    """One straight limit, moved to where the mean difference over the side's middle passes half its height."""
    axis = side % 2
    low, high = limits[1 - axis], limits[3 - axis]
    middle = slice(int(low + 0.2 * (high - low)), max(int(high - 0.2 * (high - low)), int(low) + 1))
    position = round(limits[side])
    start, stop = max(position - reach, 0), min(position + reach, inner.shape[axis])
    strip = inner[start:stop, middle] if axis == 0 else inner[middle, start:stop].swapaxes(0, 1)
    profile = np.abs(strip.astype(np.float32) - background).max(axis=2).mean(axis=1)
    if side >= 2:
        profile = profile[::-1]
    quarter = max(len(profile) // 4, 1)
    above = profile >= 0.5 * (np.median(profile[-quarter:]) + min(profile[0], profile[-1]))
    first = int(np.argmax(above))
    return float(start + first if side < 2 else stop - first)


def _describe(
    shape: tuple[int, int],
    origin: tuple[int, int],
    bounds: tuple[float, float, float, float],
    circle: Circle | None,
    corner: float,
    trimmed: bool,
) -> FieldOfView:
    """The field in the frame's coordinates, from an outline in those of the trimmed image at `origin`."""
    top, left, bottom, right = (round(v + origin[i % 2]) for i, v in enumerate(bounds))
    if circle is not None:
        circle = Circle(circle.row + origin[0], circle.column + origin[1], circle.radius)
        mask = _disc_mask(shape, circle)
        mask[:top] = mask[bottom:] = False
        mask[:, :left] = mask[:, right:] = False
        center, diameter = (circle.row, circle.column), 2.0 * circle.radius
        completeness = min(1.0, float(mask.sum() / (np.pi * circle.radius**2)))
        kind: Literal["circle", "rectangle", "full"] = "full" if mask.mean() >= 0.98 else "circle"
    else:
        mask = _rectangle_mask(shape, (top, left, bottom, right), corner)
        center = ((top + bottom - 1) / 2, (left + right - 1) / 2)
        diameter, completeness = float(max(bottom - top, right - left)), 1.0
        kind = "full" if not trimmed and mask.mean() >= 0.98 else "rectangle"
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
