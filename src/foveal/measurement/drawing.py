"""Each biomarker drawn on the photograph: background, region, what was measured, and the value."""

from typing import TYPE_CHECKING, Any

from foveal.measurement.drawing_canvas import draw_eye
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measure import lay_regions, measurement_of
from foveal.measurement.regions import RegionMap
from foveal.measurement.registry import BiomarkerColumn, unit_symbol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_biomarker", "draw_eye", "draw_region"]


def draw_biomarker(
    eye: Eye, column: BiomarkerColumn, axes: "Axes", *, regions: RegionMap | None = None
) -> float:
    """Draw one biomarker of an eye: the photograph, the region, what was measured; its value is the title.

    Where it is missing, the title says why.

    Args:
        eye: its vessels, landmarks and photograph.
        column: what to draw, of `foveal.measurement.measure.biomarker_columns`.
        axes: of any figure, for instance `matplotlib.figure.Figure().subplots()`; pyplot is not needed.
        regions: laid on this eye, with the column's among them; None lays it.

    Returns:
        The value; NaN where it is missing.
    """
    draw_eye(eye, axes)
    try:
        if regions is None and column.region is not None:
            regions = lay_regions(eye, [column.region])
        measured: Any = eye if column.kind is None else measurement_of(eye, column, regions)
        value = float(column.biomarker.function(measured))
        if column.biomarker.draw is not None:
            column.biomarker.draw(measured, axes)
        told = _told(value, column)
    except MissingError as reason:
        value, told = float("nan"), f"missing, {reason}"
    if regions is not None and column.region is not None:
        draw_region(regions, column.region, axes)
    axes.set_title(f"{column.title}: {told}", fontsize=10, loc="left", wrap=True)
    return value


def draw_region(regions: RegionMap, name: str, axes: "Axes") -> None:
    """Draw the outline of a region; nothing where it cannot be placed.

    Args:
        regions: laid on the eye.
        name: of the region.
        axes: of the photograph.
    """
    from matplotlib.collections import PolyCollection

    try:
        outlines = [outline[:, ::-1] for outline in regions.outline(name)]
    except MissingError:
        return
    style = {"edgecolors": "#ffffff", "linewidths": 1.2, "linestyles": "--"}
    axes.add_collection(PolyCollection(outlines, facecolors="none", **style), autolim=False)  # type: ignore[arg-type]


def _told(value: float, column: BiomarkerColumn) -> str:
    unit = column.biomarker.unit
    if unit == "count":
        return f"{value:.0f}"
    symbol = unit_symbol(unit)
    return f"{value:#.4g}".removesuffix(".") + (symbol if unit == "degree" or not symbol else f" {symbol}")
