"""`foveal train`, `foveal recipes` and `foveal verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table

from foveal.cli.app import EXIT_FAILED, app, make_console

if TYPE_CHECKING:
    from foveal.recipes.base import Finding, Section


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `foveal recipes` lists them.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="For checkpoints and the model.")
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER_OR_FILE", help="Training data; see docs/train.md.")
    ] = None,
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
    if data is not None and not data.exists():
        raise FileNotFoundError(f"--data {data} does not exist; allowed: a folder or a file")
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
    console = make_console()
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
    console = make_console()
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
