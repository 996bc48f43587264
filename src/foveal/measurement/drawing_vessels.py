"""Drawings of vessels: their area, border, centre lines, width, course, nodes and angles."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from foveal.measurement.drawing_canvas import (
    COLOURS,
    QUIET,
    SMALL,
    Drawer,
    centre_lines,
    colour_bar,
    draw_paths,
    key,
    lay_mask,
    ramp,
    robust_limits,
    text_on_photograph,
)
from foveal.measurement.eye import LEAST_TURN
from foveal.measurement.graph import NodeKind
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import Course, VesselMeasurement
from foveal.measurement.registry import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NodeName = Literal["start", "end", "branch", "crossing"]
# Symbol, colour and size of each; the shapes differ as well, for readers who do not see the colours.
MARKS: dict[NodeName, tuple[str, str, float]] = {
    "start": ("^", "#ffe14d", 6.0),
    "end": ("o", "#ffffff", 4.5),
    "branch": ("s", "#f29f05", 4.5),
    "crossing": ("X", "#ff7ad9", 6.5),
}
ARM_COLOUR = "#f29f05"
_ARM = 0.022  # of the field's diameter
_CLEAR = 0.035  # of it: least distance between two labels
_OWN: dict[Kind, tuple[str, ...]] = {  # for all vessels the colours of Okabe and Ito
    "vessel": ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"),
    "artery": ("#8c2d04", "#e6550d", "#fdae6b", "#a50f15", "#fb9a99"),
    "vein": ("#08306b", "#4292c6", "#c6dbef", "#54278f", "#9e9ac8"),
}


def draw_area(m: VesselMeasurement, axes: "Axes") -> None:
    """The vessel area that counts, in the colour of its kind."""
    lay_mask(axes, m.layer.mask & m.visible, COLOURS[m.kind])


def draw_border(m: VesselMeasurement, axes: "Axes") -> None:
    """The border of the vessels."""
    from matplotlib.collections import LineCollection
    from skimage.measure import find_contours

    outlines = find_contours(np.pad(m.layer.mask & m.visible, 1).astype(np.float32), 0.5)
    lines = [line[:, ::-1] - 1 for line in outlines]
    axes.add_collection(LineCollection(lines, colors=COLOURS[m.kind], linewidths=0.7), autolim=False)


def draw_centre_lines(m: VesselMeasurement, axes: "Axes") -> None:
    """The centre lines whose length is measured."""
    draw_paths(axes, m)


def draw_calibre(unit: Literal["px", "field/1000", "um"]) -> Drawer:
    """Drawing of the centre lines coloured by the vessel's width in this unit; grey where it is not taken."""

    def draw(m: VesselMeasurement, axes: "Axes") -> None:
        from matplotlib.collections import LineCollection

        scale, label = 1.0, "width, px"
        if unit == "field/1000":
            scale, label = 1000 / m.field.diameter, "width, ‰ of the field"
        elif unit == "um":
            scale, label = 1000 * m.eye.mm_per_px, "width, µm"
        draw_paths(axes, m, colour=QUIET, width=0.7)
        widths, points = scale * m.graph.widths, m.graph.points[:, ::-1]
        within = np.isfinite(widths) & m.points_inside
        pair = np.flatnonzero(within[:-1] & within[1:] & (np.diff(_edge_of_points(m)) == 0))
        if not len(pair):
            return
        pieces = np.stack([points[pair], points[pair + 1]], axis=1)
        values = 0.5 * (widths[pair] + widths[pair + 1])
        lines = LineCollection(list(pieces), cmap=ramp(m.kind), linewidths=2.0, capstyle="round")
        lines.set_array(values)
        lines.set_clim(*robust_limits(values))
        axes.add_collection(lines, autolim=False)
        colour_bar(axes, lines, label)

    return draw


def _edge_of_points(m: VesselMeasurement) -> np.ndarray:
    return np.repeat(np.arange(len(m.graph.edges)), np.diff(m.graph.offsets))


