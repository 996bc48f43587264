"""Growth of the artery and vein trees: steered tips that branch by Murray's law and keep their distance."""

import heapq
import math
import random

from foveal.scans.synthetic.trunks import plant_trunks
from foveal.scans.synthetic.vessels import (
    STEP,
    THINNEST,
    Anatomy,
    Branch,
    Fork,
    Point,
    Shoot,
    VesselKind,
    daughter_angles,
    split_caliber,
)

_CELL = 0.3  # degrees; side of a cell of the map of what is already taken
_REACH = 80.0  # degrees; half side of that map
_SIDE = int(2 * _REACH / _CELL)
_TURNS = (0.0, 0.3, -0.3, 0.65, -0.65, 1.0, -1.0)  # radians; detours considered, smallest first
_STRAIGHT = 3  # steps that keep the angle of a branch point
_GREATEST_BOW = 0.8  # radians between the direction of a vessel and that of its last degrees
_FORGETTING = 0.03  # a step
_BARE_DISC = 3.6  # degrees from the centre of the disc within which nothing branches by chance


def grow_trees(seed: int, anatomy: Anatomy) -> list[Branch]:
    """Grow the artery and the vein tree of one eye.

    Wide vessels grow first. Trunks follow their courses; the others are drawn towards the fovea or the
    periphery, keep clear of vessels of their own kind, and cross the other kind steeply. Nothing enters the
    foveal avascular zone.

    Args:
        seed: same seed and anatomy, same trees.
        anatomy: landmarks and extent.

    Returns:
        Branches in degrees; a parent always precedes its daughters.
    """
    rng = random.Random(seed)
    growth = _Growth(anatomy)
    for shoot in plant_trunks(rng, anatomy.caliber):
        growth.wait(shoot, None)
    return growth.run()


class _Occupancy:
    """Which cells of the retina hold a vessel of each kind."""

    def __init__(self) -> None:
        self.taken: dict[VesselKind, bytearray] = {"artery": bytearray(_SIDE**2), "vein": bytearray(_SIDE**2)}

    def of(self, kind: VesselKind) -> tuple[bytearray, bytearray]:
        """The map of one's own kind and of the other."""
        return (
            self.taken[kind],
            self.taken["vein" if kind == "artery" else "artery"],
        )

    def is_free(self, kind: VesselKind, position: Point, heading: float) -> bool:
        """Whether a daughter that leaves in a direction would meet nobody of its kind at once."""
        own, (x, y) = self.taken[kind], position
        dx, dy = math.cos(heading), math.sin(heading)
        return not any(own[_cell(x + d * dx, y + d * dy)] for d in (0.6, 1.0, 1.5, 2.0))

    def crowding(self, kind: VesselKind, position: Point, heading: float) -> float:
        """Turn (radians) away from vessels that run alongside."""
        own, other = self.of(kind)
        (x, y), cosine, sine = position, math.cos(heading), math.sin(heading)
        push = 0.0
        for side in (1, -1):
            for ahead, beside, weight in ((0.5, 0.6, 0.055), (0.7, 1.0, 0.025)):
                cell = _cell(
                    x + ahead * cosine - side * beside * sine, y + ahead * sine + side * beside * cosine
                )
                push -= side * weight * (own[cell] + 0.6 * other[cell])
        return push


