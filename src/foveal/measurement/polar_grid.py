"""A polar grid laid on a photograph: rings around a centre, cut into quarters."""

from typing import NamedTuple

import numpy as np

from foveal.kernels.cells import polar_cells, polar_cells_at
from foveal.scans.boxes import Box

QUARTERS = (0, 1, 2, 3)
_STEP = np.pi / 180  # of an outline


class PolarGrid(NamedTuple):
    """Rings around a centre, cut into quarters; cell 4 ring + quarter as in `foveal.kernels.cells`.

    Attributes:
        center: row and column in pixels, anywhere.
        axes: (2, 2) row and column of two vectors at right angles. Quarter 0 lies between them; the quarters
            follow each other from the second axis towards the first.
        edges: (R + 1,) radii that bound the rings, ascending, in units of which a pixel along an axis has as
            many as the axis is long.
    """

    center: tuple[float, float]
    axes: np.ndarray
    edges: np.ndarray

    @property
    def outside(self) -> int:
        """The cell number of what lies in no ring: also the number of cells."""
        return 4 * (len(self.edges) - 1)

    def cells(self, box: Box) -> np.ndarray:
        """(bottom - top, right - left) uint8 cell numbers of the pixels of a box."""
        return polar_cells(box, self.center, self.axes, self.edges)

    def cells_at(self, points: np.ndarray) -> np.ndarray:
        """(N,) uint8 cell numbers of (N, 2) points."""
        return polar_cells_at(points, self.center, self.axes, self.edges)

    def area(self, rings: tuple[int, int], quarters: tuple[int, ...]) -> float:
        """Area of some quarters of the rings from the first to before the second, in pixels, by formula."""
        inner, outer = (float(self.edges[ring]) for ring in rings)
        whole = np.pi * (outer**2 - inner**2) / abs(float(np.linalg.det(self.axes)))
        return whole * len(quarters) / len(QUARTERS)

    def box(self, limits: Box) -> Box:
        """Half-open bounds of the grid inside `limits`, a pixel wider than it to be safe from rounding."""
        half = self.edges[-1] * np.linalg.norm(np.linalg.inv(self.axes), axis=1) + 1
        low = np.clip(np.subtract(self.center, half), limits[:2], limits[2:])
        high = np.clip(np.add(self.center, half) + 1, limits[:2], limits[2:])
        top, left, bottom, right = (int(bound) for bound in (*np.floor(low), *np.ceil(high)))
        return top, left, bottom, right

    def outline(self, rings: tuple[int, int], quarters: tuple[int, ...]) -> list[np.ndarray]:
        """Closed polygons around some quarters of rings: (n, 2) row and column, the first point not repeated.

        Args:
            rings: from the first to before the second; the last must be finite.
            quarters: ascending and next to each other.
        """
        inner, outer = (float(self.edges[ring]) for ring in rings)
        start = (1 - quarters[0]) * np.pi / 2  # angles are counted from the first axis to the second
        stop = start - len(quarters) * np.pi / 2
        if quarters == QUARTERS:
            return [self._arc(radius, start, stop)[:-1] for radius in (outer, inner) if radius > 0]
        inwards = self._arc(inner, stop, start) if inner > 0 else np.array([self.center])
        return [np.concatenate([self._arc(outer, start, stop), inwards])]

    def _arc(self, radius: float, start: float, stop: float) -> np.ndarray:
        angles = np.linspace(start, stop, int(np.ceil(abs(stop - start) / _STEP)) + 1)
        offsets = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return self.center + offsets @ np.linalg.inv(self.axes).T
