"""Overlays of a report that show how vessels were measured: small SVG pictures, sharp at every zoom."""

from collections.abc import Iterator

import numpy as np

from foveal.measurement.drawing_canvas import robust_limits
from foveal.measurement.drawing_vessels import ARM_COLOUR, MARKS, NodeName, bifurcation_arms
from foveal.measurement.eye import Eye
from foveal.measurement.graph import NodeKind
from foveal.measurement.measured import VesselMeasurement
from foveal.screening.svg import rimmed, svg_key, svg_picture, svg_texts, svg_unit

WIDTH_COLOURS = ("#3f5bff", "#19a6ff", "#19e3ff", "#7dffc8", "#e6ff7a", "#fffbe0")
"""From narrow to wide; they stand out from the red of a retina, and become ever lighter."""
_STEP = 6.0  # pixels of 1200 across the field between two points of a line
_NODES: dict[NodeName, NodeKind] = {
    "end": NodeKind.ENDPOINT,
    "branch": NodeKind.BRANCH,
    "crossing": NodeKind.CROSSING,
}
_NAMES: dict[NodeName, str] = {"end": "end points", "branch": "branch points", "crossing": "crossings"}


def vessel_layers(eye: Eye) -> dict[str, str]:
    """Data URIs of the overlays "widths", "nodes" and "angles" over all vessels; none without a vessel.

    Args:
        eye: as it was measured; its graph and tree are computed only once.
    """
    m = VesselMeasurement(eye.layers["vessel"])
    if not len(m.graph.edges):
        return {}
    parts = {"widths": _widths(m), "nodes": _nodes(m), "angles": _angles(m)}
    return {name: svg_picture(m.field, "".join(content)) for name, content in parts.items()}


def _widths(m: VesselMeasurement) -> Iterator[str]:
    """Centre lines in six colours by width, and their key."""
    graph, unit = m.graph, svg_unit(m.field)
    known = np.isfinite(graph.widths)
    if not known.any():
        return
    low, high = robust_limits(graph.widths[known])
    level = np.clip((graph.widths - low) / (high - low) * len(WIDTH_COLOURS), 0, len(WIDTH_COLOURS) - 1)
    classes = np.where(known, np.nan_to_num(level), -1).astype(np.int64)
    chosen = _thinned(m)
    first, second = chosen[:-1], chosen[1:]
    edge = np.searchsorted(graph.offsets, chosen, side="right")
    joined = edge[:-1] == edge[1:]
    middle = classes[(first + second) // 2]  # a point of the same edge, between the two
    for number, colour in enumerate(WIDTH_COLOURS):
        pieces = np.flatnonzero(joined & (middle == number))
        if len(pieces):
            path = _runs(np.rint(graph.points[:, ::-1]).astype(np.int64), first[pieces], second[pieces])
            yield f'<path stroke="{colour}" stroke-width="{2 * unit:.1f}" d="{path}"/>'
    labels = [f"{low:.1f} px wide", *[""] * (len(WIDTH_COLOURS) - 2), f"{high:.1f} px or more"]
    yield from svg_key(m.field, list(zip(WIDTH_COLOURS, labels, strict=True)), pitch=6)


def _thinned(m: VesselMeasurement) -> np.ndarray:
    """Numbers of the points that are drawn: every few, and the last of each edge."""
    offsets = m.graph.offsets
    step = max(1, round(_STEP * m.field.diameter / 1200))
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    chosen = place % step == 0
    chosen[offsets[1:] - 1] = True
    return np.flatnonzero(chosen)


def _runs(points: np.ndarray, first: np.ndarray, second: np.ndarray) -> str:
    """SVG path through pieces from point to point, those that follow one another in one stroke."""
    begins = np.append(True, first[1:] != second[:-1])
    starts, moves = points[first].tolist(), (points[second] - points[first]).tolist()
    return "".join(
        f"{f'M{x} {y}l' if begin else ' '}{dx} {dy}"
        for begin, (x, y), (dx, dy) in zip(begins.tolist(), starts, moves, strict=True)
    )


def _nodes(m: VesselMeasurement) -> Iterator[str]:
    """Ends, branch points and crossings, and their key with counts."""
    unit, entries = svg_unit(m.field), []
    for name, kind in _NODES.items():
        places = m.graph.nodes[m.graph.kinds == kind]
        colour = MARKS[name][1]
        yield _marks(name, np.rint(places).astype(np.int64).tolist(), unit)
        entries.append((colour, f"{_NAMES[name]}: {len(places)}"))
    yield from svg_key(m.field, entries)


def _marks(name: NodeName, places: list[list[int]], unit: float) -> str:
    """Dots, squares or crosses with a dark rim at (row, column) places."""
    if name == "crossing":
        reach = round(2.2 * unit, 1)
        cross = f"m-{reach}-{reach}l{2 * reach} {2 * reach}m0-{2 * reach}l-{2 * reach} {2 * reach}"
        path, cap, size = "".join(f"M{column} {row}{cross}" for row, column in places), "round", 1.6 * unit
    else:
        path = "".join(f"M{column} {row}h0" for row, column in places)
        cap, size = ("round", 3.4 * unit) if name == "end" else ("square", 4.2 * unit)
    rim = rimmed(name, path, MARKS[name][1], size, 1.4 * unit)
    return f'<g stroke-linecap="{cap}">{rim}</g>'


def _angles(m: VesselMeasurement) -> Iterator[str]:
    """The arms of bifurcations, and their angles in degrees where there is room."""
    arms, unit = bifurcation_arms(m), svg_unit(m.field)
    corners = np.rint(np.stack([arms.tips[:, 0], arms.nodes, arms.tips[:, 1]], axis=1)).astype(np.int64)
    path = "".join(f"M{b} {a}L{d} {c}L{f} {e}" for a, b, c, d, e, f in corners.reshape(-1, 6).tolist())
    yield rimmed("arms", path, ARM_COLOUR, 1.6 * unit, 1.4 * unit)
    texts = [(f"{arms.angles[number]:.0f}°", *arms.labels[number]) for number in arms.labelled]
    yield svg_texts(texts, unit, "middle")
