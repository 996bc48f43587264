"""Image corruptions of five strengths, after ImageNet-C (arXiv 1903.12261), MedMNIST-C (arXiv 2406.17536)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates
from scipy.signal import fftconvolve

from foveal.scans.synthetic.degradation import degrade
from foveal.settings import unknown_name

Kind = Literal["noise", "blur", "colour", "digital", "modality"]
SEVERITIES = (1, 2, 3, 4, 5)

_Effect = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """One way in which an image gets worse.

    Attributes:
        name: of it.
        kind: what it belongs to.
        strengths: of the five severities, each farther from the clean image than the one before.
        effect: (H, W, 3) float in [0, 1], strength and generator to the same, not yet clipped.
    """

    name: str
    kind: Kind
    strengths: tuple[float, float, float, float, float]
    effect: _Effect


CORRUPTIONS: dict[str, Corruption] = {}
"""Every corruption by name."""


def corrupt(image: np.ndarray, name: str, severity: int, *, seed: int) -> np.ndarray:
    """Corrupt an image.

    Args:
        image: (H, W, 3) or (H, W) uint8.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5; 0 returns a copy.
        seed: same seed, same noise, places and directions at every severity.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: not such an image, an unknown name, or a severity outside 0 to 5.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image is {image.shape} {image.dtype}; allowed: (H, W, 3) or (H, W) uint8")
    if name not in CORRUPTIONS:
        raise ValueError(unknown_name("corruption", name, list(CORRUPTIONS)))
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity is {severity}; allowed: 0 (clean) to 5")
    if severity == 0:
        return image.copy()
    colour = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    corruption = CORRUPTIONS[name]
    chance = np.random.default_rng([seed, list(CORRUPTIONS).index(name)])
    changed = corruption.effect(colour.astype(np.float32) / 255, corruption.strengths[severity - 1], chance)
    result = (np.clip(changed, 0, 1) * 255 + 0.5).astype(np.uint8)
    return result if image.ndim == 3 else np.asarray(Image.fromarray(result).convert("L"))


def _corruption(
    name: str, kind: Kind, strengths: tuple[float, float, float, float, float]
) -> Callable[[_Effect], _Effect]:
    def register(effect: _Effect) -> _Effect:
        CORRUPTIONS[name] = Corruption(name, kind, strengths, effect)
        return effect

    return register


@_corruption("gaussian_noise", "noise", (0.04, 0.08, 0.12, 0.18, 0.26))
def _gaussian_noise(image: np.ndarray, sigma: float, chance: np.random.Generator) -> np.ndarray:
    return image + sigma * chance.standard_normal(image.shape, dtype=np.float32)


@_corruption("speckle_noise", "noise", (0.1, 0.2, 0.3, 0.45, 0.6))
def _speckle_noise(image: np.ndarray, sigma: float, chance: np.random.Generator) -> np.ndarray:
    return image * (1 + sigma * chance.standard_normal(image.shape, dtype=np.float32))


@_corruption("impulse_noise", "noise", (0.01, 0.03, 0.06, 0.11, 0.2))
def _impulse_noise(image: np.ndarray, share: float, chance: np.random.Generator) -> np.ndarray:
    struck = chance.random(image.shape, dtype=np.float32) < share
    return np.where(struck, chance.integers(2, size=image.shape).astype(np.float32), image)


@_corruption("shot_noise", "noise", (1 / 200, 1 / 80, 1 / 35, 1 / 15, 1 / 7))
def _shot_noise(image: np.ndarray, grain: float, chance: np.random.Generator) -> np.ndarray:
    """`grain`: what one photon adds."""
    return chance.poisson(image / grain).astype(np.float32) * grain


@_corruption("defocus_blur", "blur", (0.01, 0.018, 0.028, 0.04, 0.055))
def _defocus_blur(image: np.ndarray, radius: float, chance: np.random.Generator) -> np.ndarray:
    """A disc of `radius` times the longer side, with a soft rim."""
    pixels = radius * max(image.shape[:2])
    reach = int(np.ceil(pixels)) + 1
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _convolved(image, np.clip(pixels + 0.5 - np.hypot(down, across), 0, 1))


