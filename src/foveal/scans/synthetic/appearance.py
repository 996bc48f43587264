"""What an eye looks like without its vessels: pigment, choroid, disc, macula, nerve fibres, illumination.

Everything is defined on a fixed grid over the field and then enlarged, so that one seed is the same eye at
every size. Distances are degrees of visual angle in the frame of `vessels`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

GRID = 512

_FAIR = np.array([0.86, 0.37, 0.24])
_ORANGE = np.array([0.74, 0.36, 0.11])
_BROWN = np.array([0.50, 0.24, 0.11])


@dataclass(frozen=True)
class Look:
    """Chance of birth: colours and textures of one eye.

    Attributes:
        color: (3,) RGB of the background, 0 to 1.
        pigment: 0 fair to 1 dark.
        youth: 0 none to 1 strong nerve-fibre and foveal reflexes.
        tessellation: 0 to 1, how far the choroidal vessels shine through.
        disc_axes: (horizontal, vertical) half axes of the optic disc, degrees.
        cup_ratio: cup-to-disc ratio of the diameters.
        crescent: 0 to 1, strength of the pigment crescent beside the disc.
        seed: of the textures.
        contrast: of the vessels, 1 in a clear eye seen by a good camera.
    """

    color: np.ndarray
    pigment: float
    youth: float
    tessellation: float
    disc_axes: tuple[float, float]
    cup_ratio: float
    crescent: float
    seed: int
    contrast: float


def draw_look(rng: np.random.Generator) -> Look:
    """Draw the colours and textures of an eye."""
    weights = rng.dirichlet([0.8, 0.8, 0.5])
    color = weights @ np.stack([_FAIR, _ORANGE, _BROWN]) * rng.normal(1, [0.03, 0.06, 0.12])
    horizontal = rng.uniform(2.45, 3.0)
    return Look(
        color=np.clip(color, 0.05, 0.92),
        pigment=float(np.clip(weights[2] + rng.normal(0, 0.1), 0, 1)),
        youth=float(np.clip(rng.normal(0.25, 0.35), 0, 1)),
        tessellation=float(np.clip(rng.normal(0.3, 0.3), 0.05, 1)),
        disc_axes=(horizontal, horizontal * rng.uniform(1.02, 1.18)),
        cup_ratio=float(np.clip(rng.normal(0.42, 0.12), 0.2, 0.75)),
        crescent=float(np.clip(rng.normal(-0.1, 0.4), 0, 1)),
        seed=int(rng.integers(2**31)),
        contrast=float(rng.uniform(0.7, 1.1)),
    )


class Backdrop:
    """Coordinates of the grid and the layers painted on it.

    Args:
        look: colours and textures.
        center: (x, y) of the middle of the picture, degrees.
        extent: side of the picture, degrees.
        view_radius: radius of the field, degrees.
        fovea: (x, y), degrees.
    """

    def __init__(
        self,
        look: Look,
        *,
        center: tuple[float, float],
        extent: float,
        view_radius: float,
        fovea: tuple[float, float],
    ) -> None:
        self.look, self.fovea, self.view_radius = look, fovea, view_radius
        ramp = ((np.arange(GRID) + 0.5) / GRID - 0.5) * extent
        self.x = (center[0] + ramp)[None, :].astype(np.float32)
        self.y = (center[1] - ramp)[:, None].astype(np.float32)
        self.across, self.down = ramp[None, :] / view_radius, ramp[:, None] / view_radius
        self.cell = extent / GRID
        self.random = np.random.default_rng(look.seed)

    def _noise(self, scale: float) -> np.ndarray:
        """(GRID, GRID) noise of unit variance with a correlation length of `scale` degrees."""
        shrink = max(1, int(scale / self.cell / 2.5))
        side = -(-GRID // shrink) + 1
        sigma = scale / self.cell / shrink
        field = gaussian_filter(self.random.standard_normal((side, side)), sigma, mode="wrap", truncate=3)
        field /= max(field.std(), 1e-9)
        return field[:GRID, :GRID] if shrink == 1 else enlarge(field.astype(np.float32), GRID)

    @cached_property
    def _polar(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the disc, and the angle at which the nerve fibre that passes there left the disc."""
        distance = np.hypot(self.x, self.y)
        return distance, np.arctan2(self.y, self.x)

    def reflectance(self) -> np.ndarray:
        """(GRID, GRID, 3) light that the eye sends back, without vessels, disc and lesions, 0 to 1."""
        look = self.look
        mottle = 0.5 * self._noise(4.0) + 0.35 * self._noise(1.2)
        grain = self._noise(0.07) * 0.6 + self._noise(0.22) * 0.5
        bend = 1.1
        ridge = 1 - np.abs(self._noise(0.75) + 0.4 * self._noise(0.35)) * bend
        from_fovea = np.hypot(self.x - self.fovea[0], self.y - self.fovea[1])
        outside = 1 - np.exp(-((from_fovea / 7.0) ** 2))
        choroid = np.clip(ridge, -1.2, 1) * look.tessellation * outside
        picture = np.ones((GRID, GRID, 3), np.float32) * look.color.astype(np.float32)
        tint = np.stack(
            [
                0.045 * mottle + 0.05 * choroid,
                0.075 * mottle + 0.11 * choroid,
                0.10 * mottle + 0.11 * choroid,
            ],
            -1,
        )
        picture *= np.exp(
            tint + np.array([0.02, 0.042, 0.05]) * (grain * (0.6 + 0.5 * look.pigment))[..., None]
        )
        self._shade_macula(picture, from_fovea)
        self._shine(picture, from_fovea)
        return picture * self._illumination()[..., None]

    def _shade_macula(self, picture: np.ndarray, from_fovea: np.ndarray) -> None:
        depth = 0.8 + 0.5 * self.look.pigment
        stretched = np.hypot((self.x - self.fovea[0]) / 1.12, self.y - self.fovea[1])
        pit = np.exp(-((stretched / 1.5) ** 2))
        macula = np.exp(-((from_fovea / 4.2) ** 2))
        density = depth * (
            pit[..., None] * np.array([0.13, 0.36, 0.42]) + macula[..., None] * np.array([0.09, 0.17, 0.2])
        )
        picture *= np.exp(-density)
        if self.look.youth > 0.15:
            glint = np.exp(-((from_fovea / 0.16) ** 2)) * 0.10
            uneven = 0.6 + 0.4 * np.tanh(self._noise(1.5))
            ring = np.exp(-(((stretched - 2.7) / 0.45) ** 2)) * 0.035 * uneven
            picture += (self.look.youth * (glint + ring))[..., None] * np.array([0.9, 1.0, 0.9])

    def _shine(self, picture: np.ndarray, from_fovea: np.ndarray) -> None:
        """Silky stripes of the nerve-fibre layer, brightest along the arcades near the disc."""
        distance, angle = self._polar
        bundle = np.exp(-((np.abs(np.abs(angle) - 1.05) / 0.75) ** 2))
        reach = np.exp(-((distance / 9.0) ** 2)) * (1 - np.exp(-((from_fovea / 6.0) ** 2)))
        stripes = self.random.standard_normal(720)
        stripes = gaussian_filter(stripes, 1.4, mode="wrap")
        bow = angle + 0.02 * distance * np.sign(self.y) * np.clip(self.x / 8, -1, 1)
        striped = stripes[(np.rint(bow / (2 * np.pi) * 720).astype(int)) % 720] / stripes.std()
        sheen = self.look.youth * bundle * reach * (0.85 + 0.22 * striped + 0.25 * np.tanh(self._noise(2.0)))
        picture += np.clip(sheen, 0, None)[..., None] * np.array([0.06, 0.17, 0.16])
        halo = np.exp(-((distance / 4.6) ** 2))[..., None] * np.array([0.05, 0.055, 0.035])
        picture += halo

    def _illumination(self) -> np.ndarray:
        rng = self.random
        slope, direction = abs(rng.normal(0.08, 0.08)), rng.uniform(0, 2 * np.pi)
        vignette = rng.uniform(0.10, 0.38)
        shift = rng.normal(0, 0.15, 2)
        squared = (self.across - shift[0]) ** 2 + (self.down - shift[1]) ** 2
        light = (
            1.06
            - vignette * squared**1.3
            - slope * (np.cos(direction) * self.across + np.sin(direction) * self.down)
        )
        return np.clip(light, 0.2, 1.3)


