"""Geometry of PVBM's first generation: what the paper of 2022 measured, without a disc."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from foveal.kernels.pixel_links import pixel_links
from foveal.kernels.skeleton_segments import (
    covering_length,
    greatest_depths,
    junction_arms,
    skeleton_segments,
)
from foveal.kernels.thinning import thin
from foveal.measurement.pvbm3.geometry import arm_cosines, median
from foveal.measurement.pvbm3.zones import check_images

SHORTEST = 10.0  # pixels; segments must be longer
ARM_REACH = 20  # steps after which the next pixel is an arm's end
ARM_OFFSET = 5.0  # mean of an arm's offset in rows and columns; must be more
UNKNOWN_DEPTH = 1444  # of an arm's end that no search reaches


@dataclass(frozen=True)
class Pvbm3LegacyGeometry:
    """Geometry of the first generation; NaN where the package has NaN or stops with an error.

    Attributes:
        area: vessel pixels.
        perimeter: of the vessels, in pixels.
        tortuosity: median of arc over chord of the segments.
        length: sum of the segments' chords (not arcs) in pixels.
        end_points: skeleton pixels with one neighbour.
        intersections: skeleton pixels with three neighbours or more, several at each junction.
        branching_angle_median: in degrees.
        branching_angle_mean: in degrees.
        branching_angle_sd: population standard deviation in degrees.
        ends: (E, 2) int row and column of the end points.
        junctions: (I, 2) of the intersections.
        segments: (M, 2, 2) first and last pixel of each segment.
        arcs: (M,) lengths along the pixels.
        angle_arms: (A, 3, 2) one arm, the vertex and the other arm of each angle.
        angles: (A,) in degrees.
    """

    area: float
    perimeter: float
    tortuosity: float
    length: float
    end_points: int
    intersections: int
    branching_angle_median: float
    branching_angle_mean: float
    branching_angle_sd: float
    ends: np.ndarray
    junctions: np.ndarray
    segments: np.ndarray
    arcs: np.ndarray
    angle_arms: np.ndarray
    angles: np.ndarray


def measure_legacy_geometry(mask: np.ndarray, skeleton: np.ndarray) -> Pvbm3LegacyGeometry:
    """The nine geometrical biomarkers of the paper, as `GeometricalAnalysis.GeometricalVBMs` has them.

    Perimeter: mask pixels that touch the background, thinned, and followed with 1 for a direct and sqrt(2)
    for a diagonal step. Segments: between pixels of the skeleton that are no plain line pixels (one, or three
    neighbours or more), if longer than 10 pixels. Angles: at each intersection pixel between the pixels 21
    steps away from it, without the one whose greatest depth from any end or intersection is least (taken to
    be the parent).

    What to know before comparing with other measures:
        - A junction is a cluster of several intersection pixels (3 or 4 for a plain Y), so their number is
          not that of branchings, and every pixel of the cluster has its own angle; those at the same three
          pixels count once.
        - The length is the sum of chords and hence ignores tortuosity.
        - Searches depend on the order of neighbours: values change under a quarter turn.
        - Arms end on another intersection only when they come to it from the left or from the upper right.
        - In an image wider than high, arms do not go on diagonally to the right beyond column H.
        - In an image higher than wide the package stops where an arm walks through the last column; here the
          angles are NaN then.

    Args:
        mask: (H, W) bool, True on vessels.
        skeleton: (H, W) bool, one pixel wide.

    Returns:
        The geometry. Without segments the length is 0 and the tortuosity NaN; without angles those are NaN.
        Angles take time that grows with the square of the number of pixels of a connected part.

    Raises:
        ValueError: the images are not bool arrays (H, W) of the same shape.

    Source:
        Fhima et al., "PVBM: A Python Vasculature Biomarker Toolbox Based On Retinal Blood Vessel
        Segmentation", ECCV Workshops 2022, arXiv 2208.00392; package pvbm 3.0.1.
    """
    check_images(mask, skeleton)
    positions, links = pixel_links(skeleton)
    degree = (links >= 0).sum(axis=1)
    ends, junctions = degree == 1, degree >= 3

    first, last, arcs = skeleton_segments(links, ends | junctions, shortest=SHORTEST)
    segments = positions[np.stack([first, last], axis=1)].astype(np.int64)
    chords = np.sqrt(((segments[:, 1] - segments[:, 0]) ** 2).sum(axis=1))

    angle_arms = _angle_arms(positions, links, junctions, ends, mask.shape)
    angles = np.degrees(np.arccos(np.clip(arm_cosines(angle_arms), -1, 1)))
    return Pvbm3LegacyGeometry(
        area=float(mask.sum()),
        perimeter=_perimeter(mask),
        tortuosity=median(arcs / chords),  # a search never comes back to its origin, so no chord is 0
        length=float(chords.sum()),
        end_points=int(ends.sum()),
        intersections=int(junctions.sum()),
        branching_angle_median=median(angles),
        branching_angle_mean=float(angles.mean()) if len(angles) else float("nan"),
        branching_angle_sd=float(angles.std()) if len(angles) else float("nan"),
        ends=positions[ends],
        junctions=positions[junctions],
        segments=segments,
        arcs=arcs,
        angle_arms=angle_arms,
        angles=angles,
    )


def _perimeter(mask: np.ndarray) -> float:
    """Length of the thinned border of the mask."""
    border = mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)))
    return covering_length(pixel_links(thin(border))[1])


def _angle_arms(
    positions: np.ndarray,
    links: np.ndarray,
    junctions: np.ndarray,
    ends: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """(A, 3, 2) one arm, the vertex and the other arm of each angle."""
    height, width = shape
    nothing = np.zeros((0, 3, 2), np.int64)
    arm_links = links.copy()
    # Moves to the right and up or down are compared with the height in place of the width.
    arm_links[:, (5, 7)] = np.where(positions[links[:, (5, 7)], 1] < height, links[:, (5, 7)], -1)
    origins, arms, walked = junction_arms(arm_links, junctions, reach=ARM_REACH)
    if width < height and walked[positions[:, 1] == width - 1].any():
        return nothing

    offsets = np.abs(positions[arms] - positions[origins]).sum(axis=1) / 2
    origins, arms = origins[offsets > ARM_OFFSET], arms[offsets > ARM_OFFSET]
    vertices, first, counts = np.unique(origins, return_index=True, return_counts=True)
    enough = counts >= 3
    if not enough.any():
        return nothing
    depths = greatest_depths(links, np.flatnonzero(ends | junctions))
    depths[depths < 0] = UNKNOWN_DEPTH
    triples = []
    for vertex, begin, count in zip(vertices[enough], first[enough], counts[enough], strict=True):
        around = arms[begin : begin + count]
        daughters = np.delete(around, np.argmin(depths[around]))
        one, other = np.triu_indices(count - 1, 1)
        triples.append(np.stack([daughters[one], np.full(len(one), vertex), daughters[other]], axis=1))
    found = np.concatenate(triples)
    _, kept = np.unique(np.sort(found, axis=1), axis=0, return_index=True)
    return positions[found[np.sort(kept)]].astype(np.int64)
