"""How far the retina lies from its nearest vessel."""

import numpy as np

from foveal.measurement.eye import NO_VESSEL, VesselMeasurement
from foveal.measurement.landmarks import MissingError
from foveal.measurement.registry import EVERYWHERE, VASCX, register

AVASCULAR = 1 / 6  # of the disc-fovea distance: the radius around the fovea that is left out


def vessel_distances(m: VesselMeasurement) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest vessel in pixels on every n-th row (`Eye.row_step`), and where it counts."""
    step = m.eye.row_step
    if not m.layer.mask.any():
        raise MissingError(NO_VESSEL)
    distance = m.layer.distance_rows
    counts = m.visible[::step] & (distance > 0) & (distance <= m.eye.border_rows)
    landmarks = m.eye.landmarks
    if landmarks.disc is not None and landmarks.fovea is not None:
        row, column = landmarks.fovea
        reach = AVASCULAR * landmarks.disc_fovea_distance
        rows = np.arange(0, m.field.mask.shape[0], step)[:, None]
        counts &= (rows - row) ** 2 + (np.arange(counts.shape[1]) - column) ** 2 > reach**2
    return distance, counts


def _known_distances(m: VesselMeasurement) -> np.ndarray:
    distance, counts = vessel_distances(m)
    if not counts.any():
        raise MissingError("no pixel between vessels is nearer to a vessel than to the border of the field")
    return distance[counts]


def _mean(m: VesselMeasurement) -> float:
    return float(_known_distances(m).mean(dtype=np.float64))


@register("sparsity_mean", "Mean sparsity", "1", VASCX, regional=EVERYWHERE, needs=("disc", "fovea"))
def sparsity_mean(m: VesselMeasurement) -> float:
    """Mean distance to the nearest vessel, over the pixels between vessels of the field (of the region), in
    distances from disc to fovea. Left out are pixels nearer to the border of the field than to a vessel,
    whose nearest vessel may be out of sight, and those around the fovea, which has no vessels, within a
    sixth of its distance from the disc."""
    return _mean(m) / m.eye.landmarks.disc_fovea_distance


@register("sparsity_max", "Largest sparsity", "1", VASCX, regional=EVERYWHERE, needs=("disc", "fovea"))
def sparsity_max(m: VesselMeasurement) -> float:
    """Largest distance to the nearest vessel, over the same pixels as the mean, in distances from disc to
    fovea."""
    return float(_known_distances(m).max()) / m.eye.landmarks.disc_fovea_distance


@register("sparsity_mean_field", "Mean sparsity", "field/1000", VASCX, regional=EVERYWHERE)
def sparsity_mean_field(m: VesselMeasurement) -> float:
    """Mean distance to the nearest vessel, over the pixels between vessels of the field (of the region), in
    thousandths of the field's diameter. Left out are pixels nearer to the border of the field than to a
    vessel and, where disc and fovea are known, those around the fovea within a sixth of their distance."""
    return 1000 * _mean(m) / m.field.diameter


@register("sparsity_max_field", "Largest sparsity", "field/1000", VASCX, regional=EVERYWHERE)
def sparsity_max_field(m: VesselMeasurement) -> float:
    """Largest distance to the nearest vessel, over the same pixels as the mean, in thousandths of the field's
    diameter."""
    return 1000 * float(_known_distances(m).max()) / m.field.diameter
