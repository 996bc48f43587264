"""The pixels of an image as a list, and for each its eight neighbours by number."""

import numpy as np

from foveal.kernels.compiled import compiled

# Up, down, left, right, then the diagonals. Every walk over links looks at neighbours in this order.
LINK_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
LINK_LENGTHS = np.array([1.0] * 4 + [2**0.5] * 4)


def pixel_links(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the pixels of a binary image in reading order and link each with its neighbours.

    Args:
        image: (H, W) bool.

    Returns:
        (N, 2) int32 row and column of each True pixel, in reading order, and (N, 8) int32 numbers of its
        neighbours in the order of `LINK_STEPS`, -1 where there is none.

    Raises:
        ValueError: `image` is not a two-dimensional bool array.
    """
    return _linked(_validated(image).view(np.uint8))


def pixel_links_reference(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by shifting an image of the numbers; see `pixel_links`."""
    image = _validated(image)
    height, width = image.shape
    numbers = np.full((height + 2, width + 2), -1, np.int32)
    numbers[1:-1, 1:-1][image] = np.arange(image.sum())
    links = [numbers[1 + i : 1 + i + height, 1 + j : 1 + j + width][image] for i, j in LINK_STEPS]
    return np.argwhere(image).astype(np.int32), np.stack(links, axis=1)


def links_among(links: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Links of and to the kept pixels only; the numbering stays.

    Args:
        links: (N, 8) of `pixel_links`.
        kept: (N,) bool.

    Returns:
        (N, 8) int32.
    """
    present = (links >= 0) & kept[links] & kept[:, None]
    return np.where(present, links, np.int32(-1))


def _validated(image: np.ndarray) -> np.ndarray:
    if image.ndim != 2 or image.dtype != bool:
        raise ValueError(f"image must be a bool array (H, W), got {image.dtype} of shape {image.shape}")
    return np.ascontiguousarray(image)


@compiled
def _linked(image):  # type: ignore[no-untyped-def]
    height, width = image.shape
    count = 0
    for row in range(height):
        for column in range(width):
            count += image[row, column]
    positions = np.empty((count, 2), np.int32)
    links = np.full((count, 8), -1, np.int32)
    # Numbers of the row above and of this one, shifted by one for a frame without pixels.
    above = np.full(width + 2, -1, np.int32)
    here = np.full(width + 2, -1, np.int32)
    pixel = 0
    for row in range(height):
        here[:] = -1
        for column in range(width):
            if not image[row, column]:
                continue
            positions[pixel, 0], positions[pixel, 1] = row, column
            here[column + 1] = pixel
            if here[column] >= 0:
                links[pixel, 2] = here[column]
                links[here[column], 3] = pixel
            if above[column + 1] >= 0:
                links[pixel, 0] = above[column + 1]
                links[above[column + 1], 1] = pixel
            if above[column] >= 0:
                links[pixel, 4] = above[column]
                links[above[column], 7] = pixel
            if above[column + 2] >= 0:
                links[pixel, 5] = above[column + 2]
                links[above[column + 2], 6] = pixel
            pixel += 1
        above, here = here, above
    return positions, links
