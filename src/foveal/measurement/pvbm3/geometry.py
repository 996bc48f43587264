"""Geometry of PVBM's current generation: arcs, chords and angles of a skeleton that is rooted at the disc."""

from dataclasses import dataclass

import numpy as np

from foveal.kernels.pixel_links import links_among, pixel_links
from foveal.kernels.rooted_walks import nearest_of_parts, prune_twigs, walk_branches
from foveal.measurement.landmarks import Disc
from foveal.measurement.pvbm3.zones import check_images

LEAST_PART = 50  # pixels of a connected part of the skeleton that is measured
START_REACH = 100  # pixels from the disc's border within which a part must begin
TWIG = 10  # pixels of the search tree below a pixel that is kept
LEAST_STEPS = 10  # from the last fork to the next fork or end
MARKER_STEPS = 30  # from a fork to the pixel that shows a branch's direction


@dataclass(frozen=True)
class Pvbm3Geometry:
    """Geometry of the current generation; NaN where the package has NaN.

    Attributes:
        area: vessel pixels.
        tortuosity_index: sum of arcs over sum of chords, 1 or more.
        median_tortuosity: median of arc over chord, 1 or more.
        length: sum of arcs in pixels.
        branching_angle: median of `angles` in degrees.
        start_points: connected parts that begin near the disc.
        end_points: pixels where the walk ends.
        intersections: pixels where the walk forks.
        starts: (S, 2) int row and column of the start points.
        ends: (E, 2) of the end points.
        forks: (I, 2) of the intersections.
        branches: (B, 2, 2) row and column of each branch's first and last pixel.
        arcs: (B,) lengths along the pixels.
        angle_arms: (A, 3, 2) one arm, the vertex and the other arm of each angle.
        angles: (A,) in degrees.
    """

    area: float
    tortuosity_index: float
    median_tortuosity: float
    length: float
    branching_angle: float
    start_points: int
    end_points: int
    intersections: int
    starts: np.ndarray
    ends: np.ndarray
    forks: np.ndarray
    branches: np.ndarray
    arcs: np.ndarray
    angle_arms: np.ndarray
    angles: np.ndarray


def measure_geometry(mask: np.ndarray, skeleton: np.ndarray, disc: Disc) -> Pvbm3Geometry:
    """Area, tortuosity, length, branching angle and points as `GeometryAnalysis.GeometricalVBMs` has them.

    Each 8-connected part of the skeleton with 50 pixels or more begins at its pixel nearest to the disc's
    centre, if that lies within 100 pixels of the disc. Twigs of less than 10 pixels are cut. A walk from the
    start records a branch where it forks or ends, 10 steps or more after the last fork. An arc is 1 for a
    direct and sqrt(2) for a diagonal step, a chord the distance between a branch's two pixels. The angle of
    a fork with two branches is that between the pixels 30 steps after it; a fork with three has two angles.

    What to know before comparing with other measures:
        - The walk looks up, down, left, right and then to the diagonals. Within the clusters of pixels at
          junctions, and in loops, this order decides where forks and ends are: the values change under a
          quarter turn or a mirror image of the same mask.
        - Cutting twigs cuts the last 9 pixels of every branch, too.
        - Within clusters a walk can meet a pixel from two sides and then counts an end there.
        - A fork less than 10 steps after the last one is not seen, its branches are measured from that one.
        - A branch shorter than 30 steps has no direction: the whole fork has no angle.
        - The arc cosine is not protected from rounding: arms exactly on one line can have the angle NaN,
          and then the median is NaN.
        - The 100 pixels, like all steps, are meant for images of about 1444 pixels.

    Args:
        mask: (H, W) bool, True on vessels; only counted. Cut it, and the skeleton, to a zone beforehand.
        skeleton: (H, W) bool, one pixel wide, of the whole mask.
        disc: its centre and radius in pixels. The package's own are whole numbers.

    Returns:
        The geometry. Where no branch is found the length is 0 and tortuosities and angle are NaN.

    Raises:
        ValueError: the images are not bool arrays (H, W) of the same shape.

    Source:
        Fhima et al., "PVBM: A Python Vasculature Biomarker Toolbox Based On Retinal Blood Vessel
        Segmentation", ECCV Workshops 2022, arXiv 2208.00392; package pvbm 3.0.1.
    """
    check_images(mask, skeleton)
    positions, links = pixel_links(skeleton)
    starts = start_pixels(positions, links, disc, reach=START_REACH + disc.radius, precision=np.float32)
    links = links_among(links, prune_twigs(links, starts, TWIG))
    records = walk_branches(links, starts, least_steps=LEAST_STEPS, marker_steps=MARKER_STEPS)

    last = _last_records(records.origins * len(links) + records.ends)
    origins, arcs, markers = records.origins[last], records.arcs[last], records.markers[last]
    branches = positions[np.stack([origins, records.ends[last]], axis=1)].astype(np.int64)
    chords = np.sqrt(((branches[:, 1] - branches[:, 0]) ** 2).sum(axis=1))
    angle_arms = positions[_arms(origins, markers)].astype(np.int64)
    ends, forks = (np.unique(records.ends[records.forks == fork]) for fork in (False, True))
    with np.errstate(divide="ignore", invalid="ignore"):
        angles = np.degrees(np.arccos(arm_cosines(angle_arms)))
        tortuosity_index = arcs.sum() / chords.sum()
        tortuosities = arcs / chords
    return Pvbm3Geometry(
        area=float(mask.sum()),
        tortuosity_index=float(tortuosity_index),
        median_tortuosity=median(tortuosities),
        length=float(arcs.sum()),
        branching_angle=median(angles),
        start_points=len(starts),
        end_points=len(ends),
        intersections=len(forks),
        starts=positions[starts],
        ends=positions[ends],
        forks=positions[forks],
        branches=branches,
        arcs=arcs,
        angle_arms=angle_arms,
        angles=angles,
    )


