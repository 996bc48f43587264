"""From a traced skeleton to vessels: rules for spurs, loops, split junctions, crossings and free ends."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foveal.kernels.distance import BackgroundDistance
from foveal.kernels.ends import restore_path_ends
from foveal.kernels.paths import join_paths

CROSSING_REACH = 6.0  # longest shared stretch of two crossing vessels, in half-widths
CROSSING_BEND = 30.0  # degrees that a vessel may bend where it crosses another
SHALLOW_REACH = 16.0  # longest shared stretch, in half-widths, where the vessels lie on two lines across it
SHALLOW_SHARE = 0.75  # least angle between these lines, as a share of that between the vessels at a node


@dataclass(frozen=True)
class Paths:
    """Nodes and the paths between them, in pixels; see `foveal.kernels.skeleton.SkeletonTrace`.

    Beside the arrays of a trace it holds the (P,) `half_widths` of the vessel at the points.
    """

    nodes: np.ndarray
    edges: np.ndarray
    offsets: np.ndarray
    points: np.ndarray
    half_widths: np.ndarray

    @cached_property
    def degrees(self) -> np.ndarray:
        """(N,) number of edge ends at each node."""
        return np.bincount(self.edges.ravel(), minlength=len(self.nodes))

    @cached_property
    def arcs(self) -> np.ndarray:
        """(E,) length of each path."""
        return sum_by_path(steps(self.points, self.offsets), self.offsets)


def steps(points: np.ndarray, offsets: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """(P,) distance from each point to the next one of its path; 0 at the last."""
    step = np.zeros(len(points))
    difference = np.diff(points, axis=0) * np.asarray(spacing)
    step[:-1] = np.hypot(difference[:, 0], difference[:, 1])
    step[offsets[1:] - 1] = 0.0
    return step


def sum_by_path(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(E,) sum of (P,) values over each path."""
    return np.add.reduceat(values, offsets[:-1]) if len(offsets) > 1 else np.zeros(0)


def half_widths(distance: BackgroundDistance, points: np.ndarray) -> np.ndarray:
    """(P,) distance from points to the wall: half a pixel less than to the next background pixel's centre."""
    return np.maximum(distance.at(np.rint(points)) - 0.5, 0.0)


def simplify(distance: BackgroundDistance, paths: Paths, *, spur_factor: float, merge_factor: float) -> Paths:
    """Apply the rules for spurs, loops, junctions and crossings of `foveal.measurement.graph.vessel_graph`.

    Args:
        distance: that to the background of the mask that was thinned.
        paths: the traced skeleton.
        spur_factor: spurs up to this many half-widths are artefacts.
        merge_factor: junctions up to this many half-widths apart are one.

    Returns:
        What is left; nodes without an edge may be among its nodes.
    """
    joined = False  # a trace is not: where a ripple of a wall was cut off, two edges may meet at a node
    while len(paths.edges):
        before = len(paths.edges)
        artefacts = _artefacts(distance, paths, spur_factor)
        if artefacts.any() or not joined:
            paths, joined = _joined(_without(paths, artefacts)), True
        if len(paths.edges) == before:
            merge = _split_nodes(distance, paths, merge_factor)
            if not merge.any():
                break
            paths = _joined(_merged(distance, paths, merge))
    return paths


def restore_ends(mask: np.ndarray, distance: BackgroundDistance, paths: Paths) -> tuple[Paths, np.ndarray]:
    """Lead every free end straight on to the end of its vessel, as `foveal.kernels.ends.restore_path_ends`.

    Args:
        mask: (H, W) bool, the mask that was thinned.
        distance: that to its background.
        paths: the simplified skeleton.

    Returns:
        The paths, and the (N,) half-width at each node, which at an end is that of the vessel before it.
    """
    edges = paths.edges
    nodes, radii = paths.nodes.copy(), half_widths(distance, paths.nodes)
    free = paths.degrees[edges] == 1
    points, offsets, width = restore_path_ends(mask, paths.points, paths.offsets, paths.half_widths, free)
    ends = np.stack([offsets[:-1], offsets[1:] - 1], axis=1)[free]
    nodes[edges[free]], radii[edges[free]] = points[ends], width[ends]
    return Paths(nodes, edges, offsets, points, width), radii


def _artefacts(distance: BackgroundDistance, paths: Paths, spur_factor: float) -> np.ndarray:
    """(E,) bool: spurs and specks, and closed paths within the circle inscribed at their node."""
    edges, arcs = paths.edges, paths.arcs
    widest = np.maximum.reduceat(paths.half_widths, paths.offsets[:-1])
    free_ends = (paths.degrees[edges] == 1).sum(axis=1)  # a speck, which has two, is held to twice the length
    closed = edges[:, 0] == edges[:, 1]
    circle = 2 * np.pi * half_widths(distance, paths.nodes)[edges[:, 0]]
    spurs = (free_ends > 0) & (arcs <= free_ends * spur_factor * (widest + 0.5))
    return spurs | (closed & (arcs <= circle))