class _Tip:
    """The growing end of one vessel."""

    def __init__(self, shoot: Shoot, anatomy: Anatomy) -> None:
        self.shoot, self.anatomy = shoot, anatomy
        self.random = random.Random(shoot.seed)
        self.position, self.heading, self.width = shoot.start, shoot.heading, shoot.width
        self.course, self.forks = list(shoot.guide), list(shoot.forks)
        self.travelled, self.straight = 0.0, _STRAIGHT
        self.bearing = shoot.heading  # direction over the last degrees; what keeps a vessel from curling up
        self.wander = self.random.gauss(0, 0.05)
        self.until_branch = self.random.uniform(0.8, 2.0)
        self.side = self.random.choice((-1, 1))

    def steer(self, occupancy: _Occupancy) -> bool:
        """Choose the direction of the next step; False where there is no way on."""
        self.wander = 0.86 * self.wander + self.anatomy.tortuosity * self.random.gauss(
            0, 0.030 if self.course else 0.036
        )
        if self.straight > 0:
            self.straight -= 1
            return True
        while self.course and self._has_passed(self.course[0]):
            self.course.pop(0)
        guided = bool(self.course)
        turn = math.remainder(self._desired() - self.heading, math.tau)
        self.heading += max(-0.22, min(0.22, (0.22 if guided else 0.085) * turn)) + self.wander
        if not guided:
            self.heading += occupancy.crowding(self.shoot.kind, self.position, self.heading)
        detour = self._detour(occupancy)
        if detour is None:
            return False
        self.heading += max(-0.3, min(0.3, detour))
        if not guided:
            bow = max(-_GREATEST_BOW, min(_GREATEST_BOW, self.heading - self.bearing))
            self.heading = self.bearing + bow
        self.bearing += _FORGETTING * (self.heading - self.bearing)
        return True

    def advance(self) -> bool:
        """Take a step; False where it would enter the foveal avascular zone."""
        x, y = self.position
        ahead = x + STEP * math.cos(self.heading), y + STEP * math.sin(self.heading)
        if math.dist(ahead, self.anatomy.fovea) < self.anatomy.avascular_radius:
            return False
        self.position = ahead
        self.travelled += STEP
        self.until_branch -= STEP
        self.width *= math.exp(-STEP * (0.004 if self.course else 0.012))
        return True

    def next_branching(self, occupancy: _Occupancy) -> Shoot | None:
        """The side vessel that leaves here, if one does; the tip itself turns and narrows."""
        fork = self.forks.pop(0) if self.forks and self.travelled >= self.forks[0].distance else None
        if fork is None and self.until_branch > 0:
            return None
        share = self._share(fork)
        main, minor = split_caliber(self.width, share)
        self.until_branch = self.random.gammavariate(4.0, 0.25) * self._spacing(main)
        if minor < THINNEST or (fork is None and math.hypot(*self.position) < _BARE_DISC):
            return None
        bend, leave = daughter_angles(self.width, main, minor)
        leave += math.radians(self.random.gauss(0, 4.0))
        if fork is None and not self._find_room(occupancy, leave):
            self.until_branch = 3 * STEP
            return None
        away = self.heading + self.side * leave
        self.heading -= self.side * bend
        self.bearing -= self.side * bend
        self.width, self.straight = main, _STRAIGHT
        seed = self.random.getrandbits(62)
        if fork:
            return Shoot(self.shoot.kind, self.position, away, minor, seed, fork.guide)
        reach = (42 + 45 * self.random.random()) * minor + 1.0
        return Shoot(self.shoot.kind, self.position, away, minor, seed, reach=reach)

    def _share(self, fork: Fork | None) -> float:
        """Share of the flow that leaves, and with it the side: trunks give off little, twigs split evenly."""
        if fork is not None:
            x, y = fork.guide[1]
            bearing = math.atan2(y - self.position[1], x - self.position[0])
            self.side = 1 if math.remainder(bearing - self.heading, math.tau) > 0 else -1
            return fork.share
        if self.random.random() < 0.75:
            self.side = -self.side
        if self.width < 0.13:
            return self.random.uniform(0.15, 0.5)
        return math.exp(self.random.uniform(math.log(0.02), math.log(0.22)))

    def _find_room(self, occupancy: _Occupancy, leave: float) -> bool:
        """Whether there is room for a side vessel; on the other side counts."""
        for _ in range(2):
            if occupancy.is_free(self.shoot.kind, self.position, self.heading + self.side * leave):
                return True
            self.side = -self.side
        return False

    def _spacing(self, width: float) -> float:
        """Mean distance between branch points: long on trunks and close to the disc."""
        return (1.45 + 4.5 * width) * (1 + 1.2 * math.exp(-((math.hypot(*self.position) / 9.0) ** 2)))

    def _has_passed(self, waypoint: Point) -> bool:
        """Whether the next waypoint is reached, or lies behind on the way to the one after it."""
        if math.dist(self.position, waypoint) < 1.2:
            return True
        (x, y), after = self.position, self.course[1] if len(self.course) > 1 else None
        if after is None:
            return False
        onward = after[0] - waypoint[0], after[1] - waypoint[1]
        return onward[0] * (x - waypoint[0]) + onward[1] * (y - waypoint[1]) > 0

    def _desired(self) -> float:
        """Direction that the vessel is drawn to."""
        x, y = self.position
        if self.course:
            return math.atan2(self.course[0][1] - y, self.course[0][0] - x)
        fx, fy = self.anatomy.fovea
        if x > 4.0 and abs(y - fy) < 7.5 and x - fx < 12:  # inside the arcades: to the fovea
            return self.heading + 0.6 * math.remainder(math.atan2(fy - y, fx - x) - self.heading, math.tau)
        bearing = math.atan2(0.6 * (y - fy), x - 4.0) if x > fx else math.atan2(y, x)
        return self.heading + 0.5 * math.remainder(bearing - self.heading, math.tau)

    def _detour(self, occupancy: _Occupancy) -> float | None:
        """Smallest turn that keeps clear of what is there; None where there is no way on."""
        own, other = occupancy.of(self.shoot.kind)
        x, y = self.position
        fx, fy = self.anatomy.fovea
        best, cheapest = None, math.inf
        for turn in _TURNS:
            dx, dy = math.cos(self.heading + turn), math.sin(self.heading + turn)
            cost = abs(turn)
            for distance in (0.6, 0.95, 1.3):
                px, py = x + distance * dx, y + distance * dy
                if math.hypot(px - fx, py - fy) < self.anatomy.avascular_radius:
                    cost = math.inf
                    break
                cell = _cell(px, py)
                cost += own[cell] * 2.0 / distance + other[cell] * 0.18
            if math.isinf(cost) and turn == 0.0:
                return None  # it has arrived at the fovea
            if cost < cheapest:
                best, cheapest = turn, cost
            if cost <= abs(turn):
                break
        return best if cheapest < (6.0 if self.course else 2.0) else None


