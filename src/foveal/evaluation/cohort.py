"""Compare groups of patients by every biomarker of a table: the statistics that a paper reports."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from foveal.evaluation.cohort_table import Cohort
from foveal.evaluation.settings import CompareSettings
from foveal.metrics.comparison import (
    FEWEST,
    adjusted_differences,
    compare_many,
    compare_two,
    correct_p_values,
    describe,
    effect_sizes,
)

if TYPE_CHECKING:
    import pandas as pd

_GROUP = {
    "n": "patients with a value",
    "mean": "mean over patients",
    "sd": "standard deviation over patients",
    "median": "median over patients",
    "lower_quartile": "first quartile over patients",
    "upper_quartile": "third quartile over patients",
}
_EFFECTS = {
    "difference": "Mean of the group minus mean of the reference, in the unit of the biomarker",
    "cohens_d": "Difference over the pooled standard deviation",
    "hedges_g": "Cohen's d without its small-sample bias",
    "cliffs_delta": "P(group > reference) - P(group < reference), -1 to 1; only ranks matter",
    "auc": "P(group > reference), ties counted half, 0 to 1",
}
TESTS = ("welch_p", "mann_whitney_p", "kruskal_p", "anova_p", "adjusted_p")
"""Columns of p-values; each is a family that is corrected by itself."""

RESULT_COLUMNS: dict[str, str] = {
    "biomarker": "Column of the table that was compared.",
    "title": "Its title.",
    "unit": "Its unit.",
    "group": "Group of patients that is compared.",
    "reference": "Group that it is held against.",
    **{f"group_{name}": f"The group's {what}." for name, what in _GROUP.items()},
    **{f"reference_{name}": f"The reference's {what}." for name, what in _GROUP.items()},
    **{
        column: meaning
        for name, what in _EFFECTS.items()
        for column, meaning in (
            (name, f"{what}."),
            (f"{name}_low", "Lower end of its 95% bootstrap interval."),
            (f"{name}_high", "Upper end of its 95% bootstrap interval."),
        )
    },
    "welch_t": "t of Welch's test, which allows unequal variances.",
    "welch_df": "Its degrees of freedom.",
    "welch_p": "Its two-sided p-value.",
    "welch_p_corrected": "The same, corrected for the number of comparisons.",
    "mann_whitney_u": "U of the Mann-Whitney test, of the group.",
    "mann_whitney_p": "Its two-sided p-value.",
    "mann_whitney_p_corrected": "The same, corrected for the number of comparisons.",
    "kruskal_h": "H of the Kruskal-Wallis test over all groups; with three groups or more.",
    "kruskal_p": "Its p-value.",
    "kruskal_p_corrected": "The same, corrected for the number of biomarkers.",
    "epsilon_squared": "H / (n - 1): share of the ranks' variance that the groups explain, 0 to 1.",
    "anova_f": "F of the one-way analysis of variance over all groups; with three groups or more.",
    "anova_p": "Its p-value.",
    "anova_p_corrected": "The same, corrected for the number of biomarkers.",
    "eta_squared": "Share of the variance that the groups explain, 0 to 1.",
    "adjusted_n": "Patients of all groups in the linear model with covariates; only those with every value.",
    "adjusted_difference": "Difference of the group and the reference at equal covariates.",
    "adjusted_difference_low": "Lower end of its 95% interval (HC3 standard errors).",
    "adjusted_difference_high": "Upper end of its 95% interval.",
    "adjusted_p": "Its two-sided p-value.",
    "adjusted_p_corrected": "The same, corrected for the number of comparisons.",
    "not_tested": "Why the pair was not tested; empty where it was.",
    "omnibus_not_tested": "Why all groups together were not tested; empty where they were.",
    "not_adjusted": "Why there is no adjusted difference; empty where there is.",
}
"""Columns of `comparison.csv` and `comparison.parquet`, with their meaning."""


@dataclass(frozen=True)
class Comparison:
    """All results.

    Attributes:
        table: one row for each biomarker and pair of groups; columns as in `RESULT_COLUMNS`.
        cohort: the patients.
        settings: how they were compared.
    """

    table: "pd.DataFrame"
    cohort: Cohort
    settings: CompareSettings

    @property
    def against_reference(self) -> "pd.DataFrame":
        """The rows that hold a group against the cohort's reference; all of them for two groups."""
        return self.table[self.table.reference == self.cohort.order[0]]

    @property
    def strongest(self) -> "pd.DataFrame":
        """The tested rows by descending size of Hedges' g."""
        tested = self.table[self.table.not_tested == ""]
        return tested.loc[tested.hedges_g.abs().sort_values(ascending=False, kind="stable").index]


