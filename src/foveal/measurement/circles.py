"""Where vessels cross circles around the optic disc, and how wide they are there."""

from typing import NamedTuple

import numpy as np

from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import VesselMeasurement

WINDOW = 4  # points to each side over which a width is averaged
VISIBLE = 0.5  # least share of a circle inside the field


class Crossings(NamedTuple):
    """Vessels on concentric circles.

    Attributes:
        radii: (C,) radius of each circle that is at least half visible, in pixels.
        circles: (n,) number of the circle of each crossing, in ascending order.
        points: (n, 2) row and column of each crossing.
        widths: (n,) vessel width there in pixels; finite.
    """

    radii: np.ndarray
    circles: np.ndarray
    points: np.ndarray
    widths: np.ndarray


def circle_crossings(m: VesselMeasurement, radii: np.ndarray) -> Crossings:
    """Vessels that lead outwards through circles around the disc's centre, found once for the same circles.

    Of a whole vessel that passes a circle more than once only its widest crossing counts. The width is the
    mean over four points of the centre line to each side; where junctions leave none of these, the mean of
    the segment. Circles of which less than half lies in the field are left out.

    Args:
        m: the vessels; crossings outside of its region are left out.
        radii: (C,) radii in pixels.

    Raises:
        MissingError: the disc is not known, or no circle is half visible.
    """
    return m.keep(("circles", radii.tobytes()), lambda: _find_crossings(m, radii))


def _find_crossings(m: VesselMeasurement, radii: np.ndarray) -> Crossings:
    disc = m.eye.landmarks.known_disc
    key = ("visible circles", m.region, radii.tobytes())
    radii = radii[m.eye.keep(key, lambda: _visible_shares(m, radii)) >= VISIBLE]
    if not len(radii):
        raise MissingError("less than half of every circle around the optic disc is visible")
    graph, tree = m.graph, m.layer.tree
    distance = np.hypot(*(graph.points - disc.center).T)
    edge = np.repeat(np.arange(len(graph.edges)), np.diff(graph.offsets))
    widths = m.layer.keep("running widths", lambda: _running_mean(graph.widths, graph.offsets))
    widths = np.where(np.isfinite(widths), widths, graph.edge_widths[edge])
    # Points in pairs along the same edge, the nearer one to the root first.
    forward = (tree.near == 0)[edge[:-1]]
    same = edge[:-1] == edge[1:]
    before, after = distance[:-1], distance[1:]
    circles, points, found = [], [], []
    for number, radius in enumerate(radii):
        leaving, returning = (before < radius) & (after >= radius), (after < radius) & (before >= radius)
        at = np.flatnonzero(same & np.where(forward, leaving, returning))
        part = (radius - before[at]) / (after[at] - before[at])
        point = graph.points[at] + part[:, None] * (graph.points[at + 1] - graph.points[at])
        width = np.where(part < 0.5, widths[at], widths[at + 1])
        kept = np.flatnonzero(np.isfinite(width) & m.within(point))
        vessel = tree.vessels[edge[at[kept]]]
        order = kept[np.lexsort((-width[kept], vessel))]
        vessel = np.sort(vessel)
        order = np.sort(order[np.append(True, np.diff(vessel) > 0)]) if len(order) else order
        circles.append(np.full(len(order), number))
        points.append(point[order])
        found.append(width[order])
    return Crossings(radii, np.concatenate(circles), np.concatenate(points), np.concatenate(found))


def _visible_shares(m: VesselMeasurement, radii: np.ndarray) -> np.ndarray:
    """(C,) share of each circle around the disc (of its part in the region) that lies inside the field."""
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    direction = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    circles = (radii[:, None, None] * direction + m.eye.landmarks.known_disc.center).reshape(-1, 2)
    wanted = m.within(circles)
    pixel = np.rint(circles).astype(np.int64)
    inside = wanted & ((pixel >= 0) & (pixel < m.field.mask.shape)).all(axis=1)
    inside[inside] = m.field.mask[tuple(pixel[inside].T)]
    counts = [part.reshape(len(radii), -1).sum(axis=1) for part in (inside, wanted)]
    return counts[0] / np.maximum(counts[1], 1)


def _running_mean(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Mean of the finite values within `WINDOW` places on the same path; NaN without any."""
    known = np.isfinite(values)
    total = np.append(0.0, np.cumsum(np.where(known, values, 0.0)))
    count = np.append(0, np.cumsum(known))
    place, lengths = np.arange(len(values)), np.diff(offsets)
    first = np.maximum(place - WINDOW, np.repeat(offsets[:-1], lengths))
    last = np.minimum(place + WINDOW + 1, np.repeat(offsets[1:], lengths))
    number = count[last] - count[first]
    return np.divide(total[last] - total[first], number, out=np.full(len(values), np.nan), where=number > 0)
