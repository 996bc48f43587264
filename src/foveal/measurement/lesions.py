"""Lesions of diabetic retinopathy, one by one, from maps of their probability."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foveal.measurement.eye import Keeper
from foveal.scans.synthetic import LESION_KINDS
from foveal.settings import unknown_name

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

EXTENT_SHARE = 0.5  # of the threshold: down to which probability a lesion extends

LEAST_DIAMETER: dict[str, float] = {
    "microaneurysms": 0.0012,  # about 18 um where the field spans 15 mm
    "haemorrhages": 0.002,
    "hard_exudates": 0.001,
    "soft_exudates": 0.006,
}
"""Of a circle as large as the smallest lesion that is believed, in diameters of the field. Below each lie
less than 1 % of the lesions that IDRiD's graders outlined."""


class Lesion(NamedTuple):
    """One lesion, to be listed or marked on the photograph.

    Attributes:
        kind: of the lesion.
        center: row and column of its centre of mass.
        area: in pixels.
        box: half-open bounds (top, left, bottom, right).
        peak: its largest probability.
        confidence: see `Lesions`.
    """

    kind: str
    center: tuple[float, float]
    area: int
    box: tuple[int, int, int, int]
    peak: float
    confidence: float


@dataclass(frozen=True)
class Lesions(Keeper):
    """What was found in one photograph: n lesions of m pixels in all, ordered by kind, then from the top.

    Attributes:
        names: of the kinds that were looked for, of `LESION_KINDS`.
        shape: (H, W) of the photograph.
        kinds: (n,) place of each lesion's kind in `names`.
        centers: (n, 2) float64 row and column of the centres of mass.
        areas: (n,) int64 numbers of pixels.
        boxes: (n, 4) int64 half-open bounds (top, left, bottom, right).
        peaks: (n,) float64 largest probability.
        confidences: (n,) float64, 0 to 1: the mean over the lesion of the probability, less twice its spread
            over the mirrored views where that is given.
        pixels: (m,) int64 places in the flattened photograph, lesion by lesion, each in the order of rows.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    kinds: np.ndarray
    centers: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    peaks: np.ndarray
    confidences: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.areas)

    def are(self, name: str) -> np.ndarray:
        """(n,) bool, which lesions are of a kind.

        Raises:
            ValueError: this kind was not looked for.
        """
        if name not in self.names:
            raise ValueError(unknown_name("kind of lesion", name, self.names))
        return self.kinds == self.names.index(name)

    @cached_property
    def owners(self) -> np.ndarray:
        """(m,) number of the lesion that each of `pixels` belongs to."""
        return np.repeat(np.arange(len(self)), self.areas)

    @cached_property
    def points(self) -> np.ndarray:
        """(m, 2) row and column of `pixels`."""
        return np.stack(np.divmod(self.pixels, self.shape[1]), axis=1)

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool, the lesions of a kind; masks of different kinds do not overlap.

        Raises:
            ValueError: this kind was not looked for.
        """
        mask = np.zeros(self.shape, bool)
        mask.ravel()[self.pixels[self.are(name)[self.owners]]] = True
        return mask

    def each(self) -> list[Lesion]:
        """The lesions one by one, in order."""
        names = [self.names[kind] for kind in self.kinds]
        columns = (self.centers, self.areas, self.boxes, self.peaks, self.confidences)
        rows = zip(names, *(column.tolist() for column in columns), strict=True)
        return [Lesion(name, tuple(at), area, tuple(box), *of) for name, at, area, box, *of in rows]

    def distances_to(
        self, point: tuple[float, float], spacing: tuple[float, float] = (1.0, 1.0)
    ) -> np.ndarray:
        """(n,) distance from a point to the nearest pixel of each lesion.

        Args:
            point: row and column in pixels.
            spacing: (row, column) length of a pixel's sides in the unit wanted.
        """

        def nearest() -> np.ndarray:
            distances = np.hypot(*((self.points - point) * spacing).T)
            return np.minimum.reduceat(distances, _starts(self.areas)) if len(self) else distances

        return self.keep(("nearest", tuple(point), tuple(spacing)), nearest)


