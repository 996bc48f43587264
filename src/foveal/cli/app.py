"""The application: help, version, and errors as a few clear lines."""

import logging
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from foveal import __version__

EXIT_FAILED = 1
EXIT_NOT_STARTED = 2
EXIT_INTERRUPTED = 130

_ORDER = (
    "screen",
    "measure",
    "compare",
    "explain",
    "attention",
    "train",
    "compress",
    "recipes",
    "verify",
    "encoders",
    "info",
)
_MENDABLE = (ValueError, OSError, ImportError)
"""Errors that tell the user what to change; ImportError names an extra to install."""


def make_console(*, stderr: bool = False) -> Console:
    """A console on the present stream; text is left unwrapped, and without colour where it is piped."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


class _Commands(TyperGroup):
    """Turns errors into a few clear lines: status 2 for what the user can mend, 1 for a defect of foveal."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, in the order in which a newcomer needs them."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            make_console(stderr=True).print("Interrupted.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            # Typer's own errors carry an exit status and know how to show themselves.
            if ctx.params.get("debug") or hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                raise
            _explain(error)
            raise typer.Exit(EXIT_NOT_STARTED if isinstance(error, _MENDABLE) else EXIT_FAILED) from None


def _explain(error: Exception) -> None:
    console = make_console(stderr=True)
    for line in _complaints(error):
        console.print(f"[red]Error:[/] {escape(line)}")
    if not isinstance(error, _MENDABLE):
        console.print("This is unexpected. Run again with --debug to see where it comes from.")


def _complaints(error: Exception) -> list[str]:
    """What is wrong, one line a problem."""
    problems: Any = getattr(error, "errors", None)
    if callable(problems):  # a ValidationError, recognised without the import of pydantic
        places = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in problems()]
        reasons = [(place, message.removeprefix("Value error, ")) for place, message in places]
        return [f"{place}: {reason}" if place else reason for place, reason in reasons]
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return [f"{error.filename}: {error.strerror}"]
    return [str(error) if isinstance(error, _MENDABLE) else f"{type(error).__name__}: {error}"]


app = typer.Typer(
    name="foveal",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="For research use. Not a medical device; not for diagnosis.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        make_console().print(f"foveal {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a folder of eye photographs into vessel maps, biomarkers and a report; train and verify models."""
    from foveal.machine import keep_freed_memory

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("foveal").setLevel(logging.DEBUG if debug else logging.WARNING)
    keep_freed_memory()
