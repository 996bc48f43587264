"""A run over masks that other tools made: find them, measure those that are not done, build the table."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from foveal.files import sweep_partial_files
from foveal.screening.mask_record import Journal, MaskRecord
from foveal.screening.mask_settings import MeasureSettings
from foveal.screening.mask_sources import MaskItem, MaskSources, find_masks
from foveal.screening.mask_table import (
    TablePaths,
    known_kinds,
    mask_columns,
    write_column_page,
    write_missing,
    write_rows,
)
from foveal.screening.mask_worker import MaskJob, result_key
from foveal.screening.pool import WorkerPool, available_cores
from foveal.screening.progress import progress_bar, tell_failures
from foveal.screening.records import Failure, Value
from foveal.screening.tables import write_failures

MASKS_WORTH_A_PROCESS = 16  # a process takes two seconds to start, a mask a tenth of one
FIELD_NOTES = {
    "whole frame": "field: whole frame; densities are relative to it (the true one: --fields, --images)",
    "mask": "field: from --fields",
    "photograph": "field: from --images",
}

SCALE_NOTES = {
    "none": "scale: not known, so no millimetres (--spacing, or --disc)",
    "disc": "scale: from the optic disc, taken as 1.8 mm wide",
    "given": "scale: from --spacing",
    "table": "scale: from the table",
    "photograph": "scale: from the photograph",
}


@dataclass(frozen=True)
class MeasureSummary:
    """How a run ended.

    Attributes:
        tables: the table, in each format.
        measured: masks done in this run.
        resumed: masks that an earlier run had done already.
        failures: masks without a row, in the order in which they were found.
        seconds: wall time of the run.
        error: why nothing could start; None when something did.
    """

    tables: tuple[Path, ...] = ()
    measured: int = 0
    resumed: int = 0
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    error: str | None = None

    @property
    def exit_code(self) -> int:
        """0 all masks are measured, 1 some failed, 2 nothing could start."""
        if self.error is not None:
            return 2
        return 1 if self.failures else 0


def measure_masks(
    source: str | Path,
    out: str | Path,
    settings: MeasureSettings | None = None,
    *,
    sources: MaskSources | None = None,
    overlays: str | Path | None = None,
    progress: bool = True,
) -> MeasureSummary:
    """Measure the biomarkers of vessel masks into a table; run again to go on after a stop.

    Writes, for `out` "table.csv": `table.csv`, `table.columns.md` (what the columns mean),
    `table.missing.csv` (which biomarkers have no value, and why), `table.failures.csv` (masks without a row)
    and `table.records.jsonl` (what later runs go on from). A mask is taken as done when its files, landmarks,
    scale, the settings that matter and foveal's version are those of its record.

    Processes are spawned, so a script calls this under `if __name__ == "__main__":`.

    Args:
        source: folder, file, glob pattern, or CSV / Parquet manifest of masks.
        out: the table, ending in .csv, .parquet, or nothing for both.
        settings: how to measure.
        sources: where to look for fields of view, photographs, discs and foveas.
        overlays: folder for one picture a mask of what was measured.
        progress: show a progress bar, and at the end what was read how, what failed and where the table is.

    Returns:
        The summary. A wrong source or table is not raised: it is `summary.error`, with exit status 2. A mask
        that fails never stops the others.
    """
    settings = settings or MeasureSettings()
    console = Console(stderr=True, quiet=not progress, highlight=False, soft_wrap=True)
    started = time.perf_counter()
    try:
        found, notes = find_masks(source, sources or MaskSources())
        paths = TablePaths.of(Path(out))
        journal = _claim(paths, Path(source))
        job = MaskJob(settings, Path(overlays) if overlays is not None else None)
        if job.overlays is not None:
            job.overlays.mkdir(parents=True, exist_ok=True)
            sweep_partial_files(job.overlays)
    except (OSError, ValueError, ImportError) as error:
        console.print(f"[red]nothing could start:[/] {escape(str(error))}")
        return MeasureSummary(error=str(error))
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    failed = {item.name: item for item in found if isinstance(item, Failure)}
    items = [item for item in found if isinstance(item, MaskItem)]
    with progress_bar(console) as bar:
        waiting = [
            item for item, is_done in zip(items, _finished(items, job, journal), strict=True) if not is_done
        ]
        resumed = len(items) - len(waiting)
        outcomes = _outcomes(waiting, job)
        for outcome in bar.track(outcomes, len(waiting), description="Measuring") if waiting else ():
            if isinstance(outcome, Failure):
                failed[outcome.name] = outcome
            else:
                journal.add(outcome)
    done = [item for item in items if item.name not in failed]
    failures = tuple(failed[item.name] for item in found if item.name in failed)
    told = _write(paths, done, failures, journal, settings)
    journal.close()
    seconds = round(time.perf_counter() - started, 3)
    summary = MeasureSummary(tuple(paths.tables), len(done) - resumed, resumed, failures, seconds)
    _tell(console, summary, paths, told)
    return summary


def _claim(paths: TablePaths, source: Path) -> Journal:
    """Open the records beside the table, after a check that no other file would be overwritten.

    Raises:
        OSError: the folder cannot be written.
        ValueError: the table exists and is of no earlier run.
    """
    for table in paths.tables:
        if table.exists() and not paths.journal.exists():
            raise ValueError(
                f"{table} exists and is not of an earlier run ({paths.journal.name} is not beside it); name "
                "another table, or remove it first"
            )
    paths.journal.parent.mkdir(parents=True, exist_ok=True)
    sweep_partial_files(paths.journal.parent)
    return Journal(paths.journal)


def _finished(items: Sequence[MaskItem], job: MaskJob, journal: Journal) -> Iterator[bool]:
    """Whether each mask has a record of just this work."""

    def is_finished(item: MaskItem) -> bool:
        overlay = job.overlay(item.name)
        if item.name not in journal.keys or (overlay is not None and not overlay.exists()):
            return False
        try:
            return journal.keys[item.name] == result_key(item, job.settings)
        except OSError:
            return False

    with ThreadPoolExecutor(available_cores()) as threads:
        yield from threads.map(is_finished, items)


def _outcomes(items: Sequence[MaskItem], job: MaskJob) -> Iterator[MaskRecord | Failure]:
    """Measure masks in this process or over several, in no particular order."""
    worthwhile = min(available_cores(), 1 + len(items) // MASKS_WORTH_A_PROCESS)
    workers = min(job.settings.workers or worthwhile, len(items))
    if workers <= 1:
        yield from map(job.measure, items)
        return
    pool: WorkerPool[MaskItem, MaskRecord | Failure] = WorkerPool(job, workers=workers, threads=1, lost=_lost)
    yield from pool.map(items)


def _lost(item: MaskItem) -> Failure:
    reason = (
        "the process that measured it was killed twice, the second time with nothing beside it: most likely "
        "it needs more memory than there is"
    )
    return Failure(str(item.path), item.name, "worker", reason)


def _write(
    paths: TablePaths,
    items: Sequence[MaskItem],
    failures: Sequence[Failure],
    journal: Journal,
    settings: MeasureSettings,
) -> list[str]:
    """Write all tables; returns how the masks were read, for the user."""
    kinds = known_kinds(journal.read(item.name) for item in items)
    columns = mask_columns(kinds, settings)
    for table in paths.tables:
        write_rows(table, (_row(item, journal.read(item.name)) for item in items), columns)
    write_missing(paths, (journal.read(item.name) for item in items))
    write_column_page(paths, columns)
    write_failures(paths.failures, failures)
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("coding", "field_source", "scale_source")}
    notes: Counter[str] = Counter()
    for item in items:
        record = journal.read(item.name)
        for name, counter in counts.items():
            counter[str(record.values[name] or "none")] += 1
        notes.update(record.notes)
    return _told(counts, notes, len(items))


def _row(item: MaskItem, record: MaskRecord) -> dict[str, Value]:
    """A record with what the source says of the mask now: it may have been moved."""
    patient = None
    if item.patient:
        from foveal.scans.dicom import hash_patient

        patient = hash_patient(item.patient)
    place: dict[str, Value] = {"name": item.name, "path": str(item.path), "patient": patient}
    return record.values | place | {"notes": "; ".join(record.notes) or None, "missing": len(record.missing)}


def _told(counts: dict[str, Counter[str]], notes: Counter[str], masks: int) -> list[str]:
    """How the masks were read, in lines; a number where it is not true of all."""

    def of(number: int) -> str:
        return "" if number == masks else f" ({number} of {masks} masks)"

    lines = [f"coding: {coding}{of(number)}" for coding, number in counts["coding"].most_common()]
    lines += [f"{note}{of(number)}" for note, number in notes.most_common()]
    lines += [f"{FIELD_NOTES[source]}{of(number)}" for source, number in counts["field_source"].most_common()]
    lines += [f"{SCALE_NOTES[source]}{of(number)}" for source, number in counts["scale_source"].most_common()]
    return lines


def _tell(console: Console, summary: MeasureSummary, paths: TablePaths, told: Sequence[str]) -> None:
    resumed = f" ({summary.resumed} of them by an earlier run)" if summary.resumed else ""
    console.print(f"{summary.measured + summary.resumed} measured{resumed}, {len(summary.failures)} failed")
    for line in told:
        console.print(f"  {escape(line)}")
    tell_failures(console, summary.failures, paths.failures)
    tables = " and ".join(map(str, summary.tables))
    console.print(escape(f"table: {tables}; its columns: {paths.beside('.columns.md')}"))
