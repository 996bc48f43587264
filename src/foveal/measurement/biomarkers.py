"""Vessel biomarkers: one documented function each, and a registry that makes the table of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np

from foveal.kernels.boxes import box_counts
from foveal.measurement.graph import NodeKind, VesselGraph, vessel_graph

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

Unit = Literal["fraction", "px", "field", "field/1000", "1/field", "mm", "um", "1", "count"]
SHORTEST_SEGMENT = 0.01  # of the field's diameter; shorter segments say nothing of tortuosity
NO_VESSEL = "no vessel was found in the field"


class MissingError(Exception):
    """A biomarker has no value on this eye; the message is the reason, for the reader of the table."""


@dataclass(frozen=True)
class VesselMeasurement:
    """All that a biomarker may look at.

    Attributes:
        vessels: (H, W) bool, True on vessels inside the field.
        field: what the camera saw; its mask, and its diameter in pixels as a unit of length that does not
            depend on the resolution.
        graph: centre lines of `vessels`.
        spacing_mm: (row, column) millimetres a pixel, or None where the scan does not say.
    """

    vessels: np.ndarray
    field: "FieldOfView"
    graph: VesselGraph
    spacing_mm: tuple[float, float] | None = None

    @property
    def spacing(self) -> tuple[float, float]:
        """(row, column) millimetres a pixel; missing where unknown."""
        if self.spacing_mm is None:
            raise MissingError("the scan does not say how large a pixel is")
        return self.spacing_mm

    @property
    def micrometres(self) -> float:
        """Micrometres a pixel: the geometric mean of the two directions."""
        row, column = self.spacing
        return 1000.0 * float(np.sqrt(row * column))

    @cached_property
    def length(self) -> float:
        """Length of all centre lines in pixels; missing where there is none."""
        if not len(self.graph.edges):
            raise MissingError(NO_VESSEL)
        return float(self.graph.arcs.sum())

    @cached_property
    def calibres(self) -> tuple[np.ndarray, np.ndarray]:
        """Widths along all centre lines in ascending order, and the length that each stands for (pixels)."""
        known = np.isfinite(self.graph.widths)
        if not known.any():
            raise MissingError("no vessel is long enough to measure its width")
        order = np.argsort(self.graph.widths[known], kind="stable")
        return self.graph.widths[known][order], self.graph.spans[known][order]

    @cached_property
    def segments(self) -> tuple[np.ndarray, np.ndarray]:
        """Arc and chord (pixels) of the open segments of at least a hundredth of the field's diameter."""
        arcs, chords = self.graph.arcs, self.graph.chords
        kept = (chords > 0) & (arcs >= SHORTEST_SEGMENT * self.field.diameter)
        if not kept.any():
            raise MissingError("no vessel segment is as long as a hundredth of the field's diameter")
        return arcs[kept], chords[kept]


@dataclass(frozen=True)
class Biomarker:
    """One column of the table.

    Attributes:
        name: the column, with its unit where it has a physical one.
        title: for people.
        unit: "fraction" of 1; "px"; "field" diameters, or thousandths or inverses of it; "mm"; "um"; "1"
            for a pure number; "count".
        description: what it is and how it is computed.
        source: where the definition comes from.
        function: from a measurement to the value; raises `MissingError` with the reason where there is none.
    """

    name: str
    title: str
    unit: Unit
    description: str
    source: str
    function: Callable[[VesselMeasurement], float]


class Measures(dict[str, float]):
    """Values by biomarker name, NaN where missing; `missing_reasons` says why, by name."""

    def __init__(self, values: dict[str, float], missing_reasons: dict[str, str]) -> None:
        super().__init__(values)
        self.missing_reasons = missing_reasons


BIOMARKERS: dict[str, Biomarker] = {}


def measure_vessels(
    vessels: np.ndarray,
    field: "FieldOfView",
    *,
    spacing_mm: tuple[float, float] | None = None,
    graph: VesselGraph | None = None,
) -> Measures:
    """Measure every registered biomarker of a vessel mask.

    Args:
        vessels: (H, W) bool; what lies outside the field is ignored.
        field: the field of view of the same photograph.
        spacing_mm: (row, column) millimetres a pixel; without it the columns in mm and um are missing.
        graph: `vessel_graph` of the vessels inside the field, where it exists already.

    Returns:
        One value for each name in `BIOMARKERS`, in its order; NaN where it is missing, with the reason in
        `.missing_reasons`.

    Raises:
        ValueError: `vessels` is not bool (H, W), differs from the field's mask or the graph in shape, or
            `spacing_mm` is not positive.
    """
    if vessels.dtype != bool or vessels.ndim != 2:
        raise ValueError(
            f"vessels must be a bool array (H, W), got {vessels.dtype} of shape {vessels.shape}; "
            "threshold it first, e.g. vessels > 0"
        )
    if vessels.shape != field.mask.shape:
        raise ValueError(
            f"vessels {vessels.shape} and the field's mask {field.mask.shape} must have the same shape"
        )
    if graph is not None and graph.shape != vessels.shape:
        raise ValueError(f"graph was made of a mask of shape {graph.shape}, vessels have {vessels.shape}")
    if spacing_mm is not None and not (len(spacing_mm) == 2 and all(0 < s < np.inf for s in spacing_mm)):
        raise ValueError(f"spacing_mm must be two positive numbers (row, column), got {spacing_mm}")
    inside = vessels & field.mask
    measurement = VesselMeasurement(inside, field, graph or vessel_graph(inside), spacing_mm)
    values, reasons = {}, {}
    for name, biomarker in BIOMARKERS.items():
        try:
            values[name] = float(biomarker.function(measurement))
        except MissingError as reason:
            values[name], reasons[name] = float("nan"), str(reason)
    return Measures(values, reasons)


