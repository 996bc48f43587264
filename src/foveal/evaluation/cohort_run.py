"""`foveal compare`: tables in, a comparison of groups out."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from foveal.evaluation.cohort import Comparison, compare_cohort
from foveal.evaluation.cohort_report import write_comparison
from foveal.evaluation.cohort_table import read_cohort
from foveal.evaluation.cohort_text import estimate, p_value
from foveal.evaluation.settings import CompareSettings

_SHOWN = 8


def compare(
    table: str | Path, out: str | Path, settings: CompareSettings, *, progress: bool = True
) -> Comparison:
    """Compare groups of patients by the biomarkers of a table, and write the results.

    Args:
        table: .csv or .parquet, one row a photograph or mask, as of `foveal screen` or `foveal measure`.
        out: folder for `comparison.csv`, `comparison.parquet`, `left_out.csv`, figures and `comparison.html`;
            made when it does not exist. Nothing is written before everything is computed.
        settings: groups, columns and statistics.
        progress: tell on the terminal how it goes and what came out.

    Returns:
        The results.

    Raises:
        OSError: a table cannot be read, or the folder not be written.
        ValueError: the tables do not hold what the settings ask for, or nothing can be compared.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; allowed: a folder, which need not exist")
    console = Console(stderr=True, quiet=not progress, highlight=False, soft_wrap=True)
    cohort = read_cohort(table, settings)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("comparing", total=len(cohort.measures))
        comparison = compare_cohort(cohort, settings, on_biomarker=lambda: bar.advance(task))
    page = write_comparison(out, comparison)
    _tell(console, comparison, page)
    return comparison


def _tell(console: Console, comparison: Comparison, page: Path) -> None:
    cohort = comparison.cohort
    unit = "photographs" if cohort.averaged == "nothing" else "patients"
    sizes = ", ".join(f"{size} {group}" for group, size in cohort.sizes.items())
    console.print(f"{len(cohort.groups)} {unit}: {escape(sizes)}; reference: {escape(cohort.order[0])}")
    for note in cohort.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    for row in cohort.left_out.head(_SHOWN).itertuples():
        console.print(f"  left out: {escape(f'{row.row}: {row.reason}')}")
    if len(cohort.left_out) > _SHOWN:
        rest = len(cohort.left_out) - _SHOWN
        console.print(f"  and {rest} more, all in {escape(str(page.parent / 'left_out.csv'))}")
    untested = comparison.table[comparison.table.not_tested != ""]
    if len(untested):
        console.print(f"{untested.biomarker.nunique()} biomarkers could not be tested; the report says why")
    console.print(_effects(comparison), soft_wrap=False)
    console.print(f"report: {escape(str(page))}")


def _effects(comparison: Comparison) -> Table:
    """The strongest effects."""
    headings = {measure.name: measure.heading for measure in comparison.cohort.measures}
    several = len(comparison.cohort.order) > 2
    columns = [
        "biomarker",
        *(["groups"] if several else []),
        "difference (95%)",
        "Hedges' g (95%)",
        "p",
        "rank p",
    ]
    table = Table(*columns, box=None, pad_edge=False, title="strongest effects", title_justify="left")
    for row in comparison.strongest.head(_SHOWN).to_dict("records"):
        pair = [escape(f"{_short(row['group'])} - {_short(row['reference'])}")] if several else []
        effects = [
            estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], scale)
            for name, scale in (("difference", None), ("hedges_g", 0.1))
        ]
        tests = [p_value(row[f"{test}_corrected"]) for test in ("welch_p", "mann_whitney_p")]
        table.add_row(escape(headings[row["biomarker"]]), *pair, *effects, *tests)
    return table


def _short(group: str, width: int = 14) -> str:
    return group if len(group) <= width else f"{group[: width - 1].rstrip()}…"
