"""What a run shows on the terminal: the progress bar, and the files that failed."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foveal.screening.records import Failure

_LISTED_FAILURES = 20


def progress_bar(console: Console) -> Progress:
    """A bar with the number of files done, the time elapsed and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def tell_failures(console: Console, failures: Sequence[Failure], table: Path) -> None:
    """Print the first failures, one line each, and where the table of all is."""
    for failure in failures[:_LISTED_FAILURES]:
        text = escape(f"{failure.path}: {failure.stage}: {failure.reason}")
        console.print(f"  [red]failed[/] {text}", highlight=False, soft_wrap=True)
    if len(failures) > _LISTED_FAILURES:
        rest = len(failures) - _LISTED_FAILURES
        console.print(f"  and {rest} more, all in {escape(str(table))}", highlight=False, soft_wrap=True)
