"""Tracing of a one-pixel skeleton into nodes and ordered pixel paths.

Pixels are joined by mixed adjacency (Rosenfeld, "Connectivity in digital pictures", 1970): the four direct
neighbours always, a diagonal neighbour only where no direct neighbour links the two already. The corner of a
staircase is then no junction, which under plain 8-adjacency it would be.
"""

from typing import NamedTuple

import numpy as np

from foveal.kernels.compiled import compiled

# Direct neighbours first. Every trace follows this order.
_STEPS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
_OPPOSITE = (3, 2, 1, 0, 7, 6, 5, 4)
_BESIDE = ((0, 1), (0, 2), (3, 1), (3, 2))  # the two direct neighbours that each diagonal one lies between


class SkeletonTrace(NamedTuple):
    """Nodes and edges of a skeleton; edges in compressed rows (CSR).

    Attributes:
        nodes: (N, 2) float64 row and column; the centre of the pixels that make up the node. A closed curve
            without junction gets one node, at its first pixel in reading order.
        edges: (E, 2) int64 first and last node of each edge; equal for a closed one.
        offsets: (E + 1,) int64; the points of edge e are `points[offsets[e]:offsets[e + 1]]`.
        points: (P, 2) float64 row and column along the edges: the first node, the pixels, the last node.
    """

    nodes: np.ndarray
    edges: np.ndarray
    offsets: np.ndarray
    points: np.ndarray


def skeleton_degree(skeleton: np.ndarray) -> np.ndarray:
    """Number of neighbours of each skeleton pixel under mixed adjacency.

    Args:
        skeleton: (H, W) bool.

    Returns:
        (H, W) uint8; 0 off the skeleton and for a lone pixel, 1 at an end, 2 on a line, more at a junction.

    Raises:
        ValueError: `skeleton` is not two-dimensional.
    """
    _, _, _, degree = _adjacency(_validated(skeleton).view(np.uint8))
    result = np.zeros(skeleton.shape, np.uint8)
    result[skeleton.astype(bool)] = degree
    return result


def skeleton_degree_reference(skeleton: np.ndarray) -> np.ndarray:
    """The same by shifting the image; see `skeleton_degree`."""
    padded = np.pad(_validated(skeleton), 1)
    height, width = skeleton.shape

    def shifted(row: int, column: int) -> np.ndarray:
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    degree = np.zeros(skeleton.shape, np.uint8)
    for row, column in _STEPS:
        linked = (shifted(row, 0) | shifted(0, column)) if row and column else False
        degree += shifted(row, column) & ~np.asarray(linked)
    return degree * padded[1:-1, 1:-1]


def trace_skeleton(skeleton: np.ndarray) -> SkeletonTrace:
    """Trace a skeleton into its nodes and edges, in time linear in its pixels.

    Nodes are the pixels with a number of neighbours other than two; junction pixels that touch, at a side
    or a corner, are one node. Nodes are numbered in reading order of their first pixel, closed curves
    without junction last.

    Args:
        skeleton: (H, W) bool, one pixel wide.

    Returns:
        The trace. A lone pixel is a node without an edge.

    Raises:
        ValueError: `skeleton` is not two-dimensional.
    """
    return SkeletonTrace(*(part.copy() for part in _trace(*_adjacency(_validated(skeleton).view(np.uint8)))))


def trace_skeleton_reference(skeleton: np.ndarray) -> SkeletonTrace:
    """The same with dictionaries and sets, for small images; see `trace_skeleton`."""
    pixels = [(int(r), int(c)) for r, c in np.argwhere(_validated(skeleton))]
    present = set(pixels)
    around = {
        (r, c): [
            (r + i, c + j)
            for i, j in _STEPS
            if (r + i, c + j) in present and not (i and j and {(r + i, c), (r, c + j)} & present)
        ]
        for r, c in pixels
    }
    label: dict[tuple[int, int], int] = {}
    clusters: list[list[tuple[int, int]]] = []
    for pixel in pixels:
        if len(around[pixel]) == 2 or pixel in label:
            continue
        cluster = [pixel]
        label[pixel] = len(clusters)
        for r, c in cluster:
            for other in ((r + i, c + j) for i, j in _STEPS):
                if len(around.get(other, ())) > 2 < len(around[r, c]) and other not in label:
                    label[other] = len(clusters)
                    cluster.append(other)
        clusters.append(cluster)
    nodes = [tuple(np.mean(cluster, axis=0)) for cluster in clusters]

    edges, paths, visited = [], [], set()

    def walk(first: int, before: tuple[int, int], pixel: tuple[int, int]) -> None:
        path = [nodes[first]]
        while pixel not in label:
            visited.add(pixel)
            path.append(pixel)
            before, pixel = pixel, next(other for other in around[pixel] if other != before)
        edges.append((first, label[pixel]))
        paths.append([*path, nodes[label[pixel]]])

    for node, cluster in enumerate(clusters):
        for pixel in cluster:
            for other in around[pixel]:
                if (other not in label and other not in visited) or label.get(other, -1) > node:
                    walk(node, pixel, other)
    for pixel in pixels:
        if pixel not in label and pixel not in visited:
            label[pixel] = len(nodes)
            nodes.append(pixel)
            walk(label[pixel], pixel, around[pixel][0])
    return SkeletonTrace(
        np.array(nodes, np.float64).reshape(-1, 2),
        np.array(edges, np.int64).reshape(-1, 2),
        np.cumsum([0, *map(len, paths)]),
        np.array([point for path in paths for point in path], np.float64).reshape(-1, 2),
    )


