"""Many methods and targets over many images: each map in a process that may fail, die or be too slow.

A map that takes longer than its time ends by the death of its process, whatever it is doing; the next starts
in a new one. What is finished is known again when the same run starts anew (TorchEsegeta, arXiv 2110.08429).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_context
from pathlib import Path

import torch
from torch import nn

import foveal
from foveal.explanation.run_settings import ExplainSettings, Failed, MapRecord, MethodChoice
from foveal.explanation.run_worker import MAPS, Task, serve, target_names
from foveal.explanation.subjects import Case
from foveal.files import sweep_partial_files, write_atomically
from foveal.scans.discovery import safe_name

MARKER = "explanation.json"
_COSTS = ("case", "method", "target", "score", "seconds", "tiles")


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        out: its folder.
        records: of all maps that are there, in the order of cases, targets and methods.
        resumed: how many of them an earlier run had made.
        failures: maps that were not made, and files that could not be read.
    """

    out: Path
    records: tuple[MapRecord, ...]
    resumed: int
    failures: tuple[Failed, ...]

    @property
    def exit_code(self) -> int:
        """0 all maps are there, 1 some are not."""
        return 1 if self.failures else 0


def run_explanations(
    make_model: Callable[[], nn.Module] | nn.Module,
    cases: Sequence[Case],
    out: str | Path,
    settings: ExplainSettings,
    *,
    model_key: str | None = None,
    failed: Sequence[Failed] = (),
    progress: Callable[[str], None] | None = None,
) -> RunSummary:
    """Make every map of every case.

    Writes into `out`: `maps/CASE/LABEL__TARGET.npz` ("relevance" on the grid of the model's input), `.png`
    (over the photograph, or projections of a volume along its axes), `.nii` (volumes with an affine) and
    `.json` (the record); `maps/CASE/TARGET__comparison.png`; `costs.csv` and `failures.csv`.

    Processes are spawned, so a script calls this under `if __name__ == "__main__":`.

    Args:
        make_model: a model, or a function that makes one; it can be pickled. Models are on the CPU.
        cases: see `subjects`.
        out: new, empty, or of an earlier run.
        settings: what to explain and how.
        model_key: changes with the model; a digest of its weights where none is given.
        failed: of what could not become a case, told with the other failures.
        progress: called with a line for each map.

    Raises:
        ValueError: `out` holds something else, two cases of one name, an unknown target, or a model that
            cannot be made in another process.
    """
    out = Path(out)
    _claim(out)
    names = [case.name for case in cases]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"cases {', '.join(sorted(doubled))} are there twice; give each a name of its own")
    settings = _on_device(settings)
    maker = partial(_given, make_model) if isinstance(make_model, nn.Module) else make_model
    model = maker()
    targets = _targets(model, settings)
    known = model_key or _digest(model)
    tasks = [
        _task(case, f"{known} {digest}", method, target, settings)
        for case, digest in zip(cases, map(_key_of, cases), strict=True)
        for target in targets
        for method in settings.methods
    ]
    del model
    done: dict[str, MapRecord] = {}
    for task in tasks:
        if (record := _finished(out, task)) is not None:
            done[task.key] = record
    resumed = len(done)
    lost = list(failed)
    waiting = deque(task for task in tasks if task.key not in done)
    tell = progress or (lambda line: None)
    for task, outcome in _Pool(maker, settings, out).map(waiting):
        name = f"{task.case.name}: {task.method.label}, {task.target}"
        if isinstance(outcome, MapRecord):
            done[task.key] = outcome
            tell(f"{name}: {outcome.seconds:.2f} s")
        else:
            if task.key not in done:  # what an earlier run made with other settings
                for ending in (".json", ".npz", ".nii", ".png"):
                    (out / MAPS / task.case.name / f"{task.stem}{ending}").unlink(missing_ok=True)
            lost.append(
                Failed(case=task.case.name, label=task.method.label, target=task.target, reason=outcome)
            )
            tell(f"{name}: failed: {outcome}")
    records = tuple(done[task.key] for task in tasks if task.key in done)
    if settings.pictures:
        _compare(maker(), cases, records, out)
    _write_tables(out, records, lost)
    return RunSummary(out, records, resumed, tuple(lost))


