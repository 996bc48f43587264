"""Regions of the retina to measure in: ETDRS grid, rings around the disc, hemifields, disc-fovea ellipse.

Every region is made of cells of a polar grid: rings around a centre, cut into quarters. Which cell a pixel
lies in is decided by signs and squared distances, so that counting pixels and asking for single points give
the same answer; the whole area of a region, also outside the frame, is known by formula.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from foveal.kernels.cells import cell_areas
from foveal.measurement.half_field import half_field_area, half_field_outline
from foveal.measurement.landmarks import Landmarks, MissingError
from foveal.measurement.polar_grid import QUARTERS, PolarGrid
from foveal.settings import unknown_name

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

GridName = Literal["etdrs", "disc_ring", "hemifield", "ellipse"]

ETDRS_RADII_MM = (0.0, 0.5, 1.5, 3.0)
DISC_RING_STEPS = (0.0, 0.2, 0.4, 0.6)  # from the disc's margin, in disc-fovea distances
ELLIPSE_ELONGATION = 1.5  # half-axis across the disc-fovea axis over the one along it
LEAST_VISIBLE = 0.5  # share of a region's whole area; a region that shows less is withheld

ETDRS = "Early Treatment Diabetic Retinopathy Study, report 10, Ophthalmology 98(5), 1991"
VASCX = "Vargas Quiros et al., VascX, arXiv 2409.16016"

_QUADRANTS = {"superior": (1,), "nasal": (2,), "inferior": (3,), "temporal": (0,)}
_HALVES = {"superior": (0, 1), "inferior": (2, 3)}
_SIDES = {"temporal": (0, 3), "nasal": (1, 2)}  # of the disc


@dataclass(frozen=True)
class Region:
    """One region of the retina.

    Attributes:
        name: suffix of the columns that are measured in it, such as "etdrs_inner_nasal".
        title: for people, as the end of a phrase: "inner nasal sub-field of the ETDRS grid".
        description: its definition, with numbers.
        source: where the definition comes from.
        grid: the polar grid that it is a part of.
        rings: its rings in that grid, from the first to before the second.
        quarters: its quarters in each of these rings, ascending, and next to each other on the circle.
        sided: whether nasal and temporal have to be told apart to place it.
    """

    name: str
    title: str
    description: str
    source: str
    grid: GridName
    rings: tuple[int, int]
    quarters: tuple[int, ...] = QUARTERS
    sided: bool = False

    @property
    def cells(self) -> list[int]:
        """Its cells in the grid."""
        return [4 * ring + quarter for ring in range(*self.rings) for quarter in self.quarters]


def _etdrs_region(name: str, title: str, rings: tuple[int, int], side: str | None = None) -> Region:
    inner, outer = (ETDRS_RADII_MM[ring] for ring in rings)
    part = f"the {side} quarter of " if side else ""
    extent = f"the ring from {inner:g} to {outer:g} mm" if inner else f"the circle of {outer:g} mm radius"
    sided = side in ("nasal", "temporal")
    axis = " Quarters are bounded by the diagonals of the disc-fovea axis, or of the level without a disc."
    needs = "the fovea, the disc or the laterality," if sided else "the fovea"
    description = (
        f"Around the fovea, {part}{extent}.{axis if side else ''} Needs {needs} and the scale in millimetres."
    )
    quarters = _QUADRANTS[side] if side else QUARTERS
    return Region(f"etdrs_{name}", f"{title} ETDRS grid", description, ETDRS, "etdrs", rings, quarters, sided)


def _etdrs_regions() -> Iterator[Region]:
    rings = {"inner": (1, 2), "outer": (2, 3)}
    yield _etdrs_region("grid", "whole", (0, 3))
    yield _etdrs_region("center", "central sub-field of the", (0, 1))
    for ring, extent in rings.items():
        yield _etdrs_region(ring, f"{ring} ring of the", extent)
    for side in _QUADRANTS:
        yield _etdrs_region(side, f"{side} quadrant of the", (0, 3), side)
    for ring, extent in rings.items():
        for side in _QUADRANTS:
            yield _etdrs_region(f"{ring}_{side}", f"{ring} {side} sub-field of the", extent, side)


def _disc_region(name: str, title: str, rings: tuple[int, int], side: str | None = None) -> Region:
    inner, outer = (DISC_RING_STEPS[ring] for ring in rings)
    part = f"the {side} quarter of " if side else ""
    extent = f"from {inner:g} to {outer:g}" if inner else f"up to {outer:g}"
    axis = " Quarters are bounded by the diagonals of the disc-fovea axis."
    description = (
        f"Around the disc, {part}the ring {extent} disc-fovea distances outside its margin."
        f"{axis if side else ''} Needs the disc and the fovea."
    )
    quarters = _QUADRANTS[side] if side else QUARTERS
    return Region(name, f"{title} around the disc", description, VASCX, "disc_ring", rings, quarters)


def _disc_regions() -> Iterator[Region]:
    yield _disc_region("disc_ring", "whole ring", (0, 3))
    for number, ring in enumerate(("inner", "middle", "outer")):
        yield _disc_region(f"disc_ring_{ring}", f"{ring} ring", (number, number + 1))
    for side in _QUADRANTS:
        yield _disc_region(f"disc_ring_{side}", f"{side} quadrant", (0, 3), side)


def _hemifields() -> Iterator[Region]:
    for side, quarters in _HALVES.items():
        description = (
            f"All of the camera's field on the {side} side of the line through disc and fovea, or of the "
            "level through the one of them that is known. Needs the disc or the fovea."
        )
        title = f"{side} hemifield"
        yield Region(f"hemifield_{side}", title, description, VASCX, "hemifield", (0, 1), quarters)
    for side, quarters in _SIDES.items():
        description = (
            f"All of the field on the {side} side of the disc: of the line through its centre across "
            "the disc-fovea axis, or plumb without a fovea. Needs the disc, and the fovea or the laterality."
        )
        title = f"{side} side of the disc"
        yield Region(f"hemifield_{side}", title, description, VASCX, "hemifield", (0, 1), quarters, True)


def _ellipses() -> Iterator[Region]:
    definition = (
        "ellipse centred between disc and fovea: its half-axis along the line through both is half their "
        f"distance plus the disc's radius, the one across it is {ELLIPSE_ELONGATION:g} times as long. Needs "
        "the disc and the fovea."
    )
    title = "ellipse around disc and fovea"
    yield Region("ellipse", title, f"The {definition}", VASCX, "ellipse", (0, 1))
    for side, quarters in _HALVES.items():
        half = f"{side} half of the"
        description = f"The {half} {definition}"
        yield Region(f"ellipse_{side}", f"{half} {title}", description, VASCX, "ellipse", (0, 1), quarters)


REGIONS: dict[str, Region] = {
    region.name: region for region in (*_etdrs_regions(), *_disc_regions(), *_hemifields(), *_ellipses())
}


class RegionMap:
    """Regions laid on one eye.

    A region that cannot be placed, because a landmark, the scale or the laterality is not known, raises
    `MissingError` with that reason in every method that asks for it.

    Where the laterality is given, superior follows from it and from the way to the fovea, however the
    photograph lies; else the photograph is taken to be upright.
    """

    def __init__(
        self,
        field: "FieldOfView",
        landmarks: Landmarks,
        *,
        mm_per_px: float | None,
        names: Sequence[str] = tuple(REGIONS),
    ) -> None:
        """Lay regions on an eye; nothing is counted before it is asked for.

        Args:
            field: the field of view of the photograph.
            landmarks: what is known of disc, fovea and laterality, in pixels of the same photograph.
            mm_per_px: millimetres a pixel, from the scan's spacing or the disc's size; None where unknown.
            names: the regions to lay, of `REGIONS`.

        Raises:
            ValueError: a name is not in `REGIONS`, or `mm_per_px` is not a positive number.
        """
        if mm_per_px is not None and not 0 < mm_per_px < np.inf:
            raise ValueError(f"mm_per_px must be a positive number or None, got {mm_per_px}")
        for name in names:
            _check_name(name, tuple(REGIONS))
        self.names = tuple(names)
        self.field = field
        self.landmarks = landmarks
        self.mm_per_px = mm_per_px
        self._grids: dict[GridName, PolarGrid | str] = {}  # or why it cannot be placed
        self._cells: dict[GridName, tuple[tuple[slice, slice], np.ndarray]] = {}
        self._areas: dict[tuple[GridName, int], tuple[np.ndarray, np.ndarray]] = {}

    def contains(self, name: str, points: np.ndarray) -> np.ndarray:
        """Whether points lie in a region, in the field or not.

        Args:
            name: of the region.
            points: (N, 2) row and column in pixels.

        Returns:
            (N,) bool.
        """
        region, grid = self._placed(name)
        return _members(region, grid)[grid.cells_at(points)]

    def area(self, name: str, mask: np.ndarray) -> int:
        """Number of a mask's pixels in a region and in the field.

        All regions of one grid are counted at once, and kept for this array, which must not change any more.

        Args:
            name: of the region.
            mask: (H, W) bool.

        Raises:
            ValueError: `mask` is not bool, or differs in shape from the field's.
        """
        region, grid = self._placed(name)
        if mask.dtype != bool or mask.shape != self.field.mask.shape:
            raise ValueError(
                f"mask must be a bool array of the field's shape {self.field.mask.shape}, "
                f"got {mask.dtype} of shape {mask.shape}"
            )
        key = region.grid, id(mask)
        if key not in self._areas:
            window, cells = self._field_cells(region, grid)
            areas = cell_areas(cells, mask[window])
            self._areas[key] = mask, areas  # the array is kept, so that its id remains its own
        return int(self._areas[key][1][region.cells].sum())

    def visible(self, name: str) -> float:
        """Share of a region's whole area, also outside the frame, that lies in the field, 0 to 1.

        The whole of a hemifield is its part of the field's circle or rectangle.
        """
        region, grid = self._placed(name)
        if region.grid == "hemifield":
            whole = half_field_area(self.field, *_border(region, grid))
        else:
            whole = grid.area(region.rings, region.quarters)
        return min(self.area(name, self.field.mask) / whole, 1.0) if whole > 0 else 0.0

    def select(self, name: str) -> np.ndarray:
        """(H, W) bool, True on the pixels of the field that lie in a region."""
        region, grid = self._placed(name)
        window, cells = self._field_cells(region, grid)
        selected = np.zeros(self.field.mask.shape, bool)
        selected[window] = _members(region, grid)[cells]
        return selected

    def require(self, name: str) -> None:
        """Make sure that a region can be measured.

        Raises:
            MissingError: it cannot be placed, or less than half of it is visible.
        """
        visible = self.visible(name)
        if visible < LEAST_VISIBLE:
            raise MissingError(
                f"only {int(100 * visible)} % of the {REGIONS[name].title} is visible; "
                f"at least {100 * LEAST_VISIBLE:g} % is needed"
            )

    def outline(self, name: str) -> list[np.ndarray]:
        """Closed polygons around a region, to draw: (n, 2) row and column, the first point not repeated.

        A whole ring has two, an outer and an inner one. Hemifields end at the field, others may exceed it.
        """
        region, grid = self._placed(name)
        if region.grid == "hemifield":
            return [half_field_outline(self.field, *_border(region, grid))]
        return grid.outline(region.rings, region.quarters)

    def _placed(self, name: str) -> tuple[Region, PolarGrid]:
        _check_name(name, self.names)
        region = REGIONS[name]
        if region.grid not in self._grids:
            try:
                self._grids[region.grid] = self._place(region.grid)
            except MissingError as reason:
                self._grids[region.grid] = str(reason)
        grid = self._grids[region.grid]
        if isinstance(grid, str):
            raise MissingError(grid)
        if region.sided:
            _ = self.landmarks.side  # missing where nothing tells nasal from temporal
            if region.grid == "hemifield":
                _ = self.landmarks.known_disc
        return region, grid

    def _place(self, name: GridName) -> PolarGrid:
        known = self.landmarks
        if name == "etdrs":
            fovea = known.known_fovea
            if self.mm_per_px is None:
                raise MissingError("the scale in millimetres is not known")
            return PolarGrid(fovea, self._diagonals(), np.array(ETDRS_RADII_MM) / self.mm_per_px)
        if name == "disc_ring":
            edges = known.known_disc.radius + known.disc_fovea_distance * np.array(DISC_RING_STEPS)
            return PolarGrid(known.known_disc.center, self._diagonals(), edges)
        if name == "ellipse":
            (top, left), (row, column) = known.known_disc.center, known.known_fovea
            along = known.disc_fovea_distance / 2 + known.known_disc.radius
            lengths = np.array([[ELLIPSE_ELONGATION * along], [along]])
            axes = self._superior_and_temporal() / lengths
            return PolarGrid(((top + row) / 2, (left + column) / 2), axes, np.array([0.0, 1.0]))
        if known.disc is None and known.fovea is None:
            raise MissingError("neither the optic disc nor the fovea is known")
        center = known.disc.center if known.disc is not None else known.known_fovea
        return PolarGrid(center, self._superior_and_temporal(), np.array([0.0, np.inf]))

    def _superior_and_temporal(self) -> np.ndarray:
        """(2, 2) row and column of unit vectors to the superior and to the temporal side: axes of two halves.

        Where nothing tells the laterality, superior is known all the same; the second is then any side.
        """
        known = self.landmarks
        if known.laterality is None and (known.disc is None or known.fovea is None):
            known = Landmarks(known.disc, known.fovea, "R")
        row, column = known.temporal_direction
        turn = 1.0 if known.side == "R" else -1.0
        return np.array([[turn * column, -turn * row], [row, column]])

    def _diagonals(self) -> np.ndarray:
        """Axes whose quarters are temporal, superior, nasal, inferior, in this order."""
        superior, temporal = self._superior_and_temporal()
        return np.stack([temporal + superior, temporal - superior]) / np.sqrt(2)

    def _field_cells(self, region: Region, grid: PolarGrid) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part of the frame that a region's grid covers, and the cells there; none outside the field."""
        if region.grid not in self._cells:
            top, left, bottom, right = box = grid.box(self.field.box)
            window = (slice(top, bottom), slice(left, right))
            cells = grid.cells(box)
            np.putmask(cells, ~self.field.mask[window], grid.outside)
            self._cells[region.grid] = window, cells
        return self._cells[region.grid]


def _members(region: Region, grid: PolarGrid) -> np.ndarray:
    """Whether each cell number is one of a region's."""
    members = np.zeros(grid.outside + 1, bool)
    members[region.cells] = True
    return members


def _border(hemifield: Region, grid: PolarGrid) -> tuple[tuple[float, float], np.ndarray]:
    """A point on the line that bounds a hemifield, and the unit vector from the line into it."""
    superior, temporal = grid.axes
    inwards: dict[tuple[int, ...], np.ndarray] = {
        _HALVES["superior"]: superior,
        _HALVES["inferior"]: -superior,
        _SIDES["temporal"]: temporal,
        _SIDES["nasal"]: -temporal,
    }
    return grid.center, inwards[hemifield.quarters]


def _check_name(name: str, allowed: Sequence[str]) -> None:
    if name not in allowed:
        raise ValueError(unknown_name("region", name, allowed))
