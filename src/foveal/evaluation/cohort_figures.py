"""Figures of a comparison: box plots with the value of every patient, and a forest plot of the effects."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from foveal.evaluation.cohort import Comparison
from foveal.evaluation.cohort_columns import Measure
from foveal.evaluation.cohort_text import estimate, p_value
from foveal.evaluation.figure_style import COLOURS, LINE, SOFT, STYLE, figure_svg, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS, ROWS = 4, 3
MOST_EFFECTS = 40
"""Most biomarkers in the forest plot: the strongest ones."""
_RASTER_FROM = 3000  # points in a sheet; as vectors more would make the page slow


def box_plot_sheets(comparison: Comparison) -> Iterator[bytes]:
    """SVG sheets of up to 12 biomarkers in the order of the table; those without any value are left out."""
    cohort = comparison.cohort
    measures = [measure for measure in cohort.measures if cohort.values[measure.name].notna().any()]
    for first in range(0, len(measures), COLUMNS * ROWS):
        yield _sheet(comparison, measures[first : first + COLUMNS * ROWS])


def _sheet(comparison: Comparison, measures: Sequence[Measure]) -> bytes:
    rows = -(-len(measures) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.75 * rows), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1))
        axes = figure.subplots(rows, COLUMNS, squeeze=False)
        raster = len(measures) * len(comparison.cohort.groups) > _RASTER_FROM
        for axis, measure in zip(axes.flat, measures, strict=False):
            _box_plot(axis, comparison, measure, raster=raster)
        for axis in axes.flat[len(measures) :]:
            axis.set_axis_off()
        return figure_svg(figure)


def _box_plot(axis: "Axes", comparison: Comparison, measure: Measure, *, raster: bool) -> None:
    cohort = comparison.cohort
    values, groups = cohort.values[measure.name].to_numpy(float), cohort.groups.to_numpy()
    samples = [values[(groups == group) & np.isfinite(values)] for group in cohort.order]
    random = np.random.default_rng(0)  # of the sideways scatter only
    for place, sample in enumerate(samples):
        colour = COLOURS[place % len(COLOURS)]
        if len(sample) > 1:
            axis.boxplot(
                [sample],
                positions=[place],
                widths=0.6,
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": colour + "2e", "edgecolor": colour, "linewidth": 1.0},
                medianprops={"color": colour, "linewidth": 2.0},
                whiskerprops={"color": colour, "linewidth": 1.0},
                capprops={"color": colour, "linewidth": 1.0},
            )
        axis.scatter(
            place + random.uniform(-0.2, 0.2, len(sample)),
            sample,
            s=float(np.clip(600 / max(len(sample), 1), 3, 14)),
            color=colour,
            alpha=0.75 if len(sample) < 100 else 0.4,
            linewidth=0,
            zorder=3,
            rasterized=raster,
        )
    labels = [wrapped(group, 14) for group in cohort.order]
    many = len(labels) > 4
    axis.set_xticks(range(len(labels)), labels, rotation=45 if many else 0, ha="right" if many else "center")
    axis.set_xlim(-0.6, len(labels) - 0.4)
    axis.grid(axis="y", color=LINE, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.locator_params(axis="y", nbins=5)
    axis.set_title(f"{wrapped(measure.heading, 32)}\n", fontsize=9, fontweight="bold", loc="left")
    axis.text(0, 1.03, _caption(comparison, measure), transform=axis.transAxes, fontsize=7.5, color=SOFT)


def _caption(comparison: Comparison, measure: Measure) -> str:
    """The effect and its corrected p-value in a line, or that nothing was tested."""
    rows = comparison.table[comparison.table.biomarker == measure.name]
    row = rows.iloc[0]
    if len(comparison.cohort.order) > 2:
        if row.omnibus_not_tested:
            return "groups not tested together"
        return (
            f"Kruskal-Wallis ε² = {row.epsilon_squared:.2f}, p {p_value(row.kruskal_p_corrected, sign=True)}"
        )
    if row.not_tested:
        return "not tested"
    g = estimate(row.hedges_g, row.hedges_g_low, row.hedges_g_high, 0.1)
    return f"g = {g}, p {p_value(row.welch_p_corrected, sign=True)}"


def forest_plot(comparison: Comparison) -> bytes:
    """SVG of Hedges' g with its interval, the strongest biomarkers first by size, a panel for each group.

    Every panel holds a group against the cohort's reference. A filled point has a Welch p-value below 0.05
    after correction.
    """
    table = comparison.against_reference
    tested = table[(table.not_tested == "") & np.isfinite(table.hedges_g)]
    strength = tested.groupby("biomarker").hedges_g.agg(lambda effects: effects.abs().max())
    shown = set(strength.sort_values(ascending=False, kind="stable").index[:MOST_EFFECTS])
    groups = comparison.cohort.order[1:]
    first = tested[tested.group == groups[0]].set_index("biomarker").hedges_g
    measures = [measure for measure in comparison.cohort.measures if measure.name in shown]
    measures.sort(key=lambda measure: first.get(measure.name, 0.0))
    reach = _reach(tested[tested.biomarker.isin(shown)])
    with mpl.rc_context(STYLE):
        longest = max((len(measure.heading) for measure in measures), default=0)
        figure = Figure(
            figsize=(0.068 * longest + max(3.6, 2.8 * len(groups)), 1.2 + 0.27 * max(len(measures), 3)),
            layout="constrained",
        )
        panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for place, (panel, group) in enumerate(zip(panels, groups, strict=True), start=1):
            rows = tested[tested.group == group].set_index("biomarker")
            _forest_panel(panel, rows, measures, COLOURS[place % len(COLOURS)], reach)
            title = wrapped(f"{group} against {comparison.cohort.order[0]}", 34, lines=3)
            panel.set_title(title, fontsize=9, fontweight="bold")
            panel.set_xlabel(wrapped(f"Hedges' g (right: higher in {group})", 38, lines=3))
        panels[0].set_yticks(range(len(measures)), [measure.heading for measure in measures])
        panels[0].set_ylim(-0.6, len(measures) - 0.4)
        return figure_svg(figure)


def _forest_panel(
    panel: "Axes", rows: "pd.DataFrame", measures: Sequence[Measure], colour: str, reach: float
) -> None:
    panel.axvline(0, color=SOFT, linewidth=0.9)
    panel.grid(axis="x", color=LINE, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.set_xlim(-reach, reach)
    for height, measure in enumerate(measures):
        if measure.name not in rows.index:
            continue
        row = rows.loc[measure.name]
        clear = row.welch_p_corrected < 0.05
        panel.plot([row.hedges_g_low, row.hedges_g_high], [height, height], color=colour, linewidth=1.4)
        panel.plot(
            row.hedges_g,
            height,
            "o",
            markersize=5.5,
            markeredgecolor=colour,
            markerfacecolor=colour if clear else "white",
            zorder=3,
        )


def _reach(rows: "pd.DataFrame") -> float:
    """Half the width of the effects' axis: what holds every finite end."""
    ends = rows[["hedges_g", "hedges_g_low", "hedges_g_high"]].to_numpy(float)
    ends = np.abs(ends[np.isfinite(ends)])
    return 1.08 * max(0.5, float(ends.max(initial=0.0)))
