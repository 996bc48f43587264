"""The overlay of a page that shows the optic disc and the fovea."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from foveal.screening.svg import rimmed, svg_picture, svg_texts, svg_unit

if TYPE_CHECKING:
    from foveal.measurement.landmark_finding import FoundLandmarks
    from foveal.scans.field_of_view import FieldOfView

DISC_COLOUR, FOVEA_COLOUR = "#ffe14d", "#ffffff"
_ARM = 9.0  # pixels of the page: half a cross


def landmark_layer(field: "FieldOfView", found: "FoundLandmarks") -> dict[str, str]:
    """The overlay "landmarks": the disc's boundary, the fovea's place, and how sure each is; none without."""
    parts = [*_disc(field, found), *_fovea(field, found)]
    return {"landmarks": svg_picture(field, "".join(parts))} if parts else {}


def _disc(field: "FieldOfView", found: "FoundLandmarks") -> Iterator[str]:
    disc = found.landmarks.disc
    if disc is None or found.disc_mask is None:
        return
    unit, (row, column) = svg_unit(field), disc.center
    yield rimmed("disc", boundary_path(found.disc_mask), DISC_COLOUR, 1.8 * unit, 1.6 * unit)
    label = f"disc {100 * (found.disc_confidence or 0):.0f} %"
    below = (row + disc.radius + 13 * unit, column)
    above = (row - disc.radius - 13 * unit, column)
    yield svg_texts([(label, *(below if below[0] < field.box[2] else above))], unit, "middle")


def boundary_path(mask: np.ndarray) -> str:
    """SVG path around a mask, exact to half a pixel."""
    from skimage.measure import approximate_polygon, find_contours

    rows, columns = np.nonzero(mask)
    if not len(rows):
        return ""
    top, left = rows.min(), columns.min()
    part = np.pad(mask[top : rows.max() + 1, left : columns.max() + 1], 1).astype(np.float32)
    paths = []
    for line in find_contours(part, 0.5):
        points = approximate_polygon(line, 0.5) + np.array([top - 1, left - 1])
        paths.append("M" + "L".join(f"{column:.1f} {row:.1f}" for row, column in points) + "Z")
    return "".join(paths)


def _fovea(field: "FieldOfView", found: "FoundLandmarks") -> Iterator[str]:
    if found.landmarks.fovea is None:
        return
    unit, (row, column) = svg_unit(field), found.landmarks.fovea
    arm = _ARM * unit
    cross = f"M{column - arm:.1f} {row:.1f}h{2 * arm:.1f}M{column:.1f} {row - arm:.1f}v{2 * arm:.1f}"
    yield rimmed("fovea", cross, FOVEA_COLOUR, 1.8 * unit, 1.6 * unit)
    label = f"fovea {100 * (found.fovea_confidence or 0):.0f} %"
    yield svg_texts([(label, row + arm + 12 * unit, column)], unit, "middle")
