"""A screening run: find the photographs, screen those that are not done, build tables and report."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

import foveal
from foveal.files import file_sha256, sweep_partial_files, write_atomically
from foveal.screening.pool import WorkerPool, available_cores
from foveal.screening.progress import progress_bar, tell_failures
from foveal.screening.records import (
    Failure,
    Provenance,
    Record,
    discard_results,
    outputs_are_whole,
    read_record,
)
from foveal.screening.screener import Job
from foveal.screening.settings import ScreenSettings

if TYPE_CHECKING:
    from foveal.scans.discovery import ScanRef

MARKER = "report.json"
_FOLDERS = ("vessels", "arteries", "masks", "structures", "scans")


@dataclass(frozen=True)
class ScreenSummary:
    """How a run ended.

    Attributes:
        report: folder of the report.
        screened: photographs done in this run.
        resumed: photographs that an earlier run had done already.
        failures: photographs without results, in the order in which they were found, then those that lack
            an explanation that failed in a way that was not foreseen.
        seconds: wall time of the run.
        error: why nothing could start; None when something did.
    """

    report: Path
    screened: int = 0
    resumed: int = 0
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    error: str | None = None

    @property
    def index(self) -> Path:
        """First page of the report."""
        return self.report / "index.html"

    @property
    def exit_code(self) -> int:
        """0 all photographs are done, 1 some failed or lack an explanation, 2 nothing could start."""
        if self.error is not None:
            return 2
        return 1 if self.failures else 0


def screen(
    source: str | Path,
    out: str | Path,
    settings: ScreenSettings | None = None,
    *,
    model: str | Path | None = None,
    progress: bool = True,
) -> ScreenSummary:
    """Screen eye photographs into a report; run again with the same arguments to go on after a stop.

    Writes into `out`: `index.html`, `scans/NAME.html` (pages), `scans/NAME.json` (records),
    at the original size `vessels/NAME.png` (16-bit grey, probability x 65535), `arteries/NAME.png` (8-bit,
    probability x 255 that a vessel there is an artery), `masks/NAME.png` (8-bit: 0 background, 1 artery,
    2 vein, 3 both) and `structures/NAME.png` (8-bit: 0 none, 1 optic disc, 2 microaneurysm, 3 haemorrhage,
    4 hard exudate, 5 soft exudate); `results.csv`, `results.parquet`, `columns.md`, `failures.csv`; with
    `settings.dicom` also `dicom/NAME/`. A photograph is taken as done when its file, the settings that
    matter, the weights and foveal's version are those of its record.

    Processes are spawned, so a script calls this under `if __name__ == "__main__":`.

    Args:
        source: folder, file, glob pattern, or CSV / Parquet manifest.
        out: folder of the report; new, empty, or an earlier report.
        settings: how to screen.
        model: folder of a saved `Classifier` that grades each photograph as well.
        progress: show a progress bar, and at the end what failed and where the report is.

    Returns:
        The summary. A wrong source, report folder or model is not raised: it is `summary.error`, with exit
        status 2. A photograph that fails never stops the others; one that only lacks an explanation, by an
        error that was not foreseen, has its other results and is told in `failures.csv`; the status is 1.
    """
    settings, report = settings or ScreenSettings(), Path(out)
    console = Console(stderr=True, quiet=not progress)
    started = time.perf_counter()
    try:
        refs = _find(source)
        job = _prepare(report, settings, Path(model) if model is not None else None)
    except (OSError, ValueError, ImportError) as error:
        console.print(f"[red]nothing could start:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return ScreenSummary(report, error=str(error))

    done: dict[str, Record] = {}
    failed = {ref.name: Failure(str(ref.path), ref.name, "find", ref.error) for ref in refs if ref.error}
    waiting = [ref for ref in refs if not ref.error]
    with progress_bar(console) as bar:
        for ref, record in bar.track(
            _finished(waiting, job), len(waiting), description="Looking for finished ones"
        ):
            if record is not None:
                done[ref.name] = record
        resumed = len(done)
        waiting = [ref for ref in waiting if ref.name not in done]
        for outcome in bar.track(_outcomes(waiting, job), len(waiting), description="Screening"):
            if isinstance(outcome, Failure):
                failed[outcome.name] = outcome
                discard_results(report, outcome.name)
            else:
                done[outcome.name] = outcome
        records = [done[ref.name] for ref in refs if ref.name in done]
        failures = tuple(failed[ref.name] for ref in refs if ref.name in failed)
        unexplained = tuple(_unexplained(record) for record in records if record.unexplained)
        _build_report(report, records, failures, unexplained, settings, bar.track)

    summary = ScreenSummary(
        report,
        len(records) - resumed,
        resumed,
        failures + unexplained,
        round(time.perf_counter() - started, 3),
    )
    _tell(console, summary)
    if others := {path.stem for path in (report / "scans").glob("*.json")} - {ref.name for ref in refs}:
        console.print(
            f"{len(others)} photographs of earlier runs are not in {escape(str(source))}; left in place"
        )
    return summary


def _find(source: str | Path) -> list["ScanRef"]:
    from foveal.scans.discovery import find_scans

    refs = find_scans(source)
    if not refs:
        raise ValueError(f"{source} holds no photograph; allowed: JPEG, PNG, TIFF, BMP, PPM and DICOM files")
    return refs


def _prepare(report: Path, settings: ScreenSettings, grader: Path | None) -> Job:
    """Check everything that all photographs depend on, then claim the report folder.

    Raises:
        OSError: a model folder is incomplete, or the report folder cannot be written.
        ValueError: a model cannot be loaded, or the report folder holds something else.
    """
    _refuse_foreign_folder(report)
    import torch

    from foveal.models import weights_hash
    from foveal.screening.explaining import check_methods
    from foveal.screening.grading import grader_hash

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no CUDA device; allowed here: 'cpu' or 'auto'")
    if settings.explain:
        check_methods(settings.explain)
    models = settings.model_folders()
    job = Job(
        report=report,
        settings=settings,
        provenance=Provenance(
            foveal=foveal.__version__,
            settings=settings.result_hash(),
            weights={name: weights_hash(folder) for name, folder in models.items()},
            grader_weights=grader_hash(grader) if grader is not None else None,
        ),
        models=models,
        grader=grader,
        device=device,
        threads=torch.get_num_threads(),
    )
    replace(job, device="cpu")()  # a model that does not load is told once, here, and not once a photograph
    for folder in (report, *(report / name for name in _FOLDERS)):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_partial_files(folder)
    marker = {"report": "foveal screening", "foveal": foveal.__version__, "at": datetime.now(UTC).isoformat()}
    write_atomically(report / MARKER, json.dumps(marker, indent=1) + "\n")
    return job


def _refuse_foreign_folder(report: Path) -> None:
    if not report.exists():
        return
    if not report.is_dir():
        raise ValueError(f"{report} is a file; the report needs a folder")
    if not (report / MARKER).is_file() and any(report.iterdir()):
        raise ValueError(
            f"{report} holds other files and is no foveal report (it has no {MARKER}); "
            "name a new or an empty folder"
        )


def _finished(refs: Sequence["ScanRef"], job: Job) -> Iterator[tuple["ScanRef", Record | None]]:
    """Each photograph with its record, or None where it has to be screened."""
    with ThreadPoolExecutor(available_cores()) as threads:
        yield from zip(refs, threads.map(partial(_finished_record, job=job), refs), strict=True)


def _finished_record(ref: "ScanRef", job: Job) -> Record | None:
    from foveal.screening.report import page_is_whole

    record = read_record(job.report, ref.name)
    if record is None or record.provenance != job.provenance or record.unexplained:
        return None
    if not (outputs_are_whole(job.report, record) and page_is_whole(job.report, ref.name)):
        return None
    with contextlib.suppress(OSError):
        if file_sha256(ref.path) == record.input_sha256:
            return _with_place(record, ref)
    return None


def _with_place(record: Record, ref: "ScanRef") -> Record:
    """A finished record with what the source says of the photograph now: it may have been moved."""
    return record.model_copy(update={"values": record.values | {"path": str(ref.path)}})


def _outcomes(refs: Sequence["ScanRef"], job: Job) -> Iterator[Record | Failure]:
    """Screen photographs in this process or over several, in no particular order."""
    workers = min(job.settings.workers or (available_cores() if job.device == "cpu" else 1), len(refs))
    if workers <= 1:
        screener = job() if refs else None
        for ref in refs:
            assert screener is not None
            yield screener(ref)
        return
    threads = max(1, available_cores() // workers)
    pool: WorkerPool[ScanRef, Record | Failure] = WorkerPool(
        replace(job, threads=threads), workers=workers, threads=threads, lost=_lost
    )
    yield from pool.map(refs)


def _unexplained(record: Record) -> Failure:
    return Failure(str(record.values["path"]), record.name, "explanations", "; ".join(record.unexplained))


def _lost(ref: "ScanRef") -> Failure:
    reason = (
        "the process that screened it was killed twice, the second time with nothing beside it: most likely "
        "it needs more memory than there is; set `max_megapixels` below its size or use a larger machine"
    )
    return Failure(str(ref.path), ref.name, "worker", reason)


def _build_report(
    report: Path,
    records: Sequence[Record],
    failures: Sequence[Failure],
    unexplained: Sequence[Failure],
    settings: ScreenSettings,
    track: Callable,
) -> None:
    from foveal.screening.columns import index_columns
    from foveal.screening.report import Overview, write_final_page, write_index
    from foveal.screening.tables import write_failures, write_results

    overview = Overview.of(records, title=settings.title)
    write_results(report, records, overview.columns)
    write_failures(report / "failures.csv", [*failures, *unexplained])
    names = [record.name for record in records]
    for index, record in enumerate(track(records, description="Writing the report")):
        previous, following = names[max(0, index - 1) : index], names[index + 1 : index + 2]
        write_final_page(
            report,
            record,
            overview,
            previous=previous[0] if previous else None,
            following=following[0] if following else None,
        )
    write_index(report, records, failures, overview, shown=index_columns())


def _tell(console: Console, summary: ScreenSummary) -> None:
    resumed = f" ({summary.resumed} of them by an earlier run)" if summary.resumed else ""
    lacking = sum(failure.stage == "explanations" for failure in summary.failures)
    told = f", {lacking} of them without an explanation" if lacking else ""
    console.print(
        f"{summary.screened + summary.resumed} screened{resumed}{told}, "
        f"{len(summary.failures) - lacking} failed"
    )
    tell_failures(console, summary.failures, summary.report / "failures.csv")
    console.print(f"report: {escape(str(summary.index))}", highlight=False, soft_wrap=True)
