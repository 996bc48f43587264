"""How polylines bend: signed curvature, reversals of the bend, and directions at both ends.

Many polylines at once, in compressed rows: path e owns `points[offsets[e]:offsets[e + 1]]`.
"""

from itertools import pairwise

import numpy as np

from foveal.kernels.compiled import compiled


def path_curvature(points: np.ndarray, offsets: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Signed curvature along each path, from a parabola fitted around every point.

    Row and column as functions of arc length are fitted by second-degree polynomials, by least squares with
    Epanechnikov weights over the points of the path within `reach`; their derivatives at the point give
    (r' c'' - c' r'') / (r'^2 + c'^2)^(3/2). At the ends of a path the fit is one-sided. A path is never
    continued beyond its ends, nor closed.

    Args:
        points: (P, 2) float64 row and column.
        offsets: (E + 1,) int64; each path has two points or more.
        reach: (E,) float64 half-length of the window along each path, in pixels, more than 0.

    Returns:
        (P,) float64 curvature in 1 / pixel; positive where the path, followed in its order, turns from the
        direction of rows towards that of columns. NaN where fewer than four points lie in the window.
    """
    return _curvature(*_validated(points, offsets), np.ascontiguousarray(reach, dtype=np.float64))


def path_curvature_reference(points: np.ndarray, offsets: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The same by NumPy's polynomial fit at each point; see `path_curvature`."""
    curvature = np.full(len(points), np.nan)
    for low, high, far in zip(offsets[:-1], offsets[1:], reach, strict=True):
        path = points[low:high]
        arc = np.append(0.0, np.cumsum(np.hypot(*np.diff(path, axis=0).T)))
        for i in range(len(path)):
            offset = arc - arc[i]
            near = np.abs(offset) < far
            if near.sum() < 4:
                continue
            weight = np.sqrt(1 - (offset[near] / far) ** 2)
            second, first, _ = np.polyfit(offset[near], path[near], 2, w=weight)
            speed = np.hypot(*first)
            if speed > 0:
                curvature[low + i] = 2 * (first[0] * second[1] - first[1] * second[0]) / speed**3
    return curvature


def bend_reversals(
    points: np.ndarray, offsets: np.ndarray, curvature: np.ndarray, least_turn: float
) -> np.ndarray:
    """How often each path changes from a left-hand bend to a right-hand one or back.

    The direction of the path is the integral of its curvature over arc length. A reversal is a local
    extreme of that direction which stands out from both sides by `least_turn` or more, so that the ripple of
    a straight vessel counts for nothing.

    Args:
        points: (P, 2) float64 row and column.
        offsets: (E + 1,) int64.
        curvature: (P,) float64 of `path_curvature`; NaN counts as straight.
        least_turn: radians, more than 0.

    Returns:
        (E,) int64 numbers of reversals (inflections).
    """
    points, offsets = _validated(points, offsets)
    return _reversals(points, offsets, np.ascontiguousarray(curvature, dtype=np.float64), float(least_turn))


def bend_reversals_reference(
    points: np.ndarray, offsets: np.ndarray, curvature: np.ndarray, least_turn: float
) -> np.ndarray:
    """The same by repeatedly removing the smallest swing of the direction; see `bend_reversals`."""
    counts = []
    for low, high in pairwise(offsets):
        step = np.hypot(*np.diff(points[low:high], axis=0).T)
        bend = np.nan_to_num(curvature[low:high])
        heading = np.append(0.0, np.cumsum(0.5 * (bend[1:] + bend[:-1]) * step)).tolist()
        turning = [heading[0]]
        for before, here, after in zip(heading[:-2], heading[1:-1], heading[2:], strict=True):
            if (here - before) * (after - here) < 0 or (here == before) != (after == here):
                turning.append(here)
        turning.append(heading[-1])
        while len(turning) > 2:
            # Drop points that are no extremes, then the smallest swing while it is too small.
            kept = [turning[0]]
            kept += [
                b
                for a, b, c in zip(turning[:-2], turning[1:-1], turning[2:], strict=True)
                if (b - a) * (c - b) < 0
            ]
            kept.append(turning[-1])
            swings = [abs(b - a) for a, b in pairwise(kept)]
            small = int(np.argmin(swings))
            if swings[small] >= least_turn:
                turning = kept
                break
            if small == 0:
                turning = kept[1:]
            elif small == len(swings) - 1:
                turning = kept[:-1]
            else:
                turning = kept[:small] + kept[small + 2 :]
        counts.append(max(len(turning) - 2, 0))
    return np.array(counts, np.int64)


def end_directions(
    points: np.ndarray, offsets: np.ndarray, skip: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """Direction in which each path leaves each of its ends, from a line fitted by total least squares.

    The line is fitted through the points whose arc length from that end lies between `skip` and
    `skip + reach`; where these are fewer than three, through the last three before the far end.

    Args:
        points: (P, 2) float64 row and column.
        offsets: (E + 1,) int64; each path has two points or more.
        skip: (E, 2) float64 arc length to leave out at the first and at the last point, in pixels.
        reach: (E, 2) float64 length of the fit, in pixels.

    Returns:
        (E, 2, 2) float64 unit vectors (row, column), pointing away from the end: first end, last end.
        Zero where all the points coincide.
    """
    return _directions(
        *_validated(points, offsets),
        np.ascontiguousarray(skip, dtype=np.float64),
        np.ascontiguousarray(reach, dtype=np.float64),
    )


def end_directions_reference(
    points: np.ndarray, offsets: np.ndarray, skip: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """The same by NumPy's singular values at each end; see `end_directions`."""
    directions = np.zeros((len(offsets) - 1, 2, 2))
    for edge, (low, high) in enumerate(pairwise(offsets)):
        for end in (0, 1):
            path = points[low:high][:: -1 if end else 1]
            arc = np.append(0.0, np.cumsum(np.hypot(*np.diff(path, axis=0).T)))
            near = np.flatnonzero((arc >= skip[edge, end]) & (arc <= skip[edge, end] + reach[edge, end]))
            if len(near) < 3:
                near = np.arange(max(len(path) - 3, 0), len(path)) if skip[edge, end] > arc[-1] else near
                first = min(int(np.searchsorted(arc, skip[edge, end])), max(len(path) - 3, 0))
                near = np.arange(first, min(first + 3, len(path)))
            part = path[near]
            main = np.linalg.svd(part - part.mean(0))[2][0]
            along = part[-1] - part[0]
            if np.hypot(*along) > 0:
                directions[edge, end] = main * np.sign(main @ along)
    return directions


def _validated(points: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 2),
        np.ascontiguousarray(offsets, dtype=np.int64),
    )


@compiled
def _curvature(points, offsets, reach):  # type: ignore[no-untyped-def]
    curvature = np.full(len(points), np.nan)
    for edge in range(len(offsets) - 1):
        low, high, far = offsets[edge], offsets[edge + 1], reach[edge]
        arc = np.zeros(high - low)
        for i in range(1, high - low):
            arc[i] = arc[i - 1] + np.hypot(
                points[low + i, 0] - points[low + i - 1, 0], points[low + i, 1] - points[low + i - 1, 1]
            )
        first = 0
        for i in range(high - low):
            while arc[i] - arc[first] >= far:
                first += 1
            s0, s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0, 0.0
            r0, r1, r2, c0, c1, c2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            count = 0
            j = first
            while j < high - low and arc[j] - arc[i] < far:
                t = (arc[j] - arc[i]) / far
                w = 1.0 - t * t
                row = points[low + j, 0] - points[low + i, 0]
                column = points[low + j, 1] - points[low + i, 1]
                s0 += w
                s1 += w * t
                s2 += w * t * t
                s3 += w * t * t * t
                s4 += w * t * t * t * t
                r0 += w * row
                r1 += w * row * t
                r2 += w * row * t * t
                c0 += w * column
                c1 += w * column * t
                c2 += w * column * t * t
                count += 1
                j += 1
            if count < 4:
                continue
            # Cramer's rule for the slope and the second coefficient of the 3 x 3 normal equations.
            m00 = s2 * s4 - s3 * s3
            m01 = s1 * s4 - s2 * s3
            m02 = s1 * s3 - s2 * s2
            m11 = s0 * s4 - s2 * s2
            m12 = s0 * s3 - s1 * s2
            m22 = s0 * s2 - s1 * s1
            determinant = s0 * m00 - s1 * m01 + s2 * m02
            if determinant <= 1e-12 * s0 * s0 * s0:
                continue
            row1 = (-m01 * r0 + m11 * r1 - m12 * r2) / determinant
            row2 = (m02 * r0 - m12 * r1 + m22 * r2) / determinant
            column1 = (-m01 * c0 + m11 * c1 - m12 * c2) / determinant
            column2 = (m02 * c0 - m12 * c1 + m22 * c2) / determinant
            speed = np.hypot(row1, column1)
            if speed > 0:
                curvature[low + i] = 2.0 * (row1 * column2 - column1 * row2) / speed**3
    return curvature


@compiled
def _reversals(points, offsets, curvature, least_turn):  # type: ignore[no-untyped-def]
    counts = np.zeros(len(offsets) - 1, np.int64)
    for edge in range(len(offsets) - 1):
        low, high = offsets[edge], offsets[edge + 1]
        heading = 0.0
        lowest, highest = 0.0, 0.0
        trend = 0
        for i in range(low + 1, high):
            step = np.hypot(points[i, 0] - points[i - 1, 0], points[i, 1] - points[i - 1, 1])
            before, here = curvature[i - 1], curvature[i]
            before = 0.0 if np.isnan(before) else before
            here = 0.0 if np.isnan(here) else here
            heading += 0.5 * (before + here) * step
            highest = max(highest, heading)
            lowest = min(lowest, heading)
            if trend >= 0 and heading <= highest - least_turn:
                counts[edge] += trend
                trend, lowest = -1, heading
            elif trend <= 0 and heading >= lowest + least_turn:
                counts[edge] -= trend
                trend, highest = 1, heading
    return counts


@compiled
def _directions(points, offsets, skip, reach):  # type: ignore[no-untyped-def]
    directions = np.zeros((len(offsets) - 1, 2, 2))
    for edge in range(len(offsets) - 1):
        low, count = offsets[edge], offsets[edge + 1] - offsets[edge]
        for end in range(2):
            start, sign = (low, 1) if end == 0 else (low + count - 1, -1)
            arc = 0.0
            first, last = -1, count
            for i in range(count):
                if i > 0:
                    p, q = start + sign * i, start + sign * (i - 1)
                    arc += np.hypot(points[p, 0] - points[q, 0], points[p, 1] - points[q, 1])
                if first < 0 and arc >= skip[edge, end]:
                    first = i
                if arc > skip[edge, end] + reach[edge, end]:
                    last = i
                    break
            if first < 0 or last - first < 3:
                first = max(min(first if first >= 0 else count, count - 3), 0)
                last = min(first + 3, count)
            mean_row, mean_column = 0.0, 0.0
            for i in range(first, last):
                mean_row += points[start + sign * i, 0]
                mean_column += points[start + sign * i, 1]
            mean_row /= last - first
            mean_column /= last - first
            rr, rc, cc = 0.0, 0.0, 0.0
            for i in range(first, last):
                row = points[start + sign * i, 0] - mean_row
                column = points[start + sign * i, 1] - mean_column
                rr += row * row
                rc += row * column
                cc += column * column
            # Main axis of the 2 x 2 scatter matrix.
            angle = 0.5 * np.arctan2(2.0 * rc, rr - cc)
            row, column = np.cos(angle), np.sin(angle)
            p, q = start + sign * (last - 1), start + sign * first
            along = row * (points[p, 0] - points[q, 0]) + column * (points[p, 1] - points[q, 1])
            if along > 0:
                directions[edge, end, 0], directions[edge, end, 1] = row, column
            elif along < 0:
                directions[edge, end, 0], directions[edge, end, 1] = -row, -column
    return directions