def _validated(skeleton: np.ndarray) -> np.ndarray:
    if skeleton.ndim != 2:
        raise ValueError(f"skeleton must be two-dimensional (H, W), got shape {skeleton.shape}")
    return np.ascontiguousarray(skeleton, dtype=bool)


@compiled
def _adjacency(skeleton):  # type: ignore[no-untyped-def]
    """Of n pixels in reading order: (n, 2) positions; (n, 8) numbers of the pixels around, -1 for background;
    (n, 4) neighbours under mixed adjacency; (n,) their number."""
    height, width = skeleton.shape
    n = 0
    for row in range(height):
        for column in range(width):
            n += skeleton[row, column]
    positions = np.empty((n, 2), np.int64)
    around = np.full((n, 8), -1, np.int64)
    # Numbers of the pixels of the row above and of this row; an entry holds if it is that of its position.
    above, here = np.zeros(width + 2, np.int64), np.zeros(width + 2, np.int64)
    p = 0
    for row in range(height):
        for column in range(width):
            if not skeleton[row, column]:
                continue
            positions[p, 0], positions[p, 1] = row, column
            here[column + 1] = p
            for k in (0, 1, 4, 5):  # what lies before it in reading order
                i, j = row + _STEPS[k][0], column + _STEPS[k][1]
                if i >= 0 and 0 <= j < width and skeleton[i, j]:
                    q = here[j + 1] if i == row else above[j + 1]
                    around[p, k] = q
                    around[q, _OPPOSITE[k]] = p
            p += 1
        above, here = here, above

    neighbours = np.full((n, 4), -1, np.int64)
    degree = np.zeros(n, np.uint8)
    for p in range(n):
        for k in range(8):
            if around[p, k] < 0:
                continue
            linked = k > 3 and (around[p, _BESIDE[k - 4][0]] >= 0 or around[p, _BESIDE[k - 4][1]] >= 0)
            if not linked:
                neighbours[p, degree[p]] = around[p, k]
                degree[p] += 1
    return positions, around, neighbours, degree


@compiled
def _trace(positions, around, neighbours, degree):  # type: ignore[no-untyped-def]
    n = len(degree)
    # Nodes: members of node k are members[start[k]:start[k + 1]], breadth first.
    label = np.full(n, -1, np.int64)
    members = np.empty(n, np.int64)
    start = np.zeros(n + 1, np.int64)
    nodes = np.zeros((n, 2), np.float64)
    count, filled, contacts = 0, 0, 0
    for p in range(n):
        if degree[p] == 2 or label[p] >= 0:
            continue
        label[p] = count
        members[filled] = p
        done, filled = filled, filled + 1
        while done < filled:
            pixel = members[done]
            done += 1
            contacts += degree[pixel]
            nodes[count] += positions[pixel]
            if degree[pixel] < 3:
                continue
            for k in range(8):
                q = around[pixel, k]
                if q >= 0 and degree[q] > 2 and label[q] < 0:
                    label[q] = count
                    members[filled] = q
                    filled += 1
        nodes[count] /= filled - start[count]
        count += 1
        start[count] = filled

    # Edges: at most one for each contact of a node, and one for each closed curve (four pixels or more).
    most = contacts + n // 4 + 1
    edges = np.empty((most, 2), np.int64)
    offsets = np.zeros(most + 1, np.int64)
    points = np.empty((n + 2 * most, 2), np.float64)
    visited = np.zeros(n, np.bool_)
    traced, length = 0, 0
    clusters = count
    for task in range(clusters + n):
        if task < clusters:
            node, first, last = task, start[task], start[task + 1]
        else:
            p = task - clusters
            if label[p] >= 0 or visited[p]:
                continue
            node, first, last = count, filled, filled + 1
            label[p] = node
            nodes[node] = positions[p]
            members[filled] = p
            filled += 1
            count += 1
        for m in range(first, last):
            for k in range(degree[members[m]]):
                before, pixel = members[m], neighbours[members[m], k]
                if visited[pixel] or (0 <= label[pixel] <= node):
                    continue
                points[length] = nodes[node]
                length += 1
                while label[pixel] < 0:
                    visited[pixel] = True
                    points[length] = positions[pixel]
                    length += 1
                    onward = neighbours[pixel, 0] if neighbours[pixel, 0] != before else neighbours[pixel, 1]
                    before, pixel = pixel, onward
                end = label[pixel]
                points[length] = nodes[end]
                length += 1
                edges[traced, 0], edges[traced, 1] = node, end
                traced += 1
                offsets[traced] = length
    return nodes[:count], edges[:traced], offsets[: traced + 1], points[:length]
