"""What all drawings of biomarkers share: the photograph in grey, colours, lines, keys and frames."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from foveal.measurement.eye import Eye
from foveal.measurement.graph import VesselGraph
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap

Drawer = Callable[[Any, "Axes"], None]

COLOURS: dict[Kind, str] = {"vessel": "#19e3ff", "artery": "#ff6b5a", "vein": "#5c9dff"}
"""Arteries red, veins blue, both together cyan: on the grey photograph, also without colour vision."""
LANDMARK, LEFT_OUT, QUIET = "#ffe14d", "#6d6673", "#8a949e"
_RAMPS: dict[Kind, tuple[str, str, str]] = {
    "vessel": ("#6a4fd0", "#19c3cf", "#f8f08a"),
    "artery": ("#a3241a", "#ff6b5a", "#fff0d2"),
    "vein": ("#2a4bb5", "#5c9dff", "#eaf6ff"),
}
_SIDE = 1000  # pixels across the picture that the background is shrunk to
_BRIGHTEST = 165  # grey level of all but the lightest hundredth, so that what is drawn on it stands out
_FIELD_GREY = 45
_FOOTER = 0.075  # of the height, under the photograph, for keys
SMALL = 8.0  # points, of all writing on the photograph


def draw_eye(eye: Eye, axes: "Axes") -> None:
    """Draw the background: the photograph in dimmed grey, or the field where there is no photograph.

    Args:
        eye: with or without an image.
        axes: of any figure; its coordinates become (column, row) in pixels.
    """
    top, left, bottom, right = eye.field.box
    window = np.s_[top:bottom, left:right]
    step = -(-max(bottom - top, right - left) // _SIDE)
    if eye.image is None:
        levels = eye.field.mask[window].astype(np.uint8) * np.uint8(_FIELD_GREY)
    else:
        levels = np.asarray(Image.fromarray(eye.image[window]).convert("L"))
    grey = Image.fromarray(levels).reduce(step)
    if eye.image is not None:
        gain = _BRIGHTEST / max(1.0, float(np.percentile(np.asarray(grey), 99)))
        grey = grey.point([min(round(gain * level), 255) for level in range(256)])
    lay_grid(axes, np.asarray(grey.convert("RGB")), corner=(top, left), step=step)
    frame(axes, eye.field.box)


def lay_grid(
    axes: "Axes", values: np.ndarray, *, corner: tuple[float, float] = (0, 0), step: int = 1, **options: Any
) -> "ScalarMappable":
    """Lay a grid of cells over the photograph.

    Args:
        axes: of the photograph.
        values: (h, w) numbers, or (h, w, 3 or 4) colours.
        corner: row and column of the first pixel of the first cell.
        step: pixels along the side of a cell.
        options: of `Axes.imshow`.
    """
    top, left = corner[0] - 0.5, corner[1] - 0.5
    height, width = values.shape[:2]
    extent = (left, left + step * width, top + step * height, top)
    return axes.imshow(values, extent=extent, **options)


def lay_mask(axes: "Axes", mask: np.ndarray, colour: str, *, opacity: float = 0.75) -> None:
    """Lay an (H, W) bool mask over the photograph in one colour."""
    from matplotlib.colors import to_rgb

    step = -(-max(mask.shape) // _SIDE)
    coverage = np.asarray(Image.fromarray(mask.view(np.uint8) * np.uint8(255)).reduce(step))
    tinted = np.empty((*coverage.shape, 4), np.uint8)
    tinted[..., :3] = np.rint(255 * np.array(to_rgb(colour)))
    tinted[..., 3] = np.rint(opacity * coverage)
    lay_grid(axes, tinted, step=step)


def frame(axes: "Axes", box: Sequence[float], *, panel: float = 0.0) -> None:
    """Show this part of the photograph, on black, with room for keys below.

    Args:
        axes: of the photograph.
        box: top, left, bottom, right in pixels.
        panel: width of an empty panel on the right, as a share of the height.
    """
    top, left, bottom, right = (bound - 0.5 for bound in box)
    height = bottom - top
    axes.set_xlim(left, right + panel * height)
    axes.set_ylim(bottom + _FOOTER * height, top)
    # A part of the photograph goes on below: the keys get a black ground, above drawings and below writing.
    axes.axhspan(bottom, bottom + _FOOTER * height, color="black", zorder=4.5, lw=0)
    axes.set_aspect("equal")
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def frame_around(axes: "Axes", center: tuple[float, float], reach: float, eye: Eye) -> None:
    """Show a square around a point, as far as it lies in the photograph's field."""
    top, left, bottom, right = eye.field.box
    row, column = center
    low = max(row - reach, top), max(column - reach, left)
    frame(axes, (*low, min(row + reach, bottom), min(column + reach, right)))


