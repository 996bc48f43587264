"""`foveal explain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from foveal.cli.app import app, make_console


@app.command()
def explain(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a saved model, or a shipped one's name.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES...", help="Photographs, NIfTI volumes, folders, globs or manifests."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the maps.")],
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME[,NAME…]",
            help="Methods, such as grad-cam, lrp, occlusion; a wrong name lists all.",
            show_default="saliency",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="CLASS[,CLASS…]",
            help="What of: names or numbers of classes, predicted, or all.",
            show_default="predicted; of a segmenter, all",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings, JSON or TOML, options of methods too.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Of a segmenter: where the class is predicted, or everywhere."),
    ] = None,
    tile: Annotated[int | None, typer.Option(min=8, help="Explain in tiles of this side, pixels.")] = None,
    measure: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="infidelity, sensitivity, randomisation.", show_default="none"),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one map.", show_default="600")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="1")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
) -> None:
    """Show where a model looked: maps over each photograph, side by side, with what each costs.

    A run that was stopped goes on where it stopped when the same command is given again. Exit status: 0 all
    maps are there, 1 some are not (see failures.csv), 2 nothing could start.
    """
    from foveal.explanation.run_files import explain_files
    from foveal.explanation.run_settings import ExplainSettings
    from foveal.recipes.overrides import make_settings

    given: dict[str, Any] = {
        "methods": _words(method),
        "targets": _words(target),
        "measures": _words(measure),
        "where": where,
        "tile": tile,
        "timeout": timeout,
        "workers": workers,
        "device": device,
    }
    settings = make_settings(ExplainSettings, config=config, options=given)
    console = make_console(stderr=True)
    summary = explain_files(
        model,
        images,
        out,
        settings,
        progress=lambda line: console.print(line, markup=False),
    )
    for failure in summary.failures:
        if not failure.label:
            console.print(f"{failure.case}: failed: {failure.reason}", markup=False)
    resumed = f", {summary.resumed} of an earlier run" if summary.resumed else ""
    lost = f"; {len(summary.failures)} failed, see {out / 'failures.csv'}" if summary.failures else ""
    console.print(f"{len(summary.records)} maps in {out / 'maps'}{resumed}{lost}", markup=False)
    raise typer.Exit(summary.exit_code)


def _words(text: str | None) -> tuple[str, ...] | None:
    """Words between commas; None where nothing is given."""
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())
