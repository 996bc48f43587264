"""Pictures of maps: over the photograph with a colour bar, side by side, and projected along three axes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foveal.measurement.drawing_canvas import SMALL, colour_bar, frame, lay_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_SIDE = 900  # longer side of a single overlay, pixels
_BRIGHTEST = 140  # grey level of all but the lightest hundredth of the photograph below a map
_DOTS = 100  # an inch


@dataclass(frozen=True)
class Drawn:
    """A map to draw.

    Attributes:
        values: (H, W), or (X, Y, Z) of a volume.
        title: short.
        signed: values below 0 speak against the target.
    """

    values: np.ndarray
    title: str
    signed: bool


def overlay_png(drawn: Drawn, background: np.ndarray) -> bytes:
    """One map over its photograph.

    Args:
        drawn: (H, W).
        background: (H, W, 3) uint8.

    Returns:
        PNG with a colour bar in the map's own units.
    """
    height, width = background.shape[:2]
    scale = _SIDE / max(height, width)
    figure, axes = _canvas(1, 1, width * scale / _DOTS, 1.08 * height * scale / _DOTS)
    limit = limit_of(drawn.values)
    shown = _lay(axes[0], drawn, background, limit)
    colour_bar(axes[0], shown, drawn.title)
    return _png(figure)


def comparison_png(maps: Sequence[Drawn], background: np.ndarray, *, title: str = "") -> bytes:
    """The photograph and several maps side by side, each on a scale of its own.

    Args:
        maps: (H, W) each.
        background: (H, W, 3) uint8.
        title: of the first panel.

    Returns:
        PNG; the colour bars tell the share of each map's limit, see `limit_of`.
    """
    height, width = background.shape[:2]
    panels = len(maps) + 1
    columns = min(panels, 4 if panels < 5 else min((4, 3), key=lambda count: -panels % count))
    rows = math.ceil(panels / columns)
    side = 380 / _DOTS
    unit = side / max(height, width)
    figure, axes = _canvas(rows, columns, columns * width * unit, 1.08 * rows * height * unit)
    lay_grid(axes[0], _shrunk(background, 800), step=1)
    _clear(axes[0], background, step=_step(background.shape, 800))
    _told(axes[0], background.shape, title or "photograph")
    for panel, drawn in zip(axes[1:], maps, strict=False):
        scaled = Drawn(drawn.values / limit_of(drawn.values), drawn.title, drawn.signed)
        shown = _lay(panel, scaled, background, 1.0)
        colour_bar(panel, shown, "against … for" if drawn.signed else "size")
        _told(panel, background.shape, drawn.title)
    for panel in axes[len(maps) + 1 :]:
        panel.set_visible(False)
    return _png(figure)


def projections_png(drawn: Drawn, volume: np.ndarray) -> bytes:
    """Maximum-intensity projections of a volume and of its map along the three axes.

    Args:
        drawn: (X, Y, Z); of a signed map the largest size along a line is shown with its sign.
        volume: (X, Y, Z).
    """
    figure, axes = _canvas(2, 3, 9.6, 6.9)
    limit = limit_of(drawn.values)
    for axis, name in enumerate("XYZ"):
        seen = _grey(volume.max(axis=axis))
        projected = largest_along(drawn.values, axis)
        grid = np.repeat(seen[..., None], 3, axis=2)
        lay_grid(axes[axis], grid, step=1)
        _clear(axes[axis], grid, step=1)
        shown = _lay(axes[3 + axis], Drawn(projected, drawn.title, drawn.signed), grid, limit)
        _told(axes[axis], grid.shape, f"input, greatest along {name}")
        if axis == 0:
            colour_bar(axes[3], shown, drawn.title)
    return _png(figure)


def limit_of(values: np.ndarray) -> float:
    """End of a colour scale: the size that one value in 200 exceeds, or the largest where that is 0."""
    size = np.abs(values[np.isfinite(values)])
    if not size.size:
        return 1.0
    return float(np.percentile(size, 99.5)) or float(size.max()) or 1.0


def largest_along(values: np.ndarray, axis: int) -> np.ndarray:
    """The value of the largest size on each line along an axis, with its sign."""
    place = np.abs(values).argmax(axis=axis, keepdims=True)
    return np.take_along_axis(values, place, axis=axis).squeeze(axis)


def grey_photograph(image: np.ndarray) -> np.ndarray:
    """(C, H, W) of any range as (H, W, 3) uint8; three channels stay colours."""
    scaled = _grey(image) if image.shape[0] == 3 else _grey(image.mean(axis=0, keepdims=True))
    return np.ascontiguousarray(np.repeat(scaled, 4 - scaled.shape[0], axis=0)[:3].transpose(1, 2, 0))


def _grey(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return np.rint(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)


def _canvas(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DOTS, facecolor="black")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.015, hspace=0.015)
    return figure, list(axes.ravel())


def _lay(axes: Axes, drawn: Drawn, background: np.ndarray, limit: float) -> ScalarMappable:
    """The dimmed photograph in grey, and the map on it, the more opaque the larger it is."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    step = _step(background.shape, _SIDE)
    grey = _shrunk(background, _SIDE).mean(axis=2, keepdims=True)
    grey = np.clip(grey * (_BRIGHTEST / max(1.0, float(np.percentile(grey, 99)))), 0, 255)
    values = _block_mean(drawn.values, step)
    colours = _colours(drawn.signed)
    scale = Normalize(-limit if drawn.signed else 0.0, limit)
    size = np.clip(np.abs(values) / limit, 0, 1)[..., None]
    opacity = size**0.6
    painted = 255 * colours(scale(values if drawn.signed else np.abs(values)))[..., :3]
    lay_grid(axes, np.rint((1 - opacity) * grey + opacity * painted).astype(np.uint8), step=step)
    _clear(axes, background, step=1)
    return ScalarMappable(scale, colours)


def _clear(axes: Axes, background: np.ndarray, *, step: int) -> None:
    height, width = background.shape[:2]
    if step > 1:  # laid with cells of one pixel, at a smaller size
        height, width = -(-height // step), -(-width // step)
    frame(axes, (0, 0, height, width))


def _told(axes: Axes, shape: Sequence[int], text: str) -> None:
    from matplotlib.patheffects import withStroke

    axes.text(
        0.5, 0.985, text, transform=axes.transAxes, color="white", fontsize=SMALL + 1, ha="center", va="top",
        path_effects=[withStroke(linewidth=2, foreground="black")], zorder=6,
    )  # fmt: skip


def _colours(signed: bool) -> Colormap:
    """From blue over black to orange for signed maps, from violet to yellow for sizes."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ("#9fd8ff", "#2f7fd6", "#10101a", "#e0622c", "#ffe08a") if signed else (
        "#3c008c", "#be1ea0", "#ff8c28", "#fffa78"
    )  # fmt: skip
    return LinearSegmentedColormap.from_list("relevance", stops)


def _step(shape: Sequence[int], side: int) -> int:
    return max(1, -(-max(shape[:2]) // side))


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).reduce(_step(image.shape, side)))


def _block_mean(values: np.ndarray, step: int) -> np.ndarray:
    """Values averaged over blocks; those at the edges may be smaller."""
    from PIL import Image

    return np.asarray(Image.fromarray(values.astype(np.float32), mode="F").reduce(step))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="black", dpi=_DOTS)
    return buffer.getvalue()
