"""Small inline SVG charts: histograms of a cohort and the place of one value in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

PERCENTILE_FROM = 20
"""Smallest cohort in which a place is told as a percentile; below it, as a rank."""


@dataclass(frozen=True)
class Cohort:
    """Sorted finite values of one column over the photographs of a run."""

    values: np.ndarray

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Cohort":
        """Cohort of the values that are present and finite."""
        found = np.array([value for value in values if value is not None], dtype=np.float64)
        return cls(np.sort(found[np.isfinite(found)]))

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile; NaN when the cohort is empty."""
        if not len(self.values):
            return (float("nan"),) * 3
        low, middle, high = np.percentile(self.values, [25, 50, 75])
        return float(low), float(middle), float(high)

    def percentile(self, value: float) -> float:
        """Share of the cohort below `value`, ties counted half, in percent."""
        below = np.searchsorted(self.values, value, "left")
        up_to = np.searchsorted(self.values, value, "right")
        return float(below + up_to) / 2 / len(self.values) * 100

    def place(self, value: float | None) -> str:
        """Where `value` stands, lowest first, in words: a percentile, or a rank in a small cohort."""
        size = len(self.values)
        if value is None:
            return "not measured"
        if size < 2:
            return "no other photograph to compare with"
        if size < PERCENTILE_FROM:
            return f"{int(np.searchsorted(self.values, value, 'left')) + 1} of {size}"
        return f"percentile {self.percentile(value):.0f}"


def number(value: float | int | str | None) -> str:
    """A value as a reader wants it: four significant digits, no exponent where it can be avoided."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return str(value)
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    if value == 0:
        return "0"
    if value.is_integer() and abs(value) >= 10:  # a median of counts
        return f"{value:.0f}"
    text = f"{value:#.4g}".removesuffix(".")
    return f"{value:.0f}" if "e" in text else text


def histogram(cohort: Cohort, *, label: str, width: int = 220, height: int = 64, bins: int = 20) -> Markup:
    """Bars of a cohort's distribution with its median; empty below two values."""
    if len(cohort.values) < 2:
        return Markup("")
    counts, edges = np.histogram(cohort.values, bins=min(bins, max(5, 2 * int(len(cohort.values) ** 0.5))))
    step = width / len(counts)
    tall = height / counts.max()
    bars = "".join(
        f'<rect x="{index * step + 0.5:.1f}" y="{height - count * tall:.1f}" '
        f'width="{step - 1:.1f}" height="{count * tall:.1f}"/>'
        for index, count in enumerate(counts)
        if count
    )
    span = float(edges[-1] - edges[0])
    middle = (cohort.quartiles[1] - float(edges[0])) / span * width
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<g class="bars">{bars}</g><line class="middle" x1="{middle:.1f}" x2="{middle:.1f}" y1="0" '
        f'y2="{height}"/></svg>'
    )


def strip(cohort: Cohort, value: float | None, *, label: str, width: int = 180, height: int = 18) -> Markup:
    """Range, middle half and median of a cohort, with a dot at `value`; empty without a comparison."""
    if value is None or len(cohort.values) < 2:
        return Markup("")
    low, high = min(float(cohort.values[0]), value), max(float(cohort.values[-1]), value)
    span = (high - low) or 1.0
    margin = 6

    def at(position: float) -> float:
        return margin + (position - low) / span * (width - 2 * margin)

    lower, middle, upper = cohort.quartiles
    y = height / 2
    return Markup(
        f'<svg class="strip" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<line class="range" x1="{at(float(cohort.values[0])):.1f}" x2="{at(float(cohort.values[-1])):.1f}" '
        f'y1="{y}" y2="{y}"/>'
        f'<rect class="half" x="{at(lower):.1f}" width="{max(1.0, at(upper) - at(lower)):.1f}" '
        f'y="{y - 4}" height="8" rx="2"/>'
        f'<line class="middle" x1="{at(middle):.1f}" x2="{at(middle):.1f}" y1="{y - 6}" y2="{y + 6}"/>'
        f'<circle class="value" cx="{at(value):.1f}" cy="{y}" r="4.5"/></svg>'
    )
