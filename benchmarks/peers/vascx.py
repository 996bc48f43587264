"""The package `retinalysis-vascx`: its recommended set of biomarkers, from masks in memory."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image

SIDE = 1024  # the only size of image that it measures


class Vascx:
    """The feature set `full_v3`; raises `ImportError` where the package is not installed."""

    def __init__(self) -> None:
        from vascx.fundus.feature_sets import fs_full_v3
        from vascx.fundus.layer import VesselTreeLayer
        from vascx.fundus.retina import Retina
        from vascx.fundus.vessels_layer import FundusVesselsLayer

        self.features, self.retina_class = fs_full_v3, Retina
        self.tree_class, self.vessels_class = VesselTreeLayer, FundusVesselsLayer

    def measure(
        self,
        arteries: np.ndarray,
        veins: np.ndarray,
        field: np.ndarray,
        disc: tuple[float, float, float],
        fovea: tuple[float, float],
    ) -> dict[str, float | None]:
        """All values of the feature set, by name.

        Args:
            arteries: (1024, 1024) bool.
            veins: (1024, 1024) bool.
            field: (1024, 1024) bool, what the camera saw.
            disc: row, column and radius of the optic disc in pixels.
            fovea: row and column in pixels.
        """
        rows, columns = np.ogrid[:SIDE, :SIDE]
        inside = (rows - disc[0]) ** 2 + (columns - disc[1]) ** 2 <= disc[2] ** 2
        retina = self.retina_class(
            disc_path_or_mask=inside.astype(np.uint8),
            layers={
                "arteries": self.tree_class("arteries", arteries),
                "veins": self.tree_class("veins", veins),
                "vessels": self.vessels_class("vessels", arteries | veins),
            },
            fovea_location=(fovea[1], fovea[0]),
            roi_mask=field,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return retina.calc_features(self.features)


def fit_square(mask: np.ndarray) -> np.ndarray:
    """Centre an (H, W) bool mask in a square and scale it to (1024, 1024), by nearest neighbour."""
    height, width = mask.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), bool)
    square[top : top + height, left : left + width] = mask
    return resized(square, (SIDE, SIDE))


def resized(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A bool mask at another shape, by nearest neighbour."""
    picture = Image.fromarray(mask.astype(np.uint8))  # one-bit pictures come back with 255 for True
    return np.array(picture.resize(shape[::-1], Image.Resampling.NEAREST)) > 0
