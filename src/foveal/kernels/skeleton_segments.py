"""Searches over linked skeleton pixels from every end and junction pixel: segments, depths and arms.

The searches take the pixel next that was reached by the first direction of `LINK_STEPS`, of equals the first
in reading order, rather than the nearest one. On a line that makes no difference; in clusters of pixels and
in closed curves it decides what is measured. Sources: the rules are those of PVBM's first generation (Fhima
et al., ECCV Workshops 2022, arXiv 2208.00392).
"""

import heapq

import numpy as np

from foveal.kernels.compiled import compiled
from foveal.kernels.pixel_links import LINK_LENGTHS


def covering_length(links: np.ndarray) -> float:
    """Sum of the steps by which a search reaches every pixel once.

    Args:
        links: (N, 8) int32 of `pixel_links`.

    Returns:
        1 for each pixel reached by a direct and sqrt(2) by a diagonal step; a search begins at the first
        pixel not yet reached, which counts when it is reached itself; a lone pixel counts 0.
    """
    direct, diagonal = _covered(links)
    return float(direct + diagonal * LINK_LENGTHS[-1])


def covering_length_reference(links: np.ndarray) -> float:
    """The same with tuples in a heap; see `covering_length`."""
    reached: dict[int, float] = {}
    for seed in range(len(links)):
        heap = [] if seed in reached else [(0, seed)]
        while heap:
            for k, other in enumerate(links[heapq.heappop(heap)[1]].tolist()):
                if other >= 0 and other not in reached:
                    reached[other] = LINK_LENGTHS[k]
                    heapq.heappush(heap, (k, other))
    return float(sum(reached.values()))