class _Growth:
    """The vessels that wait, those that have grown, and the room they take."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.branches: list[Branch] = []
        self.occupancy = _Occupancy()
        self.waiting: list[tuple[float, int, Shoot, int | None]] = []
        self.born = 0

    def wait(self, shoot: Shoot, parent: int | None) -> None:
        """Queue a vessel: guided ones first, then the wider, then the older."""
        self.born += 1
        urgency = -shoot.width - (10.0 if shoot.guide else 0.0)
        heapq.heappush(self.waiting, (urgency, self.born, shoot, parent))

    def run(self) -> list[Branch]:
        """Grow everything that waits and all that leaves it."""
        while self.waiting:
            _, _, shoot, parent = heapq.heappop(self.waiting)
            self._grow(shoot, parent)
        return self.branches

    def _grow(self, shoot: Shoot, parent: int | None) -> None:
        tip = _Tip(shoot, self.anatomy)
        number = self._begin(shoot.kind, parent, tip)
        own = self.occupancy.taken[shoot.kind]
        trail: list[int] = []  # cells just passed: not yet in the map, so that a tip does not shun itself
        while tip.steer(self.occupancy) and tip.advance():
            self.branches[number].add(tip.position, tip.width)
            if not self._in_view(tip.position):
                return
            trail.append(_cell(*tip.position))
            if len(trail) > 3:
                own[trail.pop(0)] = 1
            if tip.travelled > shoot.reach or tip.width < THINNEST:
                break
            daughter = tip.next_branching(self.occupancy)
            if daughter is not None:
                self.wait(daughter, number)
                number = self._begin(shoot.kind, number, tip)
        _fade_out(self.branches[number])

    def _begin(self, kind: VesselKind, parent: int | None, tip: _Tip) -> int:
        self.branches.append(Branch(kind, parent, [tip.position], [tip.width]))
        return len(self.branches) - 1

    def _in_view(self, position: Point) -> bool:
        return math.dist(position, self.anatomy.view_center) < self.anatomy.view_radius + 2 * STEP


def _cell(x: float, y: float) -> int:
    return int((y + _REACH) / _CELL) * _SIDE + int((x + _REACH) / _CELL)


def _fade_out(branch: Branch) -> None:
    """Let a vessel that ends inside the field run out to the thinnest calibre; its start keeps its own."""
    count = min(len(branch.points) - 1, 12)
    goal = min(THINNEST, branch.widths[-1])
    for i in range(1, count + 1):
        index = len(branch.widths) - 1 - count + i
        branch.widths[index] += (goal - branch.widths[index]) * i / count
