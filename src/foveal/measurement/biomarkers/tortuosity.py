"""How vessels wind: three measures, over segments or whole vessels, as a median or a length-weighted mean.

A segment runs from node to node. A whole vessel is put together from segments through crossings and past its
branches (`foveal.measurement.tree.VesselTree.vessels`). Both are at least a hundredth of the field's diameter
long.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from foveal.measurement.drawing_canvas import Drawer, together
from foveal.measurement.drawing_vessels import draw_course, draw_inflections
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import Course, VesselMeasurement
from foveal.measurement.registry import EVERYWHERE, PVBM, VASCX, register

BULLITT = "Bullitt et al., IEEE Trans. Med. Imaging 22, 2003 (inflection count metric)"


def _course(m: VesselMeasurement, unit: Literal["segments", "resolved"]) -> Course:
    return m.segments if unit == "segments" else m.resolved


def _distance(m: VesselMeasurement, course: Course) -> np.ndarray:
    """Arc length over chord of each {unit}: 1 for a straight one."""
    return course.arcs / course.chords


def _inflection(m: VesselMeasurement, course: Course) -> np.ndarray:
    """Arc length over chord of each {unit}, times one more than the number of its inflections (bends to the
    other side by 0.1 radians or more), so that a winding vessel scores more than an arched one."""
    return (course.inflections + 1) * course.arcs / course.chords


def _curvature(m: VesselMeasurement, course: Course) -> np.ndarray:
    """Mean absolute curvature of the centre line of each {unit}, times the distance from disc to fovea: a
    pure number, equal at every resolution. A circle through the two of radius half their distance has 2."""
    return course.curvature * m.eye.landmarks.disc_fovea_distance


def _curvature_field(m: VesselMeasurement, course: Course) -> np.ndarray:
    """Mean absolute curvature of the centre line of each {unit}, times the field's diameter, for eyes whose
    fovea is not known. The border of the field has 2."""
    return course.curvature * m.field.diameter


def _known(values: np.ndarray, arcs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values that are finite, and the arc lengths that belong to them."""
    known = np.isfinite(values)
    return values[known], arcs[known]


def _median(values: np.ndarray, arcs: np.ndarray) -> float:
    return float(np.median(values))


def _weighted(values: np.ndarray, arcs: np.ndarray) -> float:
    return float(values @ arcs / arcs.sum())


_MEASURES: dict[str, tuple[Callable, str, str, str]] = {
    "distance": (_distance, "Tortuosity (distance)", VASCX, "1 or more"),
    "curvature": (_curvature, "Tortuosity (curvature)", VASCX, "0 or more"),
    "curvature_field": (_curvature_field, "Tortuosity (curvature, per field)", VASCX, "0 or more"),
    "inflection": (_inflection, "Tortuosity (inflection)", BULLITT, "1 or more"),
}
_UNITS: dict[str, tuple[Literal["segments", "resolved"], str, str, str]] = {
    "": ("segments", "segment", "segments", ""),
    "_resolved": ("resolved", "whole vessel", "whole vessels", ", whole vessels"),
}
_SUMMARIES: dict[str, tuple[Callable, str, str]] = {
    "median": (_median, "Median over {units}.", "median"),
    "weighted": (_weighted, "Mean over {units}, weighted by arc length.", "length-weighted"),
}


def _drawing(measure: str, unit: Literal["segments", "resolved"]) -> Drawer:
    values, title, *_ = _MEASURES[measure]
    label = title.removeprefix("Tortuosity (").removesuffix(")")
    coloured = draw_course(unit, values, f"tortuosity, {label}")
    return together(coloured, draw_inflections(unit)) if measure == "inflection" else coloured


def _register(measure: str, suffix: str, summary: str) -> None:
    values, title, source, range = _MEASURES[measure]
    unit, one, many, where = _UNITS[suffix]
    summarise, how, word = _SUMMARIES[summary]

    def tortuosity(m: VesselMeasurement) -> float:
        course = _course(m, unit)
        found, arcs = m.keep((measure, unit), lambda: _known(values(m, course), course.arcs))
        if not len(found):
            raise MissingError(f"no {one} is long enough to measure its curvature")
        return summarise(found, arcs)

    tortuosity.__doc__ = f"{(values.__doc__ or '').format(unit=one)} {how.format(units=many)}"
    register(
        f"tortuosity_{measure}{suffix}_{summary}",
        f"{title}, {word}{where}",
        "1",
        source,
        range=range,
        regional=() if suffix else EVERYWHERE,
        needs=("disc", "fovea") if measure == "curvature" else (),
        draw=_drawing(measure, unit),
    )(tortuosity)


for _measure in _MEASURES:
    for _suffix in _UNITS:
        for _summary in _SUMMARIES:
            _register(_measure, _suffix, _summary)


@register(
    "tortuosity_index",
    "Tortuosity index",
    "1",
    PVBM,
    range="1 or more",
    regional=EVERYWHERE,
    draw=draw_course("segments", _distance, "tortuosity, distance"),
)
def tortuosity_index(m: VesselMeasurement) -> float:
    """Sum of the arc lengths of all segments over the sum of their chords."""
    return float(m.segments.arcs.sum() / m.segments.chords.sum())
