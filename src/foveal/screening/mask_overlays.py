"""One picture a mask of what was measured: widths along the centre lines, nodes, circles around the disc."""

from io import BytesIO

from foveal.measurement.drawing import draw_biomarker
from foveal.measurement.eye import Eye
from foveal.measurement.measure import biomarker_columns
from foveal.measurement.registry import Kind

PANEL_INCHES, DOTS_PER_INCH = 6.0, 130


def overlay_jpeg(eye: Eye) -> bytes:
    """JPEG with a row of panels for each kind of vessels: calibre, branch points, and the central equivalent
    where the disc is known; arteries and veins where they are told apart, else all vessels.

    Args:
        eye: as it was measured; on its photograph, or on the field where there is none.
    """
    from matplotlib.figure import Figure

    kinds: tuple[Kind, ...] = eye.kinds[1:] or eye.kinds
    names = ["calibre_px", "branch_points"]
    if eye.landmarks.disc is not None and kinds != ("vessel",):
        names.append("equivalent_knudtson_px")
    figure = Figure(
        figsize=(PANEL_INCHES * len(names), PANEL_INCHES * len(kinds)),
        dpi=DOTS_PER_INCH,
        layout="constrained",
    )
    axes = figure.subplots(len(kinds), len(names), squeeze=False)
    for row, kind in zip(axes, kinds, strict=True):
        columns = {column.biomarker.name: column for column in biomarker_columns((kind,), names=names)}
        for name, panel in zip(names, row, strict=True):
            draw_biomarker(eye, columns[name], panel)
    buffer = BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 88})
    return buffer.getvalue()
