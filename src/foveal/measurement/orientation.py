"""One standard position for a mask under quarter turns and mirrorings.

Thinning visits the borders of a shape in a fixed order, so a skeleton depends on how the photograph lies. A
mask that is turned to its standard position first is measured the same, to the last digit, however it came.
"""

from itertools import product
from typing import NamedTuple

import numpy as np


class Orientation(NamedTuple):
    """How to turn an image: transpose first, then flip rows, then flip columns."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Turn an (H, W) image; a view of it."""
        turned = image.T if self.transpose else image
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def undo_points(self, points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Carry (N, 2) row and column positions on the turned image back to the original image.

        Args:
            points: (N, 2) positions on the turned image, pixel centres at integers.
            shape: (H, W) of the turned image.

        Returns:
            (N, 2) positions on the original image.
        """
        back = points.copy()
        if self.flip_rows:
            back[:, 0] = shape[0] - 1 - back[:, 0]
        if self.flip_columns:
            back[:, 1] = shape[1] - 1 - back[:, 1]
        return back[:, ::-1].copy() if self.transpose else back


def standard_orientation(mask: np.ndarray) -> Orientation:
    """The turn that brings a mask to its standard position.

    Of the eight positions that quarter turns and mirrorings give, the standard one has the largest counts of
    pixels by row, then by column, in dictionary order; where these tie, the largest bytes of the image.

    Args:
        mask: (H, W) bool.

    Returns:
        An orientation such that `apply` gives the same image for all eight positions of a mask.
    """
    counts = mask.view(np.uint8)  # bytes are summed faster than flags
    rows = counts.sum(axis=1, dtype=np.uint32).tolist()
    columns = counts.sum(axis=0, dtype=np.uint32).tolist()

    def profile(orientation: Orientation) -> tuple[list[int], list[int]]:
        first, second = (columns, rows) if orientation.transpose else (rows, columns)
        return (
            first[::-1] if orientation.flip_rows else first,
            second[::-1] if orientation.flip_columns else second,
        )

    candidates = [Orientation(*flags) for flags in product((False, True), repeat=3)]
    profiles = [profile(candidate) for candidate in candidates]
    best = max(profiles)
    tied = [candidate for candidate, found in zip(candidates, profiles, strict=True) if found == best]
    if len(tied) == 1:
        return tied[0]
    return max(tied, key=lambda candidate: np.packbits(candidate.apply(mask)).tobytes())