def _split_nodes(distance: BackgroundDistance, paths: Paths, merge_factor: float) -> np.ndarray:
    """(E,) bool: edges whose two nodes are one junction, or one crossing."""
    edges, arcs, degrees = paths.edges, paths.arcs, paths.degrees
    radius = half_widths(distance, paths.nodes)[edges].max(axis=1)
    inner = (degrees[edges] > 2).all(axis=1) & (edges[:, 0] != edges[:, 1])
    merge = inner & (arcs <= merge_factor * radius)
    if merge_factor == 0 or merge.any():
        return merge
    candidate = np.flatnonzero(inner & (degrees[edges] == 3).all(axis=1) & (arcs <= SHALLOW_REACH * radius))
    crossing = candidate[_is_crossing(paths, candidate, radius[candidate])]
    # A junction belongs to one crossing at most: the one with the shortest shared stretch.
    rank = np.empty(len(crossing), np.int64)
    rank[np.argsort(arcs[crossing], kind="stable")] = np.arange(len(crossing))
    best = np.full(len(paths.nodes), len(crossing))
    np.minimum.at(best, edges[crossing].ravel(), np.repeat(rank, 2))
    merge[crossing[(best[edges[crossing]] == rank[:, None]).all(axis=1)]] = True
    return merge


def _is_crossing(paths: Paths, candidates: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """(C,) bool: do the four paths around an edge pair up, across it, into two that run straight on?"""
    edges, offsets, points = paths.edges, paths.offsets, paths.points
    ends = edges.ravel()  # end 2 e is the first point of path e, end 2 e + 1 its last
    by_node = np.argsort(ends, kind="stable")
    first = np.searchsorted(ends[by_node], edges[candidates])  # (C, 2)
    around = by_node[first[:, :, None] + np.arange(3)]  # (C, 2, 3) ends at both nodes, all of degree three
    other = around >> 1 != candidates[:, None, None]
    single = (other.sum(axis=2) == 2).all(axis=1)  # not where a second edge joins the same two nodes
    arms = np.zeros((len(candidates), 2, 2), np.int64)
    arms[single] = around[single][other[single]].reshape(-1, 2, 2)

    def along(distance: np.ndarray) -> np.ndarray:
        """Points this far from the node along each arm."""
        path = arms >> 1
        ahead = np.minimum(np.ceil(distance).astype(np.int64)[:, None, None], np.diff(offsets)[path] - 1)
        return points[np.where(arms & 1, offsets[path + 1] - 1 - ahead, offsets[path] + ahead)]

    near = along(radius)
    direction = _unit(along(3 * radius + 5) - near)
    cosine = np.einsum("cix,cjx->cij", direction[:, 0], direction[:, 1])
    straight = cosine <= -np.cos(np.deg2rad(CROSSING_BEND))
    pairs = np.stack([straight[:, 0, 0] & straight[:, 1, 1], straight[:, 0, 1] & straight[:, 1, 0]], axis=1)

    # Vessels that share a longer stretch cross only if each runs on along one line: the lines from one side
    # to the other then meet at the angle of the vessels. Between two branchings they meet at a smaller one.
    far = along(6 * radius + 10)
    direction = _unit(far - near)
    apart = _angle(direction[:, :, 0], direction[:, :, 1]).max(axis=1)
    middle = (near + far) / 2
    lines = [_unit(middle[:, 1, order] - middle[:, 0]) for order in ([0, 1], [1, 0])]
    between = np.stack([_angle(line[:, 0], line[:, 1]) for line in lines], axis=1)
    short = paths.arcs[candidates] <= CROSSING_REACH * radius
    return single & (pairs & (short[:, None] | (between >= SHALLOW_SHARE * apart[:, None]))).any(axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(..., 2) vectors of length one; of length zero where they were."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(...,) angle between (..., 2) unit vectors, in radians."""
    return np.arccos(np.clip((first * second).sum(axis=-1), -1.0, 1.0))


def _without(paths: Paths, dropped: np.ndarray) -> Paths:
    lengths = np.diff(paths.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths[~dropped])]).astype(np.int64)
    kept = np.repeat(~dropped, lengths)
    return Paths(paths.nodes, paths.edges[~dropped], offsets, paths.points[kept], paths.half_widths[kept])


def _joined(paths: Paths) -> Paths:
    edges, offsets, positions = join_paths(paths.edges, paths.offsets)
    return Paths(paths.nodes, edges, offsets, paths.points[positions], paths.half_widths[positions])


def _merged(distance: BackgroundDistance, paths: Paths, merge: np.ndarray) -> Paths:
    """Shrink the marked edges to one node each, at the mean of their nodes; other paths grow to reach it."""
    count = len(paths.nodes)
    links = coo_array((np.ones(merge.sum()), tuple(paths.edges[merge].T)), shape=(count, count))
    groups, group = connected_components(links, directed=False)
    size = np.bincount(group, minlength=groups)
    centres = np.stack([np.bincount(group, axis, groups) / size for axis in paths.nodes.T], axis=1)
    rest = _without(paths, merge)
    moved = size[group][rest.edges] > 1
    edges = group[rest.edges]
    # A path whose node moved gets the new centre before its first, or behind its last, point. Positions
    # ascend along the list, the end of one path before the start of the next.
    place = np.stack([rest.offsets[:-1], rest.offsets[1:]], axis=1)[moved]
    new = centres[edges[moved]]
    lengths = np.diff(rest.offsets) + moved.sum(axis=1)
    return Paths(
        nodes=centres,
        edges=edges,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        points=np.insert(rest.points, place, new, axis=0),
        half_widths=np.insert(rest.half_widths, place, half_widths(distance, new)),
    )
