"""Drawings of what lies around landmarks and between vessels: circles, arcades, gaps, fractals, scale."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from foveal.measurement.circles import Crossings
from foveal.measurement.drawing_canvas import (
    COLOURS,
    LANDMARK,
    LEFT_OUT,
    QUIET,
    SMALL,
    Drawer,
    colour_bar,
    draw_paths,
    frame,
    frame_around,
    key,
    lay_grid,
    lay_mask,
    ramp,
    robust_limits,
    text_on_photograph,
)
from foveal.measurement.equivalents import LARGEST
from foveal.measurement.eye import Eye
from foveal.measurement.graph import VesselGraph, path_normals
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import VesselMeasurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TURN = np.linspace(0, 2 * np.pi, 181)
_ROUND = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)  # (column, row) around a unit circle
_SCALE_BAR_MM = 1.0


def draw_circles(crossings: Callable[[VesselMeasurement], Crossings]) -> Drawer:
    """Drawing of the circles around the disc and of the width of each vessel across them.

    The six widest vessels of a circle, which enter the central equivalents, are bold.

    Args:
        crossings: finds the vessels on the circles.
    """

    def draw(m: VesselMeasurement, axes: "Axes") -> None:
        _draw_crossings(m, crossings(m), axes)

    return draw


def draw_circles_of_both(crossings: Callable[[VesselMeasurement], Crossings]) -> Drawer:
    """The same for arteries and veins together, of an eye."""

    def draw(eye: Eye, axes: "Axes") -> None:
        for kind in ("artery", "vein"):
            if kind in eye.layers:
                m = VesselMeasurement(eye.layers[kind])  # type: ignore[index]
                _draw_crossings(m, crossings(m), axes)

    return draw


def _draw_crossings(m: VesselMeasurement, found: Crossings, axes: "Axes") -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    disc = m.eye.landmarks.known_disc
    colour = COLOURS[m.kind]
    rings = [radius * _ROUND + disc.center[::-1] for radius in found.radii]
    axes.add_collection(LineCollection(rings, colors=QUIET, linewidths=0.5, alpha=0.7), autolim=False)
    draw_paths(axes, m, opacity=0.45, width=0.8)
    across = _normals_at(m.graph, found.points) * found.widths[:, None] / 2
    bars = np.stack([found.points - across, found.points + across], axis=1)[..., ::-1]
    order = np.lexsort((-found.widths, found.circles))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(found.circles, found.circles[order])
    widest = place < LARGEST
    for chosen, width, opacity in ((~widest, 1.0, 0.6), (widest, 3.0, 1.0)):
        bar = LineCollection(list(bars[chosen]), colors=colour, linewidths=width, alpha=opacity)
        axes.add_collection(bar, autolim=False)
    name = {"artery": "arteries", "vein": "veins", "vessel": "vessels"}[m.kind]
    key(axes, [Line2D([], [], color=colour, lw=3, label=f"six widest {name} of a circle")])
    _draw_disc(m.eye, axes)
    frame_around(axes, disc.center, 1.12 * float(found.radii.max()), m.eye)


def _normals_at(graph: VesselGraph, points: np.ndarray) -> np.ndarray:
    """(n, 2) unit vectors across the centre lines at (n, 2) points on them."""
    from scipy.spatial import cKDTree

    if not len(points):
        return np.zeros((0, 2))
    nearest = cKDTree(graph.points).query(points)[1]
    return path_normals(graph.points, graph.offsets)[nearest]


def draw_arcades(
    crossings: Callable[[VesselMeasurement], Crossings],
    pairs: Callable[[VesselMeasurement, Crossings], tuple[np.ndarray, np.ndarray]],
) -> Drawer:
    """Drawing of the widest pair of temporal vessels on each circle and of the angle between them.

    Args:
        crossings: finds the vessels on the circles.
        pairs: gives (n, 2) numbers of crossings, superior first, and (n,) angles in degrees.
    """

    def draw(m: VesselMeasurement, axes: "Axes") -> None:
        from matplotlib.collections import LineCollection

        center = np.array(m.eye.landmarks.known_disc.center)
        found = crossings(m)
        chosen, angles = pairs(m, found)
        rings = [radius * _ROUND + center[::-1] for radius in found.radii]
        axes.add_collection(LineCollection(rings, colors=QUIET, linewidths=0.6), autolim=False)
        draw_paths(axes, m, opacity=0.6)
        draw_axis(m.eye, axes)
        if not len(angles):
            return
        middle = int(np.argsort(angles, kind="stable")[len(angles) // 2])
        for number, pair in enumerate(chosen):
            tips = found.points[pair]
            rays = [np.stack([center, tip])[:, ::-1] for tip in tips]
            main = number == middle
            style = {"linewidths": 1.8 if main else 0.6, "alpha": 1.0 if main else 0.6}
            axes.add_collection(LineCollection(rays, colors="white", **style), autolim=False)  # type: ignore[arg-type]
            axes.plot(tips[:, 1], tips[:, 0], "o", ms=4, mfc="white", mec="black", mew=0.5)
        tips = found.points[chosen[middle]] - center
        down, right = m.eye.landmarks.temporal_direction
        start, stop = (_from_axis(tip, down, right) for tip in tips)
        swing = np.linspace(start, stop, 60)
        reach = max(0.35 * m.eye.landmarks.disc_fovea_distance, 1.2 * m.eye.landmarks.known_disc.radius)
        turned = np.outer(np.cos(swing), (down, right)) + np.outer(np.sin(swing), (right, -down))
        arc = center + reach * turned
        axes.plot(arc[:, 1], arc[:, 0], color="white", lw=1.2)
        label = center + 1.2 * reach * turned[len(turned) // 3]
        text_on_photograph(axes, label, f"{angles[middle]:.0f}°", fontsize=SMALL + 2)

    return draw


def _from_axis(offset: np.ndarray, down: float, right: float) -> float:
    """Angle of an offset (row, column) from the direction of the fovea, in radians."""
    return float(np.arctan2(offset @ (right, -down), offset @ (down, right)))


def draw_axis(eye: Eye, axes: "Axes") -> None:
    """The optic disc, the fovea and the line through both, as far as they are known."""
    _draw_disc(eye, axes)
    landmarks = eye.landmarks
    if landmarks.fovea is None:
        return
    row, column = landmarks.fovea
    axes.plot(column, row, "+", color=LANDMARK, ms=12, mew=2)
    if landmarks.disc is not None:
        top, left = landmarks.disc.center
        axes.plot([left, column], [top, row], color=LANDMARK, lw=1.2, ls=(0, (5, 3)))


def draw_axis_and_quadrants(eye: Eye, axes: "Axes") -> None:
    """Disc, fovea and their axis with its length, and the four sides of the retina that follow from them."""
    draw_axis(eye, axes)
    landmarks = eye.landmarks
    distance = landmarks.disc_fovea_distance
    center, fovea = np.array(landmarks.known_disc.center), np.array(landmarks.known_fovea)
    temporal = np.array(landmarks.temporal_direction)
    up = np.array([temporal[1], -temporal[0]]) * (1.0 if landmarks.side == "R" else -1.0)
    radius = landmarks.known_disc.radius
    middle = (center + radius * temporal + fovea) / 2
    text_on_photograph(axes, middle + 0.06 * distance * up, f"{distance:.0f} px", color=LANDMARK)
    around, edge = radius + 0.15 * distance, 0.05 * eye.field.diameter  # labels keep off the frame's edge
    for side, way in {"superior": up, "inferior": -up, "temporal": temporal, "nasal": -temporal}.items():
        reach = 1.25 * distance if side == "temporal" else around
        place = np.clip(
            center + reach * way, np.add(eye.field.box[:2], edge), np.subtract(eye.field.box[2:], edge)
        )
        text_on_photograph(axes, place, side, color=LANDMARK)
    for diagonal in (temporal + up, temporal - up, -temporal + up, -temporal - up):
        ends = center + np.outer((radius, radius + 0.4 * distance), diagonal / np.sqrt(2))
        axes.plot(ends[:, 1], ends[:, 0], color=LANDMARK, lw=0.9)


def draw_disc_diameter(eye: Eye, axes: "Axes") -> None:
    """The circle that stands for the optic disc, and its diameter."""
    _draw_disc(eye, axes)
    disc = eye.landmarks.known_disc
    row, column = disc.center
    ends = [column - disc.radius, column + disc.radius]
    axes.plot(ends, [row, row], color=LANDMARK, lw=1.2, marker="|", ms=8)
    text_on_photograph(axes, (row - 0.25 * disc.radius, column), f"{2 * disc.radius:.0f} px", color=LANDMARK)


def draw_scale(eye: Eye, axes: "Axes") -> None:
    """A bar of one millimetre, and the disc where the scale is taken from it."""
    column_mm = eye.known_spacing[1]
    if eye.spacing_mm is None:
        draw_disc_diameter(eye, axes)
    length = _SCALE_BAR_MM / column_mm
    _, left, bottom, _ = eye.field.box
    row = bottom + 0.02 * eye.field.diameter
    start = left + 0.04 * eye.field.diameter
    axes.plot([start, start + length], [row, row], color="white", lw=2.5, solid_capstyle="butt", zorder=5)
    place = (row + 0.025 * eye.field.diameter, start + length / 2)
    text_on_photograph(axes, place, f"{_SCALE_BAR_MM:g} mm")


def _draw_disc(eye: Eye, axes: "Axes") -> None:
    if eye.landmarks.disc is not None:
        circle = eye.landmarks.disc.radius * _ROUND + eye.landmarks.disc.center[::-1]
        axes.plot(*circle.T, color=LANDMARK, lw=1.2)


def draw_gaps(unit: Literal["1", "field/1000"]) -> Drawer:
    """Drawing of the distance to the nearest vessel; what does not count is shaded, the largest is circled.

    Args:
        unit: distances from disc to fovea, or thousandths of the field.
    """

    def draw(m: VesselMeasurement, axes: "Axes") -> None:
        from matplotlib.patches import Patch

        gaps, step = m.gaps, m.eye.row_step
        if unit == "1":
            scale, label = 1 / m.eye.landmarks.disc_fovea_distance, "disc-fovea distances to a vessel"
        else:
            scale, label = 1000 / m.field.diameter, "‰ of the field to a vessel"
        counted = gaps.counted[:, ::step]
        distances = np.where(counted, scale * gaps.distances[:, ::step], np.nan)
        left_out = m.visible[::step, ::step] & ~counted & (gaps.distances[:, ::step] > 0)
        corner = (-(step - 1) / 2, -(step - 1) / 2)
        shade = np.zeros((*left_out.shape, 4))
        striped = np.add.outer(*map(np.arange, left_out.shape)) // 6 % 2 == 0
        shade[left_out & striped] = (*_rgb(LEFT_OUT), 0.9)
        lay_grid(axes, shade, corner=corner, step=step, interpolation="nearest")
        limits = {"vmin": 0.0, "vmax": scale * gaps.largest, "cmap": "cividis", "alpha": 0.85}
        shown = lay_grid(axes, distances, corner=corner, step=step, interpolation="nearest", **limits)
        lay_mask(axes, m.layer.mask & m.visible, COLOURS[m.kind], opacity=1.0)
        colour_bar(axes, shown, label)
        farthest = np.where(gaps.counted, gaps.distances, -1.0)
        row, column = np.unravel_index(np.argmax(farthest), farthest.shape)
        circle = gaps.largest * _ROUND + (column, row * step)
        largest = axes.plot(*circle.T, color="white", lw=1.2, label="largest")
        key(axes, [*largest, Patch(fc="black", ec=LEFT_OUT, hatch="/////", label="left out")])

    return draw


def draw_box_counts(*shown: int) -> Drawer:
    """Drawing of the vessels with a chart of the box counts beside them.

    Args:
        shown: rows of `foveal.measurement.fractals.FractalDimensions.fits` that the measure is taken from.
    """
    lines = (
        ("$D_0$: log₂ of the boxes", "#f0e442"),
        ("$D_1$: entropy", "#56b4e9"),
        ("$D_2$: correlation", "#ff9d3c"),
        ("α at moment −10", "#f0e442"),
        ("α at moment 10", "#56b4e9"),
    )

    def draw(m: VesselMeasurement, axes: "Axes") -> None:
        lay_mask(axes, m.layer.mask, COLOURS[m.kind])
        _draw_boxes(m, axes)
        frame(axes, m.field.box, panel=0.72)
        found = m.layer.fractals
        chart = axes.inset_axes((0.665, 0.2, 0.315, 0.62))
        observed, fits = np.concatenate([found.entropies, found.strengths]), found.fits
        sides = 2**found.log2_sizes
        for row in range(5):
            if (row < 3) != (min(shown) < 3):
                continue
            name, colour = lines[row]
            strong = row in shown
            style: dict[str, Any] = {"color": colour, "alpha": 1.0 if strong else 0.7}
            chart.plot(sides, observed[row], marker="o", ms=4 if strong else 2.5, ls="none", **style)
            slope = abs(np.polyfit(found.log2_sizes, fits[row], 1)[0])
            chart.plot(
                sides, fits[row], lw=1.6 if strong else 0.8, label=f"{name}; slope {slope:.3f}", **style
            )
        chart.set_xscale("log", base=2)
        chart.set_facecolor("black")
        chart.set_xlabel("side of the boxes, px", color="white", fontsize=SMALL)
        chart.set_ylabel(
            "bits" if min(shown) < 3 else "mean log₂ share of a box", color="white", fontsize=SMALL
        )
        chart.tick_params(colors="white", labelsize=SMALL - 1)
        chart.spines[:].set_color(QUIET)
        chart.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.01),
            frameon=False,
            labelcolor="white",
            fontsize=SMALL,
        )

    return draw


def _draw_boxes(m: VesselMeasurement, axes: "Axes") -> None:
    """The boxes of one size, 16 to a side."""
    from matplotlib.collections import LineCollection

    rows, columns = (np.flatnonzero(m.layer.mask.any(axis=axis)) for axis in (1, 0))
    top, left = rows[0] - 0.5, columns[0] - 0.5
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    cuts = np.linspace(0, side, 17)
    level = [np.array([(left, top + cut), (left + side, top + cut)]) for cut in cuts]
    upright = [np.array([(left + cut, top), (left + cut, top + side)]) for cut in cuts]
    boxes = LineCollection(level + upright, colors="white", linewidths=0.4, alpha=0.45)
    axes.add_collection(boxes, autolim=False)


def draw_sharpness(eye: Eye, axes: "Axes") -> None:
    """Root mean square of the Laplacian around each place: light where the photograph is sharp."""
    from scipy import ndimage

    if eye.image is None:
        raise MissingError("the photograph is not at hand")
    top, left, bottom, right = eye.field.box
    window = np.s_[top:bottom, left:right]
    luma = eye.image[window] @ np.array([0.299, 0.587, 0.114], np.float32)
    power = np.where(ndimage.binary_erosion(eye.field.mask[window]), ndimage.laplace(luma) ** 2, 0.0)
    step = max(1, round(eye.field.diameter / 150))
    mean = np.asarray(Image.fromarray(power.astype(np.float32)).reduce(step))
    seen = np.asarray(Image.fromarray(eye.field.mask[window].astype(np.float32)).reduce(step)) > 0.5
    levels = np.where(seen, np.sqrt(mean), np.nan)
    limits: dict[str, Any] = dict(zip(("vmin", "vmax"), robust_limits(levels[seen]), strict=True))
    shown = lay_grid(axes, levels, corner=(top, left), step=step, cmap=ramp("vessel"), alpha=0.75, **limits)
    colour_bar(axes, shown, "Laplacian (root mean square), grey levels")


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
