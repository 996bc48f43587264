"""The circular zones around the disc in which PVBM measures."""

import numpy as np

from foveal.measurement.landmarks import Disc

MAX_ROI = 600.0  # pixels, for images of about 1444 pixels


def whole_pixel_disc(disc: Disc) -> Disc:
    """The disc with centre and radius cut down to whole pixels, as PVBM's `DiscSegmenter` returns them.

    Raises:
        ValueError: the radius is less than 1 pixel.
    """
    if disc.radius < 1:
        raise ValueError(f"pvbm3 needs a disc with a radius of 1 pixel or more, got {disc.radius}")
    row, column = disc.center
    return Disc((float(int(row)), float(int(column))), float(int(disc.radius)))


def geometry_zone(shape: tuple[int, int], disc: Disc, *, max_roi: float = MAX_ROI) -> np.ndarray:
    """Where geometry is measured: outside the disc, and inside a circle of `max_roi` pixels around it.

    Args:
        shape: (H, W).
        disc: of `whole_pixel_disc`.
        max_roi: radius in pixels; cut down to a whole one where it is finite.

    Returns:
        (H, W) bool.
    """
    squared = _squared_distances(shape, disc)
    outer = int(max_roi) if np.isfinite(max_roi) else max_roi
    return (squared > disc.radius**2) & (squared <= outer**2)


def calibre_zone(shape: tuple[int, int], disc: Disc) -> np.ndarray:
    """Where widths are measured: from two to three disc radii from the centre (between zones B and C).

    Args:
        shape: (H, W).
        disc: of `whole_pixel_disc`.

    Returns:
        (H, W) bool.
    """
    squared = _squared_distances(shape, disc)
    return (squared > (2 * disc.radius) ** 2) & (squared <= (3 * disc.radius) ** 2)


def check_images(mask: np.ndarray, skeleton: np.ndarray) -> None:
    """Make sure that a mask and its skeleton are bool arrays of the same shape.

    Raises:
        ValueError: they are not.
    """
    if mask.shape != skeleton.shape or mask.dtype != bool or skeleton.dtype != bool:
        raise ValueError(
            "mask and skeleton must be bool arrays of the same shape, "
            f"got {mask.dtype} {mask.shape} and {skeleton.dtype} {skeleton.shape}"
        )


def _squared_distances(shape: tuple[int, int], disc: Disc) -> np.ndarray:
    row, column = np.ogrid[: shape[0], : shape[1]]
    return (row - disc.center[0]) ** 2 + (column - disc.center[1]) ** 2
