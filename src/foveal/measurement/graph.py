"""From a vessel mask to the graph of its centre lines: nodes, ordered sub-pixel paths, lengths and widths."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.morphology import skeletonize

from foveal.kernels.distance import distance_to_background
from foveal.kernels.paths import join_paths, smooth_paths, width_across
from foveal.kernels.skeleton import trace_skeleton
from foveal.measurement.orientation import standard_orientation


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
        widths: (P,) float64 local vessel width in pixels; NaN inside a node's disc, where vessels merge or end.
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
        """(E,) float64 mean width of each edge, in pixels; NaN where the discs of its nodes cover it whole."""
        known = np.isfinite(self.widths)
        count = _sum_by_edge(known.astype(np.float64), self.offsets)
        total = _sum_by_edge(np.where(known, self.widths, 0.0), self.offsets)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    @cached_property
    def spans(self) -> np.ndarray:
        """(P,) float64 length of centre line that each point stands for, in pixels; they sum to all arcs."""
        step = _steps(self.points, self.offsets, (1.0, 1.0))
        return 0.5 * (step + np.append(0.0, step[:-1]))

    def arc_lengths(self, spacing: tuple[float, float]) -> np.ndarray:
        """(E,) length of each edge where a pixel is `spacing` (height, width) large, in the spacing's unit."""
        return _sum_by_edge(_steps(self.points, self.offsets, spacing), self.offsets)


def vessel_graph(
    mask: np.ndarray, *, spur_factor: float = 2.0, merge_factor: float = 1.0, smoothing: float = 2.0
) -> VesselGraph:
    """Build the graph of a vessel mask.

    1. The mask, cropped and turned to its standard position (so that the result does not depend on how the
       photograph lies), is thinned by Zhang and Suen's method and traced; pixels of a junction are one node.
    2. An edge with a free end is an artefact of thinning, and is removed, if it is not longer than
       `spur_factor` times the largest half-width along it: a ripple of a vessel's wall, a speck. So is a closed
       edge that is not longer than the circle inscribed at its node. Two edges left at a node become one.
    3. Two nodes are one if the edge between them is not longer than `merge_factor` times the half-width at the
       wider of them. Two vessels that cross are thinned into two junctions a step apart; this makes one
       crossing of them. Steps 2 and 3 repeat until nothing changes.
    4. Each path is smoothed by a Gaussian of the vessel's half-width (at least `smoothing` pixels), which
       takes the pixel staircase away and leaves the ends in place.

    Half-widths come from the exact Euclidean distance to the background; widths from integrating the mask
    across the smoothed centre line (`foveal.kernels.paths.width_across`), whose mean over a bar is the bar's
    width at every angle, which twice the distance is not.

    Args:
        mask: (H, W) bool, True on vessels.
        spur_factor: 0 or more; 0 keeps every spur.
        merge_factor: 0 or more; 0 keeps every junction apart.
        smoothing: least standard deviation of the Gaussian, in pixels along the path.

    Returns:
        The graph; without nodes and edges for an empty mask.

    Raises:
        ValueError: `mask` is not a two-dimensional bool array, or an option is negative.

    Source:
        T. Y. Zhang and C. Y. Suen, "A fast parallel algorithm for thinning digital patterns", 1984.
    """
    _check(mask, spur_factor=spur_factor, merge_factor=merge_factor, smoothing=smoothing)
    top, left, cropped = _bounding_box(mask)
    orientation = standard_orientation(cropped)
    turned = np.ascontiguousarray(orientation.apply(cropped))

    trace = trace_skeleton(skeletonize(turned))
    nodes, edges, offsets, points = _simplified(turned, trace, spur_factor, merge_factor)
    half_width = _half_widths(turned, points)
    radii = _half_widths(turned, nodes)
    if len(edges):
        sigma = np.maximum(smoothing, _sum_by_edge(half_width, offsets) / np.diff(offsets))
        closed = (edges[:, 0] == edges[:, 1]) & (np.bincount(edges.ravel())[edges[:, 0]] == 2)
        points = smooth_paths(points, offsets, sigma, closed)
        nodes[edges[closed, 0]] = points[offsets[:-1][closed]]
    widths = _widths(turned, points, offsets, edges, nodes, radii, half_width)

    degree = np.bincount(edges.ravel(), minlength=len(nodes))
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


Paths = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # nodes, edges, offsets, points


