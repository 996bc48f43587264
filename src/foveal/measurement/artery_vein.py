"""Arteries and veins made consistent along the vessel graph: one kind a segment, with a confidence."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array

from foveal.kernels.nearest_seed import nearest_seed
from foveal.measurement.graph import NodeKind, VesselGraph
from foveal.measurement.simplification import sum_by_path
from foveal.measurement.tree import VesselTree

FAINT = 0.02  # added to both probabilities, so that the ratio of two small ones says little
SHORT = 15.0  # pixels: a segment of this length is trusted half as much as a long one
# Half log-odds that two segments which meet are of one kind, chosen on the training half of LES-AV.
BRANCH, THROUGH, ACROSS = 0.3, 0.6, -0.25  # at a branch, on through a crossing, across one
FOLDED, STRAIGHT = -0.5, 0.8  # cosines of a bend: below the first nothing is known of the kind
ROUNDS = 60


@dataclass(frozen=True)
class ArteryVein:
    """Kinds of the segments of a vessel graph.

    Attributes:
        scores: (E,) -1 surely a vein to 1 surely an artery; the magnitude is the confidence.
        arteries: (H, W) bool.
        veins: (H, W) bool; where the two cross a pixel is both.
        confidence: (H, W) float32 in [0, 1], of the pixel's segment; 0 off the vessels.
    """

    scores: np.ndarray
    arteries: np.ndarray
    veins: np.ndarray
    confidence: np.ndarray


def separate_arteries_and_veins(
    vessels: np.ndarray, tree: VesselTree, artery: np.ndarray, vein: np.ndarray
) -> ArteryVein:
    """Give each segment one kind, from pixel probabilities and from how segments meet.

    The evidence of a segment is the mean log-ratio of its two probabilities over its centre line, less
    trusted where the segment is short. Segments that meet at a branch pull each other to one kind, unless
    one folds back beside the other; at a crossing the two halves of each vessel pull, and the two vessels
    push each other apart. The kinds are the mean field of this Ising model: s = tanh(h + J s).

    Args:
        vessels: (H, W) bool.
        tree: rooted graph of the vessels; best of all of them, those within the optic disc too.
        artery: (H, W) probability of an artery, 0 to 1.
        vein: (H, W) probability of a vein, 0 to 1.

    Returns:
        One kind a segment. A pixel takes the kind of the centre line nearest to it along the vessels, both
        kinds in the disc of a crossing of the two, and its own where no centre line is (in small specks, and
        within the optic disc).

    Raises:
        ValueError: shapes differ.
    """
    shapes = {vessels.shape, artery.shape, vein.shape, tree.graph.shape}
    if len(shapes) > 1:
        raise ValueError(f"vessels, graph and probabilities must have the same shape, got {shapes}")
    ratio = np.log((artery + FAINT) / (vein + FAINT))
    scores = _consistent(tree, _evidence(tree.graph, ratio))
    return _painted(vessels, tree.graph, scores, ratio)


def _evidence(graph: VesselGraph, ratio: np.ndarray) -> np.ndarray:
    """(E,) mean log-ratio of each segment, where possible away from its junctions, shrunk if it is short."""
    place = np.clip(np.rint(graph.points).astype(np.int64), 0, np.array(graph.shape) - 1)
    value = ratio[tuple(place.T)].astype(np.float64)
    clear = np.where(np.isfinite(graph.widths), 1.0, 0.1) * graph.spans
    total = np.maximum(sum_by_path(clear, graph.offsets), 1e-9)
    mean = sum_by_path(value * clear, graph.offsets) / total
    return mean * graph.arcs / (graph.arcs + SHORT)


def _consistent(tree: VesselTree, evidence: np.ndarray) -> np.ndarray:
    """(E,) mean field of the segments' kinds."""
    ends = tree.graph.edges.ravel()
    count = len(evidence)
    if not count:
        return np.zeros(0)
    order = np.argsort(ends, kind="stable")
    first, second = _pairs(ends[order])
    one, other = order[first], order[second]
    onward = -(tree.directions[one] * tree.directions[other]).sum(axis=1)
    same = tree.joints[one] == tree.joints[other]
    crossing = tree.graph.kinds[ends[one]] == NodeKind.CROSSING
    branch = np.where(onward >= FOLDED, BRANCH, 0.0)
    through = np.where(onward >= STRAIGHT, THROUGH, 0.0)
    weight = np.where(crossing, np.where(same, through, ACROSS), branch)
    distinct = one >> 1 != other >> 1
    one, other, weight = one[distinct] >> 1, other[distinct] >> 1, weight[distinct]
    coupling = coo_array((weight, (one, other)), shape=(count, count)).tocsr()
    coupling = coupling + coupling.T
    scores = np.tanh(evidence)
    for _ in range(ROUNDS):
        scores = 0.5 * scores + 0.5 * np.tanh(evidence + coupling @ scores)
    return scores


def _pairs(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all pairs of equal neighbours in a sorted list, each pair once."""
    firsts, seconds = [], []
    distance = 1
    while True:
        at = np.flatnonzero(groups[distance:] == groups[:-distance]) if distance < len(groups) else ()
        if not len(at):
            break
        firsts.append(at)
        seconds.append(np.asarray(at) + distance)
        distance += 1
    if not firsts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(firsts), np.concatenate(seconds)


def _painted(vessels: np.ndarray, graph: VesselGraph, scores: np.ndarray, ratio: np.ndarray) -> ArteryVein:
    edge = np.repeat(np.arange(len(scores)), np.diff(graph.offsets))
    near = nearest_seed(vessels, np.rint(graph.points).astype(np.int64))
    reached = near >= 0
    score = np.where(vessels, np.tanh(ratio), 0.0).astype(np.float32)
    score[reached] = scores[edge[near[reached]]]
    arteries, veins = vessels & (score > 0), vessels & (score <= 0)
    ends = graph.edges.ravel()
    kind = np.repeat(scores > 0, 2)
    mixed = np.zeros(len(graph.nodes), bool)
    mixed[np.intersect1d(ends[kind], ends[~kind])] = True
    for node in np.flatnonzero(mixed & (graph.kinds == NodeKind.CROSSING)):
        row, column = graph.nodes[node]
        reach = graph.radii[node] + 1.0
        top, left = max(int(row - reach), 0), max(int(column - reach), 0)
        window = np.s_[top : int(row + reach) + 2, left : int(column + reach) + 2]
        rows, columns = np.ogrid[window]
        here = ((rows - row) ** 2 + (columns - column) ** 2 <= reach**2)[
            : vessels[window].shape[0], : vessels[window].shape[1]
        ]
        here = here & vessels[window]
        arteries[window] |= here
        veins[window] |= here
    return ArteryVein(scores, arteries, veins, np.abs(score))
