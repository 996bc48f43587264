"""Masks whose geometry is known exactly."""

import numpy as np

from foveal.scans.field_of_view import FieldOfView


def full_field(shape: tuple[int, int]) -> FieldOfView:
    """A field of view that is the whole image."""
    height, width = shape
    return FieldOfView(
        mask=np.ones(shape, bool),
        center=((height - 1) / 2, (width - 1) / 2),
        diameter=float(max(shape)),
        shape="full",
        box=(0, 0, height, width),
        completeness=1.0,
    )


def bar(start: tuple[float, float], end: tuple[float, float], width: float, size: int = 300) -> np.ndarray:
    """Pixels whose centre lies in a rectangle with this axis and width."""
    mask = np.zeros((size, size), bool)
    low = np.floor(np.minimum(start, end) - width / 2).astype(int).clip(0, size)
    high = np.ceil(np.maximum(start, end) + width / 2 + 1).astype(int).clip(0, size)
    row, column = np.mgrid[low[0] : high[0], low[1] : high[1]] - np.array(start, float)[:, None, None]
    axis = np.subtract(end, start)
    length = np.hypot(*axis)
    along = (row * axis[0] + column * axis[1]) / length
    across = (column * axis[0] - row * axis[1]) / length
    inside = (along >= 0) & (along <= length) & (np.abs(across) < width / 2)
    mask[low[0] : high[0], low[1] : high[1]] = inside
    return mask


def arm(
    degrees: float, width: float, length: float = 100, center: tuple[float, float] = (150.3, 150.1)
) -> np.ndarray:
    """A bar from a centre outwards; 0 degrees points to the right, 90 down."""
    angle = np.deg2rad(degrees)
    end = (center[0] + length * np.sin(angle), center[1] + length * np.cos(angle))
    return bar(center, end, width)


def star(*degrees: float, width: float, length: float = 100) -> np.ndarray:
    """Arms that meet at one point."""
    return np.logical_or.reduce([arm(angle, width, length) for angle in degrees])


def arc(radius: float, width: float, size: int = 300, quarter: bool = True) -> np.ndarray:
    """A quarter of a ring around a corner of the image, or a ring around its middle."""
    center = 20 if quarter else (size - 1) / 2
    row, column = np.mgrid[:size, :size] - center
    ring = np.abs(np.hypot(row, column) - radius) < width / 2
    return ring & (row >= 0) & (column >= 0) if quarter else ring


def tree(seed: int, size: int = 400, generations: int = 5) -> np.ndarray:
    """A branching tree of bars that become shorter, thinner and turn at random."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), bool)
    tips = [(np.array([size / 2, 10.0]), 0.0, size / 4, 9.0)]
    for _ in range(generations):
        grown = []
        for start, angle, length, width in tips:
            end = start + length * np.array([np.sin(angle), np.cos(angle)])
            mask |= bar(tuple(start), tuple(end), width, size)
            grown += [
                (end, angle + turn, length * rng.uniform(0.65, 0.8), width * 0.8)
                for turn in rng.uniform(0.3, 0.7, 2) * (-1, 1)
            ]
        tips = grown
    return mask
