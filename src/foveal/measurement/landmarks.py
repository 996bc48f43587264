"""Optic disc, fovea and laterality: the landmarks that biomarkers are placed and scaled by."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

Laterality = Literal["L", "R"]
DISC_DIAMETER_MM = 1.8  # of an average optic disc (about 1800 um): the scale where no spacing is known


class MissingError(Exception):
    """A biomarker has no value on this eye; the message is the reason, for the reader of the table."""


@dataclass(frozen=True)
class Disc:
    """The optic disc as a circle.

    Attributes:
        center: row and column in pixels, pixel centres at integers.
        radius: in pixels, more than 0.
    """

    center: tuple[float, float]
    radius: float

    def __post_init__(self) -> None:
        if not (len(self.center) == 2 and np.isfinite([*self.center, self.radius]).all() and self.radius > 0):
            raise ValueError(
                f"a disc needs a finite (row, column) and a radius above 0, got {self.center}, {self.radius}"
            )


def disc_of_mask(mask: np.ndarray) -> Disc:
    """The circle with the centre and the area of the largest connected part of a disc mask.

    Args:
        mask: (H, W) bool.

    Raises:
        ValueError: `mask` is not a two-dimensional bool array, or is empty.
    """
    rows, columns = _largest_part(mask)
    return Disc((float(rows.mean()), float(columns.mean())), float(np.sqrt(len(rows) / np.pi)))


def enclosing_disc(mask: np.ndarray) -> Disc:
    """The smallest circle around the largest connected part of a disc mask, as PVBM takes it.

    It passes through pixel centres. Unlike `disc_of_mask` it grows with a single stray pixel.

    Args:
        mask: (H, W) bool.

    Raises:
        ValueError: `mask` is not a two-dimensional bool array, or has no two pixels that touch.
    """
    points = np.stack(_largest_part(mask), axis=1).astype(np.float64)
    try:
        points = points[ConvexHull(points).vertices]
    except QhullError:  # all on one line: its ends are among its extreme points
        points = points[[points.argmin(0)[0], points.argmax(0)[0], points.argmin(0)[1], points.argmax(0)[1]]]
    center, radius = _smallest_circle(points)
    return Disc((float(center[0]), float(center[1])), radius)


@dataclass(frozen=True)
class Landmarks:
    """What is known of where a photograph looks.

    Attributes:
        disc: the optic disc, or None.
        fovea: row and column in pixels, or None.
        laterality: "L" left eye, "R" right eye, or None; where disc and fovea are both known and this is
            None, it follows from them for an upright photograph: see `side`.
    """

    disc: Disc | None = None
    fovea: tuple[float, float] | None = None
    laterality: Laterality | None = None

    def __post_init__(self) -> None:
        if self.fovea is not None and not (len(self.fovea) == 2 and np.isfinite(self.fovea).all()):
            raise ValueError(f"the fovea must be a finite (row, column), got {self.fovea}")
        if self.laterality not in (None, "L", "R"):
            raise ValueError(f"laterality must be 'L', 'R' or None, got {self.laterality!r}")

    @property
    def known_disc(self) -> Disc:
        """The disc; missing where unknown."""
        if self.disc is None:
            raise MissingError("the optic disc is not known")
        return self.disc

    @property
    def known_fovea(self) -> tuple[float, float]:
        """The fovea; missing where unknown."""
        if self.fovea is None:
            raise MissingError("the fovea is not known")
        return self.fovea

    @property
    def disc_fovea_distance(self) -> float:
        """Distance from the disc's centre to the fovea in pixels; missing where one is unknown."""
        (top, left), (row, column) = self.known_disc.center, self.known_fovea
        distance = float(np.hypot(row - top, column - left))
        if distance <= self.known_disc.radius:
            raise MissingError("the fovea lies within the optic disc, so one of the two is wrong")
        return distance

    @property
    def side(self) -> Laterality:
        """Laterality as given, else from the fovea, which lies temporal of the disc: to the left of it (in
        the picture) in a right eye. Missing where neither is known."""
        if self.laterality is not None:
            return self.laterality
        if self.disc is None or self.fovea is None:
            raise MissingError("neither the laterality nor both disc and fovea are known")
        return "R" if self.fovea[1] < self.disc.center[1] else "L"

    @property
    def temporal_direction(self) -> tuple[float, float]:
        """Unit vector (row, column) from the disc to the temporal side: to the fovea where both are known,
        else level, by laterality."""
        if self.disc is not None and self.fovea is not None:
            distance = self.disc_fovea_distance
            (top, left), (row, column) = self.disc.center, self.fovea
            return (row - top) / distance, (column - left) / distance
        return 0.0, -1.0 if self.side == "R" else 1.0


NOTHING_KNOWN = Landmarks()


def _largest_part(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != bool:
        found = f"{getattr(mask, 'dtype', type(mask).__name__)} of shape {np.shape(mask)}"
        raise ValueError(f"the disc mask must be a bool array (H, W), got {found}; threshold it first")
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        raise ValueError("the disc mask is empty")
    part = labels == np.argmax(np.bincount(labels[mask]))
    rows, columns = np.nonzero(part)
    return rows, columns


def _smallest_circle(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Smallest circle around (N, 2) points, by adding the farthest point to the support until none is out.

    Source: B. Gärtner, "Fast and robust smallest enclosing balls", ESA 1999 (pivoting).
    """
    support = [int(np.argmax(np.hypot(*(points - points[0]).T)))]
    center, radius = points[support[0]], 0.0
    while True:
        distance = np.hypot(*(points - center).T)
        far = int(np.argmax(distance))
        if distance[far] <= radius * (1 + 1e-12) + 1e-12:
            break
        center, radius, support = min(
            (circle for circle in _circles_through(points, [*support, far], far)), key=lambda found: found[1]
        )
    if radius == 0:
        raise ValueError("the disc mask has no two pixels that touch")
    return center, radius


def _circles_through(
    points: np.ndarray, candidates: list[int], member: int
) -> list[tuple[np.ndarray, float, list[int]]]:
    """Circles by `member` and one or two other candidates that hold all candidates."""
    others = [index for index in candidates if index != member]
    supports = [[member, i] for i in others]
    supports += [[member, i, j] for place, i in enumerate(others) for j in others[place + 1 :]]
    found = []
    for support in supports:
        first = points[support[0]]
        sides = points[support[1:]] - first
        offset = np.linalg.lstsq(2 * sides, (sides**2).sum(1), rcond=None)[0]
        radius = float(np.hypot(*offset))
        inside = np.hypot(*(points[candidates] - first - offset).T)
        if (inside <= radius * (1 + 1e-9) + 1e-9).all():
            found.append((first + offset, radius, support))
    return found