@_corruption("motion_blur", "blur", (0.03, 0.05, 0.08, 0.12, 0.17))
def _motion_blur(image: np.ndarray, length: float, chance: np.random.Generator) -> np.ndarray:
    """A line of `length` times the longer side, in a random direction."""
    pixels, angle = length * max(image.shape[:2]), chance.uniform(0, np.pi)
    reach = int(np.ceil(pixels / 2)) + 1
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = np.cos(angle) * across + np.sin(angle) * down
    beside = np.cos(angle) * down - np.sin(angle) * across
    line = np.clip(pixels / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(beside), 0, 1)
    return _convolved(image, line)


@_corruption("gaussian_blur", "blur", (0.006, 0.01, 0.016, 0.024, 0.035))
def _gaussian_blur(image: np.ndarray, sigma: float, chance: np.random.Generator) -> np.ndarray:
    return gaussian_filter(image, (*[sigma * max(image.shape[:2])] * 2, 0), mode="nearest")


@_corruption("zoom_blur", "blur", (0.05, 0.09, 0.14, 0.2, 0.28))
def _zoom_blur(image: np.ndarray, zoom: float, chance: np.random.Generator) -> np.ndarray:
    """The mean of views from none to `zoom` closer."""
    centre = (np.array(image.shape[:2]) - 1) / 2
    total = np.zeros_like(image)
    factors = 1 + np.linspace(0, zoom, 12)
    for factor in factors:
        matrix, offset = np.full(2, 1 / factor), centre * (1 - 1 / factor)
        for channel in range(3):
            total[..., channel] += affine_transform(
                image[..., channel], matrix, offset, order=1, mode="nearest"
            )
    return total / len(factors)


@_corruption("brightness_up", "colour", (0.08, 0.15, 0.23, 0.32, 0.42))
def _brightness_up(image: np.ndarray, shift: float, chance: np.random.Generator) -> np.ndarray:
    return image + shift


@_corruption("brightness_down", "colour", (0.08, 0.15, 0.23, 0.32, 0.42))
def _brightness_down(image: np.ndarray, shift: float, chance: np.random.Generator) -> np.ndarray:
    return image - shift


@_corruption("contrast_up", "colour", (1.25, 1.6, 2.1, 2.8, 4.0))
@_corruption("contrast_down", "colour", (0.75, 0.6, 0.45, 0.3, 0.18))
def _contrast(image: np.ndarray, factor: float, chance: np.random.Generator) -> np.ndarray:
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + factor * (image - mean)


@_corruption("gamma", "colour", (0.25, 0.45, 0.65, 0.85, 1.0))
def _gamma(image: np.ndarray, strength: float, chance: np.random.Generator) -> np.ndarray:
    """Up to the power 2 or 1/2, by chance."""
    return _degraded(image, chance, gamma=strength)


@_corruption("saturation", "colour", (1.5, 2.2, 3.2, 5.0, 8.0))
def _saturation(image: np.ndarray, factor: float, chance: np.random.Generator) -> np.ndarray:
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey[..., None] + factor * (image - grey[..., None])


@_corruption("jpeg", "digital", (0.72, 0.82, 0.89, 0.95, 1.0))
def _jpeg(image: np.ndarray, strength: float, chance: np.random.Generator) -> np.ndarray:
    """Qualities from 30 down to 5."""
    return _degraded(image, chance, jpeg=strength)


@_corruption("pixelate", "digital", (0.75, 0.55, 0.4, 0.28, 0.2))
def _pixelate(image: np.ndarray, share: float, chance: np.random.Generator) -> np.ndarray:
    """`share` of the pixels along each side are left."""
    height, width = image.shape[:2]
    size = (max(1, round(width * share)), max(1, round(height * share)))
    small = Image.fromarray((image * 255 + 0.5).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST), np.float32) / 255


@_corruption("black_corner", "modality", (0.6, 0.54, 0.49, 0.44, 0.39))
def _black_corner(image: np.ndarray, radius: float, chance: np.random.Generator) -> np.ndarray:
    """The dark frame of a dermatoscope: a round aperture of `radius` times the sides."""
    height, width = image.shape[:2]
    shift = chance.uniform(-0.05, 0.05, 2)
    down = np.linspace(-0.5, 0.5, height)[:, None] - shift[0]
    across = np.linspace(-0.5, 0.5, width)[None] - shift[1]
    return image * np.clip((radius - np.hypot(down, across)) / 0.04, 0, 1)[..., None].astype(np.float32)


