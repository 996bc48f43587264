"""Settings of a comparison of groups."""

from pathlib import Path

from pydantic import Field

from foveal.metrics.comparison import Correction
from foveal.settings import Settings


class CompareSettings(Settings):
    """How groups of patients are compared.

    Attributes:
        group: column that tells the group; in the table, or in `join`.
        patient: column with the patient of a row; None: `patient` where it is there and filled, else every
            row counts as a patient of its own.
        columns: the numbers to compare; empty: all biomarkers of the table.
        reference: group that the others are held against; None: the first in order.
        covariates: columns to adjust for with a linear model; numbers, or texts as categories.
        join: a second table, with what the first one lacks.
        on: column by which the two tables are joined; values are unique in `join`.
        include_rejected: also count photographs whose quality `foveal screen` graded "reject".
        correction: for many biomarkers; see `foveal.metrics.comparison.correct_p_values`.
        resamples: bootstrap resamples for an interval.
        seed: of the bootstrap.
        title: heading of the report.
    """

    group: str
    patient: str | None = None
    columns: tuple[str, ...] = ()
    reference: str | None = None
    covariates: tuple[str, ...] = ()
    join: Path | None = None
    on: str = "name"
    include_rejected: bool = False
    correction: Correction = "fdr_bh"
    resamples: int = Field(default=2000, ge=200)
    seed: int = Field(default=0, ge=0)
    title: str = "Comparison of groups"
