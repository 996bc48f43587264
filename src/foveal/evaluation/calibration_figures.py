"""Figures of uncertainty: reliability diagrams and risk-coverage curves, one panel a structure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from foveal.evaluation.cohort_text import estimate
from foveal.evaluation.figure_style import COLOURS, INK, LINE, SOFT, STYLE, figure_svg, wrapped
from foveal.metrics.calibration import CalibrationScores, ReliabilityCurve
from foveal.metrics.selective import RiskCoverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3


def reliability_figure(
    curves: Mapping[str, ReliabilityCurve], scores: Mapping[str, CalibrationScores] | None = None
) -> bytes:
    """SVG of a reliability diagram for each structure: observed frequency over mean probability.

    The band is the frequency's 95% interval over patients; below each diagram stands what share of the items
    lies in each bin, on a logarithmic axis.

    Args:
        curves: by the structure's title.
        scores: of the same structures, for the caption; none by default.

    Raises:
        ValueError: no curves, or scores of other structures than the curves.
    """
    _check_any(curves, "curves")
    if scores is not None and set(scores) != set(curves):
        raise ValueError(
            f"scores are of {sorted(scores)} and curves of {sorted(curves)}: the same are wanted"
        )
    columns, rows = min(COLUMNS, len(curves)), -(-len(curves) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * columns + 0.3, 4.3 * rows), layout="constrained")
        axes = figure.subplots(
            2 * rows, columns, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [3.2, 1] * rows}
        )
        diagrams, histograms = axes[::2].ravel(), axes[1::2].ravel()
        for place, (title, curve) in enumerate(curves.items()):
            colour = COLOURS[1 + place % (len(COLOURS) - 1)]
            _diagram(diagrams[place], curve, colour)
            _histogram(histograms[place], curve, colour)
            _title(diagrams[place], title, "" if scores is None else _calibration_caption(scores[title]))
            if place % columns == 0:
                diagrams[place].set_ylabel("observed frequency")
                histograms[place].set_ylabel("share of items")
            if place + columns >= len(curves):
                histograms[place].set_xlabel("mean probability")
                histograms[place].tick_params(axis="x", labelbottom=True)
        for axis in (*diagrams[len(curves) :], *histograms[len(curves) :]):
            axis.set_axis_off()
        return figure_svg(figure)


def risk_coverage_figure(results: Mapping[str, RiskCoverage], *, risk: str = "error rate") -> bytes:
    """SVG of a risk-coverage curve for each structure, between the ideal order and a random one.

    The band is the 95% interval over patients; the legend gives the area under each curve.

    Args:
        results: by the structure's title.
        risk: what the mean loss is, for the axis.

    Raises:
        ValueError: no results.
    """
    _check_any(results, "results")
    columns, rows = min(COLUMNS, len(results)), -(-len(results) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * columns + 0.3, 3.1 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for place, (title, result) in enumerate(results.items()):
            _risk_panel(axes[place], result, COLOURS[1 + place % (len(COLOURS) - 1)])
            found = "" if np.isnan(result.auroc.value) else f"AUROC for errors {estimate(*result.auroc)}"
            _title(axes[place], title, found)
            if place % columns == 0:
                axes[place].set_ylabel(f"{risk} of what is kept")
            if place + columns >= len(results):
                axes[place].set_xlabel("coverage: share that is kept")
        for axis in axes[len(results) :]:
            axis.set_axis_off()
        return figure_svg(figure)


def _diagram(axis: "Axes", curve: ReliabilityCurve, colour: str) -> None:
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    there = curve.count > 0
    probability, frequency = (
        np.compress(there, band, axis=1) for band in (curve.probability, curve.frequency)
    )
    axis.fill_between(probability[0], frequency[1], frequency[2], color=colour, alpha=0.2, linewidth=0)
    axis.plot(probability[0], frequency[0], "o-", color=colour, linewidth=1.5, markersize=3.5)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.grid(color=LINE, linewidth=0.6)
    axis.set_axisbelow(True)


def _histogram(axis: "Axes", curve: ReliabilityCurve, colour: str) -> None:
    share = curve.share.value
    axis.bar(
        curve.edges[:-1], share, np.diff(curve.edges), align="edge", color=colour, alpha=0.6, linewidth=0
    )
    axis.set_yscale("log")
    lowest = float(share[share > 0].min())
    axis.set_ylim(10 ** np.floor(np.log10(lowest) - 0.01), 1)
    axis.minorticks_off()
    axis.yaxis.set_major_locator(LogLocator(numticks=4))
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")


def _risk_panel(axis: "Axes", result: RiskCoverage, colour: str) -> None:
    x, base = result.coverage, result.base_risk.value
    label = f"random {base:.3g}"
    axis.plot([0, 1], [base, base], color=SOFT, linewidth=1.1, linestyle=(0, (4, 3)), label=label)
    axis.fill_between(x, result.risk.low, result.risk.high, color=colour, alpha=0.2, linewidth=0)
    label = f"uncertainty {estimate(*result.aurc)}"
    axis.plot(x, result.risk.value, color=colour, linewidth=1.7, label=label)
    label = f"ideal {result.ideal_aurc.value:.3g}"
    axis.plot(x, result.ideal, color=INK, linewidth=1.1, linestyle=(0, (1, 1.5)), label=label)
    highest = max(float(np.nanmax([*result.risk.value, *result.risk.high])), base)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.75 * highest if highest > 0 else 1)  # the legend stands above the curves
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.locator_params(axis="y", nbins=5)
    axis.grid(color=LINE, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(title="area under the curve", loc="upper left", fontsize=7, title_fontsize=7, frameon=False)


def _title(axis: "Axes", title: str, caption: str) -> None:
    axis.set_title(f"{wrapped(title, 32)}\n", fontsize=9, fontweight="bold", loc="left")
    axis.text(0, 1.03, caption, transform=axis.transAxes, fontsize=7.5, color=SOFT)


def _calibration_caption(scores: CalibrationScores) -> str:
    return f"ECE {estimate(*scores.ece)}, slope {scores.slope.value:.2f}"


def _check_any(given: Mapping[str, object], name: str) -> None:
    if not given:
        raise ValueError(f"{name} are empty; give at least one structure")
