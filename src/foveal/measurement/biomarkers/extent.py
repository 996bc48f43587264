"""How much vessel there is: area, perimeter, density, length."""

import numpy as np

from foveal.measurement.drawing_vessels import draw_area, draw_border, draw_centre_lines
from foveal.measurement.eye import NO_VESSEL
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import EVERYWHERE, HERE, PVBM, VASCX, register


@register("density", "Vessel density", "fraction", VASCX, range="0 to 1", regional=EVERYWHERE, draw=draw_area)
def density(m: VesselMeasurement) -> float:
    """Vessel area over the visible area of the field (of the region)."""
    area = m.area(m.field.mask)
    if not area:
        raise MissingError("the field of view is empty")
    return m.area(m.layer.mask) / area


def _area(m: VesselMeasurement) -> int:
    return m.area(m.layer.mask)


@register("area_px2", "Vessel area", "px2", PVBM, draw=draw_area)
def area_px2(m: VesselMeasurement) -> float:
    """Number of vessel pixels in the field."""
    return _area(m)


@register("area_mm2", "Vessel area", "mm2", PVBM, draw=draw_area)
def area_mm2(m: VesselMeasurement) -> float:
    """Vessel area in the field, in square millimetres."""
    row, column = m.eye.known_spacing
    return _area(m) * row * column


def _perimeter(m: VesselMeasurement) -> float:
    mask = np.pad(m.layer.mask, 1)
    level = np.count_nonzero(mask[1:] != mask[:-1]) + np.count_nonzero(mask[:, 1:] != mask[:, :-1])
    oblique = np.count_nonzero(mask[1:, 1:] != mask[:-1, :-1]) + np.count_nonzero(
        mask[1:, :-1] != mask[:-1, 1:]
    )
    return float(np.pi / 8 * (level + oblique / np.sqrt(2)))


@register("perimeter_px", "Vessel perimeter", "px", PVBM, draw=draw_border)
def perimeter_px(m: VesselMeasurement) -> float:
    """Length of the borders of all vessels in the field, by Crofton's formula over four directions, in
    pixels. One straight border can be 6 % off, depending on its direction; over all directions, as around
    a disc, the sum is right to 1 %. Counting steps of 1 and sqrt 2 gives 5 % too much for a disc."""
    return _perimeter(m)


@register("perimeter_field", "Vessel perimeter", "field", PVBM, draw=draw_border)
def perimeter_field(m: VesselMeasurement) -> float:
    """Length of the borders of all vessels in the field, in diameters of the field of view."""
    return _perimeter(m) / m.field.diameter


@register("length_px", "Vessel length", "px", PVBM, draw=draw_centre_lines)
def length_px(m: VesselMeasurement) -> float:
    """Sum of the arc lengths of all centre lines, in pixels."""
    return m.length


@register("length_field", "Vessel length", "field", PVBM, regional=EVERYWHERE, draw=draw_centre_lines)
def length_field(m: VesselMeasurement) -> float:
    """Sum of the arc lengths of all centre lines, in diameters of the field of view."""
    return m.length / m.field.diameter


@register("length_mm", "Vessel length", "mm", PVBM, draw=draw_centre_lines)
def length_mm(m: VesselMeasurement) -> float:
    """Sum of the arc lengths of all centre lines, in millimetres; exact where pixels are not square."""
    if not len(m.graph.edges):
        raise MissingError(NO_VESSEL)
    return float(m.graph.arc_lengths(m.eye.known_spacing).sum())


@register("length_density", "Length density", "1/field", HERE, regional=EVERYWHERE, draw=draw_centre_lines)
def length_density(m: VesselMeasurement) -> float:
    """Length of the centre lines over the visible area of the field (of the region), in inverse diameters of
    the field of view: how closely the vessels stand, whatever their width."""
    area = m.area(m.field.mask)
    if not area:
        raise MissingError("the field of view is empty")
    return m.length * m.field.diameter / area
