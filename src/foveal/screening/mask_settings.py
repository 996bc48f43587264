"""Settings of measuring masks that other tools made."""

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from foveal.scans.vessel_masks import CODINGS
from foveal.settings import Settings


class MeasureSettings(Settings):
    """How masks are measured.

    Attributes:
        coding: of the masks, one of `foveal.scans.vessel_masks.CODINGS`; "auto" tells it by their content.
        threshold: probability from which a pixel is vessel, within (0, 1); for probability maps.
        spacing_mm: (row, column) millimetres a pixel, for all masks whose table does not say; may be given as
            text, "0.007" or "0.007,0.0071". None: from the optic disc, or lengths in pixels only.
        regions: names in `foveal.measurement.regions.REGIONS`, or as text: all, none, or names with commas.
        compat: "pvbm3": the measures of PVBM 3 as well.
        workers: processes that measure at the same time; None: one a processor core, fewer for few masks.
    """

    coding: str = "auto"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    spacing_mm: tuple[float, float] | None = None
    regions: tuple[str, ...] = ()
    compat: Literal["pvbm3"] | None = None
    workers: int | None = Field(default=None, ge=1)

    @field_validator("coding")
    @classmethod
    def _known_coding(cls, coding: str) -> str:
        if coding not in ("auto", *CODINGS):
            raise ValueError(f"{coding!r} is no coding; allowed: auto, {', '.join(CODINGS)}")
        return coding

    @field_validator("spacing_mm", mode="before")
    @classmethod
    def _spacing(cls, spacing: Any) -> Any:
        return parse_spacing(spacing) if isinstance(spacing, str | float | int) else spacing

    @field_validator("regions", mode="before")
    @classmethod
    def _region_names(cls, regions: Any) -> Any:
        from foveal.measurement.regions import REGIONS

        if not isinstance(regions, str):
            return regions
        if regions in ("all", "none"):
            return tuple(REGIONS) if regions == "all" else ()
        return tuple(name.strip() for name in regions.split(",") if name.strip())

    @model_validator(mode="after")
    def _known_regions(self) -> Self:
        from foveal.measurement.measure import biomarker_columns

        biomarker_columns(regions=self.regions)
        return self

    def result_hash(self) -> str:
        """SHA-256 of the settings that change a result."""
        deciding = self.model_dump(exclude={"workers"})
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def parse_spacing(text: str | float) -> tuple[float, float]:
    """(row, column) millimetres a pixel from one number for both, or from two with a comma.

    Raises:
        ValueError: not one or two numbers between 0.0001 and 1.
    """
    try:
        numbers = [float(part) for part in str(text).split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(1e-4 <= number <= 1 for number in numbers):
        raise ValueError(
            f"spacing is {text!r}; allowed: millimetres a pixel on the retina, between 0.0001 and 1, as one "
            "number or as ROW,COLUMN"
        )
    return numbers[0], numbers[-1]