def start_pixels(
    positions: np.ndarray, links: np.ndarray, disc: Disc, *, reach: float, precision: type[np.floating]
) -> np.ndarray:
    """Pixel nearest to the disc's centre of each part of 50 pixels or more, if nearer than `reach`.

    Args:
        positions: (N, 2) int32 of `pixel_links`.
        links: (N, 8) int32 of `pixel_links`.
        disc: only its centre is used.
        reach: in pixels.
        precision: in which distances are compared; equal ones are decided by reading order.

    Returns:
        (S,) int32 pixel numbers, ascending.
    """
    distances = center_distances(positions, disc)
    starts = nearest_of_parts(links, distances.astype(precision), LEAST_PART)
    return starts[distances[starts] < reach]


def center_distances(positions: np.ndarray, disc: Disc) -> np.ndarray:
    """(N,) float64 distances of (N, 2) positions from the disc's centre in pixels."""
    return np.sqrt(((positions - np.array(disc.center, np.float64)) ** 2).sum(axis=1))


def arm_cosines(arms: np.ndarray) -> np.ndarray:
    """Cosine of the angle of each (one, vertex, other) of (A, 3, 2) whole positions, not clipped."""
    one, other = arms[:, 0] - arms[:, 1], arms[:, 2] - arms[:, 1]
    norms = np.sqrt((one**2).sum(axis=1)) * np.sqrt((other**2).sum(axis=1))
    return (one * other).sum(axis=1) / norms


def median(values: np.ndarray) -> float:
    """Median; NaN where there is no value, or one is NaN."""
    return float(np.median(values)) if len(values) else float("nan")


def _last_records(keys: np.ndarray) -> np.ndarray:
    """Index of the last record of each key, in the order in which the keys came first."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    last = np.zeros(len(first), np.int64)
    np.maximum.at(last, inverse, np.arange(len(keys)))
    return last[np.argsort(first)]


def _arms(origins: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """(A, 3) pixels (one marker, origin, next marker) of the origins with two or three branches."""
    order = np.argsort(origins, kind="stable")
    origins, markers = origins[order], markers[order]
    _, first, counts = np.unique(origins, return_index=True, return_counts=True)
    marked = np.logical_and.reduceat(markers >= 0, first) if len(first) else np.zeros(0, bool)
    two, three = marked & ((counts == 2) | (counts == 3)), marked & (counts == 3)
    one = np.concatenate([first[two], first[three] + 1])
    return np.stack([markers[one], origins[one], markers[one + 1]], axis=1)
