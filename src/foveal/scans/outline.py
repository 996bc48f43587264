"""The outline of a camera's field: proposed at working resolution, refined at full resolution."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from foveal.scans.circle import Circle, find_circle, fit_circle

__all__ = ["Limits", "Outline", "find_outline", "refine_outline", "working_copy"]

Limits = tuple[float, float, float, float]
"""Straight top, left, bottom and right limits, pixels."""

WORKING_SIDE = 320  # longer side of the copy on which the field is searched, pixels
THRESHOLDS = (4.0, 7.0, 12.0, 20.0, 34.0)  # grey levels by which the field may differ from the background
TOLERANCE = 1.2  # distance of a boundary point that still lies on the fitted outline, working pixels
FRAME_MARGIN = 2  # boundary points this near to the frame's edge tell nothing about the field, working pixels
MIN_RADIUS = 0.22  # of the shorter side: the optic disc of a borderless photograph stays below it
MIN_ARC = 0.03  # share of a circumference that must be seen before a circle is believed
MIN_SHARE = 0.4  # share of the visible circumference on which the region's outline must lie
SHORT_ARC, SHORT_ARC_SHARE = 0.2, 0.65  # below this visible circumference more of it must be found
MIN_SHARPNESS = 0.45  # share of the change across the outline that must fall within 2 working pixels
MAX_UNEVENNESS = 16.0  # grey levels; most of a background differs less than this from its colour
MIN_FILL = 0.9  # share of its bounding box that a rectangle fills; a circle fills 0.79
RAYS = np.linspace(0.0, 2.0 * np.pi, 720, endpoint=False)


@dataclass(frozen=True)
class Outline:
    """An outline in working pixels, with the background around it.

    Attributes:
        score: 0 to 1, how much of the visible outline is there and how sharp it is.
        background: (3,) colour around the field.
        limits: where the field is cut straight, or its sides where `circle` is None.
        circle: the fitted circle, None for a (rounded) rectangle.
        corner_radius: of the rectangle's corners.
    """

    score: float
    background: np.ndarray
    limits: Limits
    circle: Circle | None
    corner_radius: float = 0.0


def working_copy(image: np.ndarray) -> tuple[np.ndarray, int]:
    """Despeckled (h, w, 3) float32 copy of at most `WORKING_SIDE` pixels and its shrink factor."""
    factor = max(1, -(-max(image.shape[:2]) // WORKING_SIDE))
    small = np.asarray(Image.fromarray(image).reduce(factor), dtype=np.uint8)
    return ndimage.median_filter(small, size=(3, 3, 1), mode="nearest").astype(np.float32), factor


def find_outline(working: np.ndarray) -> Outline | None:
    """The best outline in a (h, w, 3) float32 working copy; None where no border is seen."""
    best: Outline | None = None
    for background in _backgrounds(working):
        difference = np.abs(working - background).max(axis=2)
        for threshold in THRESHOLDS:
            region = _largest_region(difference > threshold)
            if region is None:
                continue
            for outline in _outlines(region, difference, background):
                if best is None or outline.score > best.score:
                    best = outline
        if best is not None and best.score > 0.84:
            break
    return best


def refine_outline(image: np.ndarray, found: Outline, factor: int) -> tuple[Limits, Circle | None, float]:
    """Move an outline found on `image` shrunk by `factor` to the half-height of the edge at full resolution.

    Args:
        image: (H, W, 3) uint8 that `working_copy` shrank.
        found: its outline in working pixels.
        factor: of `working_copy`.

    Returns:
        Limits, circle and corner radius in pixels of `image`.
    """
    size = image.shape[:2]
    limits = [float(min(v * factor, size[i % 2])) for i, v in enumerate(found.limits)]
    circle = None
    if found.circle is not None:
        shift = (factor - 1) / 2
        circle = Circle(
            found.circle.row * factor + shift,
            found.circle.column * factor + shift,
            (found.circle.radius + 0.5) * factor,
        )
        for reach in (3.0 * factor + 2.0, 1.5 * factor + 2.0):
            edge = _edge_points(image, found.background, circle, reach)
            circle = fit_circle(edge, circle, scale=0.5 * factor + 0.5)
    for side in range(4):
        on_frame = limits[side] == (0, 0, *size)[side]
        if circle is None or not on_frame:
            limits[side] = _refine_side(image, found.background, limits, side, 3 * factor + 2)
    return (limits[0], limits[1], limits[2], limits[3]), circle, found.corner_radius * factor


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


def _outlines(region: np.ndarray, difference: np.ndarray, background: np.ndarray) -> Iterator[Outline]:
    """Circle and rectangle that may bound `region`, each only where it explains the region's outline."""
    height, width = region.shape
    boundary = region & ~ndimage.binary_erosion(region, border_value=1)
    points = np.argwhere(boundary)
    free = ((points >= FRAME_MARGIN) & (points < np.array(region.shape) - FRAME_MARGIN)).all(axis=1)
    points = points[free]
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    bounds = (float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1))
    short, long = min(height, width), max(height, width)
    circle = find_circle(points, radius_range=(MIN_RADIUS * short, 1.5 * long), tolerance=TOLERANCE)
    if circle is not None:
        limits = _straight_cuts(points, bounds, circle, region.shape)
        score = _circle_score(points, limits, circle, difference)
        if score > 0:
            yield Outline(score, background, limits, circle)
    yield from _rectangle(region, points, bounds, difference, background)


