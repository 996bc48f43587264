"""How vessels fill the plane: generalised dimensions of the vessel mask."""

from foveal.measurement.drawing_landmarks import draw_box_counts
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import PVBM, register


@register("fractal_dimension", "Fractal dimension", "1", PVBM, range="0 to 2", draw=draw_box_counts(0))
def fractal_dimension(m: VesselMeasurement) -> float:
    """Capacity dimension D0 of the vessel mask by dyadic box counting: how the number of boxes that hold a
    vessel grows as they shrink."""
    return m.layer.fractals.d0


@register(
    "information_dimension", "Information dimension", "1", PVBM, range="0 to 2", draw=draw_box_counts(1)
)
def information_dimension(m: VesselMeasurement) -> float:
    """Information dimension D1 of the vessel mask: how the entropy of the vessel area over boxes grows as
    they shrink. At most D0."""
    return m.layer.fractals.d1


@register(
    "correlation_dimension", "Correlation dimension", "1", PVBM, range="0 to 2", draw=draw_box_counts(2)
)
def correlation_dimension(m: VesselMeasurement) -> float:
    """Correlation dimension D2 of the vessel mask: how the chance that two of its pixels share a box falls as
    boxes shrink. At most D1."""
    return m.layer.fractals.d2


@register("singularity_length", "Singularity length", "1", PVBM, draw=draw_box_counts(3, 4))
def singularity_length(m: VesselMeasurement) -> float:
    """Width of the multifractal spectrum, alpha(-10) - alpha(10), by the method of Chhabra and Jensen: how
    much the density of vessels differs from place to place."""
    return m.layer.fractals.singularity_length
