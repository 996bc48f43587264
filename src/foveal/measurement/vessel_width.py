"""The mean width of all vessels from a mask alone, within milliseconds."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView


def mean_vessel_width(vessels: np.ndarray, field: "FieldOfView") -> float:
    """Mean width of vessels: twice their area over the length of their outline.

    The length is that of Cauchy and Crofton from rows and columns alone: pi / 4 times the number of changes
    along all of them, which is right for outlines of every direction together.

    Args:
        vessels: (H, W) bool.
        field: of the photograph.

    Returns:
        Pixels; NaN where there is no vessel.
    """
    top, left, bottom, right = field.box
    mask = np.pad(vessels[top:bottom, left:right], 1)
    changes = np.count_nonzero(mask[:, 1:] != mask[:, :-1]) + np.count_nonzero(mask[1:] != mask[:-1])
    return 8 * np.count_nonzero(mask) / (np.pi * changes) if changes else float("nan")
