"""The vessels that every eye has: arcades about the macula, nasal trunks, small vessels at the disc."""

import math
import random

from foveal.scans.synthetic.vessels import Fork, Point, Shoot, VesselKind, jitter

# Calibres in degrees at the disc; the widest vein is about 1/105 of a 45 degree field.
_TRUNK_WIDTHS: dict[VesselKind, float] = {"vein": 0.435, "artery": 0.315}
_SMALL_TRUNK_WIDTHS: dict[VesselKind, float] = {"vein": 0.19, "artery": 0.15}

# Courses above the disc of a left eye; the lower ones are their mirror images.
_ARCADE: tuple[Point, ...] = (
    (1.2, 3.8),
    (3.0, 6.4),
    (6.0, 8.4),
    (10.0, 9.6),
    (14.5, 9.8),
    (19.0, 9.2),
    (24.0, 8.2),
    (30.0, 7.6),
    (47.0, 6.5),
)
_OUTER_ARCADE: tuple[Point, ...] = (
    (4.0, 9.0),
    (7.5, 13.0),
    (13.0, 16.5),
    (20.0, 19.5),
    (30.0, 22.5),
    (45.0, 27.0),
)
_NASAL: tuple[Point, ...] = (
    (-1.4, 3.4),
    (-4.0, 6.6),
    (-8.0, 10.4),
    (-13.0, 15.0),
    (-20.0, 21.0),
    (-30.0, 30.0),
)


def plant_trunks(rng: random.Random, caliber: float) -> list[Shoot]:
    """Draw the trunks of one eye.

    Args:
        rng: source of chance.
        caliber: factor on all calibres.

    Returns:
        The upper and lower main vessels, each of which forks into an arcade and a nasal trunk and further
        out into a second arcade; then the small vessels to the nose and to the macula.
    """
    hilum: dict[VesselKind, float] = {
        "vein": -0.25 + rng.uniform(-0.35, -0.1),
        "artery": -0.25 + rng.uniform(0.1, 0.35),
    }
    height = {kind: rng.uniform(-0.5, 0.5) for kind in hilum}
    shoots = []
    for side in (1, -1):
        # An artery and a vein share each course; which one runs outside is drawn.
        spreads = [rng.uniform(0.88, 1.12) for _ in range(3)]
        outer_kind = rng.choice(("artery", "vein"))
        for kind, width in _TRUNK_WIDTHS.items():
            shift = (1 if kind == outer_kind else -1) * rng.uniform(0.35, 0.75)
            arcade = jitter(rng, _place(_ARCADE, spreads[0], side, shift), 0.35)
            outer = jitter(rng, _place(_OUTER_ARCADE, spreads[1], side, shift), 0.8)
            nasal = jitter(rng, _place(_NASAL, spreads[2], side, -shift), 0.5)
            root = (hilum[kind], height[kind])
            bend = -0.2 + 0.6 * hilum[kind] + 0.4 * shift + rng.gauss(0, 0.25)
            stem = (root, (bend, side * 1.1), (0.1 + shift + rng.gauss(0, 0.25), side * 2.0))
            forks = (
                Fork(rng.uniform(1.1, 2.1), rng.uniform(0.3, 0.4), nasal),
                Fork(rng.uniform(4.0, 9.0), rng.uniform(0.25, 0.4), outer),
            )
            own = width * caliber * rng.uniform(0.94, 1.03)
            seed = rng.getrandbits(62)
            heading = side * math.pi / 2 + rng.gauss(0, 0.25)
            shoots.append(Shoot(kind, root, heading, own, seed, stem + arcade, forks))
    for kind, width in _SMALL_TRUNK_WIDTHS.items():
        for side in (1, -1):
            shoots.append(_nasal_shoot(rng, kind, side, hilum[kind], caliber * width))
            if rng.random() < 0.75:
                shoots.append(_macular_shoot(rng, kind, side, hilum[kind], 0.5 * caliber * width))
    return shoots


def _nasal_shoot(rng: random.Random, kind: VesselKind, side: int, hilum: float, width: float) -> Shoot:
    start = (hilum, side * rng.uniform(0.2, 0.6))
    heading = math.pi - side * rng.uniform(0.1, 0.6)
    return Shoot(
        kind, start, heading, width * rng.uniform(0.75, 1.1), rng.getrandbits(62), reach=rng.uniform(14, 26)
    )


def _macular_shoot(rng: random.Random, kind: VesselKind, side: int, hilum: float, width: float) -> Shoot:
    """A vessel from the disc straight to the macula, above or below the fovea."""
    bend = side * rng.uniform(0.3, 1.6)
    course = ((1.0, bend), (5.0, bend + side * 0.5), (9.0, bend + side * 0.9), (12.5, bend + side * 0.6))
    return Shoot(
        kind,
        (hilum, 0.5 * bend),
        side * 0.25,
        width * rng.uniform(0.9, 1.2),
        rng.getrandbits(62),
        jitter(rng, course, 0.3),
        reach=rng.uniform(9, 13),
    )


def _place(curve: tuple[Point, ...], spread: float, side: int, shift: float) -> tuple[Point, ...]:
    return tuple((x - 0.5 * shift, side * (spread * y + shift)) for x, y in curve)