def draw_course(
    unit: Literal["segments", "resolved"],
    values: Callable[[VesselMeasurement, Course], np.ndarray],
    label: str,
) -> Drawer:
    """Drawing of segments or whole vessels coloured by what is measured of each; grey where too short.

    Whole vessels are underlaid each in a shade of its own, which shows how segments were put together.

    Args:
        unit: segments, or whole vessels.
        values: from the measurement and its course to (n,) values.
        label: of the colour bar.
    """

    def draw(m: VesselMeasurement, axes: "Axes") -> None:
        from matplotlib.collections import LineCollection

        course = m.segments if unit == "segments" else m.resolved
        found = values(m, course)
        owner = np.arange(len(m.graph.edges)) if unit == "segments" else m.layer.tree.vessels
        of_owner = np.full(int(owner.max()) + 1, np.nan)
        of_owner[course.names] = found
        of_edge = of_owner[owner]
        lines = centre_lines(m.graph, np.ones(len(m.graph.points), bool))
        if unit == "resolved":
            rank = np.full(len(of_owner), -1)
            rank[course.names] = np.arange(len(course.names))
            shades = _OWN[m.kind]
            own = [shades[number % len(shades)] if number >= 0 else "none" for number in rank[owner]]
            halo = LineCollection(lines, colors=own, linewidths=5.0, alpha=0.6, capstyle="round")
            axes.add_collection(halo, autolim=False)
        axes.add_collection(LineCollection(lines, colors=QUIET, linewidths=0.7), autolim=False)
        known = np.flatnonzero(np.isfinite(of_edge))
        if not len(known):
            return
        coloured = LineCollection([lines[edge] for edge in known], cmap=ramp(m.kind), linewidths=2.0)
        coloured.set_array(of_edge[known])
        coloured.set_clim(*robust_limits(found[np.isfinite(found)]))
        axes.add_collection(coloured, autolim=False)
        colour_bar(axes, coloured, label)

    return draw


def draw_inflections(unit: Literal["segments", "resolved"]) -> Drawer:
    """Drawing of the points at which the segments, or whole vessels, turn to the other side."""

    def draw(m: VesselMeasurement, axes: "Axes") -> None:
        points = inflection_points(m, m.segments if unit == "segments" else m.resolved, unit)
        style: dict[str, Any] = {
            "marker": "D",
            "ms": 3.5,
            "mfc": "#ffe14d",
            "mec": "black",
            "mew": 0.5,
            "ls": "none",
        }
        marks = axes.plot(points[:, 1], points[:, 0], label=f"inflection ({len(points)})", **style)
        key(axes, marks)

    return draw


def inflection_points(
    m: VesselMeasurement, course: Course, unit: Literal["segments", "resolved"]
) -> np.ndarray:
    """(n, 2) where the edges of a course turn back, as many as its inflections.

    These are the extremes of the direction, the integral of the curvature along the edge, which stand out
    by `LEAST_TURN`; see `foveal.kernels.bending.bend_reversals`, which counts them.
    """
    from scipy.signal import find_peaks

    graph = m.graph
    owner = np.arange(len(graph.edges)) if unit == "segments" else m.layer.tree.vessels
    edges = np.flatnonzero(np.isin(owner, course.names) & (m.layer.inflections > 0))
    bend = np.where(np.isfinite(graph.widths), np.nan_to_num(m.layer.curvature), 0.0)
    found = [np.zeros((0, 2))]
    for edge in edges:
        inside = slice(graph.offsets[edge], graph.offsets[edge + 1])
        path = graph.points[inside]
        step = np.hypot(*np.diff(path, axis=0).T)
        heading = np.append(0.0, np.cumsum(0.5 * (bend[inside][1:] + bend[inside][:-1]) * step))
        found += [path[find_peaks(side * heading, prominence=LEAST_TURN)[0]] for side in (1, -1)]
    return np.concatenate(found)


def draw_nodes(shown: NodeName, starts: Callable[[VesselMeasurement], np.ndarray]) -> Drawer:
    """Drawing of the nodes of the graph by what they are; those that are not `shown` small and faint.

    Args:
        shown: the nodes that count.
        starts: gives the numbers of the nodes where vessels begin.
    """

    def draw(m: VesselMeasurement, axes: "Axes") -> None:
        draw_paths(axes, m, opacity=0.6)
        marks = []
        for name, nodes in _nodes(m, starts).items():
            symbol, colour, size = MARKS[name]
            counts = name == shown
            marks += axes.plot(
                m.graph.nodes[nodes, 1],
                m.graph.nodes[nodes, 0],
                marker=symbol,
                ms=size if counts else 0.75 * size,
                mfc=colour,
                mec="black",
                mew=0.5,
                alpha=1.0 if counts else 0.7,
                ls="none",
                label=f"{name} ({len(nodes)})",
                zorder=4 if counts else 3,
            )
        key(axes, marks)

    return draw


