"""How vessels divide: where they begin, end, branch and cross, and at which angle."""

import numpy as np

from foveal.measurement.drawing_vessels import draw_angles, draw_bifurcations, draw_nodes
from foveal.measurement.graph import NodeKind
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import EVERYWHERE, HERE, PVBM, VASCX, register


def _count(m: VesselMeasurement, kind: NodeKind) -> int:
    return int(np.count_nonzero((m.graph.kinds == kind) & m.nodes_inside))


def _starts(m: VesselMeasurement) -> np.ndarray:
    """Nodes at the disc where vessels begin."""
    disc = m.eye.landmarks.known_disc
    roots = m.layer.tree.roots
    roots = roots[m.graph.kinds[roots] == NodeKind.ENDPOINT]
    near = np.hypot(*(m.graph.nodes[roots] - disc.center).T) <= 2 * disc.radius
    return roots[near & m.nodes_inside[roots]]


def _ends(m: VesselMeasurement) -> int:
    starts = len(_starts(m)) if m.eye.landmarks.disc is not None else 0
    return _count(m, NodeKind.ENDPOINT) - starts


@register("start_points", "Start points", "count", PVBM, needs=("disc",), draw=draw_nodes("start", _starts))
def start_points(m: VesselMeasurement) -> float:
    """Number of vessels that begin at the optic disc: free ends of centre lines, one a connected part at
    least, within a disc radius of its margin."""
    return len(_starts(m))


@register("endpoints", "End points", "count", PVBM, regional=EVERYWHERE, draw=draw_nodes("end", _starts))
def endpoints(m: VesselMeasurement) -> float:
    """Number of free ends of centre lines, without those that begin at the optic disc where it is known. A
    vessel that leaves the field ends there."""
    return _ends(m)


@register(
    "branch_points", "Branch points", "count", PVBM, regional=EVERYWHERE, draw=draw_nodes("branch", _starts)
)
def branch_points(m: VesselMeasurement) -> float:
    """Number of points where three centre lines meet; the pixels of one junction count once."""
    return _count(m, NodeKind.BRANCH)


@register("crossings", "Crossings", "count", HERE, regional=EVERYWHERE, draw=draw_nodes("crossing", _starts))
def crossings(m: VesselMeasurement) -> float:
    """Number of points where four or more centre lines meet."""
    return _count(m, NodeKind.CROSSING)


@register(
    "branch_points_per_length",
    "Branch points per length",
    "1/field",
    HERE,
    regional=EVERYWHERE,
    draw=draw_nodes("branch", _starts),
)
def branch_points_per_length(m: VesselMeasurement) -> float:
    """Branch points for each field diameter of centre line."""
    return _count(m, NodeKind.BRANCH) * m.field.diameter / m.length


@register("endpoints_per_length", "End points per length", "1/field", HERE, draw=draw_nodes("end", _starts))
def endpoints_per_length(m: VesselMeasurement) -> float:
    """Free ends for each field diameter of centre line."""
    return _ends(m) * m.field.diameter / m.length


@register("bifurcations", "Bifurcations", "count", VASCX, regional=EVERYWHERE, draw=draw_bifurcations)
def bifurcations(m: VesselMeasurement) -> float:
    """Number of points where one vessel, followed from its beginning, becomes two. Unlike branch points,
    those where two vessels run into one another do not count."""
    return len(_angles(m))


def _angles(m: VesselMeasurement) -> np.ndarray:
    """Angle of each bifurcation in the region, degrees."""
    found = m.layer.tree.bifurcations
    return found.angles[m.nodes_inside[found.nodes]]


def _known_angles(m: VesselMeasurement) -> np.ndarray:
    angles = _angles(m)
    if not len(angles):
        raise MissingError("no vessel divides" + (" in the region" if m.region else ""))
    return angles


@register(
    "bifurcation_angle_median",
    "Bifurcation angle, median",
    "degree",
    PVBM,
    range="0 to 180",
    regional=EVERYWHERE,
    draw=draw_angles,
)
def bifurcation_angle_median(m: VesselMeasurement) -> float:
    """Median angle between the two daughters where a vessel divides, each direction that of a line fitted to
    the centre line from 2.5 half-widths of the junction on, over six widths or at least 15 pixels."""
    return float(np.median(_known_angles(m)))


@register(
    "bifurcation_angle_mean",
    "Bifurcation angle, mean",
    "degree",
    VASCX,
    range="0 to 180",
    regional=EVERYWHERE,
    draw=draw_angles,
)
def bifurcation_angle_mean(m: VesselMeasurement) -> float:
    """Mean angle between the two daughters where a vessel divides."""
    return float(_known_angles(m).mean())


@register("bifurcation_angle_spread", "Bifurcation angle, spread", "degree", PVBM, draw=draw_angles)
def bifurcation_angle_spread(m: VesselMeasurement) -> float:
    """Standard deviation of the angle between the two daughters where a vessel divides."""
    return float(_known_angles(m).std())
