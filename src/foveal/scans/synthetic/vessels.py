"""What a grown vessel is made of, and Murray's law.

Coordinates of the whole package are those of a left eye as photographed, in degrees of visual angle:
the origin is the centre of the optic disc, x grows towards the temple (the fovea lies near x = 15.5), y grows
upwards.
"""

import math
import random
from dataclasses import dataclass, field
from typing import Literal

VesselKind = Literal["artery", "vein"]
Point = tuple[float, float]

MURRAY_EXPONENT = 3.0
STEP = 0.25  # degrees between two points of a centre line
THINNEST = 0.05  # degrees; about 1/900 of a 45 degree field


@dataclass(frozen=True)
class Anatomy:
    """What the vessels need to know of the eye they grow in (degrees).

    Attributes:
        fovea: (x, y) of the fovea.
        view_center: (x, y) of the centre of the photographed field.
        view_radius: radius of the field.
        tortuosity: 0 (straight) to about 2; 1 is a normal eye.
        caliber: factor on all calibres; 1 is a normal eye.
        avascular_radius: radius of the foveal avascular zone.
    """

    fovea: Point
    view_center: Point
    view_radius: float
    tortuosity: float = 1.0
    caliber: float = 1.0
    avascular_radius: float = 1.0


@dataclass
class Branch:
    """Centre line between two branch points, in degrees.

    Attributes:
        kind: artery or vein.
        parent: index of the branch that it leaves; None at a root.
        points: (x, y) of the centre line, the branch point included.
        widths: calibre at every point.
    """

    kind: VesselKind
    parent: int | None
    points: list[Point] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, point: Point, width: float) -> None:
        """Lengthen the branch by one point."""
        self.points.append(point)
        self.widths.append(width)


@dataclass(frozen=True)
class Fork:
    """A branching that anatomy prescribes.

    Attributes:
        distance: from the root of the vessel along it, degrees.
        share: of the flow that leaves.
        guide: course of the daughter.
    """

    distance: float
    share: float
    guide: tuple[Point, ...]


@dataclass(frozen=True)
class Shoot:
    """A vessel that is yet to grow.

    Attributes:
        kind: artery or vein.
        start: (x, y) of its root, degrees.
        heading: initial direction, radians counter-clockwise from x.
        width: initial calibre, degrees.
        seed: of its own source of chance.
        guide: course to follow; none for vessels that find their own way.
        forks: prescribed branchings, nearest first.
        reach: greatest length, degrees.
    """

    kind: VesselKind
    start: Point
    heading: float
    width: float
    seed: int
    guide: tuple[Point, ...] = ()
    forks: tuple[Fork, ...] = ()
    reach: float = math.inf


def split_caliber(parent: float, share: float) -> tuple[float, float]:
    """Calibres of the daughters that take `1 - share` and `share` of the parent's flow.

    Murray's law, w0^3 = w1^3 + w2^3 (C. D. Murray, PNAS 12, 1926), for a flow that goes with the cube.
    """
    return parent * (1 - share) ** (1 / MURRAY_EXPONENT), parent * share ** (1 / MURRAY_EXPONENT)


def daughter_angles(parent: float, first: float, second: float) -> tuple[float, float]:
    """Angles (radians) between a parent's direction and its daughters' that cost the least work.

    cos a1 = (w0^4 + w1^4 - w2^4) / (2 w0^2 w1^2) (C. D. Murray, J. Gen. Physiol. 9, 1926).

    Args:
        parent, first, second: calibres that obey Murray's law, in any one unit.

    Returns:
        The unsigned angle of the first and of the second daughter; they leave on opposite sides.
    """

    def angle(own: float, other: float) -> float:
        cosine = (parent**4 + own**4 - other**4) / (2 * parent**2 * own**2)
        return math.acos(max(-1.0, min(1.0, cosine)))

    return angle(first, second), angle(second, first)


def jitter(rng: random.Random, curve: tuple[Point, ...], amount: float) -> tuple[Point, ...]:
    """Move the points of a course by chance, those near the disc less."""
    moved = []
    for x, y in curve:
        spread = amount * min(1.0, math.hypot(x, y) / 10.0)
        moved.append((x + rng.gauss(0, spread), y + rng.gauss(0, spread)))
    return tuple(moved)