def _simplified(mask: np.ndarray, paths: Paths, spur_factor: float, merge_factor: float) -> Paths:
    """Steps 2 and 3 of `vessel_graph`, until nothing changes. Nodes keep their numbers."""
    nodes, edges, offsets, points = paths
    while len(edges):
        before = len(edges)
        arcs = _sum_by_edge(_steps(points, offsets, (1.0, 1.0)), offsets)
        half_width = np.maximum.reduceat(_half_widths(mask, points), offsets[:-1])
        degree = np.bincount(edges.ravel(), minlength=len(nodes))
        free = (degree[edges] == 1).any(axis=1)
        closed = edges[:, 0] == edges[:, 1]
        radii = _half_widths(mask, nodes)[edges].max(axis=1)
        artefact = (free & (arcs <= spur_factor * half_width)) | (closed & (arcs <= 2 * np.pi * radii))
        edges, offsets, points = _without(artefact, edges, offsets, points)
        edges, offsets, points = _joined(edges, offsets, points)

        if len(edges) == before:
            arcs = _sum_by_edge(_steps(points, offsets, (1.0, 1.0)), offsets)
            degree = np.bincount(edges.ravel(), minlength=len(nodes))
            inner = (degree[edges] > 2).all(axis=1) & (edges[:, 0] != edges[:, 1])
            merge = inner & (arcs <= merge_factor * _half_widths(mask, nodes)[edges].max(axis=1))
            if not merge.any():
                break
            nodes, edges, offsets, points = _merged(merge, nodes, edges, offsets, points)
            edges, offsets, points = _joined(edges, offsets, points)
    return nodes, edges, offsets, points


def _without(
    dropped: np.ndarray, edges: np.ndarray, offsets: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = np.diff(offsets)
    kept = ~dropped
    return (
        edges[kept],
        np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64),
        points[np.repeat(kept, lengths)],
    )


def _joined(
    edges: np.ndarray, offsets: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    edges, offsets, positions = join_paths(edges, offsets)
    return edges, offsets, points[positions]


def _merged(
    merge: np.ndarray, nodes: np.ndarray, edges: np.ndarray, offsets: np.ndarray, points: np.ndarray
) -> Paths:
    """Shrink the marked edges to one node each, at the mean of their nodes; other paths grow to reach it."""
    links = coo_array((np.ones(merge.sum()), tuple(edges[merge].T)), shape=(len(nodes), len(nodes)))
    groups, group = connected_components(links, directed=False)
    size = np.bincount(group, minlength=groups)
    centres = np.stack([np.bincount(group, nodes[:, axis], groups) / size for axis in range(2)], axis=1)
    edges, offsets, points = _without(merge, edges, offsets, points)
    moved = size[group][edges] > 1
    edges = group[edges]
    # A path whose node moved gets the new centre before its first, or behind its last, point.
    place = np.concatenate([offsets[:-1][moved[:, 0]], offsets[1:][moved[:, 1]]])
    value = np.concatenate([centres[edges[moved[:, 0], 0]], centres[edges[moved[:, 1], 1]]])
    order = np.concatenate([2 * np.flatnonzero(moved[:, 0]), 2 * np.flatnonzero(moved[:, 1]) + 1])
    sorting = np.argsort(order)
    points = np.insert(points, place[sorting], value[sorting], axis=0)
    lengths = np.diff(offsets) + moved.sum(axis=1)
    return centres, edges, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), points


def _widths(
    mask: np.ndarray,
    points: np.ndarray,
    offsets: np.ndarray,
    edges: np.ndarray,
    nodes: np.ndarray,
    radii: np.ndarray,
    half_width: np.ndarray,
) -> np.ndarray:
    """Width across each point, NaN inside the discs of the nodes at its edge's ends."""
    if not len(edges):
        return np.zeros(0)
    lengths = np.diff(offsets)
    here = np.arange(len(points))
    window = 2
    before = np.maximum(here - window, np.repeat(offsets[:-1], lengths))
    after = np.minimum(here + window, np.repeat(offsets[1:] - 1, lengths))
    tangents = points[after] - points[before]
    norm = np.hypot(tangents[:, 0], tangents[:, 1])
    normals = np.stack([-tangents[:, 1], tangents[:, 0]], axis=1) / np.maximum(norm, 1e-9)[:, None]
    widths = width_across(mask, points, normals, 2 * half_width + 2)
    ring = (edges[:, 0] == edges[:, 1]) & (np.bincount(edges.ravel())[edges[:, 0]] == 2)
    for node in edges.T:
        offset = points - np.repeat(nodes[node], lengths, axis=0)
        near = np.hypot(offset[:, 0], offset[:, 1]) <= np.repeat(radii[node], lengths)
        widths[near & ~np.repeat(ring, lengths)] = np.nan
    return widths


def _half_widths(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance from points to the wall: half a pixel less than to the centre of the next background pixel."""
    if not mask.size:
        return np.zeros(len(points))
    return np.maximum(distance_to_background(mask, np.rint(points)) - 0.5, 0.0)


def _steps(points: np.ndarray, offsets: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """(P,) distance from each point to the next of its path; 0 at the last."""
    step = np.zeros(len(points))
    difference = np.diff(points, axis=0) * np.asarray(spacing)
    step[:-1] = np.hypot(difference[:, 0], difference[:, 1])
    step[offsets[1:] - 1] = 0.0
    return step


def _sum_by_edge(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, offsets[:-1]) if len(offsets) > 1 else np.zeros(0)
