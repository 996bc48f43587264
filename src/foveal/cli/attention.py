"""`foveal attention`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from foveal.cli.app import app, make_console


@app.command()
def attention(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a saved classifier with attention.")
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Photographs, folders, globs or manifests.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the report.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="CSV or Parquet with the columns path and label."),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(help="What takes a head's place: zero or mean.", show_default="zero"),
    ] = None,
    representation: Annotated[
        str | None,
        typer.Option(help="Of patterns: offset or matrix.", show_default="offset"),
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(min=1, help="Of patterns.", show_default="by the silhouette")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="More settings, JSON or TOML; see docs/attention.md.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Attention heads",
) -> None:
    """Tell which attention heads of a classifier matter, how far they look and which patterns they learn.

    Writes tables and one page for the browser. Exit status: 0 all images are in the report, 1 some are not
    (see failures.csv), 2 nothing could start.
    """
    from foveal.explanation.attention_analysis import AttentionSettings
    from foveal.explanation.attention_run import analyse_files
    from foveal.recipes.overrides import make_settings

    given: dict[str, Any] = {
        "ablation": ablation,
        "representation": representation,
        "clusters": clusters,
        "device": device,
    }
    settings = make_settings(AttentionSettings, config=config, options=given)
    console = make_console(stderr=True)
    run = analyse_files(
        model,
        images,
        out,
        settings,
        labels=labels,
        title=title,
        progress=lambda line: console.print(line, markup=False),
    )
    lost = f"; {len(run.failures)} left out, see {out / 'failures.csv'}" if run.failures else ""
    console.print(f"{run.images} images in {run.page}{lost}", markup=False)
    raise typer.Exit(run.exit_code)