def find_lesions(
    probability: np.ndarray,
    names: Sequence[str],
    field: "FieldOfView",
    *,
    thresholds: Mapping[str, float] | float = 0.5,
    exclude: np.ndarray | None = None,
    spread: np.ndarray | None = None,
) -> Lesions:
    """Find the single lesions in maps of their probability.

    A lesion is a connected part (of eight neighbours) of the pixels that reach `EXTENT_SHARE` of the kind's
    threshold; it counts if one of them reaches the threshold, and if it is as large as `LEAST_DIAMETER` asks.
    Where lesions of two kinds overlap, a pixel goes to the kind whose probability is the larger multiple of
    its threshold (with one threshold for all: the more probable kind; of equals, the first), and what is left
    of a lesion must itself be one.

    Args:
        probability: (K, H, W) float in [0, 1]; what is not a number is no lesion.
        names: of the K maps, of `LESION_KINDS`.
        field: of the photograph; nothing counts outside it.
        thresholds: in (0, 1], for all kinds or by kind.
        exclude: (H, W) bool, where no lesion counts, such as in the optic disc, whose bright rim and vessels
            resemble exudates and haemorrhages.
        spread: (K, H, W) float in [0, 0.5], standard deviation of the probability over mirrored views.

    Raises:
        ValueError: an argument's shape, type or range is not as said, or a kind or its threshold is unknown.
    """
    names = tuple(names)
    maps = _by_name("probability", probability, names, field)
    spreads = None if spread is None else _by_name("spread", spread, names, field)
    compared = np.empty(field.mask.size, bool)  # once for all kinds: fresh memory takes longer than comparing

    def reaching(name: str, level: float) -> tuple[np.ndarray, np.ndarray]:
        layer = maps[name]
        pixels = np.flatnonzero(np.greater_equal(layer, layer.dtype.type(level), out=compared))
        return pixels, layer[pixels]

    return _found(reaching, names, field, thresholds, exclude, spreads)


Reaching = Callable[[str, float], tuple[np.ndarray, np.ndarray]]


def find_lesions_reaching(
    reaching: Reaching,
    names: Sequence[str],
    field: "FieldOfView",
    *,
    thresholds: Mapping[str, float] | float = 0.5,
    exclude: np.ndarray | None = None,
) -> Lesions:
    """`find_lesions` without whole maps, most of whose pixels are no lesion's.

    Args:
        reaching: tells, of a kind and a level, the (m,) ascending places in the flattened photograph at which
            the kind's probability reaches the level, and the (m,) probabilities there, as
            `foveal.segmentation.inference.StructureMaps.reaching` does.
        names: see `find_lesions`.
        field: see `find_lesions`.
        thresholds: see `find_lesions`.
        exclude: see `find_lesions`.

    Raises:
        ValueError: as `find_lesions`.
    """
    return _found(reaching, tuple(names), field, thresholds, exclude, None)


def _found(
    reaching: Reaching,
    names: tuple[str, ...],
    field: "FieldOfView",
    thresholds: Mapping[str, float] | float,
    exclude: np.ndarray | None,
    spreads: Mapping[str, np.ndarray] | None,
) -> Lesions:
    limits = _validated(names, field, thresholds, exclude)
    height, width = field.mask.shape
    allowed = (field.mask if exclude is None else field.mask & ~exclude).ravel()
    least = [np.pi / 4 * (LEAST_DIAMETER[name] * field.diameter) ** 2 for name in names]
    found = []
    for name, limit, area in zip(names, limits, least, strict=True):
        pixels, values = reaching(name, EXTENT_SHARE * limit)
        within = allowed[pixels]
        found.append(_credible_parts(pixels[within], values[within], limit, area, width))
    for number, lost in enumerate(_lost(found, limits)):
        if lost.any():
            pixels, values, _ = found[number]
            left = np.flatnonzero(~lost)
            left = left[np.argsort(pixels[left])]
            found[number] = _credible_parts(pixels[left], values[left], limits[number], least[number], width)

    described = [
        _described(parts, None if spreads is None else spreads[name][parts.pixels], width)
        for name, parts in zip(names, found, strict=True)
    ]
    kinds = np.repeat(np.arange(len(names)), [len(parts.areas) for parts in found])
    centers, boxes, peaks, confidences = (np.concatenate(part) for part in zip(*described, strict=True))
    areas = np.concatenate([parts.areas for parts in found])
    pixels = np.concatenate([parts.pixels for parts in found])
    return Lesions(names, (height, width), kinds, centers, areas, boxes, peaks, confidences, pixels)


class _Parts(NamedTuple):
    """Connected parts: their pixels one part after the other, each in the order of rows, the probabilities
    there, and the parts' sizes."""

    pixels: np.ndarray
    values: np.ndarray
    areas: np.ndarray


def _credible_parts(
    pixels: np.ndarray, values: np.ndarray, threshold: float, least_area: float, width: int
) -> _Parts:
    """The connected parts of ascending pixels that reach a threshold and a size, ordered from the top.

    Pixels are few among those of a photograph, so they are taken as runs within rows: nodes of a graph, in
    which runs of neighbouring rows that touch are linked.
    """
    if not len(pixels):
        return _Parts(pixels, values, np.zeros(0, np.int64))
    begins = np.flatnonzero((np.diff(pixels, prepend=-2) != 1) | (pixels % width == 0))
    lengths = np.diff(begins, append=len(pixels))
    part, count = _linked(pixels[begins], lengths, width)
    areas = np.bincount(part, lengths, count).astype(np.int64)
    peaks = np.zeros(count)
    np.maximum.at(peaks, part, np.maximum.reduceat(values, begins))
    if peaks.max() > 1:
        raise ValueError(f"probability must lie in [0, 1], found {peaks.max():g}; is it of logits?")
    kept = (peaks >= threshold) & (areas >= least_area)
    order = np.argsort(part, kind="stable")
    order = order[kept[part[order]]]
    of_kept = _ranges(begins[order], lengths[order])
    return _Parts(pixels[of_kept], values[of_kept], areas[kept])


