"""Pictures of found discs: the photograph, the true disc and the found one, the network's probability."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage

from foveal.scans.field_of_view import FieldOfView
from landmark_scores import DiscCase
from structure_pictures import beside

TRUE, FOUND, FOVEA = (60, 220, 90), (250, 200, 40), (80, 200, 255)
LINE = 12  # the outline is so many pixels wide, on 12 megapixels


def disc_picture(case: DiscCase) -> bytes:
    """JPEG: the photograph with its true disc (green) and the found one (yellow), and the probability."""
    drawn = case.image.copy()
    for mask, colour in ((case.truth, TRUE), (case.found.mask if case.found else None, FOUND)):
        if mask is not None:
            drawn[mask & ~ndimage.binary_erosion(mask, iterations=LINE)] = colour
    return _panels(case.image, drawn, case.maps["disc"], case.maps.field)


def circle_picture(image: np.ndarray, row: pd.Series, probability: np.ndarray, field: FieldOfView) -> bytes:
    """JPEG: as `disc_picture`, with circles, of which that by eye may be missing, and the fovea (blue)."""
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    width = max(round(0.004 * field.diameter), 2)
    for suffix, colour in (("_by_eye", TRUE), ("", FOUND)):
        y, x, r = (float(row[f"{part}{suffix}"]) for part in ("row", "column", "radius"))
        if np.isfinite(r):
            pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)
    y, x, r = float(row.fovea_row), float(row.fovea_column), 0.02 * field.diameter
    if np.isfinite(y):
        pen.ellipse((x - r, y - r, x + r, y + r), outline=FOVEA, width=width)
    return _panels(image, np.asarray(picture), probability, field)


def _panels(image: np.ndarray, drawn: np.ndarray, probability: np.ndarray, field: FieldOfView) -> bytes:
    top, left, bottom, right = field.box
    window = np.s_[top:bottom, left:right]
    grey = np.repeat(np.rint(255 * probability[window]).astype(np.uint8)[..., None], 3, axis=2)
    return beside([image[window], drawn[window], grey])
