"""What a flow between images is worth: its error, and where it folds."""

from __future__ import annotations

import numpy as np


def jacobian_determinants(flow: np.ndarray) -> np.ndarray:
    """Determinants (*grid) of the derivative of x + flow(x); central differences, one-sided at the border.

    Args:
        flow: (axes, *grid) in cells, two or three axes, each of 2 cells or more.

    Raises:
        ValueError: another number of channels than axes, or an axis of one cell.
    """
    axes = flow.ndim - 1
    if axes not in (2, 3) or len(flow) != axes or min(flow.shape[1:]) < 2:
        raise ValueError(
            f"a flow of shape {flow.shape}; allowed: (2, H, W) or (3, T, H, W), sides of 2 or more"
        )
    slopes = np.stack(
        [np.stack(np.gradient(part)) for part in flow.astype(np.float64)]
    )  # (axes, axes, *grid)
    matrices = np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(axes)
    return np.linalg.det(matrices)


def folded_share(flow: np.ndarray) -> float:
    """Share of the cells of a flow (axes, *grid) whose Jacobian determinant is not above 0."""
    return float((jacobian_determinants(flow) <= 0).mean())


def mean_endpoint_error(flow: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> float:
    """Mean distance in cells of where two flows (axes, *grid) point to, inside `region`.

    Raises:
        ValueError: shapes differ.
    """
    if flow.shape != truth.shape:
        raise ValueError(f"flows of shapes {flow.shape} and {truth.shape}; they must be equal")
    distance = np.linalg.norm(flow - truth, axis=0)
    return float((distance if region is None else distance[region]).mean())