class _Pool:
    """Processes of which each makes one map at a time, and is killed when that takes too long."""

    def __init__(self, make: Callable[[], nn.Module], settings: ExplainSettings, out: Path) -> None:
        self.make, self.settings, self.out = make, settings, out

    def map(self, waiting: deque[Task]) -> Iterator[tuple[Task, MapRecord | str]]:
        """Tasks with their records, or the reasons why there are none, as they end."""
        workers: list[_Worker] = []
        try:
            while waiting or workers:
                starting = sum(worker.task is None for worker in workers)
                wanted = min(self.settings.workers - len(workers), len(waiting) - starting)
                workers += [_Worker(self.make, self.settings, self.out) for _ in range(wanted)]
                pipes = {worker.pipe: worker for worker in workers}
                for pipe in connection.wait(list(pipes), timeout=self._patience(workers)):
                    worker = pipes[pipe]  # type: ignore[index]
                    yield from worker.hear(self.settings.timeout)
                now = time.monotonic()
                for worker in workers:
                    if worker.deadline is not None and now > worker.deadline:
                        yield from worker.give_up(f"took longer than {self.settings.timeout:g} s")
                for worker in [w for w in workers if w.ended]:
                    workers.remove(worker)
                for worker in [w for w in workers if w.idle]:
                    if waiting:
                        worker.start(waiting.popleft(), self.settings.timeout)
                    else:
                        worker.dismiss()
                        workers.remove(worker)
        finally:
            for worker in workers:
                worker.kill()

    def _patience(self, workers: Sequence[_Worker]) -> float | None:
        ends = [worker.deadline for worker in workers if worker.deadline is not None]
        return max(0.0, min(ends) - time.monotonic()) + 0.01 if ends else None


class _Worker:
    """One process, as its parent sees it."""

    def __init__(self, make: Callable[[], nn.Module], settings: ExplainSettings, out: Path) -> None:
        context = get_context("spawn")  # forking a process with threads may deadlock
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, make, settings, out), daemon=True)
        try:
            self.process.start()
        except (AttributeError, TypeError, ValueError) as error:  # what pickle says of lambdas and handles
            raise ValueError(
                f"the model cannot be sent to another process ({error}); give a function of a module that "
                "makes it"
            ) from error
        other.close()
        self.task: Task | None = None
        self.mapped: MapRecord | None = None
        self.deadline: float | None = None
        self.idle = self.ended = False

    def start(self, task: Task, timeout: float | None) -> None:
        self.task, self.mapped, self.idle = task, None, False
        self._wind(timeout)
        try:
            self.pipe.send(task)
        except (BrokenPipeError, OSError):
            self.ended = True

    def hear(self, timeout: float | None) -> Iterator[tuple[Task, MapRecord | str]]:
        try:
            word, content = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            yield from self.give_up(
                f"the process died (exit status {self.process.exitcode}); most likely it needed more memory "
                "than there is: explain in smaller tiles or with a smaller batch_size"
            )
            return
        if word == "broken":
            raise ValueError(f"the model cannot be made in another process: {content}")
        if word == "mapped":
            self.mapped = content
            self._wind(timeout)
            return
        finished, self.task, self.deadline, self.idle = self.task, None, None, True
        if finished is not None:
            yield from self._end(finished, content)

    def give_up(self, reason: str) -> Iterator[tuple[Task, MapRecord | str]]:
        self.kill()
        self.ended, self.deadline = True, None
        if self.task is None:
            raise RuntimeError(f"a process that explains could not start: {reason}")
        yield from self._end(self.task, reason)

    def _end(self, task: Task, outcome: MapRecord | str) -> Iterator[tuple[Task, MapRecord | str]]:
        """The outcome; where only measures failed, the map before it."""
        if isinstance(outcome, MapRecord) or self.mapped is None:
            yield task, outcome
            return
        yield task, self.mapped
        yield task, f"the map is there, its measures are not: {outcome}"

    def dismiss(self) -> None:
        self.pipe.send(None)
        self.process.join(timeout=10)
        self.kill()

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()

    def _wind(self, timeout: float | None) -> None:
        self.deadline = None if timeout is None else time.monotonic() + timeout


