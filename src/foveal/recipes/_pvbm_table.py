"""From masks to the table of their biomarkers, in either mode of the PVBM recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import Disc, Landmarks, disc_of_mask, enclosing_disc
from foveal.measurement.measure import measure_eye
from foveal.measurement.pvbm3 import measure_pvbm3
from foveal.measurement.registry import Kind
from foveal.scans.area_masks import whole_frame

if TYPE_CHECKING:
    from foveal.recipes.pvbm import PvbmSettings
    from foveal.scans.field_of_view import FieldOfView


@dataclass(frozen=True)
class BiomarkerTable:
    """Measures masks of one eye.

    Example:
        >>> from foveal.recipes.pvbm import PvbmSettings
        >>> mask = np.zeros((64, 64), bool)
        >>> mask[30:33, 8:56] = True
        >>> BiomarkerTable(PvbmSettings())(mask)["vessel_tortuosity_index"]
        1.0
    """

    settings: PvbmSettings

    def __call__(
        self,
        vessels: np.ndarray | None = None,
        *,
        arteries: np.ndarray | None = None,
        veins: np.ndarray | None = None,
        disc: Disc | np.ndarray | None = None,
        fovea: tuple[float, float] | None = None,
        field: FieldOfView | None = None,
        spacing_mm: tuple[float, float] | None = None,
    ) -> dict[str, float]:
        """Measure.

        Args:
            vessels: (H, W) bool, all vessels; None takes arteries and veins together.
            arteries: (H, W) bool, or None where they are not known apart.
            veins: (H, W) bool, or None.
            disc: circle, or (H, W) bool mask, of the optic disc; of a mask, mode "pvbm3" takes the smallest
                circle around it, mode "exact" the one of its area.
            fovea: row and column; only used in mode "exact".
            field: the camera's field; None takes the whole frame. Mode "pvbm3" knows no field.
            spacing_mm: (row, column) millimetres a pixel; only used in mode "exact".

        Returns:
            Value by name, such as "artery_length_px" (exact) or "artery_length" (pvbm3, pixels and degrees);
            NaN where it is missing.

        Raises:
            ValueError: no mask was given, or one is not a bool array of the others' shape.
        """
        masks = [mask for mask in (vessels, arteries, veins) if mask is not None]
        if not masks:
            raise ValueError("vessels, arteries and veins are None; allowed: a mask for at least one of them")
        if not all(isinstance(mask, np.ndarray) and mask.ndim == 2 for mask in masks):
            shapes = [np.shape(mask) for mask in masks]
            raise ValueError(f"masks must be bool arrays (H, W), got the shapes {shapes}")
        exact = self.settings.mode == "exact"
        if isinstance(disc, np.ndarray):
            disc = disc_of_mask(disc) if exact else enclosing_disc(disc)
        eye = Eye(
            field or whole_frame(masks[0].shape),
            vessels,
            arteries,
            veins,
            Landmarks(disc, fovea),
            spacing_mm,
        )
        if exact:
            return measure_eye(eye, regions=self.settings.regions)
        every = vessels if vessels is not None else np.logical_or.reduce(masks)
        given: dict[Kind, np.ndarray | None] = {"vessel": every, "artery": arteries, "vein": veins}
        return {
            f"{kind}_{name}": value
            for kind, mask in given.items()
            if mask is not None
            for name, value in measure_pvbm3(
                mask,
                disc=disc,
                kind=kind,
                max_roi=self.settings.max_roi,
                rotations=self.settings.rotations,
                occupancy=self.settings.occupancy,
                families=self.settings.families,
            ).items()
        }
