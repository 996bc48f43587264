"""Arteries and veins made consistent along the vessel graph: one kind a segment, with a confidence."""

from dataclasses import dataclass

import numpy as np

from foveal.kernels.nearest_seed import nearest_seed
from foveal.measurement.graph import NodeKind, VesselGraph
from foveal.measurement.simplification import sum_by_path
from foveal.measurement.tree import VesselTree

FAINT = 0.02  # added to both probabilities, so that the ratio of two small ones says little
SHORT = 15.0  # pixels: a segment of this length is trusted half as much as a long one

# Share of pairs of segments of one kind among those that meet, counted on the found vessels of LES-AV's
# training half, by the cosine of going straight on from one into the other (-1 folds back) or by the ratio
# of the thinner width to the wider: the bounds between classes, and the share in each.
ONWARD_BY_WIDTH = (0.5, 0.7), (0.78, 0.87, 0.955)  # the straightest pair of a branch point
ASIDE = (-0.8, -0.3), (0.30, 0.70, 0.83)  # its other pairs; vessels that fold back only touch
THROUGH = (-0.5, 0.8), (0.26, 0.58, 0.76)  # the two halves of a vessel that passes a crossing
ACROSS = (-0.9, -0.5, 0.9), (0.07, 0.21, 0.35, 0.50)  # segments of two vessels that cross
# How far each share is trusted, since the pairs of a junction repeat one another in part; chosen there too.
ALONG_TRUST, ASIDE_TRUST, CROSSING_TRUST = 0.8, 0.5, 0.8

ROUNDS, DAMPING = 30, 0.5
SUREST = 1 - 1e-6  # of a message between segments


@dataclass(frozen=True)
class ArteryVein:
    """Kinds of the segments of a vessel graph.

    Attributes:
        scores: (E,) -1 surely a vein to 1 surely an artery; the magnitude is the confidence.
        arteries: (H, W) bool.
        veins: (H, W) bool; where the two cross a pixel is both.
        confidence: (H, W) float32 in [0, 1], of the pixel's segment, less where the pixel is of another kind;
            0 off the vessels.
    """

    scores: np.ndarray
    arteries: np.ndarray
    veins: np.ndarray
    confidence: np.ndarray


def separate_arteries_and_veins(
    vessels: np.ndarray, tree: VesselTree, artery: np.ndarray, vein: np.ndarray
) -> ArteryVein:
    """Give each segment one kind, from pixel probabilities and from how segments meet.

    The evidence of a segment is half the mean log-ratio of its two probabilities over its centre line, less
    trusted where the segment is short: alone it makes a score of 2 p - 1. Each pair of segments that meet
    pulls to one kind or pushes apart by half the log-odds of being of one kind, as they were counted on eyes
    whose kinds are known: at a branch point the pair that goes straight on pulls most, the more alike the
    two are in width; a vessel that folds back beside the other pushes; at a crossing the two halves of each
    vessel pull, and the two vessels push each other apart. The scores are the means of this Ising model by
    belief propagation, exact where the vessels form a tree and approximate around loops.

    Args:
        vessels: (H, W) bool.
        tree: rooted graph of the vessels; best of all of them, those within the optic disc too.
        artery: (H, W) probability of an artery, 0 to 1.
        vein: (H, W) probability of a vein, 0 to 1.

    Returns:
        One kind a segment. A pixel takes the kind of the centre line nearest to it along the vessels; the
        other one where its own probability differs from that of its centre line by more than the segment
        is sure, since an artery and a vein side by side that touch in the mask share a centre line; both
        kinds in the disc of a crossing of the two; and its own where no centre line is (in small specks).

    Raises:
        ValueError: shapes differ.
    """
    shapes = {vessels.shape, artery.shape, vein.shape, tree.graph.shape}
    if len(shapes) > 1:
        raise ValueError(f"vessels, graph and probabilities must have the same shape, got {shapes}")
    # Few pixels of a photograph are vessels: a map of the whole would take longer than the graph.
    places, middles = np.flatnonzero(vessels), _under_centre_lines(tree.graph)
    own, along = (
        np.log((artery.ravel()[at] + FAINT) / (vein.ravel()[at] + FAINT)) for at in (places, middles)
    )
    scores = _consistent(tree, _evidence(tree.graph, along))
    along[~vessels.ravel()[middles]] = 0
    return _painted(vessels, tree.graph, scores, places, np.tanh(0.5 * own), np.tanh(0.5 * along))


def _evidence(graph: VesselGraph, ratio: np.ndarray) -> np.ndarray:
    """(E,) half the mean log-ratio of each segment, away from its junctions if possible, less if short.

    `ratio` is (P,), under the centre lines.
    """
    value = ratio.astype(np.float64)
    clear = np.where(np.isfinite(graph.widths), 1.0, 0.1) * graph.spans
    total = np.maximum(sum_by_path(clear, graph.offsets), 1e-9)
    mean = sum_by_path(value * clear, graph.offsets) / total
    return 0.5 * mean * graph.arcs / (graph.arcs + SHORT)


