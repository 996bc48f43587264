"""Masks of one area that other tools made: the field of view, the optic disc (and cup), the fovea."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from foveal.scans.field_of_view import FieldOfView, find_field_of_view
from foveal.scans.scan import ScanError
from foveal.scans.stored_samples import read_samples

MOST_AREA = 0.25  # of the frame; an optic disc covers about a fiftieth
FEW_LEVELS = 8


def read_field_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool: what is at least half as bright as the brightest pixel of a mask of the field of view.

    Raises:
        ScanError: the file cannot be read, or nothing in it is bright.
    """
    values = read_samples(path).colours
    values = values.max(axis=2) if values.ndim == 3 else values
    field = values if values.dtype == bool else (values > 0) & (values >= values.max() / 2)
    if not field.any():
        raise ScanError(path, "holds no field of view: every pixel is dark")
    return field


def read_area_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool: what differs from the corners of a mask, such as disc and cup together.

    Maps of several areas (0, 1 disc, 2 cup; or 255, 128 disc, 0 cup) give their union. Where there are more
    levels than a few, as after JPEG, half of the largest difference counts.

    Raises:
        ScanError: the file cannot be read, the corners differ, or the area is none or over a quarter of the
            frame.
    """
    values = read_samples(path).colours
    values = np.atleast_3d(values).astype(np.float32)
    corners = values[[0, 0, -1, -1], [0, -1, 0, -1]]
    if not np.isclose(corners, corners[0], atol=0.02 * max(1.0, float(np.abs(values).max()))).all():
        raise ScanError(path, "the four corners differ; allowed: one background around the area")
    difference = np.abs(values - corners[0]).max(axis=2)
    few = len(np.unique(difference)) <= FEW_LEVELS
    area = difference > (0 if few else difference.max() / 2)
    share = float(area.mean())
    if not 0 < share <= MOST_AREA:
        raise ScanError(
            path,
            f"{100 * share:.0f} % of its pixels differ from the corners; allowed: more than none and at most "
            f"{100 * MOST_AREA:g} %",
        )
    return area


def field_of_mask(mask: np.ndarray) -> FieldOfView:
    """The field of view whose visible part is `mask`; its circle or rectangle is found as in a photograph.

    Args:
        mask: (H, W) bool, not empty.
    """
    if mask.all():
        return whole_frame(mask.shape)
    picture = np.repeat((mask.view(np.uint8) * np.uint8(255))[..., None], 3, axis=2)
    found = find_field_of_view(picture)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return replace(found, mask=mask, box=box)


def whole_frame(shape: tuple[int, ...]) -> FieldOfView:
    """The field of view of a picture of (height, width) of which nothing is known."""
    height, width = shape
    middle = ((height - 1) / 2, (width - 1) / 2)
    box = (0, 0, height, width)
    return FieldOfView(np.ones((height, width), bool), middle, float(max(height, width)), "full", box, 1.0)
