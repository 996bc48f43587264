"""Operations on many polylines at once, in compressed rows: joining, smoothing, and widths across them."""

import numpy as np
from scipy import ndimage

from foveal.kernels.compiled import compiled

_TRUNCATE = 3.0  # the Gaussian ends here, in standard deviations
_STEP = 0.25  # sampling across a path, in pixels
# Furthest pixel that a sample reads, from the pixel nearest to the point: half a diagonal from that pixel to
# the point, and, beyond the way from the point to the sample, a diagonal from there to the pixel read.
_SAMPLE_REACH = 1.5 * 2**0.5 + 1e-6


def join_paths(edges: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the two edges at every node where exactly two meet, until no such node is left.

    A closed chain keeps one node: that of its first edge.

    Args:
        edges: (E, 2) int64 first and last node of each edge.
        offsets: (E + 1,) int64 extent of each edge's points; the points at both ends are the nodes.

    Returns:
        (F, 2) int64 edges; (F + 1,) int64 offsets; (Q,) int64 positions in the old list of points, so that
        `points[positions]` are the new points. Numbers of nodes are unchanged.
    """
    edges = np.ascontiguousarray(edges, dtype=np.int64).reshape(-1, 2)
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    # Half-edge 2 e leaves the first node of edge e, half-edge 2 e + 1 leaves its last node.
    leaving = np.argsort(edges.ravel(), kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(edges.ravel()))]).astype(np.int64)
    joined, extent, positions = _join(edges, offsets, leaving, start)
    return joined.copy(), extent.copy(), positions.copy()


def join_paths_reference(edges: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by joining two edges at a time, in any order and direction; see `join_paths`."""
    chains = [(int(a), int(b), list(range(*offsets[i : i + 2]))) for i, (a, b) in enumerate(edges)]
    while True:
        at: dict[int, list[int]] = {}
        for i, (a, b, _) in enumerate(chains):
            at.setdefault(a, []).append(i)
            at.setdefault(b, []).append(i)
        pair = next(((node, i) for node, i in at.items() if len(i) == 2 and i[0] != i[1]), None)
        if pair is None:
            break
        node, (i, j) = pair
        (a, b, head), (c, d, tail) = chains[i], chains[j]
        if b != node:
            a, head = b, head[::-1]
        if c != node:
            d, tail = c, tail[::-1]
        chains = [chain for k, chain in enumerate(chains) if k not in (i, j)] + [(a, d, head + tail[1:])]
    return (
        np.array([(a, b) for a, b, _ in chains], np.int64).reshape(-1, 2),
        np.cumsum([0, *(len(path) for _, _, path in chains)]),
        np.array([i for _, _, path in chains for i in path], np.int64),
    )


def smooth_paths(
    points: np.ndarray, offsets: np.ndarray, sigma: np.ndarray, closed: np.ndarray
) -> np.ndarray:
    """Gaussian smoothing of polylines along their points.

    An open path is continued by point reflection at its ends, so that the ends stay where they are and a
    straight line stays the same; the kernel is never wider than the path. A closed path is continued
    periodically.

    Args:
        points: (P, 2) float64.
        offsets: (E + 1,) int64; each path has two points or more.
        sigma: (E,) standard deviation of each path's kernel, in points; 0 or more.
        closed: (E,) bool; the first and the last point are the same, and the path has no end.

    Returns:
        (P, 2) float64 smoothed points.
    """
    return _smooth(
        np.ascontiguousarray(points, dtype=np.float64),
        np.ascontiguousarray(offsets, dtype=np.int64),
        np.ascontiguousarray(sigma, dtype=np.float64),
        np.ascontiguousarray(closed, dtype=np.bool_),
    )


def smooth_paths_reference(
    points: np.ndarray, offsets: np.ndarray, sigma: np.ndarray, closed: np.ndarray
) -> np.ndarray:
    """The same by padding and convolving each path; see `smooth_paths`."""
    result = np.array(points, np.float64)
    for low, high, width, is_closed in zip(offsets[:-1], offsets[1:], sigma, closed, strict=True):
        path = result[low:high]
        reach = min(int(_TRUNCATE * width + 0.5), len(path) - 1)
        if reach == 0:
            continue
        offset = np.arange(-reach, reach + 1)
        kernel = np.exp(-0.5 * (offset / width) ** 2)
        kernel /= kernel.sum()
        if is_closed:
            padded = np.pad(path[:-1], ((reach, reach + 1), (0, 0)), mode="wrap")
        else:
            padded = np.pad(path, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
        path[:] = np.stack([np.convolve(axis, kernel, mode="valid") for axis in padded.T], axis=1)
    return result


def width_across(
    mask: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    reach: np.ndarray,
    *,
    clear: np.ndarray | None = None,
) -> np.ndarray:
    """Width of a mask across a path: the integral of the interpolated mask along the normal.

    From the point outwards to both sides the mask, bilinearly interpolated, is integrated until it ends: at
    its first zero, or where it rises again after falling below one half (the next vessel), or at `reach`.
    Unlike a count of pixels, the mean of this integral along a straight bar is the bar's width at every
    angle.

    Args:
        mask: (H, W) bool; background outside.
        points: (P, 2) float64 row and column.
        normals: (P, 2) float64 unit vectors.
        reach: (P,) float64, how far to look to each side, in pixels.
        clear: (P,) float64 distance from the pixel nearest to each point to the next background pixel, where
            it is known; samples that must be on the mask are then not read, and the widths are the same.

    Returns:
        (P,) float64 widths in pixels; NaN where the point itself is not on the mask.
    """
    return _width_across(
        np.ascontiguousarray(mask, dtype=bool).view(np.uint8),
        np.ascontiguousarray(points, dtype=np.float64),
        np.ascontiguousarray(normals, dtype=np.float64),
        np.ascontiguousarray(reach, dtype=np.float64),
        np.zeros(len(points)) if clear is None else np.ascontiguousarray(clear, dtype=np.float64),
    )


def width_across_reference(
    mask: np.ndarray, points: np.ndarray, normals: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """The same from SciPy's interpolation of whole profiles; see `width_across`."""
    image = np.pad(mask.astype(np.float64), 1)
    widths = np.full(len(points), np.nan)
    for i, (point, normal, far) in enumerate(zip(points, normals, reach, strict=True)):
        total = 0.0
        for side in (-1.0, 1.0):
            along = side * _STEP * np.arange(int(far / _STEP) + 1)
            profile = ndimage.map_coordinates(image, (point + 1)[:, None] + normal[:, None] * along, order=1)
            fall = np.flatnonzero(((profile[:-1] < 0.5) & (profile[1:] > profile[:-1])) | (profile[1:] <= 0))
            inside = profile[: fall[0] + 1] if len(fall) else profile
            total += _STEP * (inside.sum() - 0.5 * profile[0])
            centre = profile[0]
        if centre >= 0.5:
            widths[i] = total
    return widths


@compiled
def _join(edges, offsets, leaving, start):  # type: ignore[no-untyped-def]
    count, nodes = len(edges), len(start) - 1
    joined = np.empty((count, 2), np.int64)
    extent = np.zeros(count + 1, np.int64)
    positions = np.empty(offsets[count], np.int64)
    used = np.zeros(count, np.bool_)
    chains, length = 0, 0
    for task in range(nodes + count):
        if task < nodes:
            if start[task + 1] - start[task] == 2:
                continue
            first, last = start[task], start[task + 1]
        else:  # what is left are closed chains
            first, last = 2 * (task - nodes), 2 * (task - nodes) + 1
        for j in range(first, last):
            h = leaving[j] if task < nodes else j
            if used[h >> 1]:
                continue
            origin = edges[h >> 1, h & 1]
            skip = 0
            while True:
                edge = h >> 1
                used[edge] = True
                low, high = offsets[edge], offsets[edge + 1]
                for i in range(skip, high - low):
                    positions[length] = low + i if h & 1 == 0 else high - 1 - i
                    length += 1
                skip = 1
                node = edges[edge, 1 - (h & 1)]
                if start[node + 1] - start[node] != 2 or node == origin:
                    break
                arrived = h ^ 1
                h = leaving[start[node]] if leaving[start[node]] != arrived else leaving[start[node] + 1]
            joined[chains, 0], joined[chains, 1] = origin, node
            chains += 1
            extent[chains] = length
    return joined[:chains], extent[: chains + 1], positions[:length]


@compiled
def _smooth(points, offsets, sigma, closed):  # type: ignore[no-untyped-def]
    result = points.copy()
    for edge in range(len(offsets) - 1):
        low, n = offsets[edge], offsets[edge + 1] - offsets[edge]
        reach = min(int(_TRUNCATE * sigma[edge] + 0.5), n - 1)
        if reach <= 0:
            continue
        kernel = np.empty(2 * reach + 1, np.float64)
        weight = 0.0
        for k in range(-reach, reach + 1):
            kernel[k + reach] = np.exp(-0.5 * (k / sigma[edge]) ** 2)
            weight += kernel[k + reach]
        for axis in range(2):
            first, last = points[low, axis], points[low + n - 1, axis]
            for i in range(n):
                total = 0.0
                for k in range(-reach, reach + 1):
                    j = i + k
                    if closed[edge]:
                        value = points[low + j % (n - 1), axis]
                    elif j < 0:
                        value = 2.0 * first - points[low - j, axis]
                    elif j >= n:
                        value = 2.0 * last - points[low + 2 * (n - 1) - j, axis]
                    else:
                        value = points[low + j, axis]
                    total += kernel[k + reach] * value
                result[low + i, axis] = total / weight
    return result


@compiled
def _width_across(mask, points, normals, reach, clear):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    stride = width + 4  # a frame of two pixels of background, in which every walk ends
    framed = np.zeros((height + 4, stride), np.uint8)
    framed[2:-2, 2:-2] = mask
    flat = framed.reshape(-1)
    widths = np.full(len(points), np.nan)
    for i in range(len(points)):
        row, column = points[i, 0], points[i, 1]
        if not (-1 < row < height and -1 < column < width):
            continue
        centre = _interpolated(flat, stride, row, column)
        if centre < 0.5:
            continue
        most = int(reach[i] / _STEP)
        ones = min(max(int((clear[i] - _SAMPLE_REACH) / _STEP), 0), most)
        total = centre + 2 * ones
        for side in (-_STEP, _STEP):
            before = centre if ones == 0 else 1.0
            for k in range(ones + 1, most + 1):
                along = side * k
                value = _interpolated(
                    flat, stride, row + normals[i, 0] * along, column + normals[i, 1] * along
                )
                if value <= 0.0 or (before < 0.5 and value > before):
                    break
                total += value
                before = value
        widths[i] = _STEP * total
    return widths


@compiled
def _interpolated(flat, stride, row, column):  # type: ignore[no-untyped-def]
    """Bilinear value at a position on the mask, given with a frame of two pixels of background."""
    top, left = np.floor(row), np.floor(column)
    p = np.uintp((int(top) + 2) * stride + int(left) + 2)
    q = p + np.uintp(stride)
    a, b, c, d = flat[p], flat[p + np.uintp(1)], flat[q], flat[q + np.uintp(1)]
    pixels = a + b + c + d
    if pixels == 4:
        return 1.0
    if pixels == 0:
        return 0.0
    down, right = row - top, column - left
    return (1 - down) * (1 - right) * a + (1 - down) * right * b + down * (1 - right) * c + down * right * d
