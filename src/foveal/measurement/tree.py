"""The vessel graph as trees: from the optic disc outwards, with parents, daughters and whole vessels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra

from foveal.kernels.bending import end_directions
from foveal.measurement.graph import NodeKind, VesselGraph
from foveal.measurement.landmarks import Disc

ROOT_REACH = 1.25  # of the disc's radius: free ends this near to its centre are where vessels begin
CROSSING_BEND = 45.0  # degrees that a vessel may bend where it crosses another
DIRECTION_SKIP = 2.5  # half-widths of a junction that are left out of the direction of its arms
DIRECTION_WIDTHS, DIRECTION_LEAST = 6.0, 15.0  # widths, and at least pixels, that it is fitted over
CONTINUATION_BEND = 60.0  # degrees that a vessel may bend where a branch leaves it


@dataclass(frozen=True)
class Bifurcations:
    """Where one vessel becomes two.

    Attributes:
        nodes: (B,) node of the graph.
        parents: (B,) edge that leads there from the root.
        daughters: (B, 2) edges that leave.
        angles: (B,) angle between the daughters in degrees, 0 to 180.
    """

    nodes: np.ndarray
    parents: np.ndarray
    daughters: np.ndarray
    angles: np.ndarray


@dataclass(frozen=True)
class VesselTree:
    """A vessel graph with the direction of flow away from its roots; see `root_graph`.

    An end is numbered 2 e for the first and 2 e + 1 for the last point of edge e.

    Attributes:
        graph: what was rooted.
        joints: (2 E,) the junction at each end. Equal to the graph's nodes, but for crossings, of which each
            of the vessels that pass has a joint of its own.
        roots: numbers of the nodes where trees begin.
        near: (E,) 0 or 1: the end of each edge that is nearer to the root.
        parents: (E,) edge through which an edge is reached from its root; -1 where it begins at the root.
        directions: (2 E, 2) unit vectors (row, column) along the edge away from each end.
    """

    graph: VesselGraph
    joints: np.ndarray
    roots: np.ndarray
    near: np.ndarray
    parents: np.ndarray
    directions: np.ndarray

    @cached_property
    def bifurcations(self) -> Bifurcations:
        """Joints where one edge arrives from the root and two leave."""
        edges = np.arange(len(self.near))
        leaving, arriving = 2 * edges + self.near, 2 * edges + 1 - self.near
        number = int(self.joints.max()) + 1 if len(self.joints) else 0
        out = np.bincount(self.joints[leaving], minlength=number)
        into = np.bincount(self.joints[arriving], minlength=number)
        forks = (out == 2) & (into == 1)
        from_fork = leaving[forks[self.joints[leaving]]]
        from_fork = from_fork[np.argsort(self.joints[from_fork], kind="stable")].reshape(-1, 2)
        parent = np.full(number, -1)
        parent[self.joints[arriving]] = edges
        first, second = self.directions[from_fork[:, 0]], self.directions[from_fork[:, 1]]
        cosine = np.clip((first * second).sum(axis=1), -1.0, 1.0)
        ends = self.graph.edges.ravel()
        return Bifurcations(
            nodes=ends[from_fork[:, 0]],
            parents=parent[self.joints[from_fork[:, 0]]],
            daughters=from_fork >> 1,
            angles=np.degrees(np.arccos(cosine)),
        )

    @cached_property
    def vessels(self) -> np.ndarray:
        """(E,) number of the whole vessel that each edge belongs to.

        From edge to edge a vessel goes on, through crossings and past its branches, into the daughter with
        the largest product of width and cosine of the bend, if it bends by at most 60 degrees.
        """
        children = np.flatnonzero(self.parents >= 0)
        parents = self.parents[children]
        arrival = self.directions[2 * parents + 1 - self.near[parents]]
        cosine = -(arrival * self.directions[2 * children + self.near[children]]).sum(axis=1)
        width = np.nan_to_num(self.graph.edge_widths[children], nan=0.0)
        score = np.where(cosine >= np.cos(np.deg2rad(CONTINUATION_BEND)), (width + 1e-3) * cosine, -1.0)
        order = np.lexsort((children, -score, parents))
        best = order[np.append(True, np.diff(parents[order]) > 0)] if len(order) else order
        best = best[score[best] > 0]
        count = len(self.near)
        links = coo_array((np.ones(len(best)), (parents[best], children[best])), shape=(count, count))
        return connected_components(links, directed=False)[1].astype(np.int64)

    @cached_property
    def vessel_spans(self) -> tuple[np.ndarray, np.ndarray]:
        """(V,) arc and chord of each whole vessel in pixels, the chord from its first to its last point."""
        graph, vessels = self.graph, self.vessels
        count = int(vessels.max()) + 1 if len(vessels) else 0
        arcs = np.bincount(vessels, graph.arcs, count)
        edges = np.arange(len(vessels))
        ends = np.stack([graph.points[graph.offsets[:-1]], graph.points[graph.offsets[1:] - 1]], axis=1)
        heads = (self.parents < 0) | (vessels[self.parents] != vessels)
        tails = np.ones(len(vessels), bool)
        tails[self.parents[~heads]] = False
        begin, end = np.zeros((count, 2)), np.zeros((count, 2))
        begin[vessels[heads]] = ends[edges[heads], self.near[heads]]
        end[vessels[tails]] = ends[edges[tails], 1 - self.near[tails]]
        return arcs, np.hypot(*(end - begin).T)


def root_graph(graph: VesselGraph, disc: Disc | None = None) -> VesselTree:
    """Direct a vessel graph from the optic disc outwards.

    1. At a crossing the ends that meet are paired, straightest first, as long as they bend by at most 45
       degrees; with two pairs or more each pair is a vessel of its own, and an end that is left over branches
       off the straightest pair.
    2. Vessels begin at the free ends within 1.25 radii of the disc's centre. A connected part without any
       begins at its free end nearest to the disc, and without a disc at the free end of its widest edge,
       since vessels taper (a part without free ends at such a node). That is a guess: of a fork with three
       equal arms any may be taken for the trunk.
    3. Along shortest paths from there, the parent of an edge is the edge by which the nearer of its ends is
       reached. This also directs the loops of a map in which arteries and veins touch.

    The direction of an end is that of a line fitted to the centre line from 2.5 half-widths of the junction
    on, over six widths or at least 15 pixels: nearer to it the centre lines of two vessels that are still
    one bend into one another.

    Args:
        graph: of `vessel_graph`; with a disc, of the vessels outside of it.
        disc: the optic disc, where it is known.

    Returns:
        The directed graph.
    """
    edges = graph.edges
    width = np.nan_to_num(graph.edge_widths, nan=0.0)
    skip = DIRECTION_SKIP * graph.radii[edges]
    reach = np.repeat(np.maximum(DIRECTION_WIDTHS * width, DIRECTION_LEAST), 2).reshape(-1, 2)
    directions = end_directions(graph.points, graph.offsets, skip, reach).reshape(-1, 2)
    joints = _pass_crossings(graph, directions)
    beginnings = _beginnings(graph, joints, disc)
    distance, arrival = _reach_from(graph, joints, np.unique(joints[beginnings]))
    near = (distance[joints[1::2]] < distance[joints[::2]]).astype(np.int64)
    parents = arrival[joints[2 * np.arange(len(edges)) + near]] if len(edges) else np.zeros(0, np.int64)
    return VesselTree(graph, joints, np.unique(edges.ravel()[beginnings]), near, parents, directions)


def _pass_crossings(graph: VesselGraph, directions: np.ndarray) -> np.ndarray:
    """(2 E,) joint of each end: the node, or for a vessel that passes a crossing a number of its own."""
    ends = graph.edges.ravel()
    joints = ends.copy()
    by_node = np.argsort(ends, kind="stable")
    start = np.searchsorted(ends[by_node], np.arange(len(graph.nodes) + 1))
    fresh = len(graph.nodes)
    straight = np.cos(np.deg2rad(CROSSING_BEND))
    for node in np.flatnonzero(graph.kinds == NodeKind.CROSSING):
        around = by_node[start[node] : start[node + 1]]
        first, second = np.triu_indices(len(around), 1)
        onward = -(directions[around[first]] * directions[around[second]]).sum(axis=1)
        pairs: list[tuple[int, int]] = []
        free = np.ones(len(around), bool)
        for pair in np.argsort(-onward, kind="stable"):
            a, b = int(first[pair]), int(second[pair])
            if onward[pair] >= straight and free[a] and free[b]:
                pairs.append((a, b))
                free[[a, b]] = False
        if len(pairs) < 2:
            continue
        for a, b in pairs[1:]:
            joints[around[[a, b]]] = fresh
            fresh += 1
    return joints


def _beginnings(graph: VesselGraph, joints: np.ndarray, disc: Disc | None) -> np.ndarray:
    """Ends at which trees begin, at least one for each connected part."""
    if not len(graph.edges):
        return np.zeros(0, np.int64)
    number = int(joints.max()) + 1
    links = coo_array((np.ones(len(graph.edges)), (joints[::2], joints[1::2])), shape=(number, number))
    part_of_joint = connected_components(links, directed=False)[1]
    ends = graph.edges.ravel()
    part = part_of_joint[joints]  # of each end; the parts of a crossing's node may be several
    free = graph.kinds[ends] == NodeKind.ENDPOINT
    if disc is None:
        rank = np.repeat(np.nan_to_num(graph.edge_widths, nan=0.0), 2)
        beginning = np.zeros(len(ends), bool)
    else:
        rank = -np.hypot(*(graph.nodes[ends] - disc.center).T)
        beginning = free & (-rank <= ROOT_REACH * disc.radius)
    served = np.zeros(number, bool)
    served[part[beginning]] = True
    order = np.lexsort((-rank, ~free, part))
    best = order[np.append(True, np.diff(part[order]) > 0)]
    return np.concatenate([np.flatnonzero(beginning), best[~served[part[best]]]])


def _reach_from(graph: VesselGraph, joints: np.ndarray, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each joint to its nearest source along the vessels, and the edge that arrives there."""
    number = int(joints.max()) + 1 if len(joints) else 0
    distance, arrival = np.full(number, np.inf), np.full(number, -1)
    if not len(sources):
        return distance, arrival
    pair = np.sort(joints.reshape(-1, 2), axis=1)
    open_edges = np.flatnonzero(pair[:, 0] != pair[:, 1])
    order = open_edges[np.lexsort((graph.arcs[open_edges], pair[open_edges, 1], pair[open_edges, 0]))]
    shortest = (
        order[np.append(True, (np.diff(pair[order], axis=0) != 0).any(axis=1))] if len(order) else order
    )
    low, high = pair[shortest].T
    weights = coo_array((graph.arcs[shortest], (low, high)), shape=(number, number)).tocsr()
    distance, before, _ = dijkstra(
        weights, directed=False, indices=sources, return_predecessors=True, min_only=True
    )
    reached = np.flatnonzero(before >= 0)
    key = np.minimum(before[reached], reached) * number + np.maximum(before[reached], reached)
    keys = low * number + high  # ascending, as `order` was
    arrival[reached] = shortest[np.searchsorted(keys, key)]
    return distance, arrival