def skeleton_segments(
    links: np.ndarray, particular: np.ndarray, *, shortest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments between particular pixels, each found from the one of its ends that comes first.

    Particular pixels, in reading order, search over the pixels not yet claimed by an earlier search, up to
    the next particular ones.

    Args:
        links: (N, 8) int32 of `pixel_links`.
        particular: (N,) bool, True at ends and junctions.
        shortest: segments must be longer, in pixels.

    Returns:
        (M,) int64 first pixel, (M,) int64 last pixel, (M,) float64 length along the pixels.
    """
    return _segments(links, particular.view(np.uint8), LINK_LENGTHS, shortest)


def skeleton_segments_reference(
    links: np.ndarray, particular: np.ndarray, *, shortest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with tuples in a heap; see `skeleton_segments`."""
    found, claimed = [], set()
    for origin in np.flatnonzero(particular).tolist():
        heap = [(0, origin, 0.0)]
        while heap:
            _, pixel, length = heapq.heappop(heap)
            for k, other in enumerate(links[pixel].tolist()):
                if other < 0 or other in claimed:
                    continue
                if particular[other]:
                    found.append((origin, other, length + LINK_LENGTHS[k]))
                else:
                    claimed.add(other)
                    heapq.heappush(heap, (k, other, length + LINK_LENGTHS[k]))
    kept = [segment for segment in found if segment[2] > shortest]
    first, last, lengths = zip(*kept, strict=True) if kept else ((), (), ())
    return np.array(first, np.int64), np.array(last, np.int64), np.array(lengths, np.float64)


def greatest_depths(links: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """The greatest number of steps after which a search from one of the origins reaches each pixel.

    The time is the number of origins times that of the pixels that are connected with them.

    Args:
        links: (N, 8) int32 of `pixel_links`.
        origins: (S,) int64 pixel numbers.

    Returns:
        (N,) int64; -1 where no search comes but one that begins there.
    """
    return _depths(links, origins)


def greatest_depths_reference(links: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """The same with tuples in a heap; see `greatest_depths`."""
    depths = np.full(len(links), -1, np.int64)
    for origin in origins.tolist():
        reached, heap = {origin}, [(0, origin, 0)]
        while heap:
            _, pixel, depth = heapq.heappop(heap)
            for k, other in enumerate(links[pixel].tolist()):
                if other >= 0 and other not in reached:
                    reached.add(other)
                    depths[other] = max(depths[other], depth + 1)
                    heapq.heappush(heap, (k, other, depth + 1))
    return depths


def junction_arms(
    links: np.ndarray, junctions: np.ndarray, *, reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels `reach` + 1 steps away from each junction pixel, depth first over pixels not yet met.

    A walk also ends on another junction pixel that it comes to from the left or from above on the right (the
    directions 3 and 6 of `LINK_STEPS`), but not on one that it comes to from elsewhere.

    Args:
        links: (N, 8) int32 of `pixel_links`.
        junctions: (N,) bool.
        reach: steps after which the next pixel is an arm's end.

    Returns:
        (A,) int64 junction pixel and (A,) int64 end of each arm, and (N,) bool of the pixels that a walk
        went on from.
    """
    origins, arms, walked = _arms(links, junctions.view(np.uint8), reach)
    return origins, arms, walked.view(bool)


def junction_arms_reference(
    links: np.ndarray, junctions: np.ndarray, *, reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by recursion; see `junction_arms`."""
    walked, found = np.zeros(len(links), bool), []

    def walk(origin: int, pixel: int, depth: int, met: set[int]) -> None:
        walked[pixel] = True
        for k, other in enumerate(links[pixel].tolist()):
            if other < 0 or other in met:
                continue
            met.add(other)
            if depth == reach or (k in (3, 6) and junctions[other]):
                found.append((origin, other))
            else:
                walk(origin, other, depth + 1, met)

    for origin in np.flatnonzero(junctions).tolist():
        walk(origin, origin, 0, set())
    origins, arms = zip(*found, strict=True) if found else ((), ())
    return np.array(origins, np.int64), np.array(arms, np.int64), walked


# In the heaps a pixel is direction << 32 | number, so that their order is that of the pair.
_NUMBER = (1 << 32) - 1


@compiled
def _covered(links):  # type: ignore[no-untyped-def]
    count = len(links)
    reached = np.zeros(count, np.uint8)
    direct, diagonal = 0, 0
    for seed in range(count):
        if reached[seed]:
            continue
        heap = [np.int64(seed)]
        while heap:
            pixel = heapq.heappop(heap) & _NUMBER
            for k in range(8):
                other = links[pixel, k]
                if other >= 0 and not reached[other]:
                    reached[other] = 1
                    if k < 4:
                        direct += 1
                    else:
                        diagonal += 1
                    heapq.heappush(heap, np.int64(k << 32 | other))
    return direct, diagonal


@compiled
def _segments(links, particular, steps, shortest):  # type: ignore[no-untyped-def]
    count = len(links)
    claimed = np.zeros(count, np.uint8)
    length = np.zeros(count, np.float64)
    first = []
    last = []
    lengths = []
    for origin in range(count):
        if not particular[origin]:
            continue
        heap = [np.int64(origin)]
        while heap:
            pixel = heapq.heappop(heap) & _NUMBER
            for k in range(8):
                other = links[pixel, k]
                if other < 0 or claimed[other]:
                    continue
                total = length[pixel] + steps[k]
                if not particular[other]:
                    claimed[other] = 1
                    length[other] = total
                    heapq.heappush(heap, np.int64(k << 32 | other))
                elif total > shortest:
                    first.append(np.int64(origin))
                    last.append(np.int64(other))
                    lengths.append(total)
    return np.array(first), np.array(last), np.array(lengths)


@compiled
def _depths(links, origins):  # type: ignore[no-untyped-def]
    count = len(links)
    # The links that exist, row by row, as they stand in the heap.
    first = np.zeros(count + 1, np.int32)
    codes = np.empty((links >= 0).sum(), np.int64)
    at = 0
    for pixel in range(count):
        for k in range(8):
            if links[pixel, k] >= 0:
                codes[at] = k << 32 | links[pixel, k]
                at += 1
        first[pixel + 1] = at
    depths = np.full(count, -1, np.int32)
    depth = np.zeros(count, np.int32)
    reached_from = np.full(count, -1, np.int32)
    for origin in origins:
        reached_from[origin] = origin
        depth[origin] = 0
        heap = [np.int64(origin)]
        heap.pop()
        here = np.int64(origin)
        while True:
            onward = depth[here] + 1
            # The last here found waits outside the heap: on a line it is often the next one.
            waiting = np.int64(-1)
            for link in range(first[here], first[here + 1]):
                code = codes[link]
                other = code & _NUMBER
                if reached_from[other] != origin:
                    reached_from[other] = origin
                    depth[other] = onward
                    depths[other] = max(depths[other], onward)
                    if waiting >= 0:
                        heapq.heappush(heap, waiting)
                    waiting = code
            if waiting < 0:
                if not heap:
                    break
                waiting = heapq.heappop(heap)
            elif heap and heap[0] < waiting:
                waiting = heapq.heapreplace(heap, waiting)
            here = waiting & _NUMBER
    return depths.astype(np.int64)


@compiled
def _arms(links, junctions, reach):  # type: ignore[no-untyped-def]
    count = len(links)
    walked = np.zeros(count, np.uint8)
    met_from = np.full(count, -1, np.int64)
    path = np.empty(reach + 1, np.int64)
    turn = np.empty(reach + 1, np.int64)
    origins = []
    arms = []
    for origin in range(count):
        if not junctions[origin]:
            continue
        path[0], turn[0] = origin, 0
        walked[origin] = 1
        depth = 0
        while depth >= 0:
            k = turn[depth]
            if k == 8:
                depth -= 1
                continue
            turn[depth] += 1
            other = links[path[depth], k]
            if other < 0 or met_from[other] == origin:
                continue
            met_from[other] = origin
            if depth == reach or ((k == 3 or k == 6) and junctions[other]):
                origins.append(np.int64(origin))
                arms.append(np.int64(other))
            else:
                depth += 1
                path[depth], turn[depth] = other, 0
                walked[other] = 1
    return np.array(origins), np.array(arms), walked
