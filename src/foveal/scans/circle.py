"""Circles through noisy boundary points: a consensus search, then a robust geometric fit."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Circle", "find_circle", "fit_circle"]


@dataclass(frozen=True)
class Circle:
    """A circle in pixel coordinates; its centre may lie outside the frame."""

    row: float
    column: float
    radius: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (N,) of (N, 2) row/column points to the circle, negative inside."""
        return np.hypot(points[:, 0] - self.row, points[:, 1] - self.column) - self.radius

    def points(self, angles: np.ndarray, radii: np.ndarray | float | None = None) -> np.ndarray:
        """Row/column points (..., 2) at `angles` (radians) and `radii` (default: the circle's)."""
        length = self.radius if radii is None else radii
        return np.stack([self.row + length * np.sin(angles), self.column + length * np.cos(angles)], axis=-1)


def find_circle(
    points: np.ndarray,
    *,
    radius_range: tuple[float, float],
    tolerance: float = 1.0,
    trials: int = 300,
    seed: int = 0,
) -> Circle | None:
    """The circle that passes within `tolerance` of the most points (RANSAC, Fischler and Bolles 1981).

    Args:
        points: (N, 2) row/column boundary points; up to about two thirds may be outliers.
        radius_range: smallest and largest radius to consider, pixels.
        tolerance: distance up to which a point counts as lying on the circle, pixels.
        trials: random triplets to try.
        seed: of the triplets; the same points and seed give the same circle.

    Returns:
        The consensus circle, refined on its inliers, or None where no triplet gives a radius in range.
    """
    if len(points) < 12:
        return None
    rng = np.random.default_rng(seed)
    triplets = points[rng.integers(0, len(points), size=(trials, 3))].astype(float)
    rows, columns, radii = _circumcircles(triplets)
    valid = np.isfinite(radii) & (radii >= radius_range[0]) & (radii <= radius_range[1])
    if not valid.any():
        return None
    rows, columns, radii = rows[valid], columns[valid], radii[valid]
    votes = points[rng.permutation(len(points))[:500]].astype(float)
    residual = np.hypot(votes[:, 0] - rows[:, None], votes[:, 1] - columns[:, None]) - radii[:, None]
    # A truncated quadratic cost (MSAC) prefers, among equal counts, the circle that hugs its inliers.
    cost = np.minimum((residual / tolerance) ** 2, 1.0).sum(axis=1)
    best = int(np.argmin(cost))
    circle = Circle(float(rows[best]), float(columns[best]), float(radii[best]))
    circle = fit_circle(points, circle, scale=tolerance)
    return circle if radius_range[0] <= circle.radius <= radius_range[1] else None


def fit_circle(points: np.ndarray, start: Circle, *, scale: float, steps: int = 12) -> Circle:
    """Least-distance circle by Gauss-Newton steps with Tukey's biweight, cut off at 3 `scale`.

    Args:
        points: (N, 2) row/column points.
        start: circle near the solution.
        scale: spread of the inliers' distances, pixels.
        steps: Gauss-Newton steps at most; ends early once a step moves less than 1e-6 pixels.

    Returns:
        The fitted circle; `start` where fewer than six points lie within the cut-off.
    """
    points = points.astype(float)
    circle = start
    for _ in range(steps):
        offset = points - (circle.row, circle.column)
        length = np.maximum(np.hypot(offset[:, 0], offset[:, 1]), 1e-9)
        residual = length - circle.radius
        inside = np.abs(residual) < 3.0 * scale
        if inside.sum() < 6:
            return start
        weight = (1.0 - (residual[inside] / (3.0 * scale)) ** 2) ** 2
        # d residual / d(row, column, radius) = (-sin, -cos, -1)
        jacobian = -np.column_stack([offset[inside] / length[inside, None], np.ones(inside.sum())])
        normal = jacobian.T @ (weight[:, None] * jacobian) + 1e-9 * np.eye(3)
        step = -np.linalg.solve(normal, jacobian.T @ (weight * residual[inside]))
        circle = Circle(*(float(v) for v in np.add((circle.row, circle.column, circle.radius), step)))
        if np.abs(step).max() < 1e-6:
            break
    return circle


def _circumcircles(triplets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre rows, columns and radii (N,) of the circles through (N, 3, 2) points; inf where collinear."""
    first = triplets[:, 0]
    u, v = triplets[:, 1] - first, triplets[:, 2] - first
    cross = 2.0 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    uu, vv = (u**2).sum(axis=1), (v**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        row = (v[:, 1] * uu - u[:, 1] * vv) / cross
        column = (u[:, 0] * vv - v[:, 0] * uu) / cross
    return first[:, 0] + row, first[:, 1] + column, np.hypot(row, column)
