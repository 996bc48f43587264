"""What is measured: an eye, the vessels of one kind in it, and the part of them within a region."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from foveal.kernels.bending import bend_reversals, path_curvature
from foveal.kernels.distance_map import distance_map
from foveal.measurement.fractals import FractalDimensions, fractal_dimensions
from foveal.measurement.graph import VesselGraph, vessel_graph
from foveal.measurement.landmarks import DISC_DIAMETER_MM, NOTHING_KNOWN, Landmarks, MissingError
from foveal.measurement.regions import RegionMap
from foveal.measurement.registry import Kind
from foveal.measurement.simplification import sum_by_path
from foveal.measurement.tree import VesselTree, root_graph

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

Kept = TypeVar("Kept")

SHORTEST_SEGMENT = 0.01  # of the field's diameter; shorter segments say nothing of tortuosity
CURVATURE_REACH = 0.01  # of the field's diameter, to each side of a point
SPARSITY_ROWS = 400  # at least as many rows across the field are looked at
AVASCULAR = 1 / 6  # of the disc-fovea distance: the radius around the fovea that sparsity leaves out
LEAST_TURN = 0.1  # radians by which a vessel must turn back for an inflection
NO_VESSEL = "no vessel was found in the field"


@dataclass(frozen=True)
class Eye:
    """One photograph's structures, as far as they are known.

    Attributes:
        field: what the camera saw; its diameter in pixels is the unit of length that does not depend on the
            resolution.
        vessels: (H, W) bool, all vessels; None takes arteries and veins together.
        arteries: (H, W) bool, or None.
        veins: (H, W) bool, or None.
        landmarks: optic disc, fovea, laterality.
        spacing_mm: (row, column) millimetres a pixel, or None where the scan does not say.
        image: (H, W, 3) uint8, the photograph: its sharpness is measured, and biomarkers are drawn on it.

    Raises:
        ValueError: a mask is not a bool array of the field's shape, there is none, `spacing_mm` is not
            positive, or `image` is not uint8 of that shape.
    """

    field: "FieldOfView"
    vessels: np.ndarray | None = None
    arteries: np.ndarray | None = None
    veins: np.ndarray | None = None
    landmarks: Landmarks = NOTHING_KNOWN
    spacing_mm: tuple[float, float] | None = None
    image: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = self.field.mask.shape
        masks = {"vessels": self.vessels, "arteries": self.arteries, "veins": self.veins}
        for name, mask in masks.items():
            if mask is None:
                continue
            if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.ndim != 2:
                found = f"{getattr(mask, 'dtype', type(mask).__name__)} of shape {np.shape(mask)}"
                raise ValueError(
                    f"{name} must be a bool array (H, W), got {found}; threshold it first, e.g. {name} > 0"
                )
            if mask.shape != shape:
                raise ValueError(f"{name} {mask.shape} and the field's mask {shape} must have the same shape")
        if all(mask is None for mask in masks.values()):
            raise ValueError("an eye needs vessels, arteries or veins; got none of the three")
        spacing = self.spacing_mm
        if spacing is not None and not (len(spacing) == 2 and all(0 < s < np.inf for s in spacing)):
            raise ValueError(f"spacing_mm must be two positive numbers (row, column), got {spacing}")
        if self.image is not None and (self.image.dtype != np.uint8 or self.image.shape != (*shape, 3)):
            raise ValueError(
                f"image must be uint8 of shape {(*shape, 3)}, got {self.image.dtype} {self.image.shape}"
            )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of vessels that are known; "vessel", all vessels, always."""
        known: list[Kind] = ["vessel"]
        known += ["artery"] if self.arteries is not None else []
        known += ["vein"] if self.veins is not None else []
        return tuple(known)

    @property
    def known_spacing(self) -> tuple[float, float]:
        """(row, column) millimetres a pixel: as given, else from the disc, whose diameter is taken as 1.8 mm;
        missing without both."""
        if self.spacing_mm is not None:
            return self.spacing_mm
        if self.landmarks.disc is None:
            raise MissingError("the scan does not say how large a pixel is, and the optic disc is not known")
        side = 0.5 * DISC_DIAMETER_MM / self.landmarks.disc.radius
        return side, side

    @property
    def mm_per_px(self) -> float:
        """Millimetres a pixel: the geometric mean of the two directions; missing as `known_spacing`."""
        row, column = self.known_spacing
        return float(np.sqrt(row * column))

    @property
    def row_step(self) -> int:
        """Every how many rows distances are taken: 400 rows across the field or more."""
        return max(1, int(self.field.diameter) // SPARSITY_ROWS)

    @cached_property
    def border_rows(self) -> np.ndarray:
        """(ceil(H / row_step), W) distance to the nearest pixel outside the field or the frame, in pixels."""
        step = self.row_step
        outside = np.pad(~self.field.mask, ((step, step), (1, 1)), constant_values=True)
        return distance_map(outside, every=step)[1:-1, 1:-1]

    @cached_property
    def layers(self) -> dict[Kind, "VesselLayer"]:
        """The vessels of each known kind, inside the field."""
        parts = [mask for mask in (self.arteries, self.veins) if mask is not None]
        both = self.vessels if self.vessels is not None else np.logical_or.reduce(parts)
        masks = {"vessel": both, "artery": self.arteries, "vein": self.veins}
        return {kind: VesselLayer(self, kind, masks[kind] & self.field.mask) for kind in self.kinds}  # type: ignore[operator]


class VesselLayer:
    """The vessels of one kind and what is computed of them once, whatever is measured then.

    Args:
        eye: they belong to.
        kind: of vessels.
        mask: (H, W) bool, inside the field.
    """

    def __init__(self, eye: Eye, kind: Kind, mask: np.ndarray) -> None:
        self.eye, self.kind, self.mask = eye, kind, mask
        self._kept: dict[Hashable, Any] = {}

    def keep(self, key: Hashable, compute: Callable[[], Kept]) -> Kept:
        """What `compute` gives, computed once for this key."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @cached_property
    def graph(self) -> VesselGraph:
        """Centre lines; where the disc is known, of the vessels outside of it, since those inside run into
        one another."""
        disc = self.eye.landmarks.disc
        if disc is None:
            return vessel_graph(self.mask)
        outside = self.mask.copy()
        top, bottom = _extent(disc.center[0], disc.radius, self.mask.shape[0])
        left, right = _extent(disc.center[1], disc.radius, self.mask.shape[1])
        rows, columns = np.ogrid[top:bottom, left:right]
        inside = (rows - disc.center[0]) ** 2 + (columns - disc.center[1]) ** 2 <= disc.radius**2
        outside[top:bottom, left:right] &= ~inside
        return vessel_graph(outside)

    @cached_property
    def tree(self) -> VesselTree:
        """The graph from the disc outwards."""
        return root_graph(self.graph, self.eye.landmarks.disc)

    @cached_property
    def distance_rows(self) -> np.ndarray:
        """(ceil(H / row_step), W) distance to the nearest vessel in pixels; the mask is not empty."""
        return distance_map(self.mask, every=self.eye.row_step)

    @cached_property
    def fractals(self) -> FractalDimensions:
        """Generalised dimensions of the mask; missing where it is too small."""
        try:
            return fractal_dimensions(self.mask)
        except ValueError as error:
            raise MissingError(str(error)) from None

    @cached_property
    def middles(self) -> np.ndarray:
        """(E, 2) the point halfway along each edge."""
        graph = self.graph
        along = np.cumsum(graph.spans)
        before = along[graph.offsets[:-1]] - graph.spans[graph.offsets[:-1]]
        place = np.searchsorted(along, before + 0.5 * graph.arcs)
        return graph.points[np.clip(place, graph.offsets[:-1], graph.offsets[1:] - 1)]

    @cached_property
    def curvature(self) -> np.ndarray:
        """(P,) signed curvature of the centre lines in 1 / px, from parabolas over a hundredth of the field's
        diameter to each side (three widths if that is more)."""
        width = np.nan_to_num(self.graph.edge_widths, nan=0.0)
        reach = np.maximum(np.maximum(CURVATURE_REACH * self.eye.field.diameter, 3.0 * width), 5.0)
        return path_curvature(self.graph.points, self.graph.offsets, reach)

    @cached_property
    def bends(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each edge: (E,) integral of the absolute curvature in radians, and (E,) length in pixels that it
        was taken over, which leaves out the junctions."""
        graph = self.graph
        known = np.isfinite(self.curvature) & np.isfinite(graph.widths)
        turn = np.where(known, np.abs(self.curvature) * graph.spans, 0.0)
        return sum_by_path(turn, graph.offsets), sum_by_path(np.where(known, graph.spans, 0.0), graph.offsets)

    @cached_property
    def inflections(self) -> np.ndarray:
        """(E,) number of times that an edge turns from one side to the other, by 0.1 radians or more."""
        bend = np.where(np.isfinite(self.graph.widths), self.curvature, 0.0)
        return bend_reversals(self.graph.points, self.graph.offsets, bend, LEAST_TURN)


@dataclass(frozen=True)
class Course:
    """How segments, or whole vessels, run.

    Attributes:
        arcs: (n,) lengths along the centre line, in pixels.
        chords: (n,) straight distances between the ends, in pixels; more than 0.
        curvature: (n,) mean absolute curvature in 1 / px; NaN where junctions leave nothing to measure.
        inflections: (n,) numbers of inflections.
        names: (n,) number of the edge, or of the whole vessel.
    """

    arcs: np.ndarray
    chords: np.ndarray
    curvature: np.ndarray
    inflections: np.ndarray
    names: np.ndarray


@dataclass(frozen=True)
class Gaps:
    """The retina between vessels.

    Attributes:
        distances: (ceil(H / n), W) distance to the nearest vessel in pixels; n is `Eye.row_step`.
        counted: (ceil(H / n), W) bool, where it counts.
        mean: of the distances that count, in pixels.
        largest: of them, in pixels.
    """

    distances: np.ndarray
    counted: np.ndarray
    mean: float
    largest: float


class VesselMeasurement:
    """All that a biomarker may look at: the vessels of one kind, in a region or everywhere.

    Args:
        layer: the vessels.
        regions: the regions laid on the eye; only needed with `region`.
        region: name of the region; None measures everywhere.

    Raises:
        MissingError: the region is not known or less than half visible on this eye.
    """

    def __init__(
        self, layer: VesselLayer, regions: RegionMap | None = None, region: str | None = None
    ) -> None:
        if region is not None:
            if regions is None:
                raise ValueError(f"region {region!r} needs the regions laid on the eye")
            regions.require(region)
        self.layer, self.regions, self.region = layer, regions, region
        self.eye, self.kind, self.graph, self.field = layer.eye, layer.kind, layer.graph, layer.eye.field

    def within(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool: do (N, 2) points lie in the region?"""
        if self.region is None or self.regions is None:
            return np.ones(len(points), bool)
        return self.regions.contains(self.region, points)

    def area(self, mask: np.ndarray) -> int:
        """Pixels of an (H, W) mask in the region and the field."""
        if self.region is None or self.regions is None:
            return int(np.count_nonzero(mask))
        return self.regions.area(self.region, mask)

    @cached_property
    def visible(self) -> np.ndarray:
        """(H, W) bool: the region, inside the field."""
        if self.region is None or self.regions is None:
            return self.field.mask
        return self.regions.select(self.region)

    @cached_property
    def points_inside(self) -> np.ndarray:
        """(P,) bool: centre-line points in the region."""
        return self.within(self.graph.points)

    @cached_property
    def nodes_inside(self) -> np.ndarray:
        """(N,) bool: nodes in the region."""
        return self.within(self.graph.nodes)

    @cached_property
    def length(self) -> float:
        """Length of the centre lines in pixels; missing where there is none."""
        length = float(self.graph.spans[self.points_inside].sum())
        if not length:
            raise MissingError(NO_VESSEL if self.region is None else "no vessel was found in the region")
        return length

    @cached_property
    def calibres(self) -> tuple[np.ndarray, np.ndarray]:
        """Widths along the centre lines in ascending order, and the length that each stands for (pixels)."""
        known = np.isfinite(self.graph.widths) & self.points_inside
        if not known.any():
            raise MissingError("no vessel is long enough to measure its width")
        order = np.argsort(self.graph.widths[known], kind="stable")
        return self.graph.widths[known][order], self.graph.spans[known][order]

    @cached_property
    def segments(self) -> Course:
        """Open segments, from node to node, of at least a hundredth of the field's diameter whose middle lies
        in the region; missing where there is none."""
        turn, measured = self.layer.bends
        arcs, chords = self.graph.arcs, self.graph.chords
        inside = self.within(self.layer.middles)
        return self._course(arcs, chords, turn, measured, self.layer.inflections, inside, "segment")

    @cached_property
    def resolved(self) -> Course:
        """Whole vessels (see `VesselTree.vessels`) of at least a hundredth of the field's diameter, of which
        at least half of the length belongs to segments in the region; missing where there is none."""
        vessels = self.layer.tree.vessels
        arcs, chords = self.layer.tree.vessel_spans
        turn, measured = (np.bincount(vessels, part, len(arcs)) for part in self.layer.bends)
        inflections = np.bincount(vessels, self.layer.inflections, len(arcs))
        inside = self.within(self.layer.middles)
        share = np.bincount(vessels, np.where(inside, self.graph.arcs, 0.0), len(arcs))
        return self._course(arcs, chords, turn, measured, inflections, share >= 0.5 * arcs, "vessel")

    @cached_property
    def gaps(self) -> Gaps:
        """The retina between vessels of the region, without pixels nearer to the border of the field than to
        a vessel, whose nearest vessel may be out of sight, and, where disc and fovea are known, without those
        around the fovea, which has no vessels; missing where nothing is left."""
        if not self.layer.mask.any():
            raise MissingError(NO_VESSEL)
        step, distances = self.eye.row_step, self.layer.distance_rows
        counted = self.visible[::step] & (distances > 0) & (distances <= self.eye.border_rows)
        landmarks = self.eye.landmarks
        if landmarks.disc is not None and landmarks.fovea is not None:
            row, column = landmarks.fovea
            reach = AVASCULAR * landmarks.disc_fovea_distance
            rows = np.arange(0, self.field.mask.shape[0], step)[:, None]
            counted &= (rows - row) ** 2 + (np.arange(counted.shape[1]) - column) ** 2 > reach**2
        found = distances[counted]
        if not len(found):
            raise MissingError(
                "no pixel between vessels is nearer to a vessel than to the border of the field"
            )
        return Gaps(distances, counted, float(found.mean(dtype=np.float64)), float(found.max()))

    def _course(
        self,
        arcs: np.ndarray,
        chords: np.ndarray,
        turn: np.ndarray,
        measured: np.ndarray,
        inflections: np.ndarray,
        inside: np.ndarray,
        what: str,
    ) -> Course:
        kept = np.flatnonzero(inside & (chords > 0) & (arcs >= SHORTEST_SEGMENT * self.field.diameter))
        if not len(kept):
            raise MissingError(f"no {what} is as long as a hundredth of the field's diameter")
        bend = np.divide(turn, measured, out=np.full(len(arcs), np.nan), where=measured > 0)
        return Course(arcs[kept], chords[kept], bend[kept], inflections[kept], kept)


def _extent(middle: float, reach: float, size: int) -> tuple[int, int]:
    """Half-open range of pixels within `reach`, cut to the image."""
    first = max(int(np.ceil(middle - reach)), 0)
    return min(first, size), min(max(int(np.floor(middle + reach)) + 1, first), size)
