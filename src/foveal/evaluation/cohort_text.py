"""How a comparison is told in words and numbers: rounded estimates, and the methods for a paper."""

import math
from importlib import metadata

from foveal.evaluation.cohort import Comparison
from foveal.metrics.comparison import BCA_UP_TO, FEWEST

_CORRECTIONS = {
    "fdr_bh": "the Benjamini-Hochberg procedure (false discovery rate)",
    "holm": "Holm's procedure (family-wise error rate)",
    "bonferroni": "Bonferroni's procedure (family-wise error rate)",
}
_SOFTWARE = ("foveal", "numpy", "scipy", "statsmodels", "pandas")


def rounded(value: float, scale: float) -> str:
    """`value` with as many decimals as two significant digits of `scale` have; empty where it is missing."""
    if not math.isfinite(value):
        return "" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    scale = abs(scale) if math.isfinite(scale) and scale else abs(value)
    if not scale:
        return "0"
    digits = 1 - math.floor(math.log10(scale))
    if digits > 6:
        return f"{value:.1e}".replace("-", "−")
    text = f"{value:.{max(digits, 0)}f}"
    return ("−" + text[1:] if text.strip("-0.") else text[1:]) if text.startswith("-") else text


def interval(low: float, high: float, scale: float | None = None) -> str:
    """The two ends of an interval, as precise as `scale` or its half width; empty where it is missing."""
    if math.isnan(low) or math.isnan(high):
        return ""
    scale = (high - low) / 2 if scale is None else scale
    return f"{rounded(low, scale)} to {rounded(high, scale)}"


def estimate(value: float, low: float, high: float, scale: float | None = None) -> str:
    """A value with its interval in brackets, as precise as `scale` or else the interval's half width."""
    ends = interval(low, high, scale)
    if not ends:
        return rounded(value, value if scale is None else scale)
    return f"{rounded(value, (high - low) / 2 if scale is None else scale)} ({ends})"


def p_value(value: float, *, sign: bool = False) -> str:
    """A p-value as journals print it; with `sign`, as what follows "p". Empty where it is missing."""
    if math.isnan(value):
        return ""
    if value < 0.001:
        return "< 0.001" if sign else "<0.001"
    return f"{'= ' if sign else ''}{value:.3f}"


def software() -> dict[str, str]:
    """Versions of what computed the numbers."""
    return {name: metadata.version(name) for name in _SOFTWARE}


def methods(comparison: Comparison) -> list[str]:
    """What was done, in paragraphs that a paper can take over."""
    pairs = "each pair of groups" if len(comparison.cohort.order) > 2 else "the two groups"
    versions = ", ".join(f"{name} {version}" for name, version in software().items())
    settings = comparison.settings
    return [
        _unit_of_analysis(comparison),
        f"For {pairs}, the difference of the means, Cohen's d, Hedges' g (with the exact correction for "
        "small samples), Cliff's delta and the area under the ROC curve (equal to the probability that a "
        "patient of the group has a larger value than one of the reference, ties counted half) are reported "
        f"with 95% intervals from {settings.resamples} bootstrap resamples of patients within their groups "
        f"({_kind_of_interval(comparison)}; seed {settings.seed}). Differences are group minus reference.",
        _tests(comparison) + _adjustment(comparison),
        f"Missing values were left out biomarker by biomarker; a pair of groups with fewer than {FEWEST} "
        "values in one of them, or without any spread, was not tested. Groups of fewer than ten make every "
        f"interval rough. Computed with {versions}.",
    ]


def _unit_of_analysis(comparison: Comparison) -> str:
    cohort = comparison.cohort
    sizes = ", ".join(f"{size} in {group}" for group, size in cohort.sizes.items())
    if cohort.averaged == "nothing":
        return (
            f"The unit of analysis was the photograph ({sizes}). Patients were not told, so dependence "
            "between photographs of one patient, if there are any, is not accounted for."
        )
    over = "photographs of each eye and then over the eyes" if cohort.averaged == "eyes" else "photographs"
    return (
        f"The unit of analysis was the patient. The values of {cohort.rows} photographs were averaged over "
        f"the {over} of each of {len(cohort.groups)} patients ({sizes}). As no two observations share a "
        "patient, no mixed model is needed."
    )


def _kind_of_interval(comparison: Comparison) -> str:
    if len(comparison.cohort.groups) <= BCA_UP_TO:
        return "bias-corrected and accelerated"
    return f"percentiles; bias-corrected and accelerated for pairs of up to {BCA_UP_TO} patients"


def _tests(comparison: Comparison) -> str:
    several = len(comparison.cohort.order) > 2
    text = (
        "All groups together were compared with the Kruskal-Wallis test (effect size epsilon squared) and a "
        "one-way analysis of variance (eta squared). Then for each pair of groups means"
        if several
        else "Means"
    )
    text += (
        " were compared with Welch's t-test and distributions with the Mann-Whitney test (exact for up to 8 "
        "patients in a group without ties, else asymptotic), both two-sided."
    )
    if comparison.settings.correction == "none":
        return f"{text} P-values were not corrected for the number of comparisons."
    tested = comparison.table[comparison.table.not_tested == ""]
    count = f"{tested.biomarker.nunique()} biomarkers"
    if several:
        count += f" (those of pairs for {len(tested)} comparisons, all pairs of all biomarkers)"
    correction = _CORRECTIONS[comparison.settings.correction]
    return f"{text} P-values of each test were corrected for {count} with {correction}."


def _adjustment(comparison: Comparison) -> str:
    names = " and ".join(comparison.settings.covariates)
    if not names:
        return ""
    return (
        f" Adjusted differences are from linear models of each biomarker on group, {names}, over the "
        "patients with all of these, with heteroscedasticity-consistent standard errors (HC3) and Student's "
        "t."
    )
