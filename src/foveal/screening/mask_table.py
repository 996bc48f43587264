"""The tables of measured masks: one row a mask, what is missing and why, and what the columns mean."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from foveal.files import write_atomically
from foveal.measurement.measure import biomarker_columns
from foveal.measurement.registry import KIND_TITLES, KINDS, Kind
from foveal.screening.columns import PHOTOGRAPH, Column, Group, biomarker_column, columns_as_markdown
from foveal.screening.columns import Kind as CellKind
from foveal.screening.mask_record import MaskRecord
from foveal.screening.mask_settings import MeasureSettings
from foveal.screening.records import Value
from foveal.screening.tables import results_schema, results_table

TABLE_ENDINGS = (".csv", ".parquet")
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class TablePaths:
    """The files of one table.

    Attributes:
        stem: the table's path without ending.
        endings: ".csv", ".parquet", or both.
    """

    stem: Path
    endings: tuple[str, ...]

    @classmethod
    def of(cls, out: Path) -> "TablePaths":
        """The files that `out` stands for; without an ending it stands for a CSV and a Parquet file.

        Raises:
            ValueError: another ending, or `out` is a folder.
        """
        ending = out.suffix.lower()
        if out.is_dir():
            raise ValueError(
                f"{out} is a folder; allowed: a table ending in .csv, .parquet or nothing (both)"
            )
        if ending not in (*TABLE_ENDINGS, ""):
            raise ValueError(f"{out} ends in {ending}; allowed: .csv, .parquet or nothing (both)")
        return cls(out.with_suffix(""), (ending,) if ending else TABLE_ENDINGS)

    def beside(self, ending: str) -> Path:
        """A file beside the table, such as `table.columns.md` for ".columns.md"."""
        return self.stem.with_name(self.stem.name + ending)

    @property
    def tables(self) -> list[Path]:
        """The table itself, in each format."""
        return [self.beside(ending) for ending in self.endings]

    @property
    def journal(self) -> Path:
        """Records of the masks that are done."""
        return self.beside(".records.jsonl")

    @property
    def missing(self) -> Path:
        """Table of missing values and why, in the first of the formats."""
        return self.beside(f".missing{self.endings[0]}")

    @property
    def failures(self) -> Path:
        """Table of what could not be measured."""
        return self.beside(".failures.csv")


def _column(
    name: str, title: str, unit: str, kind: CellKind, description: str, group: Group = "Photograph"
) -> Column:
    return Column(name, title, unit, kind, group, description)


def _as_of_photographs(*names: str) -> Iterator[Column]:
    """Columns that mean the same as in the results of `foveal screen`."""
    yield from (column for column in PHOTOGRAPH if column.name in names)


_MASK = (
    _column("name", "Mask", "", "text", "File name without its ending, with folders where two are alike."),
    _column("path", "File", "", "text", "Path of the file, as it was found."),
    _column("patient", "Patient", "", "text", "Salted hash of the patient's id in the manifest."),
    _column(
        "laterality", "Eye", "", "text", "L or R, from a table, else from disc and fovea of an upright eye."
    ),
    _column("coding", "Coding", "", "text", "How the mask was read: binary, probability, or av-..."),
    _column("height", "Height", "px", "integer", "Height of the mask."),
    _column("width", "Width", "px", "integer", "Width of the mask."),
    _column(
        "field_source",
        "Field from",
        "",
        "text",
        "Where the field of view comes from: mask, photograph, or whole frame; densities are relative to it.",
    ),
    _column("field_shape", "Field shape", "", "text", "Circle, rectangle, or full (no border)."),
    *_as_of_photographs("field_diameter", "field_completeness"),
    _column("disc_row", "Disc row", "px", "number", "Row of the optic disc's centre."),
    _column("disc_column", "Disc column", "px", "number", "Column of the optic disc's centre."),
    _column("disc_radius", "Disc radius", "px", "number", "Radius of the circle of the disc's area."),
    _column("fovea_row", "Fovea row", "px", "number", "Row of the fovea."),
    _column("fovea_column", "Fovea column", "px", "number", "Column of the fovea."),
    *_as_of_photographs("spacing_row", "spacing_column"),
    _column(
        "scale_source",
        "Scale from",
        "",
        "text",
        "Where the spacing comes from: table, given (--spacing), photograph, or disc (taken as 1.8 mm wide).",
    ),
)
_PROVENANCE = (
    _column("notes", "Notes", "", "text", "What to know of how the mask was read.", "Provenance"),
    _column(
        "missing",
        "Missing",
        "count",
        "integer",
        "Biomarkers without a value; why: the table of missing values.",
        "Provenance",
    ),
    _column("sha256", "Input hash", "", "text", "SHA-256 of the mask's file.", "Provenance"),
    _column("foveal", "foveal version", "", "text", "Version of foveal that measured it.", "Provenance"),
)
_MISSING = (
    _column("name", "Mask", "", "text", "As in the table."),
    _column("column", "Column", "", "text", "Biomarker without a value.", "Vessels"),
    _column("reason", "Reason", "", "text", "Why it has none.", "Vessels"),
)
_PVBM3_UNITS = {"area": "px2", "length": "px", "perimeter": "px", "angle": "degree", "points": "count",
                "intersections": "count", "equivalent": "px"}  # fmt: skip


def mask_columns(kinds: Sequence[Kind], settings: MeasureSettings) -> list[Column]:
    """All columns of the table of masks that show these kinds of vessels."""
    biomarkers = [biomarker_column(column) for column in biomarker_columns(kinds, settings.regions)]
    return [*_MASK, *biomarkers, *(_pvbm3_columns(kinds) if settings.compat == "pvbm3" else ()), *_PROVENANCE]


def pvbm3_families(kind: Kind) -> list[str]:
    """Families of PVBM's measures that there are of a kind of vessels: no equivalents of all vessels."""
    from foveal.measurement.pvbm3 import PVBM3_FAMILIES

    return [family for family in PVBM3_FAMILIES if family != "equivalents" or kind != "vessel"]


