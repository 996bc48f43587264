"""What a page on sequence operators shows beside its measurements: declarations, the cost model, a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from foveal.blocks.sequence_operators import operator_kind
from foveal.evaluation.figure_style import COLOURS, LOG_STYLE, figure_svg
from foveal.evaluation.sequence_costs import Measure, SequenceReport
from foveal.markdown import table

MARKERS = "os^v"
_AXES: dict[Measure, tuple[str, float]] = {
    "forward": ("forward, seconds", 1.0),
    "both": ("forward and backward, seconds", 1.0),
    "step": ("one more token, seconds", 1.0),
    "kept_bytes": ("kept for the backward pass, MiB", 2.0**-20),
    "forward_bytes": ("forward adds, MiB", 2.0**-20),
    "both_bytes": ("forward and backward add, MiB", 2.0**-20),
    "flops": ("operations", 1.0),
}


def declaration_table(ops: Sequence[str]) -> str:
    """A Markdown table of what each operator declares, and its costs in symbols.

    L tokens, width D, state N, h heads of d channels, rank R, K taps, chunks of T; an expansion of 2.

    Raises:
        ValueError: an unknown operator.
    """
    head = ["operator", "causal", "time-invariant", "step", "types", "backends", "operations a sequence",
            "numbers kept in training", "numbers of its state"]  # fmt: skip
    rows = []
    for name in ops:
        kind = operator_kind(name)
        facts = (kind.causal, kind.time_invariant, kind.has_step)
        cost = kind.complexity
        rows.append([name, *("yes" if fact else "no" for fact in facts), ", ".join(kind.dtypes),
                     ", ".join(kind.backends), cost.operations, cost.memory, cost.state])  # fmt: skip
    return table(head, rows)


def cost_figure(
    report: SequenceReport, *, measures: Sequence[Measure] = ("forward", "both", "kept_bytes")
) -> bytes:
    """Costs over tokens as SVG, both axes logarithmic, one panel a measure (at the first width and batch).

    Raises:
        ValueError: no measure.
    """
    if not measures:
        raise ValueError("no measures to plot; allowed: one or more of " + ", ".join(_AXES))
    with mpl.rc_context(LOG_STYLE):
        figure = Figure(figsize=(3.4 * len(measures), 3.6), layout="constrained")
        panels = figure.subplots(1, len(measures), squeeze=False)[0]
        for panel, of in zip(panels, measures, strict=True):
            title, scale = _AXES[of]
            for k, name in enumerate(report.operators):
                curve = report.curve(name, of)
                if curve:
                    values = [scale * statistics.median(v) for v in curve.values()]
                    look = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k // len(COLOURS)]}
                    panel.loglog(list(curve), values, label=name, markersize=3, linewidth=1, **look)
            panel.set(title=title, xlabel="tokens")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
        return figure_svg(figure)
