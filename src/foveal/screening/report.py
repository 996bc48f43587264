"""The report: one self-contained page a photograph, and an index that links them.

A page embeds its pictures. It is written once when its photograph is done, and again at the end with its
place in the cohort; the second time its pictures are taken over from the first, so that they are kept once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.files import write_atomically
from foveal.pages import page_environment
from foveal.screening.charts import Cohort, histogram, number, strip
from foveal.screening.columns import Column, result_columns, screened_biomarkers
from foveal.screening.records import Failure, Record

if TYPE_CHECKING:
    from jinja2 import Environment

EYES = {"L": "left eye", "R": "right eye"}
LAYERS = {
    "outline": "Vessel outline",
    "fill": "Vessels filled",
    "widths": "Centre lines by width",
    "nodes": "End, branch and crossing points",
    "angles": "Bifurcation angles",
    "probability": "Vessel probability",
    "doubt": "Where the network doubts",
    "relevance": "What the grader looked at",
}
_PICTURE = re.compile(r'data-picture="(\w+)" src="(data:[^"]+)"')
_FIELD = re.compile(r'data-field d="([^"]*)"')


@dataclass(frozen=True)
class Overview:
    """What all pages of a report share.

    Attributes:
        title: heading.
        day: day of the run.
        columns: all columns of the results.
        cohorts: of each number column, its values over the photographs that are not of quality "reject".
        size: number of those photographs.
    """

    title: str
    day: str
    columns: Sequence[Column]
    cohorts: dict[str, Cohort]
    size: int

    @classmethod
    def of(cls, records: Sequence[Record], *, title: str) -> "Overview":
        """Overview of finished photographs."""
        columns = result_columns(grader_classes(records))
        counted = [record for record in records if record.values["quality"] != "reject"]
        cohorts = {
            column.name: Cohort.of([record.values.get(column.name) for record in counted])  # type: ignore[misc]
            for column in columns
            if column.kind in ("number", "integer")
        }
        return cls(title, date.today().isoformat(), columns, cohorts, len(counted))


def grader_classes(records: Sequence[Record]) -> list[str]:
    """Classes of the grader that graded these photographs; empty without one."""
    prefix = "probability_"
    if not records:
        return []
    return [name.removeprefix(prefix) for name in records[0].values if name.startswith(prefix)]


def write_first_page(report: Path, record: Record, layers: dict[str, str], field_path: str) -> None:
    """Write the page of one photograph before its cohort is known.

    Args:
        report: folder of the report.
        record: of the photograph.
        layers: data URI of each picture, "photograph" and names of `LAYERS`.
        field_path: SVG path of the field of view's outline.
    """
    overview = Overview.of([], title="")
    _write_page(report, record, layers, field_path, overview, previous=None, following=None)


def write_final_page(
    report: Path, record: Record, overview: Overview, *, previous: str | None, following: str | None
) -> None:
    """Write the page of one photograph again, with its cohort and its neighbours' names.

    Raises:
        OSError: the page cannot be read or written.
        ValueError: the page there is not one that `write_first_page` wrote.
    """
    text = page_path(report, record.name).read_text(encoding="utf-8")
    layers, field_path = dict(_PICTURE.findall(text)), _FIELD.search(text)
    if "photograph" not in layers or field_path is None:
        raise ValueError(f"{page_path(report, record.name)} holds no photograph; delete it and screen again")
    _write_page(report, record, layers, field_path[1], overview, previous=previous, following=following)


def page_path(report: Path, name: str) -> Path:
    """Where the page of photograph `name` lies within a report folder."""
    return report / "scans" / f"{name}.html"


def page_is_whole(report: Path, name: str) -> bool:
    """Whether the page of photograph `name` is there."""
    return page_path(report, name).is_file()


def _write_page(
    report: Path,
    record: Record,
    layers: dict[str, str],
    field_path: str,
    overview: Overview,
    *,
    previous: str | None,
    following: str | None,
) -> None:
    columns = overview.columns or result_columns(grader_classes([record]))
    page = (
        _environment()
        .get_template("photograph.html")
        .render(
            record=record,
            values=record.values,
            layers=layers,
            layer_titles={name: title for name, title in LAYERS.items() if name in layers},
            field_path=field_path,
            overview=overview,
            families=_families(columns, record, overview),
            qualities=[
                _measured(column, record, overview)
                for column in columns
                if column.group == "Quality" and column.kind != "text"
            ],
            photograph_columns=[column for column in columns if column.group == "Photograph"],
            probabilities=[(name, record.values[f"probability_{name}"]) for name in grader_classes([record])],
            previous=previous,
            following=following,
            missing=_missing(columns, record),
        )
    )
    write_atomically(page_path(report, record.name), page)


def _measured(column: Column, record: Record, overview: Overview) -> dict[str, Any]:
    value = record.values.get(column.name)
    cohort = overview.cohorts.get(column.name, Cohort.of([]))
    found = float(value) if isinstance(value, int | float) else None
    place = cohort.place(found)
    label = f"{column.title}: {number(value)} {column.unit}, {place}"
    return {"column": column, "value": value, "place": place, "strip": strip(cohort, found, label=label)}


def _families(
    columns: Sequence[Column], record: Record, overview: Overview
) -> dict[str, list[dict[str, Any]]]:
    """The biomarkers that have a value, by the title of their family."""
    from foveal.measurement.reference import FAMILIES, family

    known = {column.name: FAMILIES[family(column.biomarker)] for column in screened_biomarkers()}
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in FAMILIES.values()}
    for column in columns:
        if column.group == "Vessels" and record.values.get(column.name) is not None:
            title = known.get(
                column.name, FAMILIES["position"]
            )  # the confidence in the map is of the picture
            groups[title].append(_measured(column, record, overview))
    return {title: rows for title, rows in groups.items() if rows}


def _missing(columns: Sequence[Column], record: Record) -> dict[str, list[str]]:
    """Headings of the biomarkers without a value, by reason."""
    headings: dict[str, list[str]] = {}
    for column in columns:
        if column.name in record.missing:
            headings.setdefault(record.missing[column.name], []).append(column.heading)
    return headings


def write_index(
    report: Path,
    records: Sequence[Record],
    failures: Sequence[Failure],
    overview: Overview,
    *,
    shown: Sequence[str],
) -> None:
    """Write `index.html`.

    Args:
        report: folder of the report.
        records: finished photographs, in the order of the table.
        failures: photographs that could not be screened.
        overview: of the records.
        shown: names of the number columns that the table shows and the summary draws.
    """
    by_name = {column.name: column for column in overview.columns}
    table = [by_name[name] for name in shown if name in by_name]
    grades = {grade: 0 for grade in ("good", "usable", "reject")}
    for record in records:
        grades[str(record.values["quality"])] += 1
    diagnoses: dict[str, int] = {name: 0 for name in grader_classes(records)}
    for record in records:
        if diagnoses:
            diagnoses[str(record.values["grade"])] += 1
    page = (
        _environment()
        .get_template("index.html")
        .render(
            records=records,
            failures=failures,
            overview=overview,
            table=table,
            drawn=[
                {
                    "column": column,
                    "low": float(overview.cohorts[column.name].values[0]),
                    "high": float(overview.cohorts[column.name].values[-1]),
                    "quartiles": overview.cohorts[column.name].quartiles,
                    "chart": histogram(
                        overview.cohorts[column.name], label=f"Distribution of {column.heading} in the cohort"
                    ),
                }
                for column in table
                if column.group == "Vessels" and len(overview.cohorts[column.name].values) > 1
            ],
            grades=grades,
            diagnoses=diagnoses,
            provenance=records[0].provenance if records else None,
            software=records[0].software if records else {},
        )
    )
    write_atomically(report / "index.html", page)


@cache
def _environment() -> "Environment":
    environment = page_environment("foveal.screening")
    environment.filters["number"] = number
    environment.globals["eyes"] = EYES
    return environment
