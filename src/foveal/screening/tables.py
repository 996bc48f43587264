"""The tables of a report: results (CSV and Parquet), failures, and what the columns mean."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from foveal.files import write_atomically
from foveal.screening.columns import Column, columns_as_markdown
from foveal.screening.records import Failure, Record, Value

_ARROW_TYPES = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "date": pa.date32()}
_FAILURE_FIELDS = ("path", "name", "stage", "reason")


def results_schema(columns: Sequence[Column]) -> pa.Schema:
    """Each field carries its unit and description as metadata; the schema carries all units as "columns"."""
    fields = []
    for column in columns:
        metadata = {"unit": column.unit, "description": f"{column.title}. {column.description}"}
        fields.append(pa.field(column.name, _ARROW_TYPES[column.kind], metadata=metadata))
    units = {column.name: column.unit for column in columns}
    return pa.schema(fields, metadata={"columns": json.dumps(units)})


def results_table(rows: Sequence[Mapping[str, Value]], columns: Sequence[Column]) -> pa.Table:
    """Rows of values by column name as a table with `results_schema`; null where a value is missing."""
    arrays = [
        pa.array([_cell(row.get(column.name), column) for row in rows], type=_ARROW_TYPES[column.kind])
        for column in columns
    ]
    return pa.table(arrays, schema=results_schema(columns))


def _cell(value: Value, column: Column) -> Value | date:
    if value is None or column.kind != "date":
        return value
    return date.fromisoformat(str(value))


def write_results(report: Path, records: Sequence[Record], columns: Sequence[Column]) -> None:
    """Write `results.parquet`, `results.csv` (same rows, empty where missing) and `columns.md`.

    Raises:
        OSError: the report folder cannot be written.
    """
    table = results_table([record.values for record in records], columns)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(report / "results.parquet", buffer.getvalue())
    names = [column.name for column in columns]
    write_atomically(
        report / "results.csv", csv_text(names, [list(row.values()) for row in table.to_pylist()])
    )
    write_atomically(
        report / "columns.md",
        "# Columns of `results.csv` and `results.parquet`\n\nOne row a photograph. A missing value is an "
        "empty cell (CSV) or null (Parquet).\n\n" + columns_as_markdown(columns),
    )


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write a table of failures as CSV; only its heading when nothing failed.

    Raises:
        OSError: the file cannot be written.
    """
    rows = [[getattr(failure, field) for field in _FAILURE_FIELDS] for failure in failures]
    write_atomically(path, csv_text(_FAILURE_FIELDS, rows))


def csv_text(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV of a heading and rows; None becomes an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return buffer.getvalue()