def compare_cohort(
    cohort: Cohort, settings: CompareSettings, *, on_biomarker: Callable[[], None] = lambda: None
) -> Comparison:
    """Compare the groups of a cohort by every one of its measures.

    Args:
        cohort: of `read_cohort`.
        settings: correction, resamples and seed are used here.
        on_biomarker: called when a biomarker is done.

    Raises:
        ValueError: nothing can be tested; the message tells the first reasons.
    """
    import pandas as pd

    rows: list[dict[str, object]] = []
    covariates = _design(cohort)
    for measure in cohort.measures:
        values = cohort.values[measure.name].to_numpy(float)
        common = {"biomarker": measure.name, "title": measure.title, "unit": measure.unit}
        rows += [common | row for row in _compare_measure(values, cohort, covariates, settings)]
        on_biomarker()
    # Texts are empty where there is nothing to tell, numbers NaN.
    table = pd.DataFrame(rows).reindex(columns=list(RESULT_COLUMNS))
    for reason in ("not_tested", "omnibus_not_tested", "not_adjusted"):
        table[reason] = table[reason].astype(object).where(table[reason].notna(), "")
    if (table.not_tested != "").all():
        reasons = [f"{row.biomarker}: {row.not_tested}" for row in table.head(3).itertuples()]
        raise ValueError(f"no biomarker can be compared ({'; '.join(reasons)})")
    for test in TESTS:
        # An omnibus test is the same in all rows of a biomarker and counts once.
        once = ~table.biomarker.duplicated() if test in ("kruskal_p", "anova_p") else table.biomarker.notna()
        corrected = pd.Series(
            correct_p_values(table.loc[once, test].to_numpy(float), settings.correction), table.index[once]
        )
        table[f"{test}_corrected"] = corrected.reindex(table.index)
        if test in ("kruskal_p", "anova_p"):
            table[f"{test}_corrected"] = table.groupby("biomarker")[f"{test}_corrected"].transform("first")
    return Comparison(table, cohort, settings)


def _compare_measure(
    values: np.ndarray, cohort: Cohort, covariates: np.ndarray, settings: CompareSettings
) -> list[dict[str, object]]:
    """One row for each pair of groups, the earlier group of the order as reference."""
    groups = cohort.groups.to_numpy()
    samples = {group: values[(groups == group) & np.isfinite(values)] for group in cohort.order}
    omnibus: dict[str, object] = {}
    if len(samples) > 2:
        reason = _untestable(samples)
        omnibus = {"omnibus_not_tested": reason} if reason else compare_many(list(samples.values()))._asdict()
    pairs = list(combinations(cohort.order, 2))
    models = _adjust(values, cohort, covariates, pairs) if cohort.covariates.shape[1] else [{}] * len(pairs)
    rows = []
    for (reference, group), model in zip(pairs, models, strict=True):
        row: dict[str, object] = {"group": group, "reference": reference}
        for role, name in (("group", group), ("reference", reference)):
            row |= {f"{role}_{key}": value for key, value in describe(samples[name])._asdict().items()}
        reason = _untestable({name: samples[name] for name in (reference, group)})
        row |= {"not_tested": reason} if reason else _pair(samples[group], samples[reference], settings)
        rows.append(row | omnibus | model)
    return rows


def _untestable(samples: dict[str, np.ndarray]) -> str:
    """Why these groups cannot be tested; empty when they can."""
    if not any(len(values) for values in samples.values()):
        return "no patient has a value"
    few = [f"{len(values)} in {name}" for name, values in samples.items() if len(values) < FEWEST]
    if few:
        return f"too few patients with a value: {', '.join(few)}; at least {FEWEST} a group are needed"
    joined = np.concatenate(list(samples.values()))
    if not np.ptp(joined):
        return f"constant: every patient has {joined[0]:g}"
    if not any(np.ptp(values) for values in samples.values()):
        return "constant within every group"
    return ""


def _pair(group: np.ndarray, reference: np.ndarray, settings: CompareSettings) -> dict[str, object]:
    effects = effect_sizes(group, reference, resamples=settings.resamples, seed=settings.seed)
    row: dict[str, object] = {}
    for name, (value, low, high) in effects._asdict().items():
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row | compare_two(group, reference)._asdict()


def _design(cohort: Cohort) -> np.ndarray:
    """(patients, c) covariates as numbers: categories as 0/1 columns but for the first; NaN where missing."""
    columns = list(_design_columns(cohort))
    return np.column_stack(columns) if columns else np.empty((len(cohort.groups), 0))


def _design_columns(cohort: Cohort) -> Iterator[np.ndarray]:
    for name in cohort.covariates:
        column = cohort.covariates[name]
        if column.dtype == float:
            yield column.to_numpy()
            continue
        known = column.notna().to_numpy()
        for category in sorted(column.dropna().unique())[1:]:
            yield np.where(known, (column == category).to_numpy(float), np.nan)


def _adjust(
    values: np.ndarray, cohort: Cohort, covariates: np.ndarray, pairs: list[tuple[str, str]]
) -> list[dict[str, object]]:
    complete = np.isfinite(values) & np.isfinite(covariates).all(axis=1)
    groups = cohort.groups.to_numpy()[complete]
    sizes = {group: int((groups == group).sum()) for group in cohort.order}
    few = [f"{size} in {group}" for group, size in sizes.items() if size < FEWEST]
    if few:
        reason = f"too few patients with a value and every covariate: {', '.join(few)}"
        return [{"not_adjusted": reason}] * len(pairs)
    if not np.ptp(values[complete]):
        return [{"not_adjusted": "constant"}] * len(pairs)
    number = {group: index for index, group in enumerate(cohort.order)}
    try:
        differences = adjusted_differences(
            values[complete],
            np.array([number[group] for group in groups]),
            _without_constants(covariates[complete]),
            [(number[group], number[reference]) for reference, group in pairs],
        )
    except ValueError as error:
        return [{"not_adjusted": str(error)}] * len(pairs)
    return [
        {
            "adjusted_n": int(complete.sum()),
            "adjusted_difference": adjusted.difference.value,
            "adjusted_difference_low": adjusted.difference.low,
            "adjusted_difference_high": adjusted.difference.high,
            "adjusted_p": adjusted.p,
        }
        for adjusted in differences
    ]


def _without_constants(covariates: np.ndarray) -> np.ndarray:
    """Covariates without those that do not vary among these patients, as a category that nobody is in."""
    return covariates[:, np.ptp(covariates, axis=0) > 0]