def _straight_cuts(points: np.ndarray, bounds: Limits, circle: Circle, shape: tuple[int, ...]) -> Limits:
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


def _circle_score(points: np.ndarray, limits: Limits, circle: Circle, difference: np.ndarray) -> float:
    """Share of the visible circumference that is found, weighted by sharpness; 0 where not believable."""
    outline = circle.points(RAYS)
    low, high = np.array(limits[:2]) + FRAME_MARGIN, np.array(limits[2:]) - FRAME_MARGIN
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
    share = float(arc.sum() / visible.sum())
    enough = MIN_SHARE if visible.mean() >= SHORT_ARC else SHORT_ARC_SHARE
    if arc.mean() < MIN_ARC or share < enough or _unevenness(circle, limits, difference) > MAX_UNEVENNESS:
        return 0.0
    sharpness = _sharpness(circle, RAYS[arc], difference)
    return share * (0.5 + 0.5 * min(sharpness, 1.0)) if sharpness >= MIN_SHARPNESS else 0.0


def _unevenness(circle: Circle, limits: Limits, difference: np.ndarray) -> float:
    """Grey levels from the background's colour within which 60 % of the surroundings (labels aside) stay."""
    rows, columns = (np.arange(n, dtype=np.float32) for n in difference.shape)
    squared = (rows[:, None] - circle.row) ** 2 + (columns[None, :] - circle.column) ** 2
    outside = squared > (circle.radius + FRAME_MARGIN) ** 2
    outside &= ((rows >= limits[0]) & (rows < limits[2]))[:, None]
    outside &= ((columns >= limits[1]) & (columns < limits[3]))[None, :]
    return float(np.percentile(difference[outside], 60)) if outside.any() else 0.0


def _sharpness(circle: Circle, angles: np.ndarray, difference: np.ndarray) -> float:
    """Median share of the change across the outline (+-10 % of the radius) that falls within 2 pixels."""
    reach = 0.1 * circle.radius + 2.0
    radii = circle.radius + np.array([-reach, -2.0, 2.0, reach])
    profile = _sample(difference, circle.points(angles[:, None], radii[None, :]))
    change = profile[:, 0] - profile[:, 3]
    step = profile[:, 1] - profile[:, 2]
    return float(np.median(step / np.maximum(np.maximum(np.abs(change), np.abs(step)), 1.0)))


def _rectangle(
    region: np.ndarray,
    points: np.ndarray,
    bounds: Limits,
    difference: np.ndarray,
    background: np.ndarray,
) -> Iterator[Outline]:
    """A (rounded) rectangle, where one explains most of the region's outline and stands out."""
    top, left, bottom, right = bounds
    height, width = bottom - top, right - left
    if len(points) < 12 or region.sum() < MIN_FILL * height * width:
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
    if share >= 0.6 and inner - outer > 12.0:
        # Four equal corner arcs fit both; a circle, with fewer degrees of freedom, is then the better guess.
        yield Outline(0.85 * share, background, bounds, None, corner)


def _sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear values (...) of an (H, W) image at (..., 2) row/column points; edges are repeated."""
    return ndimage.map_coordinates(
        image, np.moveaxis(points, -1, 0), order=1, mode="nearest", output=np.float32
    )


def _edge_points(image: np.ndarray, background: np.ndarray, circle: Circle, reach: float) -> np.ndarray:
    """(N, 2) points near `circle` where the difference to the background passes half its height."""
    steps = np.linspace(-reach, reach, 2 * int(np.ceil(reach)) + 1)
    points = circle.points(RAYS[:, None], circle.radius + steps[None, :])
    size = np.array(image.shape[:2])
    points = points[((points >= 0) & (points <= size - 1)).all(axis=(1, 2))]
    if len(points) == 0:
        return np.zeros((0, 2))
    profile = np.max([np.abs(_sample(image[:, :, c], points) - background[c]) for c in range(3)], axis=0)
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
    image: np.ndarray, background: np.ndarray, limits: list[float], side: int, reach: int
) -> float:
    """One straight limit, moved to the half-height of the mean difference over the side's middle."""
    axis = side % 2
    low, high = limits[1 - axis], limits[3 - axis]
    middle = slice(int(low + 0.2 * (high - low)), max(int(high - 0.2 * (high - low)), int(low) + 1))
    position = round(limits[side])
    start, stop = max(position - reach, 0), min(position + reach, image.shape[axis])
    strip = image[start:stop, middle] if axis == 0 else image[middle, start:stop].swapaxes(0, 1)
    profile = np.abs(strip.astype(np.float32) - background).max(axis=2).mean(axis=1)
    if side >= 2:
        profile = profile[::-1]
    quarter = max(len(profile) // 4, 1)
    inside = float(np.median(profile[-quarter:]))
    if profile[0] > 0.4 * inside:
        return limits[side]
    above = profile >= 0.5 * (inside + profile[0])
    first = int(np.argmax(above))
    return float(start + first if side < 2 else stop - first)
