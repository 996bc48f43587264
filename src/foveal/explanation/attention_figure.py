"""One picture of an analysis of attention, for a paper: importance, reach, patterns and pruning."""

from __future__ import annotations

import io

import numpy as np

from foveal.explanation.attention_analysis import AttentionAnalysis

_LINES = {"least first": ("#0072b2", "-"), "random": ("#6f7f8c", "--"), "most first": ("#d55e00", ":")}
_COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a6d00", "#7b5ab5", "#6f7f8c",
    "#b5d334", "#a3354a", "#2f4858",
)  # fmt: skip


def attention_figure(analysis: AttentionAnalysis) -> bytes:
    """PNG of four panels: combined rank, mean reach of the layers, patterns by their codes, pruning."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.4), dpi=110, layout="constrained")
    ranks, reach, patterns, pruning = figure.subplots(2, 2).ravel()
    layers, heads = analysis.rank.shape

    shown = ranks.imshow(analysis.rank.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(shown, ax=ranks, label="combined rank of importance")
    ranks.set(title="Which heads matter", xlabel="head", ylabel="layer")
    ranks.set_xticks(range(heads))
    ranks.set_yticks(range(layers))
    for layer, head in analysis.heads():
        value = float(analysis.rank[layer, head])
        if layers * heads <= 150:
            ranks.text(
                head, layer, f"{value:.2f}", ha="center", va="center", fontsize=7,
                color="white" if value > 0.55 else "#222",
            )  # fmt: skip

    trend = analysis.profiles.trend().numpy()
    rings = trend.shape[1]
    shades = [_shade(1 - 0.9 * k / max(1, rings - 1)) for k in range(rings)]
    bottom = np.zeros(layers)
    for k in range(rings):
        reach.bar(range(layers), trend[:, k], bottom=bottom, color=shades[k], width=0.8, label=str(k))
        bottom += trend[:, k]
    reach.set(
        title="Attention by distance in patches, whole rings", xlabel="layer", ylabel="share", ylim=(0, 1)
    )
    reach.set_xticks(range(layers))
    handles, labels = reach.get_legend_handles_labels()
    reach.legend(handles[::-1], labels[::-1], fontsize=7, loc="upper right", framealpha=0.9)
    reach.set_xlim(-0.6, layers * 1.12 + 0.2)

    points, clusters = analysis.atlas.points.numpy(), analysis.atlas.clusters.numpy()
    for k, name in enumerate(analysis.atlas.names):
        own = points[clusters == k]
        patterns.scatter(*own.T, s=6, alpha=0.6, color=_COLOURS[k % len(_COLOURS)], label=name)
    patterns.set(title=f"Patterns by their codes ({analysis.settings.projection})", xticks=[], yticks=[])
    patterns.legend(fontsize=7, markerscale=2, framealpha=0.7)

    for name, curve in analysis.curves.items():
        colour, style = _LINES.get(name, ("#000", "-"))
        pruning.plot(*zip(*curve, strict=True), style, color=colour, lw=2, label=name)
    what = "accuracy" if analysis.labelled else "answers that stay"
    pruning.set(title="Heads taken out together", xlabel="heads out", ylabel=what, ylim=(0, 1.02))
    pruning.grid(alpha=0.3)
    pruning.legend(title="order")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _shade(share: float) -> tuple[float, ...]:
    from matplotlib import colormaps

    return tuple(colormaps["Blues"](share))
