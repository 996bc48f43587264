"""How far the retina lies from its nearest vessel."""

from foveal.measurement.drawing_landmarks import draw_gaps
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import EVERYWHERE, VASCX, register


@register(
    "sparsity_mean",
    "Mean sparsity",
    "1",
    VASCX,
    regional=EVERYWHERE,
    needs=("disc", "fovea"),
    draw=draw_gaps("1"),
)
def sparsity_mean(m: VesselMeasurement) -> float:
    """Mean distance to the nearest vessel, over the pixels between vessels of the field (of the region), in
    distances from disc to fovea. Left out are pixels nearer to the border of the field than to a vessel,
    whose nearest vessel may be out of sight, and those around the fovea, which has no vessels, within a
    sixth of its distance from the disc."""
    return m.gaps.mean / m.eye.landmarks.disc_fovea_distance


@register(
    "sparsity_max",
    "Largest sparsity",
    "1",
    VASCX,
    regional=EVERYWHERE,
    needs=("disc", "fovea"),
    draw=draw_gaps("1"),
)
def sparsity_max(m: VesselMeasurement) -> float:
    """Largest distance to the nearest vessel, over the same pixels as the mean, in distances from disc to
    fovea."""
    return m.gaps.largest / m.eye.landmarks.disc_fovea_distance


@register(
    "sparsity_mean_field",
    "Mean sparsity",
    "field/1000",
    VASCX,
    regional=EVERYWHERE,
    draw=draw_gaps("field/1000"),
)
def sparsity_mean_field(m: VesselMeasurement) -> float:
    """Mean distance to the nearest vessel, over the pixels between vessels of the field (of the region), in
    thousandths of the field's diameter. Left out are pixels nearer to the border of the field than to a
    vessel and, where disc and fovea are known, those around the fovea within a sixth of their distance."""
    return 1000 * m.gaps.mean / m.field.diameter


@register(
    "sparsity_max_field",
    "Largest sparsity",
    "field/1000",
    VASCX,
    regional=EVERYWHERE,
    draw=draw_gaps("field/1000"),
)
def sparsity_max_field(m: VesselMeasurement) -> float:
    """Largest distance to the nearest vessel, over the same pixels as the mean, in thousandths of the field's
    diameter."""
    return 1000 * m.gaps.largest / m.field.diameter
