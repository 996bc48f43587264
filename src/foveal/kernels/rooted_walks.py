"""Walks over linked pixels from a root, depth first: starts, pruning and branches of a rooted skeleton.

The order of neighbours decides where a walk goes first, and so, within the clusters of pixels at junctions
and in closed curves, what hangs below what. Sources: the rules are those of PVBM 3 (Fhima et al., ECCV
Workshops 2022, arXiv 2208.00392).
"""

from typing import NamedTuple

import numpy as np

from foveal.kernels.compiled import compiled
from foveal.kernels.pixel_links import LINK_LENGTHS


def nearest_of_parts(links: np.ndarray, distances: np.ndarray, least: int) -> np.ndarray:
    """The pixel with the least distance of each connected part.

    Args:
        links: (N, 8) int32 of `pixel_links`.
        distances: (N,) of each pixel; of equals the first in reading order is taken.
        least: parts with fewer pixels are left out.

    Returns:
        (S,) int32 pixel numbers, ascending.
    """
    return np.sort(_nearest(links, distances, least))


def nearest_of_parts_reference(links: np.ndarray, distances: np.ndarray, least: int) -> np.ndarray:
    """The same with sets; see `nearest_of_parts`."""
    left, found = set(range(len(links))), []
    while left:
        part = {left.pop()}
        waiting = list(part)
        while waiting:
            around = {int(other) for other in links[waiting.pop()] if other >= 0} & left
            left -= around
            part |= around
            waiting += around
        if len(part) >= least:
            found.append(min(part, key=lambda pixel: (distances[pixel], pixel)))
    return np.array(sorted(found), np.int32)


def prune_twigs(links: np.ndarray, starts: np.ndarray, least: int) -> np.ndarray:
    """The pixels that carry at least `least` pixels, themselves included, in the search tree of their start.

    The tree is built depth first; a pixel joins it when it is first met, the start a second time, as a child
    of the first pixel met from it.

    Args:
        links: (N, 8) int32 of `pixel_links`.
        starts: (S,) int32 pixel numbers, each of another connected part.
        least: pixels below and at a pixel that is kept.

    Returns:
        (N,) bool.
    """
    return _pruned(links, starts, least).view(bool)


def prune_twigs_reference(links: np.ndarray, starts: np.ndarray, least: int) -> np.ndarray:
    """The same by recursion, for small images; see `prune_twigs`."""
    kept, visited = np.zeros(len(links), bool), set()

    def size(pixel: int) -> int:
        total = 1
        for other in links[pixel].tolist():
            if other >= 0 and other not in visited:
                visited.add(other)
                total += size(other)
        kept[pixel] |= total >= least
        return total

    for start in starts.tolist():
        size(start)
    return kept


class BranchRecords(NamedTuple):
    """What a walk met, in the order in which it met it.

    Attributes:
        origins: (R,) int64 pixel where the branch begins: the start, or the fork before it.
        ends: (R,) int64 pixel where it ends.
        arcs: (R,) float64 length along the pixels, 1 a direct and sqrt(2) a diagonal step.
        markers: (R,) int64 pixel that is met `marker_steps` after the origin, -1 where the branch is shorter.
        forks: (R,) bool, True where the branch ends at a fork, False where the walk ends.
    """

    origins: np.ndarray
    ends: np.ndarray
    arcs: np.ndarray
    markers: np.ndarray
    forks: np.ndarray


def walk_branches(
    links: np.ndarray, starts: np.ndarray, *, least_steps: int, marker_steps: int
) -> BranchRecords:
    """Walk from each start, depth first, and record where the walk forks and where it ends.

    A pixel's children are its neighbours not met when the walk comes to it; each is walked to in turn, even
    where the walk below an earlier one has met it meanwhile (then it is a dead end). A pixel with several
    children is a fork and one with none an end, if it lies `least_steps` or more after the last fork. A start
    counts as one step. What lies nearer leaves no record, and branches go on through it.

    Args:
        links: (N, 8) int32 of `pixel_links`.
        starts: (S,) int32 pixel numbers, each of another connected part.
        least_steps: from the last fork to a fork or an end that is recorded.
        marker_steps: from a branch's origin to the pixel that marks its direction.
    """
    origins, ends, arcs, markers, forks = _walk(links, starts, LINK_LENGTHS, least_steps, marker_steps)
    return BranchRecords(origins, ends, arcs, markers, forks.astype(bool))


