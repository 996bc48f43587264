"""Central retinal equivalents as PVBM has them, in pixels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveal.kernels.pixel_links import pixel_links
from foveal.kernels.width_walk import WidthTree, measure_widths
from foveal.measurement.equivalents import combine_widths, hubbard_equivalent, knudtson_equivalent
from foveal.measurement.landmarks import Disc
from foveal.measurement.pvbm3.geometry import center_distances, start_pixels
from foveal.measurement.pvbm3.zones import check_images

START_REACH = 20  # pixels beyond two disc radii within which a part must begin
ZONE_RADII = 3  # disc radii beyond which no walk goes on
LEAST_STEPS = 10  # from a fork to the first width
LOOK_BACK = 6  # steps between the two pixels that give the direction
LARGER = 2.0  # pixels by which a later part may be wider than the first
FAILURE = -1.0


@dataclass(frozen=True)
class Pvbm3Equivalents:
    """Central retinal equivalents in pixels; -1 where the package fails, NaN where a root is of less than 0.

    Attributes:
        knudtson: by Knudtson's formula.
        hubbard: by the formula of Parr and Hubbard, whose constants are made for micrometres.
        widths: (V,) mean width of each vessel.
        starts: (V, 2) row and column where the measurement of each vessel begins.
        ends: (V, 2) where it ends.
        counts: (V,) number of measurements.
    """

    knudtson: float
    hubbard: float
    widths: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    counts: np.ndarray


def measure_equivalents(
    mask: np.ndarray, skeleton: np.ndarray, disc: Disc, kind: Literal["artery", "vein"]
) -> Pvbm3Equivalents:
    """Knudtson's and Hubbard's equivalents as `CREVBMs.compute_central_retinal_equivalents` has them.

    Each part of the skeleton of 50 pixels or more begins at its pixel nearest to the disc's centre, if nearer
    than two radii and 20 pixels. From 10 steps after a fork on each pixel has a width: mask pixels on both
    sides along the normal to the line from the pixel 6 steps before. A vessel's width is the mean of the
    first measured part; of the vessels the six widest are combined.

    What to know before comparing with other measures:
        - The middle pixel is not counted: a bar of 11 pixels has a width of 10.
        - Hubbard's formulas hold in micrometres but are given pixels: an image at another scale has another
          result, and thin arteries have the root of a negative number (NaN).
        - A start that lies within its part is met twice and its first neighbour is then a fork.
        - A vessel with a later part that is more than 2 pixels wider than the first is left out.
        - -1 means failure here, and nowhere else in this library.

    Args:
        mask: (H, W) bool, True on vessels, cut to the zone (see `calibre_zone`).
        skeleton: (H, W) bool, that of the whole mask, cut to the zone.
        disc: its centre and radius in pixels. The package's own are whole numbers.
        kind: "artery" or "vein".

    Returns:
        The equivalents; both -1 where no vessel is found.

    Raises:
        ValueError: the images are not bool arrays (H, W) of the same shape, or `kind` is not known.

    Source:
        Fhima et al., "PVBM: A Python Vasculature Biomarker Toolbox Based On Retinal Blood Vessel
        Segmentation", ECCV Workshops 2022, arXiv 2208.00392; package pvbm 3.0.1. For the formulas see
        `foveal.measurement.equivalents`.
    """
    check_images(mask, skeleton)
    if kind not in ("artery", "vein"):
        raise ValueError(f"kind must be 'artery' or 'vein', got {kind!r}")
    positions, links = pixel_links(skeleton)
    starts = start_pixels(positions, links, disc, reach=START_REACH + 2 * disc.radius, precision=np.float64)
    within = center_distances(positions, disc) <= int(ZONE_RADII * disc.radius)
    tree = measure_widths(
        links, positions, starts, within, mask, least_steps=LEAST_STEPS, look_back=LOOK_BACK
    )
    counts = np.bincount(tree.parts, minlength=len(tree.pixels))
    sums = np.bincount(tree.parts, tree.widths, minlength=len(tree.pixels))
    means = np.divide(sums, counts, out=np.zeros(len(sums)), where=counts > 0)
    vessels = _vessel_parts(tree, means)
    widths = means[vessels]
    if len(widths):
        knudtson, hubbard = knudtson_equivalent(widths, kind), _hubbard(widths, kind)
    else:
        knudtson, hubbard = FAILURE, FAILURE
    return Pvbm3Equivalents(
        knudtson=knudtson,
        hubbard=hubbard,
        widths=widths,
        starts=positions[tree.pixels[vessels]],
        ends=positions[tree.ends[vessels]],
        counts=counts[vessels],
    )


def _vessel_parts(tree: WidthTree, means: np.ndarray) -> np.ndarray:
    """(V,) the part of each start's tree that stands for a vessel, if any.

    Each part carries on, from the start outwards, the widest part so far and the first part with a width.
    Of all that parts carry, the one with the greatest width is chosen, of equals the first.
    """
    count = len(means)
    best, first = np.empty(count, np.int64), np.full(count, -1, np.int64)
    for part, parent in enumerate(tree.parents):  # parents come before their children
        best[part] = part if parent < 0 else best[parent]
        first[part] = -1 if parent < 0 else first[parent]
        so_far = means[best[part]] if first[part] >= 0 else 0.0
        if means[part] > so_far:
            best[part] = part
            first[part] = part if first[part] < 0 else first[part]

    chosen = np.arange(count)  # the part whose burden is chosen, of those at and below each part
    below = np.full(count, -1, np.int64)

    def burden(part: int) -> float:
        return float(means[best[part]]) if first[part] >= 0 else 0.0

    vessels = []
    for part in range(count - 1, -1, -1):
        if below[part] >= 0 and burden(below[part]) > burden(part):
            chosen[part] = below[part]
        parent = tree.parents[part]
        if parent >= 0:
            # Later children come first here, so that an earlier one that is as wide replaces them.
            if below[parent] < 0 or burden(chosen[part]) >= burden(below[parent]):
                below[parent] = chosen[part]
            continue
        widest, original = best[chosen[part]], first[chosen[part]]
        elsewhere = tree.pixels[widest] != tree.pixels[original]
        if original >= 0 and not (elsewhere and means[widest] > means[original] + LARGER):
            vessels.append(original)
    return np.array(vessels[::-1], np.int64)


def _hubbard(widths: np.ndarray, kind: Literal["artery", "vein"]) -> float:
    """The formula in pixels, and NaN rather than 0 for the root of a negative number."""
    if kind == "vein":
        return hubbard_equivalent(widths, kind)
    with np.errstate(invalid="ignore"):
        return combine_widths(widths, lambda a, b: np.sqrt(0.87 * a**2 + 1.01 * b**2 - 0.22 * a * b - 10.76))
