"""Measures of the lesions in a photograph: how many, how large, where."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import DISC_DIAMETER_MM, MissingError
from foveal.measurement.lesion_quadrants import QUADRANTS, LesionQuadrants
from foveal.measurement.lesions import Lesions
from foveal.measurement.registry import Measures, Unit
from foveal.scans.synthetic import LESION_KINDS

KIND_TITLES = {
    "microaneurysms": "Microaneurysms",
    "haemorrhages": "Haemorrhages",
    "hard_exudates": "Hard exudates",
    "soft_exudates": "Soft exudates",
}
_QUADRANTS_TOLD = (
    "quadrants are those of the field about the optic disc's centre, cut by the line through disc and fovea "
    "(the level, where only the disc is known) and the one across it. Needs the disc, and the fovea or the "
    "laterality"
)


class KindMeasurement:
    """The lesions of one kind on one eye: what their measures look at.

    Args:
        lesions: of all kinds.
        name: of the kind.
        eye: the photograph's field, landmarks and scale.
        quadrants: where the lesions lie about the disc.
    """

    def __init__(self, lesions: Lesions, name: str, eye: Eye, quadrants: LesionQuadrants) -> None:
        self.lesions, self.name, self.eye, self.quadrants = lesions, name, eye, quadrants

    @cached_property
    def chosen(self) -> np.ndarray:
        """(n,) bool, which lesions are of this kind; missing where it was not looked for."""
        if self.name not in self.lesions.names:
            raise MissingError(f"{KIND_TITLES[self.name].lower()} were not looked for")
        return self.lesions.are(self.name)

    @property
    def count(self) -> int:
        """Number of lesions."""
        return int(np.count_nonzero(self.chosen))

    @property
    def area(self) -> int:
        """Area of the lesions in pixels."""
        return int(self.lesions.areas[self.chosen].sum())

    @cached_property
    def field_area(self) -> int:
        """Area of the field in pixels."""
        return int(np.count_nonzero(self.eye.field.mask))

    def nearest(self, spacing: tuple[float, float]) -> float:
        """Distance from the fovea to the nearest pixel of a lesion; `spacing` is the sides of a pixel."""
        if not self.count:
            raise MissingError("no such lesion was found")
        fovea = self.eye.landmarks.known_fovea
        return float(self.lesions.distances_to(fovea, spacing)[self.chosen].min())

    @property
    def near_fovea(self) -> np.ndarray:
        """(n,) bool, which lesions come within one disc diameter of the fovea."""
        chosen, fovea, limits = self.chosen, self.eye.landmarks.known_fovea, self.eye.field.mask.shape
        row, column = (round(place) for place in fovea)
        if not (0 <= row < limits[0] and 0 <= column < limits[1] and self.eye.field.mask[row, column]):
            raise MissingError("the fovea lies outside the field")
        disc = self.eye.landmarks.disc
        diameter = 2 * disc.radius if disc is not None else DISC_DIAMETER_MM / self.eye.mm_per_px
        return chosen & (self.lesions.distances_to(fovea) <= diameter)


@dataclass(frozen=True)
class LesionColumn:
    """One column of a table about lesions.

    Attributes:
        name: of a measure its kind of lesion and what is measured, joined by an underscore.
        title: for people.
        unit: see `foveal.measurement.registry.Biomarker`; empty for text.
        description: what it is and how it is computed.
    """

    name: str
    title: str
    unit: Unit | Literal[""]
    description: str


_Function = Callable[[KindMeasurement], float]
"""From the lesions of one kind to a value; raises `MissingError` with the reason where there is none."""


def _count(m: KindMeasurement) -> float:
    return m.count


def _area_px2(m: KindMeasurement) -> float:
    return m.area


def _area_mm2(m: KindMeasurement) -> float:
    row, column = m.eye.known_spacing
    return m.area * row * column


def _area_fraction(m: KindMeasurement) -> float:
    return m.area / m.field_area


def _confidence(m: KindMeasurement) -> float:
    if not m.count:
        raise MissingError("no such lesion was found")
    return float(m.lesions.confidences[m.chosen].mean())


def _fovea_distance_field(m: KindMeasurement) -> float:
    return m.nearest((1.0, 1.0)) / m.eye.field.diameter


def _fovea_distance_mm(m: KindMeasurement) -> float:
    return m.nearest(m.eye.known_spacing)


def _near_fovea_count(m: KindMeasurement) -> float:
    return float(np.count_nonzero(m.near_fovea))


def _quadrant_count(quadrant: str) -> _Function:
    return lambda m: m.quadrants.count(quadrant, m.chosen)


def _quadrant_fraction(quadrant: str) -> _Function:
    return lambda m: m.quadrants.area(quadrant, m.chosen) / m.field_area


def _measures(kind: str) -> list[tuple[LesionColumn, _Function]]:
    title, plural = KIND_TITLES[kind], KIND_TITLES[kind].lower()

    def column(
        name: str, what: str, unit: Unit, description: str, function: _Function
    ) -> tuple[LesionColumn, _Function]:
        text = description.format(kind=plural)
        return LesionColumn(f"{kind}_{name}", f"{title}{what}", unit, text), function

    columns = [
        column(
            "count", "", "count", "Number of {kind} found in the field; those that touch count once.", _count
        ),
        column("area_px2", ", area", "px2", "Area of all {kind} in the field, in pixels.", _area_px2),
        column(
            "area_mm2", ", area", "mm2", "Area of all {kind} in the field, in square millimetres.", _area_mm2
        ),
        column(
            "area_fraction",
            ", share of the field",
            "fraction",
            "Area of all {kind} over that of the field, 0 to 1.",
            _area_fraction,
        ),
        column(
            "confidence",
            ", mean confidence",
            "1",
            "Mean over the {kind} of their confidence, 0 to 1: a lesion's mean probability, less twice its "
            "spread over mirrored views where that is taken into account (a screening run does not).",
            _confidence,
        ),
        column(
            "fovea_distance_field",
            ", distance to the fovea",
            "field",
            "Distance from the fovea to the nearest pixel of {kind}, in diameters of the field. Needs the "
            "fovea.",
            _fovea_distance_field,
        ),
        column(
            "fovea_distance_mm",
            ", distance to the fovea",
            "mm",
            "Distance from the fovea to the nearest pixel of {kind}, in millimetres. Needs the fovea.",
            _fovea_distance_mm,
        ),
        column(
            "near_fovea",
            " near the fovea",
            "count",
            "Number of {kind} of which a part lies within one disc diameter of the fovea (1.8 mm, where the "
            "disc is not known but the scale is); of hard exudates the sign by which IDRiD's graders told "
            "the risk of macular oedema. Needs the fovea.",
            _near_fovea_count,
        ),
    ]
    for name, words in QUADRANTS.items():
        columns += [
            column(
                f"count_{name}",
                f", {words}",
                "count",
                f"Number of {{kind}} whose centre lies in the {words} quadrant; {_QUADRANTS_TOLD}.",
                _quadrant_count(name),
            ),
            column(
                f"area_fraction_{name}",
                f", {words} share of the field",
                "fraction",
                f"Area of the {{kind}} in the {words} quadrant over that of the whole field, 0 to 1; "
                f"{_QUADRANTS_TOLD}.",
                _quadrant_fraction(name),
            ),
        ]
    return columns


_MEASURES = {kind: _measures(kind) for kind in LESION_KINDS}


def lesion_columns() -> list[LesionColumn]:
    """Columns of a table of lesions, in order, kind by kind."""
    return [column for measures in _MEASURES.values() for column, _ in measures]


def measure_lesions(lesions: Lesions, eye: Eye) -> Measures:
    """Measure the lesions of an eye.

    Args:
        lesions: found in its photograph.
        eye: its field, landmarks and scale.

    Returns:
        One value for each of `lesion_columns`, in order; NaN where it is missing, with the reason in
        `.missing_reasons`.

    Raises:
        ValueError: the lesions are of a photograph of another size.
    """
    quadrants = LesionQuadrants(lesions, eye)
    values, reasons = {}, {}
    for kind, measures in _MEASURES.items():
        measured = KindMeasurement(lesions, kind, eye, quadrants)
        for column, function in measures:
            values[column.name] = float("nan")
            try:
                values[column.name] = float(function(measured))
            except MissingError as reason:
                reasons[column.name] = str(reason)
    return Measures(values, reasons)
