"""How wide vessels are."""

import numpy as np

from foveal.measurement.drawing_vessels import draw_calibre
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import EVERYWHERE, HERE, VASCX, register


def _mean(m: VesselMeasurement) -> float:
    widths, spans = m.calibres
    return m.keep("mean calibre", lambda: float(widths @ spans / spans.sum()))


def _quantile(m: VesselMeasurement, quantile: float) -> float:
    """Width that this share of the measurable centre-line length does not exceed."""
    widths, spans = m.calibres
    middles = m.keep("middles of spans", lambda: np.cumsum(spans) - 0.5 * spans)
    return float(np.interp(quantile * spans.sum(), middles, widths))


@register("calibre_px", "Mean calibre", "px", VASCX, draw=draw_calibre("px"))
def calibre_px(m: VesselMeasurement) -> float:
    """Mean vessel width along all centre lines, weighted by length, in pixels. Junctions and the last
    half-width before an end are left out."""
    return _mean(m)


@register(
    "calibre_field", "Mean calibre", "field/1000", VASCX, regional=EVERYWHERE, draw=draw_calibre("field/1000")
)
def calibre_field(m: VesselMeasurement) -> float:
    """Mean vessel width along all centre lines, in thousandths of the field's diameter."""
    return 1000 * _mean(m) / m.field.diameter


@register("calibre_um", "Mean calibre", "um", VASCX, regional=EVERYWHERE, draw=draw_calibre("um"))
def calibre_um(m: VesselMeasurement) -> float:
    """Mean vessel width along all centre lines, in micrometres. Where pixels are not square the geometric
    mean of their sides is used."""
    return 1000 * _mean(m) * m.eye.mm_per_px


@register("calibre_median_px", "Median calibre", "px", VASCX, draw=draw_calibre("px"))
def calibre_median_px(m: VesselMeasurement) -> float:
    """Vessel width that half of the centre-line length does not exceed, in pixels."""
    return _quantile(m, 0.5)


@register(
    "calibre_median_field",
    "Median calibre",
    "field/1000",
    VASCX,
    regional=EVERYWHERE,
    draw=draw_calibre("field/1000"),
)
def calibre_median_field(m: VesselMeasurement) -> float:
    """Vessel width that half of the centre-line length does not exceed, in thousandths of the field's
    diameter."""
    return 1000 * _quantile(m, 0.5) / m.field.diameter


@register("calibre_median_um", "Median calibre", "um", VASCX, regional=EVERYWHERE, draw=draw_calibre("um"))
def calibre_median_um(m: VesselMeasurement) -> float:
    """Vessel width that half of the centre-line length does not exceed, in micrometres."""
    return 1000 * _quantile(m, 0.5) * m.eye.mm_per_px


@register(
    "calibre_p10_field", "Calibre of the finest tenth", "field/1000", HERE, draw=draw_calibre("field/1000")
)
def calibre_p10_field(m: VesselMeasurement) -> float:
    """Vessel width that one tenth of the centre-line length does not exceed, in thousandths of the field's
    diameter."""
    return 1000 * _quantile(m, 0.1) / m.field.diameter


@register(
    "calibre_p90_field", "Calibre of the widest tenth", "field/1000", HERE, draw=draw_calibre("field/1000")
)
def calibre_p90_field(m: VesselMeasurement) -> float:
    """Vessel width that nine tenths of the centre-line length do not exceed, in thousandths of the field's
    diameter."""
    return 1000 * _quantile(m, 0.9) / m.field.diameter


@register(
    "calibre_spread_field",
    "Spread of calibre",
    "field/1000",
    VASCX,
    regional=EVERYWHERE,
    draw=draw_calibre("field/1000"),
)
def calibre_spread_field(m: VesselMeasurement) -> float:
    """Standard deviation of the vessel width along all centre lines, in thousandths of the field's
    diameter."""
    widths, spans = m.calibres
    variance = (widths - _mean(m)) ** 2 @ spans / spans.sum()
    return 1000 * float(np.sqrt(variance)) / m.field.diameter
