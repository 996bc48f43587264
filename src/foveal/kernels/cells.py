"""Numbering of pixels by the cells of a polar grid, without an angle or a root for any pixel."""

import numpy as np

from foveal.kernels.compiled import compiled

CELL_NUMBERS = 256  # in one byte
MOST_RINGS = 63  # four cells each, and one number for outside


def polar_cells(
    box: tuple[int, int, int, int],
    center: tuple[float, float],
    axes: np.ndarray,
    edges: np.ndarray,
) -> np.ndarray:
    """The cell of a polar grid that each pixel of a box lies in.

    A position d from the centre has the coordinates p = d . axes[0] and q = d . axes[1]. It lies in ring i
    where edges[i]^2 <= p^2 + q^2 < edges[i + 1]^2, and in quarter 0 where p > 0 and q > 0, 1 where p > 0 and
    q <= 0, 2 where p <= 0 and q <= 0, 3 where p <= 0 and q > 0: once around, each quarter with one of its two
    sides. Its cell is 4 ring + quarter. Axes at right angles and of equal length make circular rings, of
    unequal length elliptic ones.

    Args:
        box: half-open bounds (top, left, bottom, right) in pixels.
        center: row and column of the grid's centre in pixels, anywhere.
        axes: (2, 2) row and column of the two axes, in units of the edges a pixel.
        edges: (R + 1,) radii that bound the R rings, ascending, 0 or more; the last may be infinite.

    Returns:
        (bottom - top, right - left) uint8 cell numbers; 4 R outside all rings.

    Raises:
        ValueError: `axes` is not (2, 2), or `edges` are not between 2 and 64 ascending radii.
    """
    axes, squared = _validated(axes, edges)
    return _cells_in_box(*box, float(center[0]), float(center[1]), axes, squared)


def polar_cells_reference(
    box: tuple[int, int, int, int],
    center: tuple[float, float],
    axes: np.ndarray,
    edges: np.ndarray,
) -> np.ndarray:
    """The same by whole arrays; see `polar_cells`."""
    axes, squared = _validated(axes, edges)
    row = np.arange(box[0], box[2])[:, None] - center[0]
    column = np.arange(box[1], box[3])[None, :] - center[1]
    p = row * axes[0, 0] + column * axes[0, 1]
    q = row * axes[1, 0] + column * axes[1, 1]
    ring = np.searchsorted(squared, p * p + q * q, side="right") - 1
    quarter = np.select([(p > 0) & (q > 0), (p > 0) & (q <= 0), (p <= 0) & (q <= 0)], [0, 1, 2], 3)
    rings = len(squared) - 1
    return np.where((ring >= 0) & (ring < rings), 4 * ring + quarter, 4 * rings).astype(np.uint8)


def polar_cells_at(
    points: np.ndarray, center: tuple[float, float], axes: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """The cell of a polar grid that each point lies in; at pixel centres equal to `polar_cells`.

    Args:
        points: (N, 2) row and column; a point that is not a number lies outside.
        center: see `polar_cells`.
        axes: see `polar_cells`.
        edges: see `polar_cells`.

    Returns:
        (N,) uint8 cell numbers; 4 R outside all rings.

    Raises:
        ValueError: `points` are not (N, 2), or what `polar_cells` raises.
    """
    axes, squared = _validated(axes, edges)
    points = np.ascontiguousarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be (N, 2) row and column, got shape {points.shape}")
    return _cells_of_points(points, float(center[0]), float(center[1]), axes, squared)


def cell_areas(cells: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Number of a mask's pixels in each cell.

    Args:
        cells: (H, W) uint8 cell numbers.
        mask: (H, W) bool.

    Returns:
        (256,) int64, one count for each number that a cell can have.

    Raises:
        ValueError: `cells` are not uint8 (H, W), or `mask` is not bool of the same shape.
    """
    return _areas(*_validated_images(cells, mask))


def cell_areas_reference(cells: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The same by counting the selected numbers; see `cell_areas`."""
    cells, _ = _validated_images(cells, mask)
    return np.bincount(cells[mask], minlength=CELL_NUMBERS)


def _validated_images(cells: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if cells.dtype != np.uint8 or cells.ndim != 2 or mask.dtype != bool or mask.shape != cells.shape:
        raise ValueError(
            "cells must be uint8 (H, W) and mask bool of the same shape, "
            f"got {cells.dtype} {cells.shape} and {mask.dtype} {mask.shape}"
        )
    return cells, mask.view(np.uint8)


def _validated(axes: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = np.ascontiguousarray(axes, dtype=np.float64)
    edges = np.ascontiguousarray(edges, dtype=np.float64)
    if axes.shape != (2, 2):
        raise ValueError(f"axes must be two vectors (2, 2), got shape {axes.shape}")
    ascending = edges.ndim == 1 and 2 <= len(edges) <= MOST_RINGS + 1 and edges[0] >= 0
    if not (ascending and (np.diff(edges) > 0).all()):
        raise ValueError(f"edges must be 2 to {MOST_RINGS + 1} ascending radii of 0 or more, got {edges}")
    return axes, edges * edges


@compiled
def _cell(row, column, axes, squared):  # type: ignore[no-untyped-def]
    p = row * axes[0, 0] + column * axes[0, 1]
    q = row * axes[1, 0] + column * axes[1, 1]
    distance = p * p + q * q
    rings = len(squared) - 1
    if not squared[0] <= distance < squared[rings]:
        return np.uint8(4 * rings)
    ring = 0
    for edge in range(1, rings):
        ring += distance >= squared[edge]
    quarter = 2 * (p <= 0) + (q <= 0)
    return np.uint8(4 * ring + (quarter ^ (quarter >> 1)))  # Gray code: neighbours differ in one sign


@compiled
def _cells_in_box(top, left, bottom, right, row, column, axes, squared):  # type: ignore[no-untyped-def]
    cells = np.empty((max(bottom - top, 0), max(right - left, 0)), np.uint8)
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            cells[i, j] = _cell(top + i - row, left + j - column, axes, squared)
    return cells


@compiled
def _cells_of_points(points, row, column, axes, squared):  # type: ignore[no-untyped-def]
    cells = np.empty(len(points), np.uint8)
    for i in range(len(points)):
        cells[i] = _cell(points[i, 0] - row, points[i, 1] - column, axes, squared)
    return cells


@compiled
def _areas(cells, mask):  # type: ignore[no-untyped-def]
    # Neighbours mostly share a cell; four sums by turns, so that no addition waits for the one before.
    areas = np.zeros((4, CELL_NUMBERS), np.int64)
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            areas[j & 3, cells[i, j]] += mask[i, j]
    return areas.sum(axis=0)
