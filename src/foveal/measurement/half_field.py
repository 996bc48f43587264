"""The part of the camera's field on one side of a line."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

_CORNERS = 360  # of the polygon that stands for a circle


def half_field_area(field: "FieldOfView", point: tuple[float, float], inwards: np.ndarray) -> float:
    """Area of the field on one side of a line, of its whole circle where it is one, also outside the frame.

    Of a circle of radius R it is R^2 (pi/2 + asin(h/R)) + h sqrt(R^2 - h^2), where h is the distance of the
    centre from the line, positive on this side.

    Args:
        field: the field of view.
        point: row and column of a point on the line.
        inwards: unit vector (row, column) across the line, to this side.

    Returns:
        The area in pixels.
    """
    if not _is_round(field):
        row, column = half_field_outline(field, point, inwards).T
        return float(abs(row @ np.roll(column, -1) - column @ np.roll(row, -1)) / 2)
    radius = field.diameter / 2
    height = float(np.clip(np.subtract(field.center, point) @ inwards, -radius, radius))
    angle = np.pi / 2 + np.arcsin(height / radius)
    return float(radius**2 * angle + height * np.sqrt(radius**2 - height**2))


def half_field_outline(field: "FieldOfView", point: tuple[float, float], inwards: np.ndarray) -> np.ndarray:
    """Polygon around the field's circle (or box) inside the frame, on one side of a line.

    Args:
        field: see `half_field_area`.
        point: see `half_field_area`.
        inwards: see `half_field_area`.

    Returns:
        (n, 2) row and column, the first point not repeated; empty where the field lies beyond the line.
    """
    top, left, bottom, right = (bound - 0.5 for bound in field.box)  # outer sides of the pixels
    if _is_round(field):
        angles = np.arange(_CORNERS) * (2 * np.pi / _CORNERS)
        polygon = field.center + field.diameter / 2 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        polygon = _clipped(polygon, (top, left), np.array([1.0, 0.0]))
        polygon = _clipped(polygon, (top, left), np.array([0.0, 1.0]))
        polygon = _clipped(polygon, (bottom, right), np.array([-1.0, 0.0]))
        polygon = _clipped(polygon, (bottom, right), np.array([0.0, -1.0]))
    else:
        polygon = np.array([(top, left), (top, right), (bottom, right), (bottom, left)])
    return _clipped(polygon, point, inwards)


def _is_round(field: "FieldOfView") -> bool:
    """Whether the field is a circle; one that fills the frame is called full, but it is not complete."""
    return field.shape == "circle" or field.completeness < 1


def _clipped(polygon: np.ndarray, point: tuple[float, float], inwards: np.ndarray) -> np.ndarray:
    """The part of a convex polygon on one side of a line (Sutherland and Hodgman, CACM 17(1), 1974)."""
    height = (polygon - point) @ inwards
    onward, next_height = np.roll(polygon, -1, axis=0), np.roll(height, -1)
    crosses = (height < 0) != (next_height < 0)
    share = np.divide(height, height - next_height, out=np.zeros_like(height), where=crosses)
    crossing = polygon + share[:, None] * (onward - polygon)
    return np.stack([polygon, crossing], axis=1)[np.stack([height >= 0, crosses], axis=1)]
