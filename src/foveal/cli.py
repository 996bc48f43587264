"""The command line: each command calls one function of one room, and imports it only then."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from typer.core import TyperGroup

from foveal import __version__

if TYPE_CHECKING:
    from foveal.recipes.base import Finding, Section

EXIT_FAILED = 1
EXIT_NOT_STARTED = 2
EXIT_INTERRUPTED = 130

_MENDABLE = (ValueError, OSError, ImportError)
"""Errors that tell the user what to change; ImportError names an extra to install."""


def _console(*, stderr: bool = False) -> Console:
    """A console on the present stream; text is left unwrapped, and without colour where it is piped."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


class _Commands(TyperGroup):
    """Turns errors into a few clear lines: status 2 for what the user can mend, 1 for a defect of foveal."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _console(stderr=True).print("Interrupted.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            # Typer's own errors carry an exit status and know how to show themselves.
            if ctx.params.get("debug") or hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                raise
            _explain(error)
            raise typer.Exit(EXIT_NOT_STARTED if isinstance(error, _MENDABLE) else EXIT_FAILED) from None


def _explain(error: Exception) -> None:
    console = _console(stderr=True)
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
        _console().print(f"foveal {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a folder of eye photographs into vessel maps, biomarkers and a report; train and verify models."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("foveal").setLevel(logging.DEBUG if debug else logging.WARNING)


@app.command()
def screen(
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="Folder, photograph, glob in quotes, or CSV/Parquet manifest."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="REPORT", help="Folder for the report.")],
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also grade with this saved classifier.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Photographs at the same time.", show_default="one a core")
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks run: auto, cpu or cuda.")] = "auto",
    threshold: Annotated[float, typer.Option(help="Probability from which a pixel is vessel.")] = 0.5,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger photographs.")] = 64.0,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Retinal photographs",
    salt: Annotated[
        str,
        typer.Option(envvar="FOVEAL_SALT", help="Secret mixed into the hashes of patient ids."),
    ] = "",
    vessel_model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Use this saved vessel model, not the shipped one.")
    ] = None,
) -> None:
    """Screen photographs: quality, vessels, biomarkers, optional grades, and a report to open in a browser.

    A run that was stopped goes on where it stopped when the same command is given again. Exit status: 0 all
    photographs are done, 1 some failed (see failures.csv in the report), 2 nothing could start.
    """
    from foveal.screening import ScreenSettings
    from foveal.screening import screen as screen_photographs

    settings = ScreenSettings.model_validate(
        {
            "title": title,
            "workers": workers,
            "device": device,
            "threshold": threshold,
            "max_megapixels": max_megapixels,
            "salt": salt,
            "vessel_model": vessel_model,
        }
    )
    summary = screen_photographs(source, out, settings, model=model)
    raise typer.Exit(summary.exit_code)


@app.command()
def measure(
    masks: Annotated[
        str,
        typer.Argument(
            metavar="MASKS", help="Folder, mask, glob in quotes, or CSV/Parquet manifest of vessel masks."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="TABLE", help="Table: .csv, .parquet, or both without ending."),
    ],
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Their photographs, for the field of view and sharpness."),
    ] = None,
    fields: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Masks of the field of view.")] = None,
    disc: Annotated[
        Path | None, typer.Option(metavar="FOLDER|TABLE", help="Masks of the optic disc, or a table.")
    ] = None,
    fovea: Annotated[
        Path | None, typer.Option(metavar="FOLDER|TABLE", help="Masks of the fovea, or a table.")
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Table with disc_row, disc_column, disc_radius, fovea_row, …"),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(metavar="MM|ROW,COL", help="Millimetres a pixel.", show_default="from the disc"),
    ] = None,
    regions: Annotated[
        str, typer.Option(metavar="all|none|A,B,…", help="Also measure in these regions of the retina.")
    ] = "none",
    coding: Annotated[
        str,
        typer.Option(
            help="auto, binary, probability, av-labels, av-foveal or av-colour; see docs/measure.md."
        ),
    ] = "auto",
    threshold: Annotated[float, typer.Option(help="Probability from which a pixel is vessel.")] = 0.5,
    compat: Annotated[
        str | None, typer.Option(metavar="pvbm3", help="Also the measures of PVBM 3, with its numbers.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Masks at the same time.", show_default="up to one a core")
    ] = None,
    overlays: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw what was measured, one picture a mask.")
    ] = None,
) -> None:
    """Measure vessel masks that other tools made: all biomarkers, one row a mask.

    Files belong to a mask by their names: 21_training_mask.gif to 21_manual1.gif. A run that was stopped
    goes on where it stopped when the same command is given again. Exit status: 0 all masks are measured,
    1 some failed (see TABLE.failures.csv), 2 nothing could start.
    """
    from foveal.screening.mask_settings import MeasureSettings
    from foveal.screening.mask_sources import MaskSources
    from foveal.screening.measuring import measure_masks

    settings = MeasureSettings.model_validate(
        {
            "coding": coding,
            "threshold": threshold,
            "spacing_mm": spacing,
            "regions": regions,
            "compat": compat,
            "workers": workers,
        }
    )
    sources = MaskSources(images, fields, disc, fovea, landmarks)
    summary = measure_masks(masks, out, settings, sources=sources, overlays=overlays)
    raise typer.Exit(summary.exit_code)


@app.command()
def compare(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV or Parquet, one row a photograph or mask.")
    ],
    group: Annotated[str, typer.Option(metavar="COLUMN", help="Column that tells the group.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the results.")],
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column that tells the patient.", show_default="patient, if there"
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Columns to compare.", show_default="all biomarkers"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="Group that others are held against.", show_default="the first"),
    ] = None,
    covariates: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Columns to adjust for, e.g. age,sex.")
    ] = None,
    join: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Second table, e.g. with diagnoses.")
    ] = None,
    on: Annotated[str, typer.Option(metavar="COLUMN", help="Column by which it is joined.")] = "name",
    include_rejected: Annotated[
        bool, typer.Option("--include-rejected", help="Also count photographs of quality reject.")
    ] = False,
    correction: Annotated[
        str, typer.Option(help="For many biomarkers: fdr_bh, holm, bonferroni or none.")
    ] = "fdr_bh",
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples for an interval.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Comparison of groups",
) -> None:
    """Compare groups of patients by their biomarkers: effect sizes, tests, figures and a page for a paper.

    Eyes and visits are averaged to patients first. Exit status: 0 done, 2 the tables do not allow it.
    """
    from foveal.evaluation.cohort_run import compare as compare_groups
    from foveal.evaluation.settings import CompareSettings

    settings = CompareSettings.model_validate(
        {
            "group": group,
            "patient": patient,
            "columns": _names(columns),
            "reference": reference,
            "covariates": _names(covariates),
            "join": join,
            "on": on,
            "include_rejected": include_rejected,
            "correction": correction,
            "resamples": resamples,
            "seed": seed,
            "title": title,
        }
    )
    compare_groups(table, out, settings)


def _names(text: str | None) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `foveal recipes` lists them.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="For checkpoints and the model.")
    ],
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Training data.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings as .json or .toml.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, over the file's; may be repeated."),
    ] = None,
) -> None:
    """Train the system of a recipe and save it.

    On several devices the same command runs as `accelerate launch -m foveal train RECIPE --out FOLDER`.
    """
    from foveal.recipes import load_recipe
    from foveal.recipes.overrides import make_settings

    chosen = load_recipe(recipe)
    settings = make_settings(chosen.Settings, config=config, assignments=assignments or [])
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"--data {data} is not a folder")
    chosen.train(settings, data=data, out=out)


@app.command()
def recipes(
    write: Annotated[
        bool, typer.Option("--write", help="Bring docs/recipes.md and README.md here up to date.")
    ] = False,
) -> None:
    """List the published systems that can be trained and verified."""
    from foveal.recipes import list_recipes

    cards = list_recipes()
    console = _console()
    if write:
        from foveal.recipes.catalogue import write_catalogue

        for path in write_catalogue(cards, Path()):
            console.print(f"wrote {escape(str(path))}")
        return
    if not console.is_terminal:
        for card in cards:
            typer.echo(f"{card.slug}\t{card.paper.year}\t{card.title}")
        return
    table = Table("recipe", "year", "what it is", box=None, pad_edge=False)
    for card in cards:
        table.add_row(f"[bold]{card.slug}[/]", str(card.paper.year), escape(card.title))
    console.print(table, soft_wrap=False)


@app.command()
def verify(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `foveal recipes` lists them.")],
    full: Annotated[bool, typer.Option("--full", help="All evidence, up to half an hour.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="With --full: write docs/evidence/RECIPE.md here.")
    ] = False,
) -> None:
    """Run the evidence of a recipe and print what is claimed, expected and measured.

    Exit status: 0 every claim holds, 1 some do not.
    """
    from foveal.recipes import list_recipes, load_recipe
    from foveal.recipes.catalogue import write_catalogue
    from foveal.recipes.evidence import run_evidence, write_page

    if write and not full:
        raise ValueError("--write keeps full evidence only; give --full --write")
    if write and not Path("docs/recipes.md").is_file():
        raise FileNotFoundError("docs/recipes.md is not here; run from the root of foveal's repository")
    chosen = load_recipe(recipe)
    console = _console()
    scale: Literal["quick", "full"] = "full" if full else "quick"
    console.print(f"{escape(chosen.card.title)}, {scale} evidence")
    with _Findings(console) as shown:
        report = run_evidence(chosen, scale, on_item=shown.add)
    holding = sum(finding.holds for finding in report.findings)
    colour = "green" if report.holds else "red"
    console.print(f"[{colour}]{holding} of {len(report.findings)} claims hold[/] ({report.seconds:.0f} s)")
    if write:
        page = write_page(report, Path("docs/evidence"))
        for path in (page, *write_catalogue(list_recipes(), Path())):  # the list of recipes links the page
            console.print(f"wrote {escape(str(path))}")
    raise typer.Exit(0 if report.holds else EXIT_FAILED)


class _Findings:
    """Shows findings as they arrive: a growing table on a terminal, one line each where output is piped."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.table = Table("claim", "expected", "measured", "holds", title_justify="left")
        working = Group(self.table, Spinner("dots", "measuring"))
        self.live = (
            Live(working, console=console, refresh_per_second=4, vertical_overflow="visible")
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "_Findings":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.update(self.table)
            self.live.stop()

    def add(self, item: "Finding | Section") -> None:
        from foveal.recipes.base import Section
        from foveal.recipes.evidence import finding_row

        if isinstance(item, Section):
            return
        claim, expected, measured, _ = finding_row(item)
        if self.live is None:
            mark = "holds" if item.holds else "DOES NOT HOLD"
            text = f"{mark}: {claim} | expected {expected} | measured {measured}"
            self.console.print(text, markup=False)
        else:
            holds = "[green]yes[/]" if item.holds else "[red]no[/]"
            self.table.add_row(escape(claim), escape(expected), escape(measured), holds)


@app.command()
def info() -> None:
    """Show versions, devices, shipped weights and optional parts: what a bug report needs."""
    from importlib import metadata

    from foveal.models.pretrained import WEIGHTS, weights_hash
    from foveal.models.shipped import list_shipped, shipped_model
    from foveal.recipes.evidence import describe_environment

    console = _console()
    for name, value in describe_environment().items():
        console.print(f"{name}: {value}", markup=False)
    console.print("\nshipped weights:")
    for name in list_shipped():
        folder = shipped_model(name)
        size = (folder / WEIGHTS).stat().st_size / 1e6
        console.print(f"  {name}: {size:.2f} MB, sha256 {weights_hash(folder)}", markup=False)
    if not list_shipped():
        console.print("  none")
    console.print("\noptional parts:")
    for extra in metadata.metadata("foveal").get_all("Provides-Extra") or []:
        missing = _missing_of_extra(extra)
        state = f'missing {", ".join(missing)}: pip install "foveal[{extra}]"' if missing else "installed"
        console.print(f"  {extra}: {state}", markup=False)


def _missing_of_extra(extra: str) -> list[str]:
    import re
    from importlib import metadata

    missing = []
    for requirement in metadata.requires("foveal") or []:
        words, _, condition = requirement.partition(";")
        if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", condition):
            name = re.split(r"[^A-Za-z0-9._-]", words.strip(), maxsplit=1)[0]
            try:
                metadata.version(name)
            except metadata.PackageNotFoundError:
                missing.append(name)
    return missing


def main() -> None:
    """Entry point of the `foveal` command."""
    # `--debug` is as good after the command as before it.
    words = sorted(sys.argv[1:], key=lambda word: word != "--debug")
    try:
        app(args=words, prog_name="foveal")
    except BrokenPipeError:  # the reader of a pipe has left, as with `foveal recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_FAILED) from None
