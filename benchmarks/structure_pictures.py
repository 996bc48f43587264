"""Pictures of failures for the evidence: the photograph, the truth and what was found, side by side."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from foveal.scans.field_of_view import find_field_of_view
from structure_maps import FOUND
from structure_scores import ARTERY, VEIN, VesselCase

SIDE = 560  # of each panel, pixels
RED, BLUE, BOTH, MISSED = (214, 40, 40), (38, 84, 200), (150, 60, 170), (250, 200, 40)


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
    return beside([case.image[window], truth[window], found[window]])


def beside(panels: list[np.ndarray]) -> bytes:
    """JPEG of (H, W, 3) uint8 panels of one size, from left to right."""
    scale = SIDE / max(panels[0].shape[:2])
    size = round(scale * panels[0].shape[1]), round(scale * panels[0].shape[0])
    sheet = Image.new("RGB", (len(panels) * size[0] + 8 * (len(panels) - 1), size[1]), "white")
    for number, panel in enumerate(panels):
        small = Image.fromarray(panel).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(small, (number * (size[0] + 8), 0))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=85)
    return stream.getvalue()