def _pvbm3_columns(kinds: Sequence[Kind]) -> Iterator[Column]:
    from foveal.measurement.pvbm3 import PVBM3_FAMILIES

    for kind in kinds:
        for name in (name for family in pvbm3_families(kind) for name in PVBM3_FAMILIES[family]):
            unit = next((unit for part, unit in _PVBM3_UNITS.items() if part in name), "1")
            title = f"{name.replace('_', ' ').capitalize()} by PVBM"
            description = (
                f"{KIND_TITLES[kind]}, as the package pvbm 3 measures it; see `foveal.measurement.pvbm3`."
            )
            yield _column(f"{kind}_pvbm3_{name}", title, unit, "number", description, "Vessels")


def known_kinds(records: Iterable[MaskRecord]) -> tuple[Kind, ...]:
    """Kinds of vessels that any of the masks shows; all vessels where there is no mask."""
    known = {kind for record in records for kind in record.kinds} or {"vessel"}
    return tuple(kind for kind in KINDS if kind in known)


def missing_rows(records: Iterable[MaskRecord]) -> Iterator[dict[str, Value]]:
    """One row for each biomarker that was looked for and has no value."""
    for record in records:
        for column, reason in record.missing.items():
            yield {"name": record.name, "column": column, "reason": reason}


def write_rows(path: Path, rows: Iterable[Mapping[str, Value]], columns: Sequence[Column]) -> None:
    """Write rows as CSV (empty where missing) or Parquet (null), some hundred at a time.

    Raises:
        OSError: the file cannot be written.
    """
    write = _write_parquet if path.suffix == ".parquet" else _write_csv
    write_atomically(path, lambda partial: write(partial, iter(rows), columns))


def write_missing(paths: TablePaths, records: Iterable[MaskRecord]) -> None:
    """Write the table of missing values, in the first of the table's formats."""
    write_rows(paths.missing, missing_rows(records), _MISSING)


def write_column_page(paths: TablePaths, columns: Sequence[Column]) -> None:
    """Write what the columns mean."""
    names = " and ".join(f"`{table.name}`" for table in paths.tables)
    page = f"""# Columns of {names}

One row a mask. A missing value is an empty cell (CSV) or null (Parquet); why it is missing is told in
`{paths.missing.name}`. Masks without a row are in `{paths.failures.name}`.

{columns_as_markdown(columns)}"""
    write_atomically(paths.beside(".columns.md"), page)


def _write_csv(path: Path, rows: Iterator[Mapping[str, Value]], columns: Sequence[Column]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name for column in columns])
        writer.writerows([row.get(column.name) for column in columns] for row in rows)


def _write_parquet(path: Path, rows: Iterator[Mapping[str, Value]], columns: Sequence[Column]) -> None:
    with pq.ParquetWriter(path, results_schema(columns), compression="zstd") as writer:
        while some := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_table(results_table(some, columns))
