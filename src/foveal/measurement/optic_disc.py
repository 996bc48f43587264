"""The optic disc from a map of its probability: one smooth closed outline, or nothing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours, moments_coords_central
from skimage.morphology import disk

from foveal.measurement.landmarks import Disc
from foveal.measurement.small_copy import SmallCopy, small_copy
from foveal.scans.circle import Circle, find_circle

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

LEVEL = 0.5  # of probability, at the disc's margin
PEAK_LEVEL = 0.7  # of the highest probability: the margin's level where that is below LEVEL
FAINTEST = 0.15  # highest probability of a map that still shows a disc
SMOOTHING = 1.0  # pixels of the small copy
VESSEL_REACH = 3  # pixels of the small copy: cuts up to twice as wide are closed, as vessels make them
RIVALS = 4  # so many blobs are looked at, those with the most probability first
EXCESS = 1.15  # radius of the circle through a whole blob over that of a circle of its area, at most
HARMONICS = 6  # of the outline about the circle through it
STIFFNESS = 1e-4  # pull of the k-th harmonic to the circle, times k to the fourth
DENT = 0.04  # of the radius; how far a margin may leave its smooth outline before it counts less
CORNERS = 240  # of the outline
VESSELS = 0.08  # share of its inside that vessels cover in a disc; rivals with less weigh less

# Where plausibility begins and where it is full. A disc is 5 to 8 degrees wide, a field 30 to 60 degrees.
SMALLEST, SMALL = 0.05, 0.08  # diameter over the field's
LARGE, LARGEST = 0.28, 0.40
NARROW, ROUND = 0.5, 0.75  # shorter over longer axis
RAGGED, SMOOTH = 0.5, 0.9  # overlap of blob and outline: intersection over union
HIDDEN, SEEN = 0.15, 0.6  # share of the outline's area inside the field


@dataclass(frozen=True)
class FoundDisc:
    """An optic disc that was found.

    Attributes:
        disc: the circle with the centre and the area of the whole outline, also where that leaves the field.
        outline: (N, 2) corners of the smooth margin, row and column, in order; no first corner twice.
        mask: (H, W) bool, the outline's inside within the field.
        confidence: 0 to 1: the mean probability inside, times how plausible size, shape and place are, times
            the share that this blob has among all plausible ones.
    """

    disc: Disc
    outline: np.ndarray
    mask: np.ndarray
    confidence: float


@dataclass(frozen=True)
class _Candidate:
    """A blob with its outline (N, 2) on the small copy, its plausibility and its weighted probability."""

    outline: np.ndarray
    inside: np.ndarray
    plausibility: float
    score: float


def find_disc(
    probability: np.ndarray, field: "FieldOfView", *, vessels: np.ndarray | None = None
) -> FoundDisc | None:
    """Find the optic disc in a map of its probability.

    Blobs above the margin's level, their holes filled and cuts of a vessel's width closed, are each given an
    outline: a circle by consensus through the margin that is not the field's border, then low harmonics of
    the radius about it, fitted so that dents count little. Where the field cuts the disc, the outline goes on
    as the circle does. The blob with the most probability times plausibility is the disc. Where vessels are
    known, a blob that they leave free weighs less than its rivals: all vessels come out of the disc, and a
    large exudate has none before it.

    Args:
        probability: (H, W) float, 0 to 1, at the photograph's size.
        field: of the photograph.
        vessels: (H, W) bool, or None where they are not known.

    Returns:
        The disc; None where the map stays below 0.15, or no blob is plausible: its diameter is 5 to 40 % of
        the field's, it is at most twice as long as wide, fits its outline by half, and lies in the field to
        15 % at least.

    Raises:
        ValueError: the map is not a float array of the field's shape, or leaves 0 to 1; the vessels are not
            bool of that shape.
    """
    check_map("disc_probability", probability, field)
    if vessels is not None:
        check_vessels(vessels, field)
    copy = small_copy(field)
    tubes = None if vessels is None else copy.shrink(vessels)
    return find_disc_on_copy(copy.shrink(probability), copy, field, tubes=tubes)


def find_disc_on_copy(
    seen: np.ndarray, copy: SmallCopy, field: "FieldOfView", *, tubes: np.ndarray | None = None
) -> FoundDisc | None:
    """`find_disc` in what is already reduced.

    Args:
        seen: (h, w) float32, 0 to 1, probability of the disc, 0 outside the field.
        copy: that this is laid out by.
        field: of the photograph.
        tubes: (h, w) share of each pixel that is vessel, or None where vessels are not known.

    Returns:
        As `find_disc`, in pixels of the photograph.
    """
    smooth = ndimage.grey_closing(copy.blur(seen, SMOOTHING), footprint=disk(VESSEL_REACH))
    smooth[~copy.field] = 0
    peak = float(smooth.max())
    if peak < FAINTEST:
        return None
    level = min(LEVEL, PEAK_LEVEL * peak)
    labels, count = ndimage.label(smooth >= level, np.ones((3, 3)))
    masses = ndimage.sum_labels(seen, labels, np.arange(1, count + 1))
    depth = ndimage.distance_transform_edt(np.pad(copy.field, 1))[1:-1, 1:-1]
    found = [
        candidate
        for number in np.argsort(-masses, kind="stable")[:RIVALS] + 1
        if (candidate := _outline_blob(smooth, seen, labels, int(number), level, depth, copy)) is not None
    ]
    if not found:
        return None
    scores = np.array([candidate.score for candidate in found])
    if tubes is not None and len(found) > 1:
        scores *= _crossed(found, tubes)
    first = int(np.argmax(scores))
    best, share = found[first], float(scores[first] / scores.sum())
    outline = copy.to_photograph(best.outline)
    confidence = float(seen[best.inside & copy.field].mean()) * best.plausibility * share
    return FoundDisc(_disc_of(outline), outline, _fill(outline, field.mask), min(confidence, 1.0))


def check_map(name: str, probability: np.ndarray, field: "FieldOfView") -> None:
    """Check a map of probability against its field.

    Raises:
        ValueError: it is not a float array of the field's shape, or leaves 0 to 1.
    """
    if probability.shape != field.mask.shape or not np.issubdtype(probability.dtype, np.floating):
        raise ValueError(
            f"{name} must be a float array of the field's shape {field.mask.shape}, "
            f"got {probability.dtype} of shape {probability.shape}"
        )
    low, high = float(probability.min()), float(probability.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name} must lie in 0 to 1, its values go from {low:g} to {high:g}")


def check_vessels(vessels: np.ndarray, field: "FieldOfView") -> None:
    """Check a mask of vessels against its field.

    Raises:
        ValueError: it is not a bool array of the field's shape.
    """
    shape = field.mask.shape
    if vessels.dtype != bool or vessels.shape != shape:
        raise ValueError(f"vessels must be bool of shape {shape}, got {vessels.dtype} {vessels.shape}")


def _crossed(candidates: list[_Candidate], tubes: np.ndarray) -> np.ndarray:
    """(N,) weight of each candidate by the vessels before it; all 1 where no candidate has any.

    Args:
        candidates: N blobs.
        tubes: (h, w) share of a pixel that is vessel.
    """
    shares = np.array([float(tubes[each.inside].mean()) if each.inside.any() else 0.0 for each in candidates])
    most = min(float(shares.max()), VESSELS)
    return np.minimum(shares / most, 1.0) if most > 0 else np.ones(len(candidates))


def _outline_blob(
    smooth: np.ndarray,
    seen: np.ndarray,
    labels: np.ndarray,
    number: int,
    level: float,
    depth: np.ndarray,
    copy: SmallCopy,
) -> _Candidate | None:
    """Outline of one blob, or None where it is no disc."""
    blob = ndimage.binary_fill_holes(labels == number)
    alone = np.where(labels == number, smooth, np.where((labels > 0) | blob, 0, smooth))
    alone = np.pad(np.where(blob & (alone < level), 1, alone), 1)
    contours = find_contours(alone, level)
    margin = max(contours, key=len) - 1
    at = np.clip(np.round(margin).astype(int), 0, np.array(depth.shape) - 1)
    own = depth[at[:, 0], at[:, 1]] > 2.5  # nearer ones are the field's border, not the disc's
    margin, limits = margin[own], (0.5 * SMALLEST * copy.diameter, 0.5 * LARGEST * copy.diameter)
    reach = float(np.sqrt(blob.sum() / np.pi))
    circle = find_circle(margin, radius_range=limits, tolerance=max(0.08 * reach, 0.5))
    if (
        own.all()
        and (circle is None or circle.radius > EXCESS * reach)
        and _axis_ratio(np.argwhere(blob)) >= NARROW
    ):  # flat sides of a whole blob suggest a circle far beyond it, or none: one of its area is a start
        row, column = map(float, ndimage.center_of_mass(blob))
        circle = Circle(row, column, reach)
    if circle is None:
        return None
    outline = _harmonic_outline(margin, circle)
    corners = _fill(outline + 1, np.ones_like(np.pad(blob, 1)))[1:-1, 1:-1]
    disc = _disc_of(outline)
    whole = np.pi * disc.radius**2
    inside = corners & copy.field
    overlap = float((inside & blob).sum() / max((inside | blob).sum(), 1))
    size = 2 * disc.radius / copy.diameter
    plausibility = (
        _ramp(size, SMALLEST, SMALL)
        * _ramp(size, LARGEST, LARGE)
        * _ramp(_axis_ratio(outline), NARROW, ROUND)
        * _ramp(overlap, RAGGED, SMOOTH)
        * _ramp(float(inside.sum()) / whole, HIDDEN, SEEN)
    )
    if plausibility <= 0:
        return None
    return _Candidate(outline, inside, plausibility, plausibility * float(seen[blob].sum()))


def _harmonic_outline(margin: np.ndarray, circle: Circle) -> np.ndarray:
    """Closed outline (CORNERS, 2) of points (N, 2) on a margin, parts of which may be missing or dented."""
    offset = margin - (circle.row, circle.column)
    angles = np.arctan2(offset[:, 0], offset[:, 1])
    excess = np.hypot(offset[:, 0], offset[:, 1]) / circle.radius - 1
    basis = _harmonics(angles)
    orders = np.repeat(np.arange(HARMONICS + 1), [1] + [2] * HARMONICS)
    pull = np.diag(STIFFNESS * len(margin) * np.maximum(orders, 1.0) ** 4)
    weight = np.clip(1 - (excess / (8 * DENT)) ** 2, 0, None) ** 2
    for _ in range(8):
        weighted = basis.T * weight
        amounts = np.linalg.solve(weighted @ basis + pull, weighted @ excess)
        residual = excess - basis @ amounts
        weight = np.clip(1 - (residual / (3 * DENT)) ** 2, 0, None) ** 2
    around = np.linspace(-np.pi, np.pi, CORNERS, endpoint=False)
    radius = circle.radius * np.maximum(1 + _harmonics(around) @ amounts, 0.2)
    return circle.points(around, radius)


def _harmonics(angles: np.ndarray) -> np.ndarray:
    """(N, 1 + 2 HARMONICS): one, then cosine and sine of each multiple of (N,) angles."""
    multiples = angles[:, None] * np.arange(1, HARMONICS + 1)
    waves = np.stack([np.cos(multiples), np.sin(multiples)], axis=-1).reshape(len(angles), -1)
    return np.concatenate([np.ones((len(angles), 1)), waves], axis=1)


def _disc_of(outline: np.ndarray) -> Disc:
    """Circle with the centre of gravity and the area of a polygon (N, 2)."""
    following = np.roll(outline, -1, axis=0)
    cross = outline[:, 1] * following[:, 0] - following[:, 1] * outline[:, 0]
    area = 0.5 * cross.sum()
    center = ((outline + following) * cross[:, None]).sum(axis=0) / (6 * area)
    return Disc((float(center[0]), float(center[1])), float(np.sqrt(abs(area) / np.pi)))


def _axis_ratio(points: np.ndarray) -> float:
    """Shorter over longer axis of points (N, 2), a closed outline's or a blob's, from second moments."""
    moments = moments_coords_central(points, order=2)
    spread = np.linalg.eigvalsh([[moments[2, 0], moments[1, 1]], [moments[1, 1], moments[0, 2]]])
    if spread[1] <= 0:  # one pixel alone
        return 0.0
    return float(np.sqrt(max(spread[0], 0) / spread[1]))


def _fill(outline: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(H, W) bool, the inside of an outline where `allowed`, (H, W) bool, is set.

    The outline is one radius for each direction from its centre, and straight in these between its corners.
    """
    center = np.array(_disc_of(outline).center)
    offset = outline - center
    angles, radii = np.arctan2(offset[:, 0], offset[:, 1]), np.hypot(offset[:, 0], offset[:, 1])
    low = np.clip(np.floor(outline.min(axis=0)).astype(int), 0, allowed.shape)
    high = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 1, 0, allowed.shape)
    rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
    down, across = (rows - center[0]).astype(np.float32), (columns - center[1]).astype(np.float32)
    inside = np.hypot(down, across) <= np.interp(np.arctan2(down, across), angles, radii, period=2 * np.pi)
    mask = np.zeros(allowed.shape, bool)
    part = slice(low[0], high[0]), slice(low[1], high[1])
    mask[part] = inside & allowed[part]
    return mask


def _ramp(value: float, zero: float, one: float) -> float:
    """0 at `zero` and before, 1 at `one` and beyond, straight between; either may be the larger."""
    return float(np.clip((value - zero) / (one - zero), 0, 1))
