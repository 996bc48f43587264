"""Central retinal equivalents and their ratio."""

from collections.abc import Callable
from typing import Any

import numpy as np

from foveal.measurement.circles import Crossings, circle_crossings
from foveal.measurement.drawing_landmarks import draw_circles, draw_circles_of_both
from foveal.measurement.equivalents import hubbard_equivalent, knudtson_equivalent
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import Kind, register

KNUDTSON = "Knudtson et al., Curr. Eye Res. 27, 2003; zone and circles as in PVBM and retinalysis-vascx"
HUBBARD = "Hubbard et al., Ophthalmology 106, 1999; zone and circles as in PVBM and retinalysis-vascx"
CIRCLES = 11  # from two to three disc radii
FEWEST = 2  # vessels on a circle


def zone_b_crossings(m: VesselMeasurement) -> Crossings:
    """Vessels on eleven circles from two to three disc radii."""
    radius = m.eye.landmarks.known_disc.radius
    return circle_crossings(m, np.linspace(2 * radius, 3 * radius, CIRCLES))


def _equivalent(m: VesselMeasurement, combine: Callable[[np.ndarray, Any], float], scale: float) -> float:
    found = zone_b_crossings(m)
    circles = [scale * found.widths[found.circles == circle] for circle in range(len(found.radii))]
    values = [combine(widths, m.kind) for widths in circles if len(widths) >= FEWEST]
    if not values:
        raise MissingError("fewer than two vessels cross every circle around the optic disc")
    return float(np.median(values))


def _um_per_px(eye: Eye) -> float:
    return 1000 * eye.mm_per_px


@register(
    "equivalent_knudtson_px",
    "Central equivalent (Knudtson)",
    "px",
    KNUDTSON,
    kinds=("artery", "vein"),
    needs=("disc",),
    draw=draw_circles(zone_b_crossings),
)
def equivalent_knudtson_px(m: VesselMeasurement) -> float:
    """Width of the central vessel that stands for the six widest (CRAE, CRVE) by Knudtson's formulas: the
    median over eleven circles from two to three disc radii around the disc's centre, in pixels."""
    return _equivalent(m, knudtson_equivalent, 1.0)


@register(
    "equivalent_knudtson_um",
    "Central equivalent (Knudtson)",
    "um",
    KNUDTSON,
    kinds=("artery", "vein"),
    regional=("hemifield",),
    needs=("disc",),
    draw=draw_circles(zone_b_crossings),
)
def equivalent_knudtson_um(m: VesselMeasurement) -> float:
    """Width of the central vessel that stands for the six widest (CRAE, CRVE) by Knudtson's formulas: the
    median over eleven circles from two to three disc radii around the disc's centre, in micrometres."""
    return _equivalent(m, knudtson_equivalent, _um_per_px(m.eye))


@register(
    "equivalent_hubbard_um",
    "Central equivalent (Hubbard)",
    "um",
    HUBBARD,
    kinds=("artery", "vein"),
    needs=("disc",),
    draw=draw_circles(zone_b_crossings),
)
def equivalent_hubbard_um(m: VesselMeasurement) -> float:
    """Width of the central vessel that stands for the six widest (CRAE, CRVE) by the formulas of Parr and
    Hubbard, which hold in micrometres: the median over eleven circles from two to three disc radii."""
    return _equivalent(m, hubbard_equivalent, _um_per_px(m.eye))


def _ratio(eye: Eye, function: Callable[[VesselMeasurement], float]) -> float:
    values: dict[Kind, float] = {}
    for kind, name in (("artery", "arteries"), ("vein", "veins")):
        if kind not in eye.layers:
            raise MissingError(f"the {name} are not known apart")
        values[kind] = function(VesselMeasurement(eye.layers[kind]))  # type: ignore[index]
    return values["artery"] / values["vein"]


@register(
    "avr_knudtson",
    "Arteriovenous ratio (Knudtson)",
    "1",
    KNUDTSON,
    kinds=(),
    needs=("disc",),
    draw=draw_circles_of_both(zone_b_crossings),
)
def avr_knudtson(eye: Eye) -> float:
    """Central equivalent of arteries over that of veins, by Knudtson's formulas; it needs no scale."""
    return _ratio(eye, equivalent_knudtson_px)


@register(
    "avr_hubbard",
    "Arteriovenous ratio (Hubbard)",
    "1",
    HUBBARD,
    kinds=(),
    needs=("disc",),
    draw=draw_circles_of_both(zone_b_crossings),
)
def avr_hubbard(eye: Eye) -> float:
    """Central equivalent of arteries over that of veins, by the formulas of Parr and Hubbard."""
    return _ratio(eye, equivalent_hubbard_um)
