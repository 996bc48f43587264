"""The registry of biomarkers: one documented function each, from which tables and documentation are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from foveal.measurement.landmarks import MissingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BIOMARKERS", "KINDS", "Biomarker", "BiomarkerColumn", "Measures", "MissingError", "register"]

Unit = Literal[
    "fraction", "px", "px2", "field", "field/1000", "1/field", "mm", "mm2", "um", "degree", "1", "count"
]
Kind = Literal["vessel", "artery", "vein"]
KINDS: tuple[Kind, ...] = ("vessel", "artery", "vein")
KIND_TITLES: dict[Kind, str] = {"vessel": "All vessels", "artery": "Arteries", "vein": "Veins"}

UNIT_SYMBOLS = {
    "1": "",
    "count": "",
    "fraction": "",
    "degree": "°",
    "um": "µm",
    "px2": "px²",
    "mm2": "mm²",
    "field": "field diameters",
    "field/1000": "‰ of the field",
    "1/field": "per field diameter",
}
"""Units as a reader sees them; one that is not here is its own symbol."""


def unit_symbol(unit: str) -> str:
    """The unit as a reader sees it; empty for pure numbers, whose title says enough."""
    return UNIT_SYMBOLS.get(unit, unit)


PVBM = "Fhima et al., PVBM, ECCV Workshops 2022, arXiv 2208.00392"
VASCX = "Vargas Quiros et al., retinalysis-vascx, arXiv 2602.08580"
HERE = "this package"

EVERYWHERE = ("",)  # every region


@dataclass(frozen=True)
class Biomarker:
    """One measure of an eye.

    Attributes:
        name: of the measure; the column puts the kind of vessel before it and the region behind it.
        title: for people.
        unit: "fraction" of 1; "px", "px2"; "field" diameters, or thousandths or inverses of it; "mm", "mm2";
            "um"; "degree"; "1" for a pure number; "count".
        range: of possible values, for people.
        description: what it is and how it is computed.
        source: where the definition comes from.
        kinds: of vessels that it is measured on; empty for a measure of the eye as a whole.
        regional: beginnings of the names of the regions that it can be measured in; "" is every region.
        needs: landmarks without which it is missing: "disc", "fovea".
        function: from a `VesselMeasurement` (an `Eye` where `kinds` is empty) to the value; raises
            `MissingError` with the reason where there is none.
        draw: shows on `Axes`, over the photograph, what was measured; None where there is nothing to show.
    """

    name: str
    title: str
    unit: Unit
    range: str
    description: str
    source: str
    kinds: tuple[Kind, ...]
    regional: tuple[str, ...]
    needs: tuple[str, ...]
    function: Callable[[Any], float]
    draw: Callable[[Any, "Axes"], None] | None = None


@dataclass(frozen=True)
class BiomarkerColumn:
    """One column of a table: a biomarker on one kind of vessels in one region.

    Attributes:
        biomarker: what is measured.
        kind: of vessels; None for a measure of the eye.
        region: name in `foveal.measurement.regions.REGIONS`; None for all that is visible.
    """

    biomarker: Biomarker
    kind: Kind | None = None
    region: str | None = None

    @property
    def name(self) -> str:
        """Kind, measure and region, joined by underscores."""
        return "_".join(part for part in (self.kind, self.biomarker.name, self.region) if part)

    @property
    def title(self) -> str:
        """For people: the measure, and of which vessels and where if not of all."""
        from foveal.measurement.regions import REGIONS

        kind = {None: "", "vessel": "", "artery": " (arteries)", "vein": " (veins)"}[self.kind]
        region = f", {REGIONS[self.region].title}" if self.region else ""
        return f"{self.biomarker.title}{kind}{region}"


class Measures(dict[str, float]):
    """Values by column name, NaN where missing; `missing_reasons` says why, by name."""

    def __init__(self, values: dict[str, float], missing_reasons: dict[str, str]) -> None:
        super().__init__(values)
        self.missing_reasons = missing_reasons


BIOMARKERS: dict[str, Biomarker] = {}


def register(
    name: str,
    title: str,
    unit: Unit,
    source: str,
    *,
    range: str = "0 or more",
    kinds: Sequence[Kind] = KINDS,
    regional: Sequence[str] = (),
    needs: Sequence[str] = (),
    draw: Callable[[Any, "Axes"], None] | None = None,
) -> Callable[..., Callable]:
    """Put a function into `BIOMARKERS`; its docstring becomes the description.

    Args:
        name: of the measure; must be new.
        title: for people.
        unit: see `Biomarker`.
        source: where the definition comes from.
        range: of possible values, for people.
        kinds: of vessels that it is measured on; empty for a measure of the eye.
        regional: see `Biomarker`.
        needs: see `Biomarker`.
        draw: see `Biomarker`.

    Raises:
        ValueError: the name is taken.
    """

    def add(function: Callable[[Any], float]) -> Callable[[Any], float]:
        if name in BIOMARKERS:
            raise ValueError(f"biomarker {name!r} is registered already")
        description = " ".join((function.__doc__ or "").split())
        BIOMARKERS[name] = Biomarker(
            name=name,
            title=title,
            unit=unit,
            range=range,
            description=description,
            source=source,
            kinds=tuple(kinds),
            regional=tuple(regional),
            needs=tuple(needs),
            function=function,
            draw=draw,
        )
        return function

    return add