def _under_centre_lines(graph: VesselGraph) -> np.ndarray:
    """(P,) places of the pixels under the centre lines in the flattened photograph."""
    place = np.clip(np.rint(graph.points).astype(np.int64), 0, np.array(graph.shape) - 1)
    return np.ravel_multi_index(tuple(place.T), graph.shape)


def _consistent(tree: VesselTree, evidence: np.ndarray) -> np.ndarray:
    """(E,) mean of the kind of each segment, -1 to 1, given all evidence."""
    ends = tree.graph.edges.ravel()
    count = len(evidence)
    if not count:
        return np.zeros(0)
    order = np.argsort(ends, kind="stable")
    first, second = _pairs(ends[order])
    one, other = order[first], order[second]
    distinct = one >> 1 != other >> 1
    one, other = one[distinct], other[distinct]
    low, high = np.sort([one >> 1, other >> 1], axis=0)
    pair, place = np.unique(low * count + high, return_inverse=True)  # two segments may meet twice
    pull = np.bincount(place, _pulls(tree, one, other), len(pair))
    return ising_means(evidence, np.stack([pair // count, pair % count], axis=1), pull)


def _pulls(tree: VesselTree, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(P,) pull of each pair of ends that meet towards one kind, below 0 towards two."""
    graph = tree.graph
    node = graph.edges.ravel()[one]
    onward = -(tree.directions[one] * tree.directions[other]).sum(axis=1)
    straightest = np.full(len(graph.nodes), -np.inf)
    np.maximum.at(straightest, node, onward)
    width = np.nan_to_num(graph.edge_widths, nan=1.0)  # none is known of the shortest
    both = width[one >> 1], width[other >> 1]
    ratio = np.minimum(*both) / np.maximum(np.maximum(*both), 1e-9)
    along = ALONG_TRUST * _half_log_odds(ratio, *ONWARD_BY_WIDTH)
    aside = ASIDE_TRUST * _half_log_odds(onward, *ASIDE)
    same = tree.joints[one] == tree.joints[other]
    passing = np.where(same, _half_log_odds(onward, *THROUGH), _half_log_odds(onward, *ACROSS))
    branch = np.where(onward == straightest[node], along, aside)
    return np.where(graph.kinds[node] == NodeKind.CROSSING, CROSSING_TRUST * passing, branch)


def _half_log_odds(value: np.ndarray, bounds: tuple[float, ...], shares: tuple[float, ...]) -> np.ndarray:
    """Half log-odds of the share in the class of each value, of one class more than there are bounds."""
    share = np.array(shares)[np.digitize(value, bounds)]
    return np.asarray(0.5 * np.log(share / (1 - share)))


def ising_means(fields: np.ndarray, ends: np.ndarray, couplings: np.ndarray) -> np.ndarray:
    """Means of the spins of an Ising model by belief propagation: exact on trees, approximate around loops.

    Args:
        fields: (E,) half log-odds of +1 of each spin by itself.
        ends: (P, 2) the two spins of each coupling.
        couplings: (P,) half log-odds that its two spins are equal.

    Returns:
        (E,) means, -1 to 1.
    """
    count, pairs = len(fields), len(couplings)
    source, target = np.concatenate([ends, ends[:, ::-1]]).T
    back = np.concatenate([np.arange(pairs) + pairs, np.arange(pairs)])
    strength = np.tanh(np.concatenate([couplings, couplings]))
    message = np.zeros(2 * pairs)
    for _ in range(ROUNDS):
        total = fields + np.bincount(target, message, count)
        told = np.clip(strength * np.tanh(total[source] - message[back]), -SUREST, SUREST)
        message = DAMPING * message + (1 - DAMPING) * np.arctanh(told)
    return np.asarray(np.tanh(fields + np.bincount(target, message, count)))


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


def _painted(
    vessels: np.ndarray,
    graph: VesselGraph,
    scores: np.ndarray,
    places: np.ndarray,
    own: np.ndarray,
    along: np.ndarray,
) -> ArteryVein:
    """Kinds of vessel pixels, at `places` of the flattened photograph; `own` are their scores by themselves,
    `along` those under the centre lines."""
    edge = np.repeat(np.arange(len(scores)), np.diff(graph.offsets))
    near = nearest_seed(vessels, np.rint(graph.points).astype(np.int64)).ravel()[places]
    reached = near >= 0
    middle = near[reached]
    kept = scores[edge[middle]]
    shifted = kept + own[reached] - along[middle]
    score = own.astype(np.float32)
    score[reached] = np.where(shifted * kept < 0, np.clip(shifted, -1.0, 1.0), kept)
    arteries, veins = (np.zeros(vessels.shape, bool) for _ in range(2))
    arteries.ravel()[places] = score > 0
    veins.ravel()[places] = score <= 0
    confidence = np.zeros(vessels.shape, np.float32)
    confidence.ravel()[places] = np.abs(score)
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
    return ArteryVein(scores, arteries, veins, confidence)
