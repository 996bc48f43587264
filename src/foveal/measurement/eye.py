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


class Keeper:
    """Keeps what several measures compute alike."""

    @cached_property
    def _kept(self) -> dict[Hashable, Any]:
        return {}

    def keep(self, key: Hashable, compute: Callable[[], Kept]) -> Kept:
        """What `compute` gives, computed once for this key."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]


@dataclass(frozen=True)
class Eye(Keeper):
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


class VesselLayer(Keeper):
    """The vessels of one kind and what is computed of them once, whatever is measured then.

    Args:
        eye: they belong to.
        kind: of vessels.
        mask: (H, W) bool, inside the field.
    """

    def __init__(self, eye: Eye, kind: Kind, mask: np.ndarray) -> None:
        self.eye, self.kind, self.mask = eye, kind, mask

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
    def gap_places(self) -> np.ndarray:
        """(m,) places in the flattened `distance_rows` that count for sparsity; see `VesselMeasurement.gaps`.
        Missing where there is no vessel."""
        if not self.mask.any():
            raise MissingError(NO_VESSEL)
        eye, distances = self.eye, self.distance_rows
        counted = (distances > 0) & (distances <= eye.border_rows)  # which is 0 outside the field
        landmarks = eye.landmarks
        if landmarks.disc is not None and landmarks.fovea is not None:
            (row, column), step = landmarks.fovea, eye.row_step
            reach = AVASCULAR * landmarks.disc_fovea_distance
            rows = np.arange(0, eye.field.mask.shape[0], step)[:, None]
            counted &= (rows - row) ** 2 + (np.arange(counted.shape[1]) - column) ** 2 > reach**2
        return np.flatnonzero(counted)

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


def _extent(middle: float, reach: float, size: int) -> tuple[int, int]:
    """Half-open range of pixels within `reach`, cut to the image."""
    first = max(int(np.ceil(middle - reach)), 0)
    return min(first, size), min(max(int(np.floor(middle + reach)) + 1, first), size)