def _claim(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file())):
        raise ValueError(f"{out} holds other files; name a new or an empty folder, or one of an earlier run")
    (out / MAPS).mkdir(parents=True, exist_ok=True)
    for folder in (out, *(path for path in (out / MAPS).iterdir() if path.is_dir())):
        sweep_partial_files(folder)
    marker = {"folder": "foveal explanations", "foveal": foveal.__version__}
    write_atomically(out / MARKER, json.dumps(marker, indent=1) + "\n")


def _on_device(settings: ExplainSettings) -> ExplainSettings:
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise ValueError("device is 'cuda', but torch sees no CUDA device; allowed here: 'cpu' or 'auto'")
    device = settings.device if settings.device != "auto" else "cuda" if there else "cpu"
    threads = settings.threads or max(1, torch.get_num_threads() // settings.workers)
    return settings.replace(device=device, threads=threads)


def _given(model: nn.Module) -> nn.Module:
    return model


def _targets(model: nn.Module, settings: ExplainSettings) -> tuple[str, ...]:
    from foveal.models import Classifier
    from foveal.models.mask_model import MaskModel
    from foveal.models.segmenter import Segmenter

    dense = isinstance(model, Segmenter | MaskModel) and not isinstance(model, Classifier)
    found = [name for target in settings.targets for name in target_names(model, target, dense=dense)]
    return tuple(dict.fromkeys(found))


def _digest(model: nn.Module) -> str:
    found = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _key_of(case: Case) -> str:
    try:
        return case.key()
    except OSError:
        return ""  # told when the case is read


def _task(case: Case, key: str, method: MethodChoice, target: str, settings: ExplainSettings) -> Task:
    matter = settings.model_dump(
        mode="json", exclude={"methods", "targets", "workers", "threads", "timeout", "device"}
    )
    told = [foveal.__version__, key, case.name, target, method.name, method.label]
    text = json.dumps([*told, repr(sorted(method.options.items())), matter], sort_keys=True)
    stem = safe_name(f"{method.label}__{target}")
    return Task(case, method, target, hashlib.sha256(text.encode()).hexdigest(), stem)


def _finished(out: Path, task: Task) -> MapRecord | None:
    try:
        text = (out / MAPS / task.case.name / f"{task.stem}.json").read_text(encoding="utf-8")
        record = MapRecord.model_validate_json(text)
    except (OSError, ValueError):
        return None
    whole = record.key == task.key and all((out / name).is_file() for name in record.files)
    return record if whole else None


def _compare(model: nn.Module, cases: Sequence[Case], records: Sequence[MapRecord], out: Path) -> None:
    """One sheet of all methods for each case of two dimensions and each target."""
    import numpy as np

    from foveal.explanation.pictures import Drawn, comparison_png
    from foveal.explanation.run_worker import background_of, over_background

    for case in cases:
        mine = [record for record in records if record.case == case.name and len(record.shape) == 2]
        targets = [t for t in dict.fromkeys(r.target for r in mine) if sum(r.target == t for r in mine) > 1]
        if not targets:
            continue
        subject = case.read(model)
        for target in targets:
            drawn = []
            for record in (r for r in mine if r.target == target):
                with np.load(out / record.files[0], allow_pickle=False) as held:
                    values = over_background(subject, held["relevance"])
                drawn.append(Drawn(values, f"{record.label} ({record.seconds:.2g} s)", record.signed))
            sheet = comparison_png(drawn, background_of(subject), title=f"{case.name}: {target}")
            write_atomically(out / MAPS / case.name / f"{safe_name(target)}__comparison.png", sheet)


def _write_tables(out: Path, records: Sequence[MapRecord], failures: Sequence[Failed]) -> None:
    measures = list(dict.fromkeys(name for record in records for name in record.measured))
    rows = [[*_COSTS, *measures, "file", "notes"]]
    for record in records:
        cells = [
            record.case,
            record.label,
            record.target,
            f"{record.score:.6g}",
            record.seconds,
            record.tiles,
        ]
        found = [record.measured.get(name, "") for name in measures]
        rows.append([*map(str, cells), *map(str, found), record.files[0], " | ".join(record.notes)])
    _write_csv(out / "costs.csv", rows)
    lines = [["case", "method", "target", "reason"]]
    lines += [[failure.case, failure.label, failure.target, failure.reason] for failure in failures]
    _write_csv(out / "failures.csv", lines)


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    write_atomically(path, buffer.getvalue())
