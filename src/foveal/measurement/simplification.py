"""From a traced skeleton to vessels: rules for spurs, loops, split junctions, crossings and free ends."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foveal.kernels.distance import distance_to_background
from foveal.kernels.paths import join_paths

CROSSING_REACH = 6.0  # longest shared stretch of two crossing vessels, in half-widths
CROSSING_BEND = 30.0  # degrees that a vessel may bend where it crosses another


class Paths(NamedTuple):
    """Nodes and the paths between them, in pixels; see `foveal.kernels.skeleton.SkeletonTrace`."""

    nodes: np.ndarray
    edges: np.ndarray
    offsets: np.ndarray
    points: np.ndarray

    @property
    def degrees(self) -> np.ndarray:
        """(N,) number of edge ends at each node."""
        return np.bincount(self.edges.ravel(), minlength=len(self.nodes))

    @property
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


def half_widths(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(P,) distance from points to the wall: half a pixel less than to the next background pixel's centre."""
    if not mask.size:
        return np.zeros(len(points))
    return np.maximum(distance_to_background(mask, np.rint(points)) - 0.5, 0.0)


def fill_holes(mask: np.ndarray, largest: int) -> np.ndarray:
    """Fill holes of at most this many pixels in an (H, W) mask; thinning would leave a ring around each."""
    labels = np.empty(mask.shape, np.intp)
    count = ndimage.label(~mask, output=labels)
    small = np.bincount(labels.ravel(), minlength=count + 1) <= largest
    small[0] = False
    for border in (labels[:1], labels[-1:], labels[:, :1], labels[:, -1:]):
        small[border] = False
    return mask | small[labels] if small.any() else mask


def simplify(mask: np.ndarray, paths: Paths, *, spur_factor: float, merge_factor: float) -> Paths:
    """Apply the rules for spurs, loops, junctions and crossings of `foveal.measurement.graph.vessel_graph`.

    Args:
        mask: (H, W) bool, the mask that was thinned.
        paths: the traced skeleton.
        spur_factor: spurs up to this many half-widths are artefacts.
        merge_factor: junctions up to this many half-widths apart are one.

    Returns:
        What is left; nodes without an edge may be among its nodes.
    """
    while len(paths.edges):
        before = paths
        paths = _joined(_without(paths, _artefacts(mask, paths, spur_factor)))
        if len(paths.edges) == len(before.edges):
            merge = _split_nodes(mask, paths, merge_factor)
            if not merge.any():
                break
            paths = _joined(_merged(paths, merge))
    return paths


def restore_ends(mask: np.ndarray, paths: Paths) -> tuple[Paths, np.ndarray]:
    """Lead every free end straight on to the end of its vessel.

    Thinning stops about a half-width before the end of a vessel and bends into one of its corners. The last
    half-width of each such path is replaced by its tangent, as far as the mask goes but not beyond three
    half-widths.

    Args:
        mask: (H, W) bool, the mask that was thinned.
        paths: the simplified skeleton.

    Returns:
        The paths, and the (N,) half-width at each node, which at an end is that of the vessel before it.
    """
    nodes, edges, offsets, points = paths
    nodes, radii = nodes.copy(), half_widths(mask, nodes)
    width = half_widths(mask, points)
    free = paths.degrees[edges] == 1
    pieces = []
    for edge, (first, last) in enumerate(pairwise(offsets)):
        path = points[first:last]
        if free[edge].any():
            path, radius = path.copy(), width[first:last]
            for end in (0, 1):
                path, radius = path[::-1], radius[::-1]
                if free[edge, 1 - end]:
                    path, radius = _restored(mask, path, radius)
                    nodes[edges[edge, 1 - end]], radii[edges[edge, 1 - end]] = path[0], radius[0]
        pieces.append(path)
    lengths = [len(path) for path in pieces]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Paths(nodes, edges, offsets, np.concatenate(pieces) if pieces else points), radii