def _linked(starts: np.ndarray, lengths: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Number of the connected part that each run of pixels is in, and how many parts there are."""
    starts = starts + 2 * (starts // width)  # a margin of two pixels, so that rows do not touch at their ends
    stops = starts + lengths - 1
    first = np.searchsorted(stops, starts + width + 1)
    links = np.searchsorted(starts, stops + width + 3, side="right") - first
    upper, lower = np.repeat(np.arange(len(starts)), links), _ranges(first, links)
    graph = coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(len(starts), len(starts)))
    count, part = connected_components(graph, directed=False)
    return part, count


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, ... of each range, one range after the other."""
    return np.repeat(starts - _starts(lengths), lengths) + np.arange(lengths.sum())


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of consecutive pieces begins."""
    return np.cumsum(lengths) - lengths


def _lost(found: list[_Parts], limits: list[float]) -> list[np.ndarray]:
    """For each kind, (m,) bool, which of its pixels go to another kind."""
    counts = [len(parts.pixels) for parts in found]
    place = np.concatenate([parts.pixels for parts in found])
    kind = np.repeat(np.arange(len(found)), counts)
    claim = np.argsort(place * len(found) + kind)
    shared = np.diff(place[claim], prepend=-1) == 0
    shared[:-1] |= shared[1:]
    claim = claim[shared]
    strengths = [parts.values.astype(np.float64) / limit for parts, limit in zip(found, limits, strict=True)]
    strength = np.concatenate(strengths)[claim]
    claim = claim[np.lexsort((kind[claim], -strength, place[claim]))]
    loses = np.zeros(len(place), bool)
    loses[claim[np.diff(place[claim], prepend=-1) == 0]] = True  # the first claim of each place wins
    return np.split(loses, np.cumsum(counts)[:-1])


def _described(
    parts: _Parts, spread: np.ndarray | None, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres (n, 2), boxes (n, 4), peaks (n,) and confidences (n,) of parts; (m,) spread of their pixels."""
    pixels, values, areas = parts
    if not len(areas):
        return np.zeros((0, 2)), np.zeros((0, 4), np.int64), np.zeros(0), np.zeros(0)
    begins = _starts(areas)
    row, column = np.divmod(pixels, width)
    centers = np.stack([np.add.reduceat(place, begins) / areas for place in (row, column)], axis=1)
    low = [np.minimum.reduceat(place, begins) for place in (row, column)]
    high = [np.maximum.reduceat(place, begins) + 1 for place in (row, column)]
    values = values.astype(np.float64)
    certain = values if spread is None else values - 2 * spread
    confidences = np.clip(np.add.reduceat(certain, begins) / areas, 0, 1)
    return centers, np.stack([*low, *high], axis=1), np.maximum.reduceat(values, begins), confidences


def _by_name(
    what: str, maps: np.ndarray, names: tuple[str, ...], field: "FieldOfView"
) -> dict[str, np.ndarray]:
    """Each kind's (H W,) map, once the (K, H, W) maps are as they should be."""
    shape = (len(names), *field.mask.shape)
    if maps.shape != shape or maps.dtype.kind != "f":
        raise ValueError(
            f"{what} must be a float array of shape {shape}, one map for each of {len(names)} names at the "
            f"field's size, got {maps.dtype} of shape {maps.shape}"
        )
    return {name: layer.ravel() for name, layer in zip(names, maps, strict=True)}


def _validated(
    names: tuple[str, ...],
    field: "FieldOfView",
    thresholds: Mapping[str, float] | float,
    exclude: np.ndarray | None,
) -> list[float]:
    """The threshold of each kind, once all arguments are as they should be."""
    shape = field.mask.shape
    if exclude is not None and (exclude.shape != shape or exclude.dtype != bool):
        raise ValueError(
            f"exclude must be a bool array of the field's shape {shape}, got {exclude.dtype} {exclude.shape}"
        )
    for name in names:
        if name not in LESION_KINDS:
            raise ValueError(unknown_name("kind of lesion", name, LESION_KINDS))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"names must be one or more different kinds of lesions, got {names}")
    limits = []
    for name in names:
        if isinstance(thresholds, Mapping) and name not in thresholds:
            raise ValueError(f"thresholds lack {name!r}; given are {', '.join(thresholds) or 'none'}")
        limit = thresholds[name] if isinstance(thresholds, Mapping) else thresholds
        if not 0 < limit <= 1:
            raise ValueError(f"the threshold of {name} must lie in (0, 1], got {limit}")
        limits.append(float(limit))
    return limits