@_corruption("characters", "modality", (2, 5, 10, 18, 30))
def _characters(image: np.ndarray, count: float, chance: np.random.Generator) -> np.ndarray:
    """White letters with a black rim, as machines burn them into images."""
    height, width = image.shape[:2]
    side = max(5, round(max(height, width) / 12))
    picture = Image.fromarray((image * 255 + 0.5).astype(np.uint8))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=side)
    letters = chance.choice(list("ABCDEFGHIKLMNPRSTUVXYZ0123456789"), size=64)
    for place, letter in zip(_cells(7, chance)[: int(count)], letters, strict=False):
        corner = (place[1] * width - side / 2, place[0] * height - side / 2)
        pen.text(
            corner, letter, fill="white", font=font, stroke_width=max(1, side // 12), stroke_fill="black"
        )
    return np.asarray(picture, np.float32) / 255


@_corruption("stain_deposit", "modality", (2, 4, 7, 11, 16))
def _stain_deposit(image: np.ndarray, count: float, chance: np.random.Generator) -> np.ndarray:
    """Dark purple clots with ragged rims, as left by staining."""
    cover = np.zeros(image.shape[:2], np.float32)
    for place in _cells(4, chance)[: int(count)]:
        radius, waves, phase = chance.uniform(0.05, 0.09), chance.integers(3, 8), chance.uniform(0, 2 * np.pi)
        down, across = _about(image, place)
        rim = radius * (1 + 0.25 * np.sin(waves * np.arctan2(down, across) + phase))
        cover = np.maximum(cover, np.clip((rim - np.hypot(down, across)) / 0.01, 0, 1))
    return image + (np.array([0.23, 0.08, 0.27], np.float32) - image) * 0.9 * cover[..., None]


@_corruption("bubble", "modality", (1, 3, 5, 8, 12))
def _bubble(image: np.ndarray, count: float, chance: np.random.Generator) -> np.ndarray:
    """Air under the cover glass: a lens that shrinks what lies beneath, in a dark rim with a bright edge."""
    result = image.copy()
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for place in _cells(4, chance)[: int(count)]:
        radius = chance.uniform(0.07, 0.11)
        down, across = _about(image, place)
        away = np.hypot(down, across) / radius
        inside = away < 1
        bent = 1 + 0.8 * np.clip(away, 0, 1) ** 2
        at = (rows + (bent - 1) * down * height, columns + (bent - 1) * across * width)
        for channel in range(3):
            lens = map_coordinates(image[..., channel], at, order=1, mode="nearest")
            shade = lens * (1 - 0.7 * np.clip((away - 0.75) / 0.2, 0, 1)) + 0.8 * np.exp(
                -(((away - 0.7) / 0.06) ** 2)
            )
            result[..., channel] = np.where(inside, shade, result[..., channel])
    return result


def _convolved(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    reach = kernel.shape[0] // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    weights = (kernel / kernel.sum()).astype(np.float32)[..., None]
    return fftconvolve(padded, weights, mode="valid", axes=(0, 1))


def _degraded(image: np.ndarray, chance: np.random.Generator, **strengths: float) -> np.ndarray:
    pixels = (image * 255 + 0.5).astype(np.uint8)
    return degrade(pixels, seed=int(chance.integers(2**31)), **strengths).astype(np.float32) / 255


def _cells(side: int, chance: np.random.Generator) -> np.ndarray:
    """Middles of the cells of a `side` x `side` grid in random order, as shares of the image."""
    places = np.stack(np.divmod(chance.permutation(side**2), side), axis=1)
    return (places + 0.5) / side


def _about(image: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns from a place, as shares of the sides."""
    height, width = image.shape[:2]
    down = (np.arange(height, dtype=np.float32) + 0.5) / height - place[0]
    across = (np.arange(width, dtype=np.float32) + 0.5) / width - place[1]
    shape = (height, width)
    return np.broadcast_to(down[:, None], shape), np.broadcast_to(across[None], shape)