def register(name: str, title: str, unit: Unit, source: str) -> Callable[..., Callable]:
    """Put a function into `BIOMARKERS`; its docstring becomes the description.

    Args:
        name: the column; must be new.
        title: for people.
        unit: see `Biomarker`.
        source: where the definition comes from.

    Raises:
        ValueError: the name is taken.
    """

    def add(function: Callable[[VesselMeasurement], float]) -> Callable[[VesselMeasurement], float]:
        if name in BIOMARKERS:
            raise ValueError(f"biomarker {name!r} is registered already")
        description = " ".join((function.__doc__ or "").split())
        BIOMARKERS[name] = Biomarker(name, title, unit, description, source, function)
        return function

    return add


PVBM = "Fhima et al., PVBM, ECCV Workshops 2022, arXiv 2208.00392"
VASCX = "Vargas Quiros et al., VascX, arXiv 2409.16016"
HERE = "this package"


@register("vessel_density", "Vessel density", "fraction", PVBM)
def vessel_density(m: VesselMeasurement) -> float:
    """Vessel area inside the field over the field's area, 0 to 1."""
    area = np.count_nonzero(m.field.mask)
    if not area:
        raise MissingError("the field of view is empty")
    return np.count_nonzero(m.vessels) / area


@register("vessel_length_px", "Vessel length", "px", PVBM)
def vessel_length_px(m: VesselMeasurement) -> float:
    """Sum of the arc lengths of all centre lines, in pixels."""
    return m.length


@register("vessel_length_field", "Vessel length", "field", PVBM)
def vessel_length_field(m: VesselMeasurement) -> float:
    """Sum of the arc lengths of all centre lines, in diameters of the field of view."""
    return m.length / m.field.diameter


@register("vessel_length_mm", "Vessel length", "mm", PVBM)
def vessel_length_mm(m: VesselMeasurement) -> float:
    """Sum of the arc lengths of all centre lines, in millimetres; exact where pixels are not square."""
    if not len(m.graph.edges):
        raise MissingError(NO_VESSEL)
    return float(m.graph.arc_lengths(m.spacing).sum())


def _mean_calibre(m: VesselMeasurement) -> float:
    widths, spans = m.calibres
    return float(np.average(widths, weights=spans))


def _calibre_quantile(m: VesselMeasurement, quantile: float) -> float:
    """Width that this share of the measurable centre-line length does not exceed."""
    widths, spans = m.calibres
    cumulated = np.cumsum(spans) - 0.5 * spans
    return float(np.interp(quantile * spans.sum(), cumulated, widths))


@register("vessel_calibre_px", "Mean calibre", "px", VASCX)
def vessel_calibre_px(m: VesselMeasurement) -> float:
    """Mean vessel width along all centre lines, weighted by length, in pixels. Junctions and the last
    half-width before an end are left out."""
    return _mean_calibre(m)


@register("vessel_calibre_field", "Mean calibre", "field/1000", VASCX)
def vessel_calibre_field(m: VesselMeasurement) -> float:
    """Mean vessel width along all centre lines, in thousandths of the field's diameter."""
    return 1000 * _mean_calibre(m) / m.field.diameter


@register("vessel_calibre_um", "Mean calibre", "um", VASCX)
def vessel_calibre_um(m: VesselMeasurement) -> float:
    """Mean vessel width along all centre lines, in micrometres. Where pixels are not square the geometric
    mean of their sides is used."""
    return _mean_calibre(m) * m.micrometres


@register("vessel_calibre_median_px", "Median calibre", "px", VASCX)
def vessel_calibre_median_px(m: VesselMeasurement) -> float:
    """Vessel width that half of the centre-line length does not exceed, in pixels."""
    return _calibre_quantile(m, 0.5)


@register("vessel_calibre_median_field", "Median calibre", "field/1000", VASCX)
def vessel_calibre_median_field(m: VesselMeasurement) -> float:
    """Vessel width that half of the centre-line length does not exceed, in thousandths of the field's
    diameter."""
    return 1000 * _calibre_quantile(m, 0.5) / m.field.diameter


@register("vessel_calibre_median_um", "Median calibre", "um", VASCX)
def vessel_calibre_median_um(m: VesselMeasurement) -> float:
    """Vessel width that half of the centre-line length does not exceed, in micrometres."""
    return _calibre_quantile(m, 0.5) * m.micrometres