def ramp(kind: Kind) -> "Colormap":
    """Colours from low to high, ever lighter: reds for arteries, blues for veins."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(kind, _RAMPS[kind])


def centre_lines(graph: VesselGraph, kept: np.ndarray) -> list[np.ndarray]:
    """(n, 2) column and row along each edge, for a `LineCollection`; NaN, which is a gap, where not kept."""
    points = np.where(kept[:, None], graph.points[:, ::-1], np.nan)
    return np.split(points, graph.offsets[1:-1]) if len(graph.edges) else []


def draw_paths(
    axes: "Axes", m: VesselMeasurement, *, colour: str | None = None, width: float = 1.2, opacity: float = 1.0
) -> None:
    """Centre lines in one colour, that of their kind if no other is given, in the region."""
    from matplotlib.collections import LineCollection

    colour = colour or COLOURS[m.kind]
    lines = centre_lines(m.graph, m.points_inside)
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, alpha=opacity), autolim=False)


def colour_bar(axes: "Axes", mappable: "ScalarMappable", label: str) -> None:
    """Colour bar with its label, in the left half below the photograph."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    bar = figure.colorbar(mappable, cax=axes.inset_axes((0.03, 0.042, 0.3, 0.013)), orientation="horizontal")
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(colors="white", labelsize=SMALL - 1, length=2, pad=1)
    bar.ax.locator_params(nbins=4)
    axes.text(
        0.35, 0.048, label, zorder=5, transform=axes.transAxes, color="white", fontsize=SMALL, va="center"
    )


def key(axes: "Axes", handles: Sequence[Any]) -> None:
    """Key of the marks with a label, below the photograph to the right; added to one that is there."""
    before = axes.get_legend()
    entries = [*(before.legend_handles if before is not None else ()), *handles]
    axes.legend(
        handles=entries,
        loc="lower right",
        ncols=max(len(entries), 1),
        frameon=False,
        labelcolor="white",
        fontsize=SMALL,
        handletextpad=0.5,
        handlelength=1.2,
        columnspacing=1.0,
        borderaxespad=0.1,
    )


def robust_limits(values: np.ndarray) -> tuple[float, float]:
    """Ends of a colour scale: the smallest value and the 95th percentile, apart from one another."""
    low, high = float(np.min(values)), float(np.percentile(values, 95))
    return low, max(high, low + 1e-6 * max(abs(low), 1.0))


def text_on_photograph(
    axes: "Axes", point: "Sequence[float] | np.ndarray", text: str, **options: Any
) -> None:
    """White text with a dark rim, centred at (row, column)."""
    from matplotlib.patheffects import withStroke

    settings: dict[str, Any] = {
        "zorder": 5,
        "color": "white",
        "fontsize": SMALL,
        "ha": "center",
        "va": "center",
    } | options
    rim = [withStroke(linewidth=2, foreground="black")]
    axes.text(point[1], point[0], text, path_effects=rim, clip_on=True, **settings)


def together(*drawers: Drawer) -> Drawer:
    """One drawing after the other on the same axes."""

    def draw(measured: Any, axes: "Axes") -> None:
        for drawer in drawers:
            drawer(measured, axes)

    return draw
