"""Pictures of failures for the evidence on lesions: the photograph, the graders' lesions, those found."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import ImageColor
from scipy import ndimage

from foveal.measurement.lesions import Lesions
from foveal.screening.pictures import LESION_COLOURS
from lesion_scores import KINDS, LesionCase
from structure_pictures import beside

MARGIN = 10  # pixels of 12 megapixels by which lesions are drawn larger, so that small ones are seen


def lesion_picture(case: LesionCase, image: np.ndarray, found: Lesions) -> bytes:
    """JPEG: photograph, the graders' lesions and the found ones on it, in the colours of a report."""
    top, left, bottom, right = case.field.box
    window = np.s_[top:bottom, left:right]
    true = {kind: case.truth[place] for place, kind in enumerate(KINDS)}
    panels = [image, _stained(image, true), _stained(image, {kind: found.mask(kind) for kind in KINDS})]
    return beside([panel[window] for panel in panels])


def _stained(image: np.ndarray, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """The photograph in grey, half as bright, with masks in the colours of their kinds."""
    grey = (image.mean(axis=2) / 2).astype(np.uint8)
    drawn = np.repeat(grey[..., None], 3, axis=2)
    for kind, mask in masks.items():
        near = ndimage.distance_transform_edt(~mask) <= MARGIN if mask.any() else mask
        drawn[near] = ImageColor.getrgb(LESION_COLOURS[kind])
    return drawn
