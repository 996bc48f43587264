"""What a comparison leaves in its folder: tables, figures, and a self-contained page."""

import io
import json
import math
from collections.abc import Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import foveal
from foveal.evaluation import cohort_text
from foveal.evaluation.cohort import RESULT_COLUMNS, Comparison
from foveal.evaluation.cohort_figures import MOST_EFFECTS, box_plot_sheets, forest_plot
from foveal.files import write_atomically
from foveal.pages import data_uri, page_environment

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

PAGE = "comparison.html"
_LISTED = 50  # rows of left_out.csv that the page shows
_COUNTS = ("group_n", "reference_n", "adjusted_n")


def write_comparison(folder: Path, comparison: Comparison) -> Path:
    """Write tables, figures and page; returns the page. Each file appears whole or not at all.

    `comparison.csv` and `comparison.parquet` hold the same rows (`RESULT_COLUMNS`), `left_out.csv` what of
    the tables is not in the cohort, `box-plots-NN.svg` and `forest-plot.svg` the figures, and
    `comparison.html` all of it.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, comparison)
    sheets = list(box_plot_sheets(comparison))
    for number, sheet in enumerate(sheets, start=1):
        write_atomically(folder / f"box-plots-{number:02}.svg", sheet)
    for stale in folder.glob("box-plots-*.svg"):  # of an earlier run with more biomarkers
        if int(stale.stem.rpartition("-")[2]) > len(sheets):
            stale.unlink()
    forest = forest_plot(comparison)
    write_atomically(folder / "forest-plot.svg", forest)
    write_atomically(folder / PAGE, _page(comparison, sheets, forest))
    return folder / PAGE


def write_tables(folder: Path, comparison: Comparison) -> None:
    """Write `comparison.csv`, `comparison.parquet` and `left_out.csv`.

    Raises:
        OSError: the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = comparison.table.astype({name: "Int64" for name in _COUNTS})
    write_atomically(folder / "comparison.csv", table.to_csv(index=False, lineterminator="\n"))
    write_atomically(
        folder / "left_out.csv", comparison.cohort.left_out.to_csv(index=False, lineterminator="\n")
    )
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    fields = [field.with_metadata({"description": RESULT_COLUMNS[field.name]}) for field in arrow.schema]
    settings = json.dumps(comparison.settings.model_dump(mode="json"))
    schema = pa.schema(
        fields, metadata={"settings": settings, "software": json.dumps(cohort_text.software())}
    )
    buffer = io.BytesIO()
    pq.write_table(arrow.cast(schema), buffer, compression="zstd")
    write_atomically(folder / "comparison.parquet", buffer.getvalue())


def _page(comparison: Comparison, sheets: Sequence[bytes], forest: bytes) -> str:
    cohort = comparison.cohort
    headings = {measure.name: measure.heading for measure in cohort.measures}
    tested = comparison.table[comparison.table.not_tested == ""]
    return (
        _environment()
        .get_template("comparison.html")
        .render(
            comparison=comparison,
            cohort=cohort,
            settings=comparison.settings,
            day=date.today().isoformat(),
            version=foveal.__version__,
            headings=headings,
            counted=tested.biomarker.nunique(),
            clear=tested[tested.welch_p_corrected < 0.05].biomarker.nunique(),
            pairs=[
                {"group": group, "reference": reference, "rows": _records(rows)}
                for (reference, group), rows in tested.groupby(["reference", "group"], sort=False)
            ],
            omnibus=_records(tested[tested.kruskal_p.notna()].drop_duplicates("biomarker")),
            reasons=_reasons(comparison),
            forest=data_uri(forest, "svg+xml"),
            most_effects=MOST_EFFECTS,
            sheets=[data_uri(sheet, "svg+xml") for sheet in sheets],
            left_out=_records(cohort.left_out.head(_LISTED)),
            methods=cohort_text.methods(comparison),
            columns=RESULT_COLUMNS,
        )
    )


def _records(rows: "pd.DataFrame") -> list[dict[str, Any]]:
    return rows.to_dict("records")  # type: ignore[return-value]


def _reasons(comparison: Comparison) -> list[tuple[str, str, list[str]]]:
    """What was not tested, why, and of which biomarkers; told once where it is the same."""
    told: dict[tuple[str, str], list[str]] = {}
    for biomarker, rows in comparison.table.groupby("biomarker", sort=False):
        entries: list[tuple[str, str]] = []
        if (rows.not_tested != "").all():
            entries = [("any test", "; ".join(rows.not_tested.unique()))]
        else:
            entries += [
                (f"{row.group} against {row.reference}", str(row.not_tested))
                for row in rows[rows.not_tested != ""].itertuples()
            ]
            for column, what in (
                ("omnibus_not_tested", "all groups together"),
                ("not_adjusted", "adjusted difference"),
            ):
                entries += [(what, str(reason)) for reason in rows[column].unique() if reason]
        for entry in entries:
            told.setdefault(entry, []).append(str(biomarker))
    return [(what, reason, biomarkers) for (what, reason), biomarkers in told.items()]


@cache
def _environment() -> "Environment":
    environment = page_environment("foveal.evaluation")
    environment.filters["p_value"] = cohort_text.p_value
    environment.globals |= {
        "rounded": cohort_text.rounded,
        "interval": cohort_text.interval,
        "known": lambda value: not math.isnan(value),
    }
    return environment
