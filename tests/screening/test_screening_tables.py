import csv
import math
import os
from pathlib import Path

import pyarrow.parquet as pq

from foveal.scans.quality import assess_quality
from foveal.scans.synthetic import synthesize_eye
from foveal.screening.columns import QUALITY_MEASURES, result_columns, results_page
from foveal.screening.records import Failure, Provenance, Record
from foveal.screening.tables import write_failures, write_results


def make_record(name: str, **values: str | int | float | None) -> Record:
    return Record(
        name=name,
        input_sha256="0",
        provenance=Provenance(foveal="1", settings="s", weights={"vessels": "w"}),
        software={},
        values={"name": name, **values},
        reasons=[],
        missing={},
        notes=[],
        outputs={},
        thumbnail="",
        seconds={},
    )


RECORDS = [
    make_record('a,b\n"c"', acquired="2020-02-29", width=10, vessel_density=0.123456, endpoints=7),
    make_record("d", acquired=None, width=None, vessel_density=None, endpoints=None),
]


def test_csv_and_parquet_hold_the_same_cells(tmp_path: Path):
    columns = result_columns(["mild"])
    write_results(tmp_path, RECORDS, columns)
    table = pq.read_table(tmp_path / "results.parquet")
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert table.column_names == list(rows[0]) == [column.name for column in columns]
    for row, expected in zip(rows, table.to_pylist(), strict=True):
        for name, value in expected.items():
            assert row[name] == ("" if value is None else str(value))
    assert math.isclose(float(rows[0]["vessel_density"]), 0.123456)


def test_every_column_carries_its_unit_and_meaning(tmp_path: Path):
    columns = result_columns(["mild"])
    write_results(tmp_path, RECORDS, columns)
    schema = pq.read_schema(tmp_path / "results.parquet")
    for column in columns:
        metadata = schema.field(column.name).metadata
        assert metadata[b"unit"].decode() == column.unit
        assert column.description in metadata[b"description"].decode()
        assert column.description
        assert f"`{column.name}`" in (tmp_path / "columns.md").read_text(encoding="utf-8")


def test_column_names_are_unique():
    names = [column.name for column in result_columns(["mild"])]
    assert len(names) == len(set(names))


def test_every_measure_of_quality_is_a_column():
    eye = synthesize_eye(0, size=256)
    measures = set(assess_quality(eye.image, eye.field).measures) - {"diameter", "completeness"}
    assert {column.name.removeprefix("quality_") for column in QUALITY_MEASURES} == measures


def test_failures_are_listed_with_their_step(tmp_path: Path):
    write_failures(tmp_path / "failures.csv", [Failure("x/é.png", "é", "read", 'it is "bad", truncated')])
    with (tmp_path / "failures.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {"path": "x/é.png", "name": "é", "stage": "read", "reason": 'it is "bad", truncated'}
        ]


def test_documentation_of_the_results_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "results.md"
    if os.environ.get("FOVEAL_WRITE_DOCS"):
        page.write_text(results_page(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == results_page(), "set FOVEAL_WRITE_DOCS=1 to write it anew"