def _nodes(
    m: VesselMeasurement, starts: Callable[[VesselMeasurement], np.ndarray]
) -> dict[NodeName, np.ndarray]:
    kinds = np.where(m.nodes_inside, m.graph.kinds, 0)
    found: dict[NodeName, np.ndarray] = {}
    with suppress(MissingError):  # without a disc no end is known to be one
        found["start"] = starts(m)
    ends = np.flatnonzero(kinds == NodeKind.ENDPOINT)
    found["end"] = np.setdiff1d(ends, found.get("start", np.zeros(0, np.int64)))
    found["branch"] = np.flatnonzero(kinds == NodeKind.BRANCH)
    found["crossing"] = np.flatnonzero(kinds == NodeKind.CROSSING)
    return found


def draw_bifurcations(m: VesselMeasurement, axes: "Axes") -> None:
    """The points where one vessel becomes two, on the tree from its roots (triangles)."""
    nodes = m.layer.tree.bifurcations.nodes
    nodes = nodes[m.nodes_inside[nodes]]
    roots = m.layer.tree.roots
    draw_paths(axes, m, opacity=0.6)
    style: dict[str, Any] = {"mec": "black", "mew": 0.5, "ls": "none"}
    marks = []
    for name, mark, label in (
        (roots[m.nodes_inside[roots]], "start", "root of a tree"),
        (nodes, "branch", "bifurcation"),
    ):
        symbol, colour, size = MARKS[mark]  # type: ignore[index]
        row, column = m.graph.nodes[name].T
        marks += axes.plot(
            column, row, marker=symbol, mfc=colour, ms=size, label=f"{label} ({len(name)})", **style
        )
    key(axes, marks)


class Arms(NamedTuple):
    """Bifurcations as they are drawn; all positions are (row, column) in pixels.

    Attributes:
        nodes: (B, 2) where a vessel divides.
        tips: (B, 2, 2) ends of the arms along the first course of both daughters.
        curves: (B, 9, 2) arcs between the arms.
        angles: (B,) between the daughters, in degrees.
        labels: (B, 2) places for the angles, on the side of the daughters and within the field's box.
        labelled: numbers of the bifurcations whose labels are clear of one another.
    """

    nodes: np.ndarray
    tips: np.ndarray
    curves: np.ndarray
    angles: np.ndarray
    labels: np.ndarray
    labelled: list[int]


def bifurcation_arms(m: VesselMeasurement) -> Arms:
    """Arms, arcs and labels of the bifurcations in the region."""
    tree, found = m.layer.tree, m.layer.tree.bifurcations
    here = np.flatnonzero(m.nodes_inside[found.nodes])
    nodes, daughters = m.graph.nodes[found.nodes[here]], found.daughters[here]
    directions = tree.directions[2 * daughters + tree.near[daughters]]  # (B, 2, 2)
    length = _ARM * m.field.diameter
    turn = np.linspace(0, 1, 9)[None, :, None]
    arcs = directions[:, :1] * (1 - turn) + directions[:, 1:] * turn
    arcs /= np.maximum(np.linalg.norm(arcs, axis=2, keepdims=True), 1e-9)
    top, left, bottom, right = m.field.box
    labels = np.clip(
        nodes + 1.35 * length * arcs[:, arcs.shape[1] // 2],
        (top + length, left + length),
        (bottom - length, right - length),
    )
    return Arms(
        nodes=nodes,
        tips=nodes[:, None] + length * directions,
        curves=nodes[:, None] + 0.5 * length * arcs,
        angles=found.angles[here],
        labels=labels,
        labelled=_apart(labels, _CLEAR * m.field.diameter),
    )


def draw_angles(m: VesselMeasurement, axes: "Axes") -> None:
    """The arms of each bifurcation and the angle between them in degrees, labelled where there is room."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    arms = bifurcation_arms(m)
    draw_paths(axes, m, opacity=0.5, width=0.9)
    lines = np.stack([arms.tips[:, 0], arms.nodes, arms.tips[:, 1]], axis=1)[..., ::-1]
    axes.add_collection(LineCollection(list(lines), colors=ARM_COLOUR, linewidths=1.6), autolim=False)
    curves = arms.curves[..., ::-1]
    axes.add_collection(LineCollection(list(curves), colors="white", linewidths=0.8), autolim=False)
    for number in arms.labelled:
        text_on_photograph(axes, arms.labels[number], f"{arms.angles[number]:.0f}°", fontsize=SMALL - 1.5)
    told = f"first course of both daughters ({len(arms.nodes)})"
    key(axes, [Line2D([], [], color=ARM_COLOUR, lw=1.6, label=told)])


def _apart(points: np.ndarray, least: float) -> list[int]:
    """Numbers of the (n, 2) points to label, in order, none nearer than `least` to an earlier one."""
    kept: list[int] = []
    for number, point in enumerate(points):
        if not kept or np.hypot(*(points[kept] - point).T).min() >= least:
            kept.append(number)
    return kept
