"""`foveal compress`."""

from pathlib import Path
from typing import Annotated

import typer

from foveal.cli.app import EXIT_FAILED, app, make_console


@app.command()
def compress(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a saved classifier.")],
    data: Annotated[
        Path,
        typer.Option("--data", "-d", metavar="FOLDER|NPZ", help="Labelled images."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the new model.")],
    method: Annotated[
        str,
        typer.Option(
            "--method", "-m", metavar="NAME", help="evit, lpvit, lrp-qvit, sparse-then-prune or int8."
        ),
    ],
    target: Annotated[str, typer.Option("--target", "-t", metavar="2x|50%|6bit", help="How far to go.")],
    tune: Annotated[int, typer.Option(min=0, metavar="STEPS", help="Train afterwards.")] = 0,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx.")] = False,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings, JSON or TOML.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as options.fuse=false."),
    ] = None,
) -> None:
    """Make a classifier smaller and faster, and measure what that cost.

    Writes a new model folder whose README tells accuracy, latency, throughput, memory and file size before
    and after. Only training images calibrate and tune. Exit status: 1 where images could not be read.
    """
    from foveal.compression.run import CompressSettings, compare_table
    from foveal.compression.run import compress as compress_folder
    from foveal.recipes.overrides import make_settings

    settings = make_settings(
        CompressSettings,
        config=config,
        options={"tune": tune or None, "onnx": onnx or None},
        assignments=assignments or [],
    )
    found = compress_folder(model, data, out, method=method, target=target, settings=settings)
    console = make_console()
    console.print(found.outcome.summary, markup=False)
    console.print(compare_table(found), markup=False)
    console.print(f"model: {found.folder}", markup=False)
    for image in found.skipped:
        console.print(f"left out: {image.path}: {image.reason}", markup=False)
    if found.skipped:
        raise typer.Exit(EXIT_FAILED)
