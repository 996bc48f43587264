"""What a camera and a cloudy eye do to a fundus photograph."""

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

_STEPS = ("haze", "illumination", "colour_cast", "gamma", "blur", "noise", "jpeg")


def degrade(
    image: np.ndarray,
    *,
    seed: int,
    blur: float = 0.0,
    noise: float = 0.0,
    illumination: float = 0.0,
    gamma: float = 0.0,
    colour_cast: float = 0.0,
    jpeg: float = 0.0,
    haze: float = 0.0,
) -> np.ndarray:
    """Degrade a fundus photograph, in the order light, optics, sensor, file.

    Args:
        image: (H, W, 3) uint8 RGB.
        seed: same seed, same result; each effect draws from its own stream.
        blur: defocus; at 1 a Gaussian with a standard deviation of 1 % of the longer side.
        noise: photon and read noise; at 1 about 30 grey levels in the bright parts.
        illumination: uneven light; at 1 one side is nearly dark.
        gamma: at 1 an exponent of 2 or 1/2, by chance.
        colour_cast: at 1 channel gains that differ by up to a factor of about 2.
        jpeg: at 1 a quality of 5, near 0 one of 95.
        haze: veil of a cataract; at 1 three quarters of the light is scattered.

    Returns:
        (H, W, 3) uint8; with every strength at 0 an exact copy.

    Raises:
        ValueError: not an RGB uint8 image, or a strength outside [0, 1].
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    given = (haze, illumination, colour_cast, gamma, blur, noise, jpeg)
    for name, strength in zip(_STEPS, given, strict=True):
        if not 0 <= strength <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {strength}")
    if not any(given):
        return image.copy()
    chance = {name: np.random.default_rng([seed, number]) for number, name in enumerate(_STEPS)}
    picture = image.astype(np.float32) / 255
    if haze:
        picture = _veil(picture, haze)
    if illumination:
        picture *= _uneven_light(picture.shape[:2], illumination, chance["illumination"])[..., None]
    if colour_cast:
        picture *= np.exp(colour_cast * 0.35 * chance["colour_cast"].uniform(-1, 1, 3)).astype(np.float32)
    if gamma:
        picture = np.clip(picture, 0, 1) ** np.float32(2.0 ** (gamma * chance["gamma"].choice((-1, 1))))
    if blur:
        sigma = blur * 0.01 * max(picture.shape[:2])
        picture = np.stack([gaussian_filter(picture[..., c], sigma, truncate=3) for c in range(3)], -1)
    if noise:
        spread = 0.12 * noise * np.sqrt(np.clip(picture, 0, 1) + 0.01)
        picture = picture + spread * chance["noise"].standard_normal(picture.shape, dtype=np.float32)
    result = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return _compress(result, jpeg) if jpeg else result


def _veil(picture: np.ndarray, haze: float) -> np.ndarray:
    """Mix the picture with the light that it scatters: a wide, greyed blur of itself. Borders stay black."""
    small = np.asarray(
        Image.fromarray((picture * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BOX)
    )
    spread = gaussian_filter(small.astype(np.float32) / 255, (6, 6, 0))
    grey = spread.mean(-1, keepdims=True)
    veil = 0.45 * spread + 0.75 * grey * np.array([1.0, 0.97, 0.88], np.float32)
    veil8 = Image.fromarray((np.clip(veil, 0, 1) * 255).astype(np.uint8))
    wide = np.asarray(
        veil8.resize((picture.shape[1], picture.shape[0]), Image.Resampling.BICUBIC)
    ) / np.float32(255)
    lit = np.clip(picture.max(-1, keepdims=True) / 0.08, 0, 1)
    share = 0.75 * haze * lit
    return picture * (1 - share) + wide * share


def _uneven_light(shape: tuple[int, int], strength: float, rng: np.random.Generator) -> np.ndarray:
    down = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    direction = rng.uniform(0, 2 * np.pi)
    slope = np.cos(direction) * across + np.sin(direction) * down
    spot = (across - rng.uniform(-0.5, 0.5)) ** 2 + (down - rng.uniform(-0.5, 0.5)) ** 2
    return np.exp(strength * (0.9 * slope - 0.7 * spot)).astype(np.float32)


def _compress(image: np.ndarray, strength: float) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=round(95 - 90 * strength))
    return np.asarray(Image.open(buffer).convert("RGB")).copy()