def paint_disc(picture: np.ndarray, look: Look, x: np.ndarray, y: np.ndarray, light: float) -> None:
    """Paint the optic disc, its cup and its surroundings onto a window of the picture, in place.

    Args:
        picture: (h, w, 3) window, 0 to 1.
        look: axes, cup and colours.
        x: (1, w) and y: (h, 1) degrees in the frame of `vessels`.
        light: brightness of the illumination there, about 1.
    """
    rng = np.random.default_rng(look.seed + 1)
    horizontal, vertical = look.disc_axes
    angle = np.arctan2(y / vertical, x / horizontal)
    wave = sum(
        a * np.cos(k * angle + p)
        for k, a, p in zip((2, 3, 5), (0.012, 0.012, 0.006), rng.uniform(0, 6.28, 3), strict=True)
    )
    level = np.hypot(x / horizontal, y / vertical) * (1 + wave)
    rim = np.array([0.93, 0.60, 0.36]) * rng.normal(1, [0.02, 0.05, 0.08])
    rim = 0.6 * rim + 0.4 * np.clip(look.color * np.array([1.25, 1.7, 1.6]), 0, 1)
    pale = np.array([0.99, 0.86, 0.62]) * rng.normal(1, [0.01, 0.04, 0.08])
    light *= 0.72 + 0.28 * float(look.color[0] / 0.75)
    cup_x, cup_y = cup_center(look)
    cup_level = np.hypot((x - cup_x) / horizontal, (y - cup_y) / vertical) / look.cup_ratio
    inside = _smooth((1.08 - level) / 0.17)
    cup = _smooth((1.4 - cup_level) / 0.9)
    # Temporal rim is thinner and paler than the nasal one.
    pallor = np.clip(0.22 * x / horizontal, -0.2, 0.22)
    blend = np.clip(cup * 0.9 + pallor + 0.08, 0, 1)[..., None]
    disc = (rim * (1 - blend) + pale * blend) * light
    edge = np.exp(-(((level - 1.05) / 0.05) ** 2)) * 0.35 + np.exp(-(((level - 1.12) / 0.1) ** 2)) * 0.2
    picture *= 1 + edge[..., None] * np.array([0.08, 0.16, 0.16])
    if look.crescent > 0.05:
        lobe = np.exp(-((np.angle(np.exp(1j * (angle - rng.normal(0, 0.4)))) / 0.9) ** 2))
        dark = look.crescent * lobe * np.exp(-(((level - 1.07) / 0.045) ** 2))
        picture *= np.exp(-dark[..., None] * np.array([0.7, 0.6, 0.35]))
    alpha = (0.94 * inside)[..., None]
    picture *= 1 - alpha
    picture += np.clip(disc, 0, 1) * alpha


def cup_center(look: Look) -> tuple[float, float]:
    """(x, y) of the centre of the cup, degrees; a little temporal of the centre of the disc."""
    return 0.25 * (1 - look.cup_ratio) * look.disc_axes[0], 0.0


def enlarge(layer: np.ndarray, size: int) -> np.ndarray:
    """Resample a square (n, n) or (n, n, C) float32 layer to `size`, bicubic up, antialiased down."""
    if layer.ndim == 3:
        return np.stack([enlarge(layer[..., c], size) for c in range(layer.shape[-1])], -1)
    picture = Image.fromarray(np.ascontiguousarray(layer, np.float32), mode="F")
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def _smooth(ramp: np.ndarray) -> np.ndarray:
    """Smooth step from 0 to 1 as the ramp goes from 0 to 1."""
    t = np.clip(ramp, 0, 1)
    return t * t * (3 - 2 * t)