def _restored(mask: np.ndarray, path: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace the first half-width of a path, which is free at its first point."""
    clear = np.flatnonzero(np.arange(len(path)) >= radius)
    if not len(clear) or clear[0] + 3 >= len(path):
        return path, radius
    start = int(clear[0])
    width = float(radius[start])
    behind = min(start + int(np.ceil(2 * width)) + 4, len(path) - 1)
    direction = path[start] - path[behind]
    norm = np.hypot(*direction)
    if norm == 0:
        return path, radius
    ahead = 0.25 * np.arange(1, int(4 * (3 * width + 2)))
    ray = path[start] + ahead[:, None] * direction / norm
    pixel = np.rint(ray).astype(np.int64)
    inside = ((pixel >= 0) & (pixel < mask.shape)).all(axis=1)
    inside[inside] = mask[tuple(pixel[inside].T)]
    far = len(ray) if inside.all() else int(np.argmin(inside))
    new = ray[:far][::-1][::4]  # a point each pixel, from the end of the vessel backwards
    return np.concatenate([new, path[start:]]), np.concatenate([np.full(len(new), width), radius[start:]])


def _artefacts(mask: np.ndarray, paths: Paths, spur_factor: float) -> np.ndarray:
    """(E,) bool: spurs and specks, and closed paths within the circle inscribed at their node."""
    edges, arcs = paths.edges, paths.arcs
    widest = np.maximum.reduceat(half_widths(mask, paths.points), paths.offsets[:-1])
    free = (paths.degrees[edges] == 1).any(axis=1)
    closed = edges[:, 0] == edges[:, 1]
    circle = 2 * np.pi * half_widths(mask, paths.nodes)[edges[:, 0]]
    return (free & (arcs <= spur_factor * (widest + 0.5))) | (closed & (arcs <= circle))


def _split_nodes(mask: np.ndarray, paths: Paths, merge_factor: float) -> np.ndarray:
    """(E,) bool: edges whose two nodes are one junction, or one crossing."""
    edges, arcs, degrees = paths.edges, paths.arcs, paths.degrees
    radius = half_widths(mask, paths.nodes)[edges].max(axis=1)
    inner = (degrees[edges] > 2).all(axis=1) & (edges[:, 0] != edges[:, 1])
    merge = inner & (arcs <= merge_factor * radius)
    if merge_factor == 0 or merge.any():
        return merge
    reach = CROSSING_REACH * radius
    candidate = np.flatnonzero(inner & (degrees[edges] == 3).all(axis=1) & (arcs <= reach))
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

    direction = along(3 * radius + 5) - along(radius)
    direction /= np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), 1e-9)
    cosine = np.einsum("cix,cjx->cij", direction[:, 0], direction[:, 1])
    straight = cosine <= -np.cos(np.deg2rad(CROSSING_BEND))
    pairs = (straight[:, 0, 0] & straight[:, 1, 1]) | (straight[:, 0, 1] & straight[:, 1, 0])
    return single & pairs


def _without(paths: Paths, dropped: np.ndarray) -> Paths:
    lengths = np.diff(paths.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths[~dropped])]).astype(np.int64)
    return Paths(paths.nodes, paths.edges[~dropped], offsets, paths.points[np.repeat(~dropped, lengths)])


def _joined(paths: Paths) -> Paths:
    edges, offsets, positions = join_paths(paths.edges, paths.offsets)
    return Paths(paths.nodes, edges, offsets, paths.points[positions])


def _merged(paths: Paths, merge: np.ndarray) -> Paths:
    """Shrink the marked edges to one node each, at the mean of their nodes; other paths grow to reach it."""
    count = len(paths.nodes)
    links = coo_array((np.ones(merge.sum()), tuple(paths.edges[merge].T)), shape=(count, count))
    groups, group = connected_components(links, directed=False)
    size = np.bincount(group, minlength=groups)
    centres = np.stack([np.bincount(group, axis, groups) / size for axis in paths.nodes.T], axis=1)
    _, edges, offsets, points = _without(paths, merge)
    moved = size[group][edges] > 1
    edges = group[edges]
    # A path whose node moved gets the new centre before its first, or behind its last, point. Positions
    # ascend along the list, the end of one path before the start of the next.
    place = np.stack([offsets[:-1], offsets[1:]], axis=1)[moved]
    points = np.insert(points, place, centres[edges[moved]], axis=0)
    lengths = np.diff(offsets) + moved.sum(axis=1)
    return Paths(centres, edges, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), points)
