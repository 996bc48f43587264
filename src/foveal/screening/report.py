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
from foveal.screening.columns import Column, biomarker_column, result_columns, screened_biomarkers
from foveal.screening.layers import LAYERS, SHOWN_FIRST, reason_layer
from foveal.screening.pictures import LESION_COLOURS
from foveal.screening.records import Explanation, Failure, Record

if TYPE_CHECKING:
    from jinja2 import Environment

EYES = {"L": "left eye", "R": "right eye"}
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
        layers: data URI of each picture, "photograph" and names in `LAYERS`.
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
            layer_groups=_present(layers, record.explanations),
            shown_first=SHOWN_FIRST,
            field_path=field_path,
            overview=overview,
            families=_families(columns, record, overview),
            qualities=[
                _measured(column, record, overview)
                for column in columns
                if column.group == "Quality" and column.kind != "text"
            ],
            landmarks=[
                _measured(column, record, overview)
                for column in columns
                if column.group == "Landmarks" and column.kind != "text"
            ],
            lesions=_lesions(record),
            lesion_colours=LESION_COLOURS,
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


def _present(layers: dict[str, str], explanations: Sequence[Explanation]) -> dict[str, dict[str, str]]:
    """The groups of `LAYERS` without the overlays that a page does not have, and the explanations."""
    why = {reason_layer(i): f"{each.of}, by {each.method}" for i, each in enumerate(explanations)}
    groups = {
        group: {name: title for name, title in names.items() if name in layers}
        for group, names in (*LAYERS.items(), ("Why the models said so", why))
    }
    return {group: names for group, names in groups.items() if names}


def _families(
    columns: Sequence[Column], record: Record, overview: Overview
) -> dict[str, list[dict[str, Any]]]:
    """The biomarkers that have a value, by the title of their family: a row a biomarker, of all kinds."""
    from foveal.measurement.reference import FAMILIES, family

    known = {column.name for column in columns}
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in FAMILIES.values()}
    rows: dict[str, dict[str, Any]] = {}
    for measure in screened_biomarkers():
        if measure.name not in known or record.values.get(measure.name) is None:
            continue
        marker = measure.biomarker
        if marker.name not in rows:
            # The cohort is shown of all vessels, or of the first kind that has a value.
            rows[marker.name] = _measured(biomarker_column(measure), record, overview)
            rows[marker.name] |= {"title": marker.title, "kinds": {}}
            groups[FAMILIES[family(marker)]].append(rows[marker.name])
        rows[marker.name]["kinds"][measure.kind or "vessel"] = record.values[measure.name]
    for column in columns:
        if column.name in ("vessel_confidence", "artery_vein_confidence"):  # they are of the picture
            row = _measured(column, record, overview)
            row |= {"title": column.title, "kinds": {"vessel": row["value"]}}
            groups[FAMILIES["position"]].append(row)
    return {title: rows for title, rows in groups.items() if rows}


def _lesions(record: Record) -> list[dict[str, Any]]:
    """What is told of each kind of lesions."""
    from foveal.measurement.lesion_columns import KIND_TITLES
    from foveal.measurement.lesion_quadrants import QUADRANTS

    return [
        {
            "name": name,
            "title": title,
            "count": record.values.get(f"{name}_count"),
            "share": record.values.get(f"{name}_area_fraction"),
            "confidence": record.values.get(f"{name}_confidence"),
            "distance": record.values.get(f"{name}_fovea_distance_mm"),
            "quadrants": [record.values.get(f"{name}_count_{quadrant}") for quadrant in QUADRANTS],
        }
        for name, title in KIND_TITLES.items()
    ]


def _missing(columns: Sequence[Column], record: Record) -> dict[str, list[str]]:
    """Headings of the biomarkers without a value, by reason."""
    headings: dict[str, list[str]] = {}
    for column in columns:
        if column.name in record.missing and column.group == "Vessels":
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
