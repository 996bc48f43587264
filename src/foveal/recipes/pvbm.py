"""PVBM: biomarkers of the retinal vasculature from a vessel mask, exact or with the package's own numbers.

foveal verify pvbm
foveal measure MASKS --out TABLE
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from foveal.recipes._pvbm_table import BiomarkerTable

Family = Literal["geometry", "legacy", "fractals", "equivalents"]


class PvbmSettings(Settings):
    """How a mask is measured; the defaults of mode "pvbm3" are the package's and its example's."""

    mode: Literal["exact", "pvbm3"] = Field("exact", description="better estimators, or the package's")
    regions: tuple[str, ...] = Field((), description="exact mode: where to measure besides all of the field")
    families: tuple[Family, ...] = Field(
        ("geometry", "legacy", "fractals", "equivalents"), description="pvbm3 mode: what to measure"
    )
    max_roi: float = Field(600.0, gt=0, description="pvbm3 mode: pixels around the disc; inf for all")
    rotations: int = Field(25, ge=1, description="pvbm3 mode: of the mask, for the fractals")
    occupancy: tuple[float, float] = Field(
        (0.01, 0.98), description="pvbm3 mode: limits of a box's occupancy; the example has 0.0001, 0.9999"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.occupancy
        if not 0 <= low < high <= 1:
            raise ValueError(f"occupancy is {self.occupancy}; allowed: two ascending numbers from 0 to 1")
        if self.mode == "pvbm3" and self.regions:
            raise ValueError(f"regions are {self.regions}, but mode 'pvbm3' has none; set mode to 'exact'")
        return self


class Pvbm(Recipe[PvbmSettings]):
    """Measures of vessels with two sets of definitions; there is nothing to train."""

    card = Card(
        slug="pvbm",
        title="PVBM: biomarkers of the retinal vasculature from vessel masks",
        paper=Paper(
            citation="PVBM: A Python Vasculature Biomarker Toolbox Based On Retinal Blood Vessel "
            "Segmentation, ECCV Workshops 2022",
            year=2022,
            link="https://arxiv.org/abs/2208.00392",
        ),
        task="A vessel mask in, of arteries, veins or all vessels, with or without the optic disc; a table "
        "of named biomarkers out, with units. Measured, not learnt: there is nothing to train.",
        published=(
            "Eleven biomarkers: area, perimeter, end points, intersections, tortuosity, length, branching "
            "angle, D0, D1, D2, singularity length; the package of today adds central retinal equivalents.",
            "In a private glaucoma set all arteriolar and venular biomarkers are lower than in controls, and "
            "significantly so except tortuosity and the venular singularity length and branching angle.",
        ),
        original="https://github.com/aim-lab/PVBM",
        licence="MIT (file of the repository; the paper says GPL-3)",
        faithfulness="Mode pvbm3 has the definitions of pvbm 3.0.1, quirks included, and equals it to 1e-9; "
        "mode exact, the default, measures the same quantities, and those of retinalysis-vascx, by other "
        "means: one node a junction, sub-pixel centre lines, widths by integration across them, boxes that "
        "are never cut. Both were written anew from the paper and the package's behaviour. Discs and masks "
        "are inputs; the package's disc network is not part of it.",
        built_from=(
            "measurement.measure_eye",
            "measurement.pvbm3",
            "measurement.landmarks",
            "metrics.agreement",
        ),
    )
    Settings = PvbmSettings

    def build(self, settings: PvbmSettings) -> BiomarkerTable:
        """The measure, to be called with masks."""
        from foveal.recipes._pvbm_table import BiomarkerTable

        return BiomarkerTable(settings)

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._pvbm_evidence`."""
        from foveal.recipes._pvbm_evidence import evidence

        return evidence(scale)


recipe = Pvbm()
