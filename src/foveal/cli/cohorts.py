"""`foveal compare`."""

from pathlib import Path
from typing import Annotated

import typer

from foveal.cli.app import app


@app.command()
def compare(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV or Parquet, one row a photograph or mask.")
    ],
    group: Annotated[str, typer.Option(metavar="COLUMN", help="Column that tells the group.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the results.")],
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column that tells the patient.", show_default="patient, if there"
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Columns to compare.", show_default="all biomarkers"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="Group that others are held against.", show_default="the first"),
    ] = None,
    covariates: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Columns to adjust for, e.g. age,sex.")
    ] = None,
    join: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Second table, e.g. with diagnoses.")
    ] = None,
    on: Annotated[str, typer.Option(metavar="COLUMN", help="Column by which it is joined.")] = "name",
    include_rejected: Annotated[
        bool, typer.Option("--include-rejected", help="Also count photographs of quality reject.")
    ] = False,
    correction: Annotated[
        str, typer.Option(help="For many biomarkers: fdr_bh, holm, bonferroni or none.")
    ] = "fdr_bh",
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples for an interval.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Comparison of groups",
) -> None:
    """Compare groups of patients by their biomarkers: effect sizes, tests, figures and a page for a paper.

    Eyes and visits are averaged to patients first. Exit status: 0 done, 2 the tables do not allow it.
    """
    from foveal.evaluation.cohort_run import compare as compare_groups
    from foveal.evaluation.settings import CompareSettings

    settings = CompareSettings.model_validate(
        {
            "group": group,
            "patient": patient,
            "columns": _names(columns),
            "reference": reference,
            "covariates": _names(covariates),
            "join": join,
            "on": on,
            "include_rejected": include_rejected,
            "correction": correction,
            "resamples": resamples,
            "seed": seed,
            "title": title,
        }
    )
    compare_groups(table, out, settings)


def _names(text: str | None) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
