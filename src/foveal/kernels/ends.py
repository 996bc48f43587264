"""The ends of thinned paths, led on to where their vessel ends."""

import numpy as np

from foveal.kernels.compiled import compiled

_STEP = 0.25  # looking ahead for the end of the mask, in pixels


def restore_path_ends(
    mask: np.ndarray, points: np.ndarray, offsets: np.ndarray, half_widths: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lead the free ends of thinned paths straight on to the end of the mask.

    Thinning stops about a half-width before the end of a vessel and bends into one of its corners. The last
    half-width of each path with a free end is replaced by its tangent there, in points a pixel apart, as far
    as the mask goes but not beyond three half-widths. A path that is too short to have a tangent stays. Of a
    path with two free ends, the last is restored before the first.

    Args:
        mask: (H, W) bool; background outside.
        points: (P, 2) float64 row and column.
        offsets: (E + 1,) int64 extent of each path's points; each path has two points or more.
        half_widths: (P,) float64 half-width of the vessel at each point, in pixels.
        free: (E, 2) bool, whether the first and the last point of each path is a free end.

    Returns:
        (Q, 2) float64 points; (E + 1,) int64 offsets; (Q,) float64 half-widths, which at new points are those
        of the vessel before its end.
    """
    points, offsets, half_widths = _restore_ends(
        np.ascontiguousarray(mask, dtype=bool).view(np.uint8),
        np.ascontiguousarray(points, dtype=np.float64),
        np.ascontiguousarray(offsets, dtype=np.int64),
        np.ascontiguousarray(half_widths, dtype=np.float64),
        np.ascontiguousarray(free, dtype=np.bool_),
    )
    return points.copy(), offsets, half_widths.copy()


def restore_path_ends_reference(
    mask: np.ndarray, points: np.ndarray, offsets: np.ndarray, half_widths: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same path by path; see `restore_path_ends`."""

    def restored(path: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        clear = np.flatnonzero(np.arange(len(path)) >= radius)
        if not len(clear) or clear[0] + 3 >= len(path):
            return path, radius
        start, width = clear[0], radius[clear[0]]
        direction = path[start] - path[min(start + int(np.ceil(2 * width)) + 4, len(path) - 1)]
        norm = np.hypot(*direction)
        if norm == 0:
            return path, radius
        ahead = _STEP * np.arange(1, int((3 * width + 2) / _STEP))
        ray = path[start] + ahead[:, None] * direction / norm
        pixel = np.rint(ray).astype(np.int64)
        inside = ((pixel >= 0) & (pixel < mask.shape)).all(axis=1)
        inside[inside] = mask[tuple(pixel[inside].T)]
        far = len(ray) if inside.all() else int(np.argmin(inside))
        new = ray[:far][::-1][:: int(1 / _STEP)]
        return np.concatenate([new, path[start:]]), np.concatenate([np.full(len(new), width), radius[start:]])

    paths = [np.array(points[:0], np.float64)]
    radii = [np.array(half_widths[:0], np.float64)]
    for (first, last), low, high in zip(free, offsets[:-1], offsets[1:], strict=True):
        path, radius = points[low:high], half_widths[low:high]
        if last:
            path, radius = (part[::-1] for part in restored(path[::-1], radius[::-1]))
        if first:
            path, radius = restored(path, radius)
        paths.append(path)
        radii.append(radius)
    extent = np.cumsum([len(path) for path in paths]).astype(np.int64)
    return np.concatenate(paths), extent, np.concatenate(radii)


@compiled
def _restored(mask, path, radius):  # type: ignore[no-untyped-def]
    """A path that is free at its first point, restored there."""
    n, start = len(path), 0
    while start < n and start < radius[start]:
        start += 1
    if start + 3 >= n:
        return path, radius
    width = radius[start]
    behind = min(start + int(np.ceil(2 * width)) + 4, n - 1)
    down, right = path[start, 0] - path[behind, 0], path[start, 1] - path[behind, 1]
    norm = np.hypot(down, right)
    if norm == 0:
        return path, radius
    far = 0
    while far + 1 < int((3 * width + 2) / _STEP):
        ahead = _STEP * (far + 1)
        row = int(np.rint(path[start, 0] + ahead * down / norm))
        column = int(np.rint(path[start, 1] + ahead * right / norm))
        if not (0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]):
            break
        far += 1
    new = int(np.ceil(far * _STEP))
    longer = np.empty((new + n - start, 2), np.float64)
    wide = np.empty(new + n - start, np.float64)
    for i in range(new):
        ahead = _STEP * far - i
        longer[i, 0] = path[start, 0] + ahead * down / norm
        longer[i, 1] = path[start, 1] + ahead * right / norm
        wide[i] = width
    longer[new:], wide[new:] = path[start:], radius[start:]
    return longer, wide


@compiled
def _restore_ends(mask, points, offsets, radius, free):  # type: ignore[no-untyped-def]
    count, room = len(offsets) - 1, len(points)
    for edge in range(count):
        widest = 0.0
        for i in range(offsets[edge], offsets[edge + 1]):
            widest = max(widest, radius[i])
        for end in range(2):
            if free[edge, end]:
                room += int(3 * widest + 3)
    longer = np.empty((room, 2), np.float64)
    wide = np.empty(room, np.float64)
    extent = np.zeros(count + 1, np.int64)
    for edge in range(count):
        path, r = points[offsets[edge] : offsets[edge + 1]], radius[offsets[edge] : offsets[edge + 1]]
        if free[edge, 1]:
            path, r = _restored(mask, path[::-1].copy(), r[::-1].copy())
            path, r = path[::-1].copy(), r[::-1].copy()
        if free[edge, 0]:
            path, r = _restored(mask, path, r)
        extent[edge + 1] = extent[edge] + len(path)
        longer[extent[edge] : extent[edge + 1]], wide[extent[edge] : extent[edge + 1]] = path, r
    return longer[: extent[count]], extent, wide[: extent[count]]