def walk_branches_reference(
    links: np.ndarray, starts: np.ndarray, *, least_steps: int, marker_steps: int
) -> BranchRecords:
    """The same by recursion, for small images; see `walk_branches`."""
    records, visited = [], set()

    def step(pixel: int, steps: int, origin: int, arc: float, branch_steps: int, marker: int) -> None:
        children = [
            (other, length)
            for other, length in zip(links[pixel].tolist(), LINK_LENGTHS, strict=True)
            if other >= 0 and other not in visited
        ]
        if len(children) != 1 and steps >= least_steps:
            records.append((origin, pixel, arc, marker, len(children) > 1))
            steps, origin, arc, branch_steps, marker = 0, pixel, 0.0, 0, -1
        for other, length in children:
            visited.add(other)
            mark = other if branch_steps + 1 == marker_steps else marker
            step(other, steps + 1, origin, arc + length, branch_steps + 1, mark)

    for start in starts.tolist():
        visited.add(start)
        step(start, 1, start, 0.0, 0, -1)
    columns = list(zip(*records, strict=True)) or [()] * 5
    types = (np.int64, np.int64, np.float64, np.int64, bool)
    return BranchRecords(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)))


@compiled
def _nearest(links, distances, least):  # type: ignore[no-untyped-def]
    count = len(links)
    met = np.zeros(count, np.uint8)
    waiting = np.empty(count, np.int32)
    found = np.empty(count, np.int32)
    parts = 0
    for seed in range(count):
        if met[seed]:
            continue
        met[seed] = 1
        waiting[0] = seed
        top, size, best = 0, 0, seed
        while top >= 0:
            pixel = waiting[top]
            top -= 1
            size += 1
            near = distances[pixel]
            if near < distances[best] or (near == distances[best] and pixel < best):
                best = pixel
            for k in range(8):
                other = links[pixel, k]
                if other >= 0 and not met[other]:
                    met[other] = 1
                    top += 1
                    waiting[top] = other
        if size >= least:
            found[parts] = best
            parts += 1
    return found[:parts].copy()


@compiled
def _pruned(links, starts, least):  # type: ignore[no-untyped-def]
    count = len(links)
    kept = np.zeros(count, np.uint8)
    met = np.zeros(count, np.uint8)
    path = np.empty(count + 1, np.int32)
    turn = np.empty(count + 1, np.uint8)
    size = np.empty(count + 1, np.int32)
    for start in starts:
        top = 0
        path[0], turn[0], size[0] = start, 0, 1
        while top >= 0:
            pixel = path[top]
            if turn[top] == 8:
                if size[top] >= least:
                    kept[pixel] = 1
                top -= 1
                if top >= 0:
                    size[top] += size[top + 1]
                continue
            other = links[pixel, turn[top]]
            turn[top] += 1
            if other >= 0 and not met[other]:
                met[other] = 1
                top += 1
                path[top], turn[top], size[top] = other, 0, 1
    return kept


@compiled
def _walk(links, starts, lengths, least_steps, marker_steps):  # type: ignore[no-untyped-def]
    count = len(links)
    met = np.zeros(count, np.uint8)
    # One frame for each pixel between the start and the present one, and for a dead end beyond it.
    path = np.empty(count + 1, np.int64)
    steps = np.empty(count + 1, np.int64)
    origin = np.empty(count + 1, np.int64)
    arc = np.empty(count + 1, np.float64)
    branch_steps = np.empty(count + 1, np.int64)
    marker = np.empty(count + 1, np.int64)
    children = np.empty(count + 1, np.uint8)  # those still to be walked to, one bit each
    origins = []
    ends = []
    arcs = []
    markers = []
    forks = []
    for start in starts:
        met[start] = 1
        top = 0
        path[0], steps[0], origin[0], arc[0] = start, 1, start, 0.0
        branch_steps[0], marker[0] = 0, -1
        arrived = True
        while top >= 0:
            pixel = path[top]
            if arrived:
                waiting, number = 0, 0
                for k in range(8):
                    other = links[pixel, k]
                    if other >= 0 and not met[other]:
                        waiting |= 1 << k
                        number += 1
                children[top] = waiting
                if number != 1 and steps[top] >= least_steps:
                    origins.append(origin[top])
                    ends.append(pixel)
                    arcs.append(arc[top])
                    markers.append(marker[top])
                    forks.append(1 if number else 0)
                    steps[top], origin[top], arc[top] = 0, pixel, 0.0
                    branch_steps[top], marker[top] = 0, -1
            if children[top] == 0:
                top -= 1
                arrived = False
                continue
            k = 0
            while not children[top] >> k & 1:
                k += 1
            children[top] &= children[top] - 1
            other = links[pixel, k]
            met[other] = 1
            path[top + 1], steps[top + 1], origin[top + 1] = other, steps[top] + 1, origin[top]
            arc[top + 1] = arc[top] + lengths[k]
            branch_steps[top + 1] = branch_steps[top] + 1
            marker[top + 1] = other if branch_steps[top + 1] == marker_steps else marker[top]
            top += 1
            arrived = True
    return np.array(origins), np.array(ends), np.array(arcs), np.array(markers), np.array(forks)
