"""A synthetic fundus photograph and everything that is true about it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveal.scans.field_of_view import FieldOfView
from foveal.scans.synthetic.appearance import Look, cup_center, draw_look
from foveal.scans.synthetic.lesions import LESION_KINDS, LesionKind, draw_lesions, scatter_lesions
from foveal.scans.synthetic.raster import Tubes, draw_tubes
from foveal.scans.synthetic.rendering import render
from foveal.scans.synthetic.trees import grow_trees
from foveal.scans.synthetic.vessels import Anatomy, Branch, VesselKind

_FIELD_SHARE = 0.97  # diameter of the field over the side of the picture
_REFLEX: dict[VesselKind, float] = {"artery": 0.38, "vein": 0.14}
_MAIN_VEIN = 0.40  # degrees; calibre at which blood shows its full density
_OPTICAL_BLUR = 0.016  # degrees


@dataclass(frozen=True)
class Segment:
    """A piece of vessel between two branch points.

    Attributes:
        points: (N, 2) row and column of the centre line, pixels, from the disc outwards.
        widths: (N,) calibre at every point, pixels.
        kind: artery or vein.
        parent: index in `SyntheticEye.segments` of the segment it leaves; None at a root or where the vessel
            enters the field from outside.
        length: of the centre line, pixels.
    """

    points: np.ndarray
    widths: np.ndarray
    kind: VesselKind
    parent: int | None
    length: float


@dataclass(frozen=True)
class BranchPoint:
    """Where one vessel becomes two.

    Attributes:
        point: row and column, pixels.
        parent: index of the parent segment.
        daughters: indices of the daughters, the wider first.
        angles: angle in degrees between the parent's last and each daughter's first direction.
        angle: angle in degrees between the two daughters.
    """

    point: tuple[float, float]
    parent: int
    daughters: tuple[int, int]
    angles: tuple[float, float]
    angle: float


@dataclass(frozen=True)
class OpticDisc:
    """The optic disc and its cup; masks are (H, W) bool ellipses inside the field.

    Attributes:
        center: row and column, pixels.
        radius: of the circle of the same area, pixels.
        axes: (vertical, horizontal) half axes, pixels.
        mask: the disc, cup included.
        cup_ratio: diameter of the cup over that of the disc.
        cup: the cup.
    """

    center: tuple[float, float]
    radius: float
    axes: tuple[float, float]
    mask: np.ndarray
    cup_ratio: float
    cup: np.ndarray


@dataclass(frozen=True)
class SyntheticEye:
    """A picture and its ground truth; all coordinates are pixels, with pixel centres at whole numbers.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        vessels: (H, W) bool; within half a calibre of a centre line and inside the field.
        artery_vein: (H, W) uint8; 0 background, 1 artery, 2 vein, 3 both (crossing).
        field: the photographed field.
        disc: optic disc and cup.
        fovea: row and column.
        lesions: (H, W) bool masks by kind; where a lesion meets a vessel or the disc, the pixel is theirs.
        segments: vessel segments; a parent precedes its daughters.
        branch_points: where both daughters lie in the field.
        laterality: L or R.
        field_angle: diameter of the field, degrees.
        pixels_per_degree: scale.
        severity: 0 to 4, that of the lesions.
    """

    image: np.ndarray
    vessels: np.ndarray
    artery_vein: np.ndarray
    field: FieldOfView
    disc: OpticDisc
    fovea: tuple[float, float]
    lesions: dict[LesionKind, np.ndarray]
    segments: tuple[Segment, ...]
    branch_points: tuple[BranchPoint, ...]
    laterality: Literal["L", "R"]
    field_angle: float
    pixels_per_degree: float
    severity: int


@dataclass(frozen=True)
class _View:
    """From degrees in the frame of a left eye's disc to pixels of the picture."""

    size: int
    scale: float
    center: tuple[float, float]
    mirrored: bool

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) x, y in degrees to (N, 2) row, column."""
        middle = (self.size - 1) / 2
        sign = -1 if self.mirrored else 1
        columns = middle + sign * self.scale * (points[:, 0] - self.center[0])
        rows = middle - self.scale * (points[:, 1] - self.center[1])
        return np.stack([rows, columns], 1)

    def degrees(self) -> tuple[np.ndarray, np.ndarray]:
        """x of every column and y of every row."""
        ramp = (np.arange(self.size) - (self.size - 1) / 2) / self.scale
        return self.center[0] + (-ramp if self.mirrored else ramp), self.center[1] - ramp


def synthesize_eye(
    seed: int,
    *,
    size: int = 1024,
    laterality: Literal["L", "R"] | None = None,
    centered: Literal["macula", "disc"] = "macula",
    field_angle: float = 45.0,
    lesions: int = 0,
) -> SyntheticEye:
    """Make a fundus photograph whose vessels, landmarks and lesions are known exactly.

    The same seed and settings give the same eye at every size: geometry is drawn in degrees of visual angle
    and only the last step knows pixels.

    Args:
        seed: at least 0.
        size: side of the square picture, pixels, at least 64.
        laterality: L or R; None draws one.
        centered: what lies in the middle of the field. A field too narrow to hold both fovea and disc is
            moved towards the disc until the disc is inside.
        field_angle: diameter of the field in degrees, 20 to 60.
        lesions: severity of diabetic retinopathy, 0 (none) to 4.

    Returns:
        The eye.

    Raises:
        ValueError: an argument is outside its range.
    """
    _check(seed, size, laterality, centered, field_angle, lesions)
    rng = np.random.default_rng(seed)
    drawn: Literal["L", "R"] = "L" if rng.random() < 0.5 else "R"
    laterality = laterality or drawn
    look = draw_look(rng)
    fovea = (float(rng.normal(15.5, 0.5)), float(rng.normal(-1.6, 0.5)))
    tortuosity, caliber = (
        float(np.clip(rng.normal(1, 0.3), 0.4, 1.9)),
        float(np.clip(rng.normal(0.95, 0.05), 0.82, 1.0)),
    )
    avascular_radius = float(rng.uniform(0.8, 1.2))
    tree_seed, lesion_seed = int(rng.integers(2**62)), int(rng.integers(2**62))

    radius = field_angle / 2
    center = (0.0, 0.0)
    if centered == "macula":
        share = min(1.0, (radius - 4.5) / float(np.hypot(*fovea)))
        center = (share * fovea[0], share * fovea[1])
    view = _View(size, _FIELD_SHARE * size / field_angle, center, laterality == "R")
    anatomy = Anatomy(fovea, center, radius, tortuosity, caliber, avascular_radius)
    segments = _to_segments(grow_trees(tree_seed, anatomy), view)

    field = _field(size)
    disc = _disc(look, view, field.mask)
    shape = (size, size)
    masks: dict[VesselKind, np.ndarray] = {}
    density: dict[VesselKind, np.ndarray] = {}
    for kind in _REFLEX:
        tubes = _draw([s for s in segments if s.kind == kind], kind, view, disc.center)
        masks[kind], density[kind] = tubes.mask & field.mask, tubes.density
    artery_vein = masks["artery"].astype(np.uint8) + 2 * masks["vein"].astype(np.uint8)
    vessels = artery_vein > 0

    x, y = view.degrees()
    found = scatter_lesions(
        np.random.default_rng(lesion_seed), lesions, center=center, view_radius=radius, fovea=fovea
    )
    painted = draw_lesions(found, shape, x, y)
    clear = field.mask & ~vessels & ~disc.mask
    image = render(
        look,
        size=size,
        x=x,
        y=y,
        center=center,
        view_radius=radius,
        fovea=fovea,
        field_share=_FIELD_SHARE,
        density=density,
        lesion_opacity={kind: painted[kind][1] for kind in LESION_KINDS},
    )
    return SyntheticEye(
        image=image,
        vessels=vessels,
        artery_vein=artery_vein,
        field=field,
        disc=disc,
        fovea=_pair(view.pixels(np.array([fovea]))[0]),
        lesions={kind: painted[kind][0] & clear for kind in LESION_KINDS},
        segments=segments,
        branch_points=_branch_points(segments),
        laterality=laterality,
        field_angle=field_angle,
        pixels_per_degree=view.scale,
        severity=lesions,
    )


def _check(
    seed: int, size: int, laterality: str | None, centered: str, field_angle: float, lesions: int
) -> None:
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, got {size}")
    if laterality not in (None, "L", "R"):
        raise ValueError(f"laterality must be 'L', 'R' or None, got {laterality!r}")
    if centered not in ("macula", "disc"):
        raise ValueError(f"centered must be 'macula' or 'disc', got {centered!r}")
    if not 20 <= field_angle <= 60:
        raise ValueError(f"field_angle must be 20 to 60 degrees, got {field_angle}")
    if lesions not in (0, 1, 2, 3, 4):
        raise ValueError(f"lesions must be a severity of 0, 1, 2, 3 or 4, got {lesions!r}")


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _field(size: int) -> FieldOfView:
    middle, radius = (size - 1) / 2, _FIELD_SHARE * size / 2
    ramp = (np.arange(size) - middle) ** 2
    mask = ramp[:, None] + ramp[None, :] <= radius**2
    rows = np.flatnonzero(mask.any(1))
    low, high = int(rows[0]), int(rows[-1]) + 1
    return FieldOfView(
        mask=mask,
        center=(middle, middle),
        diameter=2 * radius,
        shape="circle",
        box=(low, low, high, high),
        completeness=1.0,
    )


def _disc(look: Look, view: _View, field: np.ndarray) -> OpticDisc:
    x, y = view.degrees()
    horizontal, vertical = look.disc_axes
    cup_x, cup_y = cup_center(look)
    mask = (x[None, :] / horizontal) ** 2 + (y[:, None] / vertical) ** 2 <= 1
    ratio = look.cup_ratio
    cup = ((x[None, :] - cup_x) / (ratio * horizontal)) ** 2 + (
        (y[:, None] - cup_y) / (ratio * vertical)
    ) ** 2 <= 1
    center = _pair(view.pixels(np.zeros((1, 2)))[0])
    return OpticDisc(
        center,
        view.scale * float(np.sqrt(horizontal * vertical)),
        (view.scale * vertical, view.scale * horizontal),
        mask & field,
        ratio,
        cup & mask & field,
    )


def _draw(segments: list[Segment], kind: VesselKind, view: _View, origin: tuple[float, float]) -> Tubes:
    """Rasterise the vessels of one kind; thin and distant ones show less blood."""
    starts = np.concatenate([np.zeros((0, 2)), *(s.points[:-1] for s in segments)])
    ends = np.concatenate([np.zeros((0, 2)), *(s.points[1:] for s in segments)])
    widths = np.concatenate(
        [np.zeros((0, 2)), *(np.stack([s.widths[:-1], s.widths[1:]], 1) for s in segments)]
    )
    thickness = np.clip(widths.mean(1) / (_MAIN_VEIN * view.scale), 0, 1.1)
    distance = np.hypot(*(starts - np.array(origin)).T) / view.scale
    strength = thickness**0.5 * (1 - 0.25 * np.clip(distance / 40, 0, 1))
    return draw_tubes(
        (view.size, view.size),
        starts,
        ends,
        widths,
        strength=strength,
        reflex=_REFLEX[kind],
        blur=0.45 + _OPTICAL_BLUR * view.scale,
    )


def _to_segments(branches: list[Branch], view: _View) -> tuple[Segment, ...]:
    """Cut the branches at the edge of the field and turn them into pixels."""
    middle, radius = (view.size - 1) / 2, _FIELD_SHARE * view.size / 2
    segments: list[Segment] = []
    last_piece: dict[int, int] = {}  # branch -> segment that holds its end
    for number, branch in enumerate(branches):
        points = view.pixels(np.array(branch.points))
        widths = np.array(branch.widths) * view.scale
        for first, points_in, widths_in, reaches_end in _inside_runs(points, widths, middle, radius):
            parent = last_piece.get(branch.parent) if first and branch.parent is not None else None
            if reaches_end:
                last_piece[number] = len(segments)
            length = float(np.hypot(*np.diff(points_in, axis=0).T).sum())
            segments.append(Segment(points_in, widths_in, branch.kind, parent, length))
    return tuple(segments)


def _inside_runs(
    points: np.ndarray, widths: np.ndarray, middle: float, radius: float
) -> list[tuple[bool, np.ndarray, np.ndarray, bool]]:
    """Stretches of a polyline inside a circle, cut at it: (holds start, points, widths, holds end)."""
    off = points - middle
    inside = (off**2).sum(1) <= radius**2
    changes = np.flatnonzero(np.diff(inside.astype(np.int8)))
    starts = [0, *(changes + 1)]
    stops = [*(changes + 1), len(points)]
    runs = []
    for start, stop in zip(starts, stops, strict=True):
        if not inside[start]:
            continue
        line, calibers = points[start:stop], widths[start:stop]
        if start > 0:
            t = _crossing(off[start], off[start - 1], radius)
            line = np.vstack([points[start] + t * (points[start - 1] - points[start]), line])
            calibers = np.append(widths[start] + t * (widths[start - 1] - widths[start]), calibers)
        if stop < len(points):
            t = _crossing(off[stop - 1], off[stop], radius)
            line = np.vstack([line, points[stop - 1] + t * (points[stop] - points[stop - 1])])
            calibers = np.append(calibers, widths[stop - 1] + t * (widths[stop] - widths[stop - 1]))
        if len(line) > 1:
            runs.append((start == 0, line, calibers, stop == len(points)))
    return runs


def _crossing(inner: np.ndarray, outer: np.ndarray, radius: float) -> float:
    """Share of the way from an inner to an outer point at which the circle is met."""
    step = outer - inner
    a, b, c = step @ step, inner @ step, inner @ inner - radius**2
    return float(np.clip((-b + np.sqrt(max(b * b - a * c, 0.0))) / a, 0, 1))


def _branch_points(segments: tuple[Segment, ...]) -> tuple[BranchPoint, ...]:
    daughters: dict[int, list[int]] = {}
    for number, segment in enumerate(segments):
        if segment.parent is not None:
            daughters.setdefault(segment.parent, []).append(number)
    found = []
    for parent, pair in sorted(daughters.items()):
        if len(pair) != 2:
            continue
        first, second = sorted(pair, key=lambda n: -segments[n].widths[0])
        ahead = segments[parent].points[-1] - segments[parent].points[-2]
        away = [segments[n].points[1] - segments[n].points[0] for n in (first, second)]
        angles = (_angle(ahead, away[0]), _angle(ahead, away[1]))
        point = _pair(segments[parent].points[-1])
        found.append(BranchPoint(point, parent, (first, second), angles, _angle(*away)))
    return tuple(found)


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    cross = first[0] * second[1] - first[1] * second[0]
    return float(np.degrees(np.arctan2(abs(cross), first @ second)))
