"""A cohort from tables: rows of photographs become one row a patient; nothing is lost unsaid."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from foveal.evaluation.cohort_columns import Measure, choose_measures
from foveal.evaluation.settings import CompareSettings
from foveal.evaluation.tables import (
    is_numeric,
    numbers_of,
    parquet_units,
    read_table,
    require_column,
    row_names,
    some_of,
    texts_of,
)

if TYPE_CHECKING:
    import pandas as pd


MOST_GROUPS = 12
Averaged = Literal["eyes", "rows", "nothing"]


@dataclass(frozen=True)
class Cohort:
    """Patients with their groups.

    Attributes:
        values: (patients, measures) means of each patient, NaN where missing.
        groups: group of each patient, in the order of `values`.
        order: names of the groups, the reference first.
        covariates: (patients, covariates), numbers or texts; missing values are NaN or None.
        measures: of the columns of `values`.
        rows: rows of the table that the patients are made of.
        averaged: how rows became patients: over the rows of each eye and then over the eyes, over all rows,
            or not at all, where every row counts as a patient, as nothing says otherwise.
        notes: what a reader must know of how the cohort was made.
        left_out: columns `table`, `row` and `reason`; what of either table is not in the cohort.
    """

    values: "pd.DataFrame"
    groups: "pd.Series"
    order: list[str]
    covariates: "pd.DataFrame"
    measures: list[Measure]
    rows: int
    averaged: Averaged
    notes: list[str]
    left_out: "pd.DataFrame"

    @property
    def sizes(self) -> dict[str, int]:
        """Number of patients by group, the reference first."""
        return {group: int((self.groups == group).sum()) for group in self.order}


def read_cohort(table: str | Path, settings: CompareSettings) -> Cohort:
    """Read one or two tables and aggregate their rows to patients.

    The numbers of a patient are averaged over the photographs of each eye where the table has `laterality`,
    then over the eyes (else over all rows); a missing value is left out of the mean. Covariates that are
    numbers are averaged over the rows; those that are texts must agree.

    Args:
        table: .csv (UTF-8, comma-separated, with a header) or .parquet, one row a photograph or mask.
        settings: which columns play which part.

    Returns:
        The cohort; patients in the order of their first rows.

    Raises:
        FileNotFoundError: a table does not exist.
        ValueError: a table cannot be read, a column is unknown or no number, keys of `join` repeat or none
            matches, a patient is in two groups, or there are not 2 to 12 groups.
    """
    import pandas as pd

    table = Path(table)
    frame = read_table(table)
    described = parquet_units(table)
    losses: list[tuple[str, str, str]] = []
    notes: list[str] = []
    if settings.join is not None:
        frame = _joined(frame, table, settings, losses)
    origin = str(table) if settings.join is None else f"{table} joined with {settings.join}"
    roles = [settings.group, *settings.covariates, *([settings.patient] if settings.patient else [])]
    for column in (*roles, *settings.columns):
        require_column(column, frame, origin)
    doubled = set(settings.columns) & set(roles)
    if doubled:
        raise ValueError(f"--columns names {sorted(doubled)}, which are group, patient or covariate already")
    if settings.group in settings.covariates:
        raise ValueError(f"{settings.group!r} is the group and cannot be a covariate too")

    groups = texts_of(frame[settings.group])
    names = row_names(frame)
    kept = groups.notna()
    losses += [(table.name, name, f"{settings.group} is empty") for name in names[~kept]]
    if not settings.include_rejected and "quality" in frame:
        rejected = (texts_of(frame["quality"]) == "reject") & kept
        losses += [(table.name, name, "quality is reject") for name in names[rejected]]
        if rejected.any():
            notes.append(f"{rejected.sum()} of quality reject left out; --include-rejected counts them.")
        kept &= ~rejected
    frame, groups, names = frame[kept], groups[kept], names[kept]
    order = _group_order(groups, settings)
    patients, averaged = _patients(frame, names, settings, notes)
    _one_group_a_patient(patients, groups, settings.group)

    free = [str(name) for name in frame if name not in {*roles, settings.on}]
    measures = choose_measures(frame, free, settings.columns, described, notes)
    numbers = {measure.name: numbers_of(frame[measure.name], origin, names) for measure in measures}
    per_patient = _means(pd.DataFrame(numbers, index=frame.index), patients, frame, averaged)
    covariates = {column: _covariate(frame, column, patients, names) for column in settings.covariates}
    for column, values in covariates.items():
        if values.isna().any():
            lacking = some_of(values.index[values.isna()])
            notes.append(f"Patients without {column}, who are not in the adjusted comparison: {lacking}.")
    left_out = pd.DataFrame(losses, columns=["table", "row", "reason"])
    if len(left_out):
        notes.insert(0, f"Rows left out: {len(left_out)}; left_out.csv names each with the reason.")
    return Cohort(
        values=per_patient,
        groups=groups.groupby(patients, sort=False).first().reindex(per_patient.index),
        order=order,
        covariates=pd.DataFrame(covariates, index=per_patient.index),
        measures=measures,
        rows=len(frame),
        averaged=averaged,
        notes=notes,
        left_out=left_out,
    )


def _joined(
    frame: "pd.DataFrame", table: Path, settings: CompareSettings, losses: list[tuple[str, str, str]]
) -> "pd.DataFrame":
    """`frame` with the columns of the second table; rows without a partner are added to `losses`."""
    assert settings.join is not None
    other = read_table(settings.join)
    require_column(settings.on, frame, str(table), option="--on")
    require_column(settings.on, other, str(settings.join), option="--on")
    mine, theirs = texts_of(frame[settings.on]), texts_of(other[settings.on])
    repeated = theirs[theirs.notna() & theirs.duplicated()]
    if len(repeated):
        raise ValueError(
            f"{settings.join}: {some_of(repeated.unique())} stands in more than one row of {settings.on!r}; "
            "one row a key is needed"
        )
    if not set(mine.dropna()) & set(theirs.dropna()):
        raise ValueError(
            f"no {settings.on!r} of {table} is in {settings.join}; the first ones are "
            f"{some_of(mine.dropna(), 2)} there and {some_of(theirs.dropna(), 2)} here"
        )
    # A column that is empty in the first table gives way to the second's.
    empty = [
        name for name in frame if name in other and name != settings.on and texts_of(frame[name]).isna().all()
    ]
    frame = frame.drop(columns=empty)
    both = [str(name) for name in frame if name in other and name != settings.on]
    parts = {settings.group, settings.patient or "patient", *settings.covariates, *settings.columns}
    unclear = sorted(set(both) & parts)
    if unclear:
        raise ValueError(
            f"{some_of(unclear)} is a column of both {table} and {settings.join}; rename or drop one"
        )
    names = row_names(frame)
    alone = ~mine.isin(theirs.dropna())
    losses += [
        (table.name, name, f"{settings.on} {key or 'is empty, so it'} is not in {settings.join.name}")
        for name, key in zip(names[alone], mine[alone], strict=True)
    ]
    losses += [
        (settings.join.name, key or "(empty)", f"{settings.on} is not in {table.name}")
        for key in theirs[~theirs.isin(mine.dropna())]
    ]
    added = other.drop(columns=[settings.on, *both]).set_axis(theirs, axis=0)
    added = added[added.index.notna()].reindex(mine).set_axis(frame.index, axis=0)
    return frame.join(added)[~alone].reset_index(drop=True)


def _group_order(groups: "pd.Series", settings: CompareSettings) -> list[str]:
    found = sorted(groups.unique(), key=_natural)
    if len(found) < 2:
        what = f"has one group only, {found[0]!r}" if found else "is empty in every row that is left"
        raise ValueError(f"--group: column {settings.group!r} {what}; two or more groups are needed")
    if len(found) > MOST_GROUPS:
        raise ValueError(
            f"--group: column {settings.group!r} has {len(found)} different values ({some_of(found, 3)}); "
            f"allowed: 2 to {MOST_GROUPS} groups"
        )
    if settings.reference is None:
        return found
    if settings.reference not in found:
        raise ValueError(
            f"--reference: {settings.reference!r} is no group of {settings.group!r}; allowed: "
            f"{', '.join(found)}"
        )
    return [settings.reference, *(group for group in found if group != settings.reference)]


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers in their order, then texts in theirs."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _patients(
    frame: "pd.DataFrame", names: "pd.Series", settings: CompareSettings, notes: list[str]
) -> tuple["pd.Series", Averaged]:
    """A key for the patient of each row, and how the rows of a patient are averaged."""
    import pandas as pd

    own = pd.Series([f"row:{number}" for number in range(len(frame))], index=frame.index, dtype=object)
    column = settings.patient or "patient"
    told = texts_of(frame[column]) if column in frame else pd.Series(None, index=frame.index, dtype=object)
    known = told.notna()
    if not known.any():
        if settings.patient is not None:
            raise ValueError(f"--patient: column {settings.patient!r} is empty")
        notes.append(
            "No patient is told, so every row counts as a patient. Where patients have several rows, "
            "intervals and p-values are too small: name the column with --patient."
        )
    elif not known.all():
        notes.append(f"Rows that tell no patient count as one each: {some_of(names[~known])}.")
    if not known.any():
        return own, "nothing"
    eyes = "laterality" in frame and texts_of(frame["laterality"]).notna().any()
    return told.where(known, own), "eyes" if eyes else "rows"


def _one_group_a_patient(patients: "pd.Series", groups: "pd.Series", column: str) -> None:
    several = groups.groupby(patients, sort=False).unique()
    several = several[several.map(len) > 1]
    if len(several):
        shown = "; ".join(f"{patient} in {' and '.join(names)}" for patient, names in several.head(5).items())
        more = f"; and {len(several) - 5} more" if len(several) > 5 else ""
        raise ValueError(
            f"{len(several)} patients are in more than one group of {column!r}: {shown}{more}. Groups are "
            "compared by patient: give each patient one group, or leave rows out"
        )


def _means(
    numbers: "pd.DataFrame", patients: "pd.Series", frame: "pd.DataFrame", averaged: Averaged
) -> "pd.DataFrame":
    """Means of each patient: over the rows of an eye where it is known, then over the eyes."""
    if averaged != "eyes":
        return numbers.groupby(patients, sort=False).mean()
    eyes = texts_of(frame["laterality"]).fillna("unknown")
    of_eyes = numbers.groupby([patients, eyes], sort=False).mean()
    return of_eyes.groupby(level=0, sort=False).mean()


def _covariate(frame: "pd.DataFrame", column: str, patients: "pd.Series", names: "pd.Series") -> "pd.Series":
    texts = texts_of(frame[column])
    if not texts.notna().any():
        raise ValueError(f"--covariates: column {column!r} is empty")
    if texts.nunique() == 1:
        raise ValueError(f"--covariates: column {column!r} has one value only, so it explains nothing")
    if is_numeric(frame[column]):
        return numbers_of(frame[column], "the table", names).groupby(patients, sort=False).mean()
    several = texts.groupby(patients, sort=False).nunique()
    if (several > 1).any():
        raise ValueError(
            f"--covariates: patients {some_of(several.index[several > 1])} have more than one {column!r}; "
            "a text must be the same in all rows of a patient"
        )
    return texts.groupby(patients, sort=False).first()
