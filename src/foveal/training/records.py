"""What a run tells about itself: log.csv, TensorBoard events, a progress bar."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

from foveal.files import write_atomically

Row = dict[str, float]


class LossWindow:
    """Losses of the latest steps, kept on the device; read out rarely, as each read-out waits for it."""

    def __init__(self, entries: list[tuple[int, Row]] | None = None) -> None:
        self.entries: list[tuple[int, Row]] = [(step, row) for step, row in entries or []]
        self._pending: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Remember the detached scalar losses of update number `step`."""
        self._pending.append((step, losses))

    def settle(self, reduce_mean: Any) -> None:
        """Fetch what is pending in one transfer.

        Args:
            reduce_mean: (S, K) tensor to its mean over processes.

        Raises:
            FloatingPointError: some step's loss was not finite; names the step and its losses.
        """
        pending, self._pending = self._pending, []
        start = 0
        while start < len(pending):  # runs of steps that report the same losses
            names = list(pending[start][1])
            stop = start
            while stop < len(pending) and list(pending[stop][1]) == names:
                stop += 1
            table = torch.stack([torch.stack(list(losses.values())) for _, losses in pending[start:stop]])
            for (step, _), values in zip(pending[start:stop], reduce_mean(table).tolist(), strict=True):
                row = dict(zip(names, values, strict=True))
                check_finite(step, row)
                self.entries.append((step, row))
            start = stop

    def means(self) -> Row:
        """Mean of each loss over the window."""
        columns: dict[str, list[float]] = {}
        for _, row in self.entries:
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        return {name: math.fsum(values) / len(values) for name, values in columns.items()}

    def clear(self) -> None:
        """Begin the next window."""
        self.entries = []


def check_finite(step: int, losses: Row) -> None:
    """Stop a run whose loss has left the real numbers.

    Raises:
        FloatingPointError: names the step (from 0) and every loss.
    """
    if not math.isfinite(losses["loss"]):
        told = ", ".join(f"{name}={value:g}" for name, value in losses.items())
        raise FloatingPointError(
            f"loss is not finite at step {step}: {told}; lower learning_rate, lengthen the warm-up, set "
            "gradient_clip, or look for empty masks and bad pixels in this step's batch"
        )


class RunRecord:
    """Rows of a run, in memory and, where there is a folder, in log.csv and TensorBoard.

    Args:
        folder: of the run, or None.
        history: rows of the resumed part; log.csv is rewritten from them, so that no row comes twice.
        tensorboard: write events too.
    """

    def __init__(self, folder: Path | None, history: list[Row], *, tensorboard: bool) -> None:
        self.history = list(history)
        self._path = folder / "log.csv" if folder else None
        self._columns: list[str] = []
        self._writer: Any = None
        self._rewrite()
        if folder and tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            last = int(self.history[-1]["step"]) if self.history else 0
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=last + 1)

    def add(self, row: Row) -> None:
        """Append one row; its `step` counts updates done."""
        self.history.append(row)
        if self._path is not None:
            if row.keys() <= set(self._columns):
                with self._path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
            else:
                self._rewrite()
        if self._writer is not None:
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Flush the TensorBoard events."""
        if self._writer is not None:
            self._writer.close()

    def _rewrite(self) -> None:
        """Write log.csv anew, with a column for every name met so far."""
        if self._path is None:
            return
        self._columns = list(dict.fromkeys(name for row in self.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if self._columns:
            writer.writeheader()
        writer.writerows(self.history)
        write_atomically(self._path, text.getvalue())


class ProgressLine:
    """Handle to the progress bar; without one every call does nothing."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self._bar, self._task = bar, task

    def advance(self) -> None:
        """Count one step."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def tell(self, row: Row) -> None:
        """Show the latest loss and learning rate."""
        if self._bar is not None and "loss" in row:
            text = f"loss {row['loss']:.4g}  lr {row['learning_rate']:.2e}"
            self._bar.update(self._task, told=text)


class _Speed(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} it/s" if task.speed else "")


@contextmanager
def progress_line(title: str, *, total: int, done: int, shown: bool) -> Iterator[ProgressLine]:
    """Progress bar with loss, rate and time left; only where the output is a terminal."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield ProgressLine()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        yield ProgressLine(bar, bar.add_task(title, total=total, completed=done, told=""))
