"""The tables of a report: results (CSV and Parquet), failures, and what the columns mean."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from foveal.files import write_atomically
from foveal.screening.columns import Column, columns_as_markdown
from foveal.screening.records import Failure, Record, Value

_ARROW_TYPES = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "date": pa.date32()}
_FAILURE_FIELDS = ("path", "name", "stage", "reason")


def results_table(records: Sequence[Record], columns: Sequence[Column]) -> pa.Table:
    """One row a record; each field carries its unit and description as metadata."""
    fields, arrays = [], []
    for column in columns:
        cells = [_cell(record.values.get(column.name), column) for record in records]
        metadata = {"unit": column.unit, "description": f"{column.title}. {column.description}"}
        fields.append(pa.field(column.name, _ARROW_TYPES[column.kind], metadata=metadata))
        arrays.append(pa.array(cells, type=_ARROW_TYPES[column.kind]))
    return pa.table(arrays, schema=pa.schema(fields))


def _cell(value: Value, column: Column) -> Value | date:
    if value is None or column.kind != "date":
        return value
    return date.fromisoformat(str(value))


def write_results(report: Path, records: Sequence[Record], columns: Sequence[Column]) -> None:
    """Write `results.parquet`, `results.csv` (same rows, empty where missing) and `columns.md`.

    Raises:
        OSError: the report folder cannot be written.
    """
    table = results_table(records, columns)
    schema = table.schema.with_metadata(
        {"columns": json.dumps({column.name: column.unit for column in columns})}
    )
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(schema.metadata), buffer, compression="zstd")
    write_atomically(report / "results.parquet", buffer.getvalue())
    names = [column.name for column in columns]
    write_atomically(report / "results.csv", _csv(names, [list(row.values()) for row in table.to_pylist()]))
    write_atomically(
        report / "columns.md",
        "# Columns of `results.csv` and `results.parquet`\n\nOne row a photograph. A missing value is an "
        "empty cell (CSV) or null (Parquet).\n\n" + columns_as_markdown(columns),
    )


def write_failures(report: Path, failures: Sequence[Failure]) -> None:
    """Write `failures.csv`; only its heading when nothing failed.

    Raises:
        OSError: the report folder cannot be written.
    """
    rows = [[getattr(failure, field) for field in _FAILURE_FIELDS] for failure in failures]
    write_atomically(report / "failures.csv", _csv(_FAILURE_FIELDS, rows))


def _csv(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return buffer.getvalue()
