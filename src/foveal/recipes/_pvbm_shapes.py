"""Masks whose geometry is known, for the evidence of the PVBM recipe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from skimage.draw import disk, line

from foveal.measurement.landmarks import Disc
from foveal.scans.synthetic import synthesize_eye
from foveal.scans.synthetic.raster import draw_tubes

Y_DISC = Disc((256.0, 80.0), 40.0)
ORIENTATIONS = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))


def tube(points: np.ndarray, width: float, shape: tuple[int, int] = (300, 300)) -> np.ndarray:
    """(H, W) bool: pixels within half a width of a polyline through (n, 2) rows and columns."""
    points = np.asarray(points, np.float64)
    count = len(points) - 1
    widths = np.full((count, 2), float(width))
    return draw_tubes(shape, points[:-1], points[1:], widths, strength=np.ones(count)).mask


def segment(degrees: float, width: float, length: float = 240.0) -> np.ndarray:
    """A straight vessel about the middle of 300 x 300 pixels, `degrees` from the horizontal, off the grid."""
    step = 0.5 * length * np.array([np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))])
    middle = np.array([149.7, 149.4])
    return tube(np.stack([middle - step, middle + step]), width)


def quarter_circle(radius: float, width: float) -> np.ndarray:
    """A quarter of a circle with its ends on the axes through its centre."""
    angle = np.linspace(0, np.pi / 2, 200)
    points = 25.0 + radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    side = int(radius) + 60
    return tube(points, width, (side, side))


def fork(degrees: float, width: float, tilt: float = 0.0) -> tuple[np.ndarray, Disc]:
    """A vessel that divides in the middle of 300 x 300 pixels, `degrees` between the two, and a disc where it
    begins."""
    middle = np.array([149.6, 150.2])
    angles = np.deg2rad([180 + tilt, tilt - degrees / 2, tilt + degrees / 2])
    ends = middle + 120 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    mask = np.logical_or.reduce([tube(np.stack([middle, end]), width) for end in ends])
    return mask, Disc((float(ends[0, 0]), float(ends[0, 1])), 20.0)


def drawn_y() -> np.ndarray:
    """The Y on which reference values of the package are known.

    512 x 512 pixels; discs of radius 5 along a level trunk, of radius 4 along two daughters of 150 pixels at
    30 degrees to either side, stamped at the whole pixels of Bresenham's lines.
    """
    mask = np.zeros((512, 512), bool)
    rise, run = 150 * np.sin(np.pi / 6), 150 * np.cos(np.pi / 6)
    daughters = [(int(256 + side * rise), int(280 + run)) for side in (-1, 1)]
    for start, end, radius in (((256, 120), (256, 280), 5), *(((256, 280), end, 4) for end in daughters)):
        for point in zip(*line(*start, *end), strict=True):
            mask[disk(point, radius, shape=mask.shape)] = True
    return mask


def carpet(generations: int) -> np.ndarray:
    """Sierpinski's carpet of 3^generations pixels a side; its dimension is log 8 / log 3."""
    mask = np.ones((1, 1), bool)
    for _ in range(generations):
        mask = np.kron(mask, np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool))
    return mask


@dataclass(frozen=True)
class Tree:
    """A drawn tree of vessels: (H, W) bool mask, what it shows ("artery" or "vein"), and the optic disc."""

    name: str
    mask: np.ndarray
    kind: Literal["artery", "vein"]
    disc: Disc

    def turned(self, turns: int, mirrored: bool) -> Tree:
        """By quarter turns anticlockwise, then mirrored left to right; the disc with it."""
        (row, column), mask = self.disc.center, self.mask
        for _ in range(turns):
            row, column = mask.shape[1] - 1 - column, row
            mask = np.rot90(mask)
        if mirrored:
            mask, column = mask[:, ::-1], mask.shape[1] - 1 - column
        return Tree(self.name, np.ascontiguousarray(mask), self.kind, Disc((row, column), self.disc.radius))

    def doubled(self) -> Tree:
        """Each pixel made four."""
        row, column = (2 * value + 0.5 for value in self.disc.center)
        mask = np.kron(self.mask, np.ones((2, 2), bool))
        return Tree(self.name, mask, self.kind, Disc((row, column), 2 * self.disc.radius))


_KINDS: tuple[Literal["artery", "vein"], ...] = ("artery", "vein")


@cache
def trees(eyes: int, size: int = 640) -> tuple[Tree, ...]:
    """Arteries and veins of synthetic eyes, each at least 3 pixels wide, so that none falls to pieces."""
    found = []
    for seed in range(eyes):
        eye = synthesize_eye(seed, size=size)
        disc = Disc(eye.disc.center, eye.disc.radius)
        for kind in _KINDS:
            segments = [segment for segment in eye.segments if segment.kind == kind]
            starts, ends = (
                np.concatenate([segment.points[part] for segment in segments])
                for part in (slice(None, -1), slice(1, None))
            )
            widths = np.concatenate([np.stack([s.widths[:-1], s.widths[1:]], axis=1) for s in segments])
            tubes = draw_tubes(
                (size, size), starts, ends, np.maximum(widths, 3.0), strength=np.ones(len(starts))
            )
            found.append(Tree(f"eye {seed}, {kind}", tubes.mask & eye.field.mask, kind, disc))
    return tuple(found)
