"""From a vessel mask to the graph of its centre lines: nodes, ordered sub-pixel paths, lengths and widths."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from foveal.kernels.distance import BackgroundDistance
from foveal.kernels.holes import fill_holes
from foveal.kernels.paths import smooth_paths, width_across
from foveal.kernels.skeleton import trace_skeleton
from foveal.kernels.thinning import thin_keeping_diagonals
from foveal.measurement.orientation import standard_orientation
from foveal.measurement.simplification import (
    Paths,
    half_widths,
    restore_ends,
    simplify,
    steps,
    sum_by_path,
)


class NodeKind(IntEnum):
    """What a node of the vessel graph is, by the number of edges that meet there."""

    ENDPOINT = 1  # one: a vessel ends, or leaves the mask
    LOOP = 2  # two, of one closed edge: an arbitrary point of a ring without junction
    BRANCH = 3  # three: a vessel divides
    CROSSING = 4  # four or more: vessels cross


@dataclass(frozen=True)
class VesselGraph:
    """Centre lines of a vessel mask. Positions are (row, column) in pixels, pixel centres at integers.

    Attributes:
        shape: (H, W) of the mask.
        nodes: (N, 2) float64 positions.
        kinds: (N,) uint8, a `NodeKind` each.
        radii: (N,) float64 vessel half-width at each node, in pixels.
        edges: (E, 2) int64 first and last node of each edge.
        offsets: (E + 1,) int64; edge e owns `points[offsets[e]:offsets[e + 1]]`.
        points: (P, 2) float64 smoothed centre lines, both nodes included.
        widths: (P,) float64 local vessel width in pixels; NaN inside a node's disc, where
            vessels merge or end.
    """

    shape: tuple[int, int]
    nodes: np.ndarray
    kinds: np.ndarray
    radii: np.ndarray
    edges: np.ndarray
    offsets: np.ndarray
    points: np.ndarray
    widths: np.ndarray

    def path(self, edge: int) -> np.ndarray:
        """(n, 2) centre line of one edge."""
        return self.points[self.offsets[edge] : self.offsets[edge + 1]]

    @cached_property
    def degrees(self) -> np.ndarray:
        """(N,) int64 number of edge ends at each node; a closed edge counts twice."""
        return np.bincount(self.edges.ravel(), minlength=len(self.nodes))

    @cached_property
    def arcs(self) -> np.ndarray:
        """(E,) float64 length of each edge along its centre line, in pixels."""
        return self.arc_lengths((1.0, 1.0))

    @cached_property
    def chords(self) -> np.ndarray:
        """(E,) float64 straight distance between the ends of each edge, in pixels; 0 for a closed one."""
        ends = self.points[self.offsets[1:] - 1] - self.points[self.offsets[:-1]]
        return np.where(self.edges[:, 0] == self.edges[:, 1], 0.0, np.hypot(ends[:, 0], ends[:, 1]))

    @cached_property
    def edge_widths(self) -> np.ndarray:
        """(E,) float64 mean width of each edge, in pixels; NaN where its nodes' discs cover it whole."""
        known = np.isfinite(self.widths)
        count = sum_by_path(known.astype(np.float64), self.offsets)
        total = sum_by_path(np.where(known, self.widths, 0.0), self.offsets)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    @cached_property
    def spans(self) -> np.ndarray:
        """(P,) float64 length of centre line that each point stands for, in pixels; they sum to all arcs."""
        step = steps(self.points, self.offsets)
        return 0.5 * (step + np.append(0.0, step[:-1]))

    def arc_lengths(self, spacing: tuple[float, float]) -> np.ndarray:
        """(E,) length of each edge, in the unit of `spacing`, the height and width of a pixel."""
        return sum_by_path(steps(self.points, self.offsets, spacing), self.offsets)


