"""Lesions of diabetic retinopathy with exact masks, by severity on the international five-step scale.

0 none; 1 microaneurysms only; 2 more of them, some haemorrhages and exudates; 3 many haemorrhages and
cotton-wool spots; 4 as 3 with large preretinal bleeding (Wilkinson et al., Ophthalmology 110, 2003).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

LesionKind = Literal["microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates"]
LESION_KINDS: tuple[LesionKind, ...] = ("microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates")

# Least and most at each severity: microaneurysms, dots, blots, flames, exudate clusters, cotton-wool spots,
# preretinal boats.
_COUNTS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)),
    ((2, 7), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)),
    ((10, 25), (4, 10), (1, 4), (0, 3), (1, 4), (0, 2), (0, 0)),
    ((25, 45), (15, 30), (6, 14), (4, 9), (2, 6), (2, 6), (0, 0)),
    ((25, 50), (15, 30), (8, 16), (4, 10), (2, 7), (2, 7), (1, 2)),
)


@dataclass(frozen=True)
class Lesion:
    """One lesion: a star-shaped outline about its centre, in degrees in the frame of `vessels`.

    Attributes:
        kind: which mask it belongs to.
        center: (x, y).
        radius: mean radius.
        waves: amplitudes relative to the radius and phases of the harmonics 2, 3, 4, ... of the outline.
        stretch: length over breadth.
        direction: of the long axis, radians.
        softness: width of the edge over the radius.
        strength: opacity, 0 to 1.
    """

    kind: LesionKind
    center: tuple[float, float]
    radius: float
    waves: tuple[tuple[float, float], ...] = ()
    stretch: float = 1.0
    direction: float = 0.0
    softness: float = 0.4
    strength: float = 0.8


def scatter_lesions(
    rng: np.random.Generator,
    severity: int,
    *,
    center: tuple[float, float],
    view_radius: float,
    fovea: tuple[float, float],
) -> list[Lesion]:
    """Draw the lesions of an eye.

    Args:
        rng: source of chance.
        severity: 0 to 4.
        center, view_radius: the photographed field, degrees.
        fovea: (x, y), degrees.

    Returns:
        Lesions inside the field, clear of the optic disc by construction.
    """
    aneurysms, dots, blots, flames, clusters, wool, boats = (
        int(rng.integers(a, b + 1)) for a, b in _COUNTS[severity]
    )

    def place(spread: float, nearest: float = 3.6) -> tuple[float, float]:
        while True:
            x, y = fovea[0] - 3 + rng.normal(0, spread), fovea[1] + rng.normal(0, spread)
            inside = np.hypot(x - center[0], y - center[1]) < 0.93 * view_radius
            if inside and np.hypot(x, y) > nearest and np.hypot(x - fovea[0], y - fovea[1]) > 0.7:
                return float(x), float(y)

    def waves(amount: float, count: int = 5) -> tuple[tuple[float, float], ...]:
        return tuple(
            (float(rng.normal(0, amount / (i + 1))), float(rng.uniform(0, 6.28))) for i in range(count)
        )

    found = [
        Lesion(
            "microaneurysms", place(8), rng.uniform(0.07, 0.15), softness=0.7, strength=rng.uniform(0.5, 0.8)
        )
        for _ in range(aneurysms)
    ]
    found += [
        Lesion(
            "haemorrhages",
            place(8),
            rng.uniform(0.18, 0.32),
            waves(0.12),
            softness=0.5,
            strength=rng.uniform(0.6, 0.9),
        )
        for _ in range(dots)
    ]
    found += [
        Lesion(
            "haemorrhages",
            place(9),
            rng.uniform(0.3, 0.8),
            waves(0.26, 6),
            stretch=rng.uniform(1, 1.6),
            direction=rng.uniform(0, 3.14),
            softness=0.5,
            strength=rng.uniform(0.6, 0.9),
        )
        for _ in range(blots)
    ]
    for _ in range(flames):
        x, y = place(8, 4.5)
        found.append(
            Lesion(
                "haemorrhages",
                (x, y),
                rng.uniform(0.3, 0.55),
                waves(0.2, 7),
                stretch=rng.uniform(2.5, 4.5),
                direction=_fibre_direction(x, y, fovea),
                softness=0.6,
                strength=rng.uniform(0.55, 0.85),
            )
        )
    for _ in range(boats):
        x, y = place(8, 6.5)
        found.append(
            Lesion(
                "haemorrhages",
                (x, y),
                rng.uniform(1.3, 2.0),
                waves(0.2, 3),
                stretch=rng.uniform(1.4, 2.2),
                direction=rng.normal(0, 0.2),
                softness=0.12,
                strength=0.95,
            )
        )
    for _ in range(clusters):
        found += _exudate_cluster(rng, place(6, 6.0), center, view_radius)
    found += [
        Lesion(
            "soft_exudates",
            place(7, 5.0),
            rng.uniform(0.4, 0.75),
            waves(0.12, 3),
            stretch=rng.uniform(1, 1.7),
            direction=rng.uniform(0, 3.14),
            softness=1.3,
            strength=rng.uniform(0.6, 0.9),
        )
        for _ in range(wool)
    ]
    return found


def _fibre_direction(x: float, y: float, fovea: tuple[float, float]) -> float:
    """Direction of the nerve fibres, along which flame haemorrhages spread."""
    away = np.arctan2(y, x)
    return float(away - 0.5 * np.sign(y) * np.clip((x - 2) / fovea[0], 0, 1.5))


def _exudate_cluster(
    rng: np.random.Generator, middle: tuple[float, float], center: tuple[float, float], view_radius: float
) -> list[Lesion]:
    """Hard exudates lie in rings about leaking vessels, or in loose heaps."""
    count = int(rng.integers(8, 45))
    ring = rng.random() < 0.5
    spread = rng.uniform(0.6, 1.9)
    angles = rng.uniform(0, 2 * np.pi) + rng.uniform(0, rng.uniform(2.0, 5.5), count)
    distance = spread * (rng.normal(1, 0.15, count) if ring else np.abs(rng.normal(0, 0.7, count)))
    found = []
    for angle, reach in zip(angles, distance, strict=True):
        x, y = middle[0] + reach * np.cos(angle), middle[1] + reach * np.sin(angle)
        if np.hypot(x - center[0], y - center[1]) > 0.95 * view_radius:
            continue
        radius = float(np.clip(rng.lognormal(np.log(0.10), 0.5), 0.045, 0.35))
        waves = tuple((float(rng.normal(0, 0.22 / (i + 1))), float(rng.uniform(0, 6.28))) for i in range(5))
        found.append(
            Lesion(
                "hard_exudates",
                (float(x), float(y)),
                radius,
                waves,
                stretch=float(rng.uniform(1, 1.6)),
                direction=float(rng.uniform(0, 3.14)),
                softness=0.35,
                strength=float(rng.uniform(0.55, 0.95)),
            )
        )
    return found


def draw_lesions(
    lesions: list[Lesion], shape: tuple[int, int], x: np.ndarray, y: np.ndarray
) -> dict[LesionKind, tuple[np.ndarray, np.ndarray]]:
    """Draw lesions.

    Args:
        lesions: what to draw.
        shape: (H, W) of the picture.
        x: (W,) and y: (H,) degrees of the pixel centres in the frame of `vessels`; both monotonic.

    Returns:
        For every kind the mask (H, W) bool of pixel centres inside an outline, and the opacity
        (H, W) float32.
    """
    drawn = {kind: (np.zeros(shape, bool), np.zeros(shape, np.float32)) for kind in LESION_KINDS}
    step = abs(float(x[1] - x[0]))
    for lesion in lesions:
        reach = lesion.radius * lesion.stretch * 1.9 + 2 * step
        columns = np.flatnonzero(np.abs(x - lesion.center[0]) <= reach)
        rows = np.flatnonzero(np.abs(y - lesion.center[1]) <= reach)
        if len(rows) == 0 or len(columns) == 0:
            continue
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        dx, dy = x[window[1]][None, :] - lesion.center[0], y[window[0]][:, None] - lesion.center[1]
        cosine, sine = np.cos(lesion.direction), np.sin(lesion.direction)
        u, v = (dx * cosine + dy * sine) / lesion.stretch, dy * cosine - dx * sine
        angle = np.arctan2(v, u)
        outline = np.full_like(angle, lesion.radius)
        for harmonic, (amplitude, phase) in enumerate(lesion.waves, start=2):
            outline += lesion.radius * amplitude * np.cos(harmonic * angle + phase)
        inner = outline - np.hypot(u, v)
        soft = max(lesion.softness * lesion.radius, step)
        ramp = np.clip(inner / soft + 0.5, 0, 1)
        mask, opacity = drawn[lesion.kind]
        mask[window] |= inner >= 0
        np.maximum(opacity[window], lesion.strength * ramp * ramp * (3 - 2 * ramp), out=opacity[window])
    return drawn
