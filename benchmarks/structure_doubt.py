"""How far the structures' probabilities and their spread over mirrored views can be taken at their word."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from foveal.evaluation.calibration_figures import reliability_figure, risk_coverage_figure
from foveal.measurement.simplification import sum_by_path
from foveal.metrics.calibration import (
    CalibrationScores,
    ReliabilityCounts,
    calibration_scores,
    equal_width_curve,
    fit_temperature,
)
from foveal.metrics.recalibration import scaled_probability
from foveal.metrics.selective import RiskCounts, RiskCoverage, risk_coverage
from structure_maps import FOUND
from structure_scores import ARTERY, VesselCase, on_grid, true_kinds

RESAMPLES = 500
STEP = 4  # every so many rows and columns of IDRiD's photographs are looked at: they have 12 megapixels
UNCERTAINTIES = ("probability", "spread")


@dataclass(frozen=True)
class Doubt:
    """Calibration of one structure, and its errors by two uncertainties: 1 - |2 p - 1|, and the spread."""

    counts: ReliabilityCounts = field(default_factory=ReliabilityCounts)
    risks: Mapping[str, RiskCounts] = field(
        default_factory=lambda: {name: RiskCounts() for name in UNCERTAINTIES}
    )

    def add(
        self,
        probability: np.ndarray,
        spread: np.ndarray,
        target: np.ndarray,
        *,
        group: Hashable,
        threshold: float = 0.5,
    ) -> None:
        """Add items (n,) of one patient; what reaches the threshold is called the structure.

        The doubt of a probability is taken after a shift of its log-odds that puts the threshold at one half.
        """
        if not len(probability):
            return
        self.counts.add(probability, target, group=group)
        shifted = scaled_probability(probability, slope=1.0, intercept=-float(special.logit(threshold)))
        wrong = (probability >= threshold) != target
        self.risks["probability"].add(1 - np.abs(2 * shifted - 1), wrong, group=group)
        self.risks["spread"].add(spread, wrong, group=group)

    def scores(self) -> CalibrationScores:
        return calibration_scores(self.counts, resamples=RESAMPLES)

    def selective(self) -> dict[str, RiskCoverage]:
        return {name: risk_coverage(risk.table(), resamples=RESAMPLES) for name, risk in self.risks.items()}


@dataclass(frozen=True)
class Worth:
    """What probabilities and doubts are worth: calibration by title, errors by title and uncertainty, and
    their figures by file name."""

    calibration: dict[str, CalibrationScores]
    selective: dict[str, dict[str, RiskCoverage]]
    figures: dict[str, bytes]


def worth_of(
    doubts: Mapping[str, Doubt], others: Mapping[str, dict[str, RiskCoverage]] | None = None
) -> Worth:
    """What was gathered, by title; `others` have errors by the two uncertainties, and no calibration."""
    scores = {name: doubt.scores() for name, doubt in doubts.items()}
    curves = {name: equal_width_curve(doubt.counts, resamples=RESAMPLES) for name, doubt in doubts.items()}
    selective = {name: doubt.selective() for name, doubt in doubts.items()} | dict(others or {})
    figures = {"reliability.svg": reliability_figure(curves, scores)}
    for name in UNCERTAINTIES:
        chosen = {title: found[name] for title, found in selective.items()}
        figures[f"risk-coverage-{name}.svg"] = risk_coverage_figure(chosen)
    return Worth(scores, selective, figures)


def add_vessels(case: VesselCase, pixels: Doubt, segments: Doubt) -> None:
    """Found true vessel pixels of one known kind, and found segments that have a true kind."""
    group = f"LES-AV/{case.name}"
    region = case.known & (case.vessels >= FOUND)
    truth = case.index == ARTERY
    pixels.add(case.artery[region], case.spread[region], truth[region], group=group)
    graph = case.graphs["graph"]
    judged, artery, length = true_kinds(graph, case.index)
    spread = sum_by_path(case.spread[on_grid(graph)].astype(float), graph.offsets) / length
    probability = (1 + case.separated["graph"].scores) / 2
    segments.add(probability[judged], spread[judged], artery[judged], group=group)


def temperature_of(cases: Iterable[VesselCase]) -> float:
    """Temperature that fits the network's probability on found true vessel pixels of some eyes best."""
    counts = ReliabilityCounts()
    for case in cases:
        region = case.known & (case.vessels >= FOUND)
        counts.add(case.artery[region], (case.index == ARTERY)[region], group=case.name)
    return fit_temperature(counts)
