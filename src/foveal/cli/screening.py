"""`foveal screen` and `foveal measure`."""

from pathlib import Path
from typing import Annotated

import typer

from foveal.cli.app import app


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
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also write DICOM segmentations and measurement reports.")
    ] = False,
    explain: Annotated[
        str,
        typer.Option(
            metavar="METHOD,…",
            help="Explain disc, fovea and grade by these, such as lrp,grad-cam; see `foveal explain --help`.",
        ),
    ] = "",
    vessel_model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Use this saved vessel model, not the shipped one.")
    ] = None,
    artery_vein_model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The same for arteries and veins.")
    ] = None,
    landmark_model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The same for disc and fovea.")
    ] = None,
    lesion_model: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The same for lesions.")] = None,
) -> None:
    """Screen photographs: quality, vessels, landmarks, lesions, biomarkers, and a report for the browser.

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
            "dicom": dicom,
            "explain": tuple(word.strip() for word in explain.split(",") if word.strip()),
            "vessel_model": vessel_model,
            "artery_vein_model": artery_vein_model,
            "landmark_model": landmark_model,
            "lesion_model": lesion_model,
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
