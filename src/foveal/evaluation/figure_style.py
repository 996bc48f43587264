"""The look of the figures of evaluations: colours, type, and SVG that is the same for the same results."""

import io
import textwrap
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision; the reference is the quiet grey.
COLOURS = ("#6b7683", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f")
INK, SOFT, LINE = "#17212b", "#5a6773", "#d9dfe5"
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a group may be called "$a$"
    "svg.hashsalt": "foveal",  # same results, same bytes
}
LOG_STYLE = {**STYLE, "text.parse_math": True}
"""For axes in powers of ten, which matplotlib writes as mathematics."""


def wrapped(text: str, width: int, *, lines: int = 2) -> str:
    """Text broken into lines of a width in characters; the last ends in dots where there are too many."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …")) or text


def figure_svg(figure: Figure) -> bytes:
    """A figure as SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white", dpi=200)
    return buffer.getvalue()
