"""Pictures of failures for the evidence: the photograph, the truth and what was found, side by side."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage

from foveal.measurement.optic_disc import find_disc
from foveal.scans.field_of_view import find_field_of_view
from structure_scores import ARTERY, FOUND, VEIN, DiscCase, VesselCase

SIDE = 560  # of each panel, pixels
RED, BLUE, BOTH, MISSED = (214, 40, 40), (38, 84, 200), (150, 60, 170), (250, 200, 40)
GREEN, LINE = (60, 220, 90), 12  # the outline is so many pixels wide, on 12 megapixels


def vessel_picture(case: VesselCase) -> bytes:
    """JPEG: photograph, true kinds, and the found vessels with the kinds that they were given.

    Arteries are red, veins blue, crossings and vessels of unknown kind purple; in the last panel a true
    vessel pixel of known kind that was given the other one is yellow.
    """
    top, left, bottom, right = find_field_of_view(case.image).box
    window = np.s_[top:bottom, left:right]
    paper = np.full_like(case.image, 255)
    truth = paper.copy()
    for value, colour in ((ARTERY, RED), (VEIN, BLUE), (3, BOTH)):
        truth[case.index == value] = colour
    found = paper.copy()
    answer = case.answers["graph"]
    vessels = case.vessels >= FOUND
    found[vessels & answer], found[vessels & ~answer] = RED, BLUE
    wrong = vessels & case.known & (answer != (case.index == ARTERY))
    found[wrong] = MISSED
    return _beside([case.image[window], truth[window], found[window]])


def disc_picture(case: DiscCase) -> bytes:
    """JPEG: the photograph with its true disc (green) and the found one (yellow), and the probability."""
    probability = case.maps["disc"]
    found = find_disc(probability, case.maps.field)
    drawn = case.image.copy()
    for mask, colour in ((case.truth, GREEN), (found.mask if found else None, MISSED)):
        if mask is not None:
            drawn[mask & ~ndimage.binary_erosion(mask, iterations=LINE)] = colour
    top, left, bottom, right = case.maps.field.box
    window = np.s_[top:bottom, left:right]
    grey = np.repeat(np.rint(255 * probability[window]).astype(np.uint8)[..., None], 3, axis=2)
    return _beside([case.image[window], drawn[window], grey])


def circle_picture(image: np.ndarray, row: pd.Series) -> bytes:
    """JPEG: the photograph, and on it the disc placed by eye (green) and the found one (yellow)."""
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    for suffix, colour in (("_by_eye", GREEN), ("", MISSED)):
        y, x, r = (row[f"{part}{suffix}"] for part in ("row", "column", "radius"))
        if np.isfinite(r):
            pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=4)
    return _beside([image, np.asarray(drawn)])


def _beside(panels: list[np.ndarray]) -> bytes:
    scale = SIDE / max(panels[0].shape[:2])
    size = round(scale * panels[0].shape[1]), round(scale * panels[0].shape[0])
    sheet = Image.new("RGB", (len(panels) * size[0] + 8 * (len(panels) - 1), size[1]), "white")
    for number, panel in enumerate(panels):
        small = Image.fromarray(panel).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(small, (number * (size[0] + 8), 0))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=85)
    return stream.getvalue()
