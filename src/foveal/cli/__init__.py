"""The command line: each command calls one function of one room, and imports it only then."""

import os
import sys

# Each module adds its commands to the application.
from foveal.cli import attention, cohorts, compression, explanation, info, recipes, screening
from foveal.cli.app import EXIT_FAILED, app

__all__ = [
    "app",
    "attention",
    "cohorts",
    "compression",
    "explanation",
    "info",
    "main",
    "recipes",
    "screening",
]


def main() -> None:
    """Entry point of the `foveal` command."""
    # `--debug` is as good after the command as before it.
    words = sorted(sys.argv[1:], key=lambda word: word != "--debug")
    try:
        app(args=words, prog_name="foveal")
    except BrokenPipeError:  # the reader of a pipe has left, as with `foveal recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_FAILED) from None