def vessel_graph(
    mask: np.ndarray,
    *,
    hole_area: int = 10,
    spur_factor: float = 3.0,
    merge_factor: float = 1.0,
    smoothing: float = 2.0,
) -> VesselGraph:
    """Build the graph of a vessel mask.

    1. The mask, cropped and turned to its standard position (so that the result does not depend on how the
       photograph lies), its holes of at most `hole_area` pixels filled, is thinned by Zhang and Suen's method
       (as `foveal.kernels.thinning.thin_keeping_diagonals` amends it) and traced; pixels of a junction are
       one node.
    2. An edge with a free end is an artefact of thinning, and is removed, if it is not longer than
       `spur_factor` times the largest half-width (and half a pixel) along it, a ripple of a vessel's wall,
       or twice that if both its ends are free, a speck. So is a closed edge not longer than the circle
       inscribed at its node. Two edges left at a node become one.
    3. Two nodes are one if the edge between them is not longer than `merge_factor` times the half-width at
       the wider of them. Two vessels that cross at an acute angle share a longer stretch, between two
       branch points: these are one crossing if the four vessels around the stretch pair up into two that
       bend by less than 30 degrees, and the stretch is at most 6 half-widths long; or at most 16, where the
       lines that join each pair meet at three quarters or more of the angle at which the vessels part. (The
       shape of two branchings in a row less than about 4 widths apart is too much like it to be told from
       it.) Steps 2 and 3 repeat until nothing changes.
    4. Each free end is led straight on to the end of its vessel, from which thinning stays away.
    5. Each path is smoothed by a Gaussian of the vessel's half-width (at least `smoothing` pixels), which
       takes the pixel staircase away and leaves the ends in place.

    Half-widths come from the exact Euclidean distance to the background; widths from integrating the mask
    across the smoothed centre line (`foveal.kernels.paths.width_across`), whose mean over a bar is the bar's
    width at every angle, which twice the distance is not.

    Args:
        mask: (H, W) bool, True on vessels.
        hole_area: in pixels; 0 keeps every hole.
        spur_factor: 0 or more; 0 keeps every spur.
        merge_factor: 0 or more; 0 keeps every branch point apart, also those of a crossing.
        smoothing: least standard deviation of the Gaussian, in pixels along the path.

    Returns:
        The graph; without nodes and edges for an empty mask.

    Raises:
        ValueError: `mask` is not a two-dimensional bool array, or an option is negative.

    Source:
        T. Y. Zhang and C. Y. Suen, "A fast parallel algorithm for thinning digital patterns", 1984.
    """
    _check(mask, hole_area=hole_area, spur_factor=spur_factor, merge_factor=merge_factor, smoothing=smoothing)
    top, left, cropped = _bounding_box(mask)
    orientation = standard_orientation(cropped)
    turned = np.ascontiguousarray(orientation.apply(cropped))
    solid = fill_holes(turned, hole_area)
    distance = BackgroundDistance(solid)

    trace = trace_skeleton(thin_keeping_diagonals(solid))
    traced = Paths(*trace, half_widths=half_widths(distance, trace.points))
    simple = simplify(distance, traced, spur_factor=spur_factor, merge_factor=merge_factor)
    paths, radii = restore_ends(solid, distance, simple)
    nodes, edges, offsets, points = paths.nodes, paths.edges, paths.offsets, paths.points
    widths = np.zeros(0)
    degree = np.bincount(edges.ravel(), minlength=len(nodes))
    if len(edges):
        half_width = half_widths(distance, points)
        reach = _node_reach(points, offsets, edges, np.where(degree == 2, -np.inf, radii))
        sigma = np.maximum(smoothing, sum_by_path(half_width, offsets) / np.diff(offsets))
        rings = (edges[:, 0] == edges[:, 1]) & (degree[edges[:, 0]] == 2)
        points = smooth_paths(points, offsets, sigma, rings)
        nodes[edges[rings, 0]] = points[offsets[:-1][rings]]
        clear = distance.at(np.clip(np.rint(points), 0, np.array(solid.shape) - 1))
        widths = width_across(solid, points, path_normals(points, offsets), 2 * half_width + 2, clear=clear)
        widths[_near_nodes(points, offsets, reach)] = np.nan

    kept = degree > 0
    number = np.cumsum(kept) - 1
    corner = np.array([top, left], np.float64)
    return VesselGraph(
        shape=(mask.shape[0], mask.shape[1]),
        nodes=orientation.undo_points(nodes[kept], turned.shape) + corner,
        kinds=np.minimum(degree[kept], NodeKind.CROSSING).astype(np.uint8),
        radii=radii[kept],
        edges=number[edges],
        offsets=offsets,
        points=orientation.undo_points(points, turned.shape) + corner,
        widths=widths,
    )


def _check(mask: np.ndarray, **options: float) -> None:
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != bool:
        found = f"{getattr(mask, 'dtype', type(mask).__name__)} of shape {np.shape(mask)}"
        raise ValueError(f"mask must be a bool array (H, W), got {found}; threshold it first, e.g. mask > 0")
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")


def _bounding_box(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, mask[:0, :0]
    top, left = int(rows[0]), int(columns[0])
    return top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1]


def path_normals(points: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(P, 2) unit vectors across each path, from central differences over two points to each side."""
    lengths, here = np.diff(offsets), np.arange(len(points))
    before = np.maximum(here - 2, np.repeat(offsets[:-1], lengths))
    after = np.minimum(here + 2, np.repeat(offsets[1:] - 1, lengths))
    tangents = points[after] - points[before]
    norm = np.maximum(np.hypot(tangents[:, 0], tangents[:, 1]), 1e-9)
    return np.stack([-tangents[:, 1], tangents[:, 0]], axis=1) / norm[:, None]


def _node_reach(points: np.ndarray, offsets: np.ndarray, edges: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(E, 2) how far from each end of a path the vessel is not alone: the node's radius, and the way to the
    first pixel, which at a crossing is half of the stretch that two vessels share."""
    first = points[offsets[:-1] + 1] - points[offsets[:-1]]
    last = points[offsets[1:] - 1] - points[offsets[1:] - 2]
    return radii[edges] + np.stack([np.hypot(*first.T), np.hypot(*last.T)], axis=1)


def _near_nodes(points: np.ndarray, offsets: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """(P,) bool: is a point within the (E, 2) reach of the first or the last point of its path?"""
    lengths = np.diff(offsets)
    near = np.zeros(len(points), bool)
    for end, far in zip((points[offsets[:-1]], points[offsets[1:] - 1]), reach.T, strict=True):
        offset = points - np.repeat(end, lengths, axis=0)
        near |= np.hypot(offset[:, 0], offset[:, 1]) <= np.repeat(far, lengths)
    return near