@register("vessel_calibre_p10_field", "Calibre of the finest tenth", "field/1000", HERE)
def vessel_calibre_p10_field(m: VesselMeasurement) -> float:
    """Vessel width that one tenth of the centre-line length does not exceed, in thousandths of the field's
    diameter."""
    return 1000 * _calibre_quantile(m, 0.1) / m.field.diameter


@register("vessel_calibre_p90_field", "Calibre of the widest tenth", "field/1000", HERE)
def vessel_calibre_p90_field(m: VesselMeasurement) -> float:
    """Vessel width that nine tenths of the centre-line length do not exceed, in thousandths of the field's
    diameter."""
    return 1000 * _calibre_quantile(m, 0.9) / m.field.diameter


@register("vessel_calibre_spread_field", "Spread of calibre", "field/1000", VASCX)
def vessel_calibre_spread_field(m: VesselMeasurement) -> float:
    """Standard deviation of the vessel width along all centre lines, in thousandths of the field's
    diameter."""
    widths, spans = m.calibres
    variance = np.average((widths - _mean_calibre(m)) ** 2, weights=spans)
    return 1000 * float(np.sqrt(variance)) / m.field.diameter


@register("tortuosity_median", "Median tortuosity", "1", PVBM)
def tortuosity_median(m: VesselMeasurement) -> float:
    """Median over segments of arc length over chord, 1 or more. A segment runs from node to node and is at
    least a hundredth of the field's diameter long."""
    arcs, chords = m.segments
    return float(np.median(arcs / chords))


@register("tortuosity_weighted", "Length-weighted tortuosity", "1", VASCX)
def tortuosity_weighted(m: VesselMeasurement) -> float:
    """Mean over segments of arc length over chord, weighted by arc length, 1 or more."""
    arcs, chords = m.segments
    return float(np.average(arcs / chords, weights=arcs))


@register("tortuosity_total", "Tortuosity index", "1", PVBM)
def tortuosity_total(m: VesselMeasurement) -> float:
    """Sum of the arc lengths of all segments over the sum of their chords, 1 or more."""
    arcs, chords = m.segments
    return float(arcs.sum() / chords.sum())


@register("fractal_dimension", "Fractal dimension", "1", PVBM)
def fractal_dimension(m: VesselMeasurement) -> float:
    """Box-counting dimension D0 of the vessel mask, 0 to 2: the slope of log2 N(k) over k by least squares,
    where N(k) counts the occupied boxes when the square around the vessels, of side L, is divided into
    2^k x 2^k boxes, k from 1 to the integer part of log2 L. No box is cut, so a filled square has exactly 2.
    N(k) is the least count with the square laid at each corner of the bounding box, so that no turn of the
    image changes it."""
    row, column = np.nonzero(m.vessels)
    if not len(row):
        raise MissingError(NO_VESSEL)
    row, column = row - row.min(), column - column.min()
    side = max(int(row.max()), int(column.max())) + 1
    boxes = 1 << (side.bit_length() - 1)
    if boxes < 8:
        raise MissingError(f"the vessels extend over {side} pixels, too few for box counting (8)")
    # The box that each pixel falls in, for the square at the first and at the last row (column).
    rows = [position * boxes // side for position in (row, row.max() - row)]
    columns = [position * boxes // side for position in (column, column.max() - column)]
    counts = []
    for down, right in product(rows, columns):
        grid = np.zeros((boxes, boxes), bool)
        grid[down, right] = True
        counts.append(box_counts(grid)[-2::-1])
    occupied = np.min(counts, axis=0)
    return float(np.polyfit(np.arange(len(occupied)), np.log2(occupied), 1)[0])


def _count(m: VesselMeasurement, kind: NodeKind) -> int:
    return int(np.count_nonzero(m.graph.kinds == kind))


@register("endpoints", "End points", "count", PVBM)
def endpoints(m: VesselMeasurement) -> float:
    """Number of free ends of centre lines. A vessel that leaves the field ends there."""
    return _count(m, NodeKind.ENDPOINT)


@register("branch_points", "Branch points", "count", PVBM)
def branch_points(m: VesselMeasurement) -> float:
    """Number of points where three centre lines meet; the pixels of one junction count once."""
    return _count(m, NodeKind.BRANCH)


@register("crossings", "Crossings", "count", HERE)
def crossings(m: VesselMeasurement) -> float:
    """Number of points where four or more centre lines meet."""
    return _count(m, NodeKind.CROSSING)


@register("branch_points_per_length", "Branch points per length", "1/field", HERE)
def branch_points_per_length(m: VesselMeasurement) -> float:
    """Branch points for each field diameter of centre line."""
    return _count(m, NodeKind.BRANCH) * m.field.diameter / m.length


@register("endpoints_per_length", "End points per length", "1/field", HERE)
def endpoints_per_length(m: VesselMeasurement) -> float:
    """Free ends for each field diameter of centre line."""
    return _count(m, NodeKind.ENDPOINT) * m.field.diameter / m.length
