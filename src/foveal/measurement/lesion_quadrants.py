"""In which quadrant of the retina lesions lie: those of the 4-2-1 rule, about the optic disc.

The rule's quadrants are those of the four peripheral fields of the ETDRS, which meet at the disc: superior
and inferior of the line through disc and fovea, temporal and nasal of the line across it (Early Treatment
Diabetic Retinopathy Study, report 10, Ophthalmology 98(5), 1991). Together they make up the whole field; the
quarters of the ETDRS grid (`foveal.measurement.regions`) lie about the fovea and end 3 mm from it.
"""

from functools import cached_property

import numpy as np

from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import MissingError
from foveal.measurement.lesions import Lesions
from foveal.measurement.measure import lay_regions

QUADRANTS = {
    "superior_temporal": "superior temporal",
    "inferior_temporal": "inferior temporal",
    "superior_nasal": "superior nasal",
    "inferior_nasal": "inferior nasal",
}
"""Names, and how people read them."""

_HALVES = ("hemifield_superior", "hemifield_temporal")


class LesionQuadrants:
    """Lesions of an eye by quadrant.

    What needs a quadrant raises `MissingError` where it cannot be told (the disc is not known, or neither the
    fovea nor the laterality is) or where none of it is in the field.

    Args:
        lesions: found in the eye's photograph.
        eye: its field and landmarks.

    Raises:
        ValueError: the lesions are of a photograph of another size.
    """

    def __init__(self, lesions: Lesions, eye: Eye) -> None:
        if lesions.shape != eye.field.mask.shape:
            raise ValueError(
                f"the lesions are of a photograph of {lesions.shape} pixels, "
                f"the eye's field of one of {eye.field.mask.shape}"
            )
        self._lesions, self._eye = lesions, eye
        self._laid = lay_regions(eye, _HALVES)

    def count(self, quadrant: str, chosen: np.ndarray) -> int:
        """Number of lesions, of those that `chosen` (n,) selects, whose centre of mass lies in a quadrant."""
        number = self._number(quadrant)
        return int(np.count_nonzero(chosen & (self._centers == number)))

    def area(self, quadrant: str, chosen: np.ndarray) -> int:
        """Area in pixels of chosen lesions within a quadrant."""
        number = self._number(quadrant)
        return int(self._areas[chosen, number].sum())

    @property
    def visible(self) -> dict[str, float]:
        """Share of the field that lies in each quadrant; the four add up to 1."""
        return self._eye.keep("share of the field by quadrant", self._visible)

    def _visible(self) -> dict[str, float]:
        upper, outer = _HALVES
        field, superior = self._eye.field.mask, self._laid.select(upper)
        whole = int(np.count_nonzero(field))
        above, beside = (self._laid.area(name, field) for name in _HALVES)
        both = self._laid.area(outer, superior)
        areas = (both, beside - both, above - both, whole - above - beside + both)
        return {name: area / whole for name, area in zip(QUADRANTS, areas, strict=True)}

    @cached_property
    def _centers(self) -> np.ndarray:
        """(n,) number of the quadrant that each lesion's centre lies in."""
        return self._numbers(self._lesions.centers)

    @cached_property
    def _areas(self) -> np.ndarray:
        """(n, 4) pixels of each lesion in each quadrant."""
        cells = len(QUADRANTS) * self._lesions.owners + self._numbers(self._lesions.points)
        return np.bincount(cells, minlength=len(QUADRANTS) * len(self._lesions)).reshape(-1, len(QUADRANTS))

    def _numbers(self, points: np.ndarray) -> np.ndarray:
        """(N,) place in `QUADRANTS` of the quadrant that each point lies in."""
        superior, temporal = (self._laid.contains(name, points) for name in _HALVES)
        return 2 * ~temporal + 1 * ~superior

    def _number(self, quadrant: str) -> int:
        """Place of a quadrant in `QUADRANTS`; missing where none of it is in the field."""
        if not self.visible[quadrant]:
            raise MissingError(f"none of the {QUADRANTS[quadrant]} quadrant is in the field")
        return list(QUADRANTS).index(quadrant)
