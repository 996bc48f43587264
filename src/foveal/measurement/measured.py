"""What a biomarker looks at: the vessels of one kind, everywhere or in a region."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from foveal.measurement.eye import NO_VESSEL, SHORTEST_SEGMENT, Kept, VesselLayer
from foveal.measurement.landmarks import MissingError
from foveal.measurement.regions import RegionMap


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
        places: (m,) where in the flattened `distances` it counts.
        mean: of the distances that count, in pixels.
        largest: of them, in pixels.
    """

    distances: np.ndarray
    places: np.ndarray
    mean: float
    largest: float

    @property
    def counted(self) -> np.ndarray:
        """(ceil(H / n), W) bool, where the distance counts."""
        counted = np.zeros(self.distances.shape, bool)
        counted.ravel()[self.places] = True
        return counted


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

    def keep(self, key: Hashable, compute: Callable[[], Kept]) -> Kept:
        """What `compute` gives, computed once for this key on these vessels in this region."""
        return self.layer.keep((self.region, key), compute)

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
        places, distances = self.layer.gap_places, self.layer.distance_rows
        if self.region is not None:
            key = ("region rows", self.region)
            inside = self.eye.keep(key, lambda: self.visible[:: self.eye.row_step].ravel())
            places = places[inside[places]]
        found = distances.ravel()[places]
        if not len(found):
            raise MissingError(
                "no pixel between vessels is nearer to a vessel than to the border of the field"
            )
        return Gaps(distances, places, float(found.mean(dtype=np.float64)), float(found.max()))

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
