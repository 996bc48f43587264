"""What can be measured of a photograph's quality without labels, at one canonical size of the field."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from foveal.scans.field_of_view import FieldOfView

__all__ = ["measure_quality"]

CANONICAL_DIAMETER = 512  # pixels; every photograph is judged at this size of its field
RIM = 0.04  # of the diameter; this near to the field's edge nothing is measured
DARK, WASHED = 25, 240  # grey levels: no signal below, no detail left above
CROSS = np.array([1.0, -2.0, 1.0], dtype=np.float32)
MIN_CHROMA = 12.0  # grey levels between the largest and smallest channel of a pixel that has a colour


@dataclass(frozen=True)
class _Canonical:
    """The field at canonical size: (h, w, 3) float32 colour, (h, w) bool mask and its rimless core."""

    color: np.ndarray
    mask: np.ndarray
    core: np.ndarray


def measure_quality(image: np.ndarray, field: FieldOfView) -> dict[str, float]:
    """Measure a photograph's field.

    Args:
        image: (H, W, 3) uint8.
        field: of the same frame.

    Returns:
        Measures by name. Lengths refer to a field of 512 pixels diameter.

        - `diameter`: of the field in the photograph, pixels.
        - `completeness`: visible share of the field.
        - `brightness`, `luminance`: median of the largest channel and of the luma, 0 to 255.
        - `dark`, `washed_out`: shares of pixels without signal, and with two channels at their limit.
        - `unevenness`: 5th to 95th percentile range of the background, over its median.
        - `occlusion`: share of the field that is much darker than the rest or without any texture.
        - `contrast`: deviation of structures of 2 to 4 pixels, relative to the background, above noise.
        - `sharpness`: detail of 1 to 2 pixels over that of 4 to 8, above noise: independent of contrast.
        - `noise`: deviation of the green channel's noise, grey levels (Immerkaer 1996, by the median).
        - `chroma`, `hue`, `hue_agreement`: share of coloured pixels, mean hue (degrees from red, yellow
          positive) and its resultant length (0 to 1).
        - `unlikeness`: how many of ten properties are foreign to photographs of a retina.
    """
    canonical = _resize(image, field)
    core, color = canonical.core, canonical.color
    luma = color @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    brightest = color.max(axis=2)
    green = color[..., 1]
    background = _background(green, canonical.mask)
    light = _background(luma, canonical.mask)
    low, middle, three_quarters, high = np.percentile(light[core], (5, 50, 75, 95))

    filled = np.where(canonical.mask, green, background)
    base = np.maximum(background, 8.0)
    blurred = [ndimage.gaussian_filter(filled, sigma, truncate=3.0) for sigma in (1, 2, 4, 8)]
    fine, medium, coarse = (blurred[i] - blurred[i + 1] for i in range(3))
    measures = {
        "diameter": float(field.diameter),
        "completeness": float(field.completeness),
        "brightness": float(np.median(brightest[core])),
        "luminance": float(np.median(luma[core])),
        "dark": float((brightest[core] < DARK).mean()),
        "washed_out": float((np.partition(color[core], 1, axis=1)[:, 1] > WASHED).mean()),
        "unevenness": float((high - low) / max(middle, 1.0)),
        "occlusion": _occlusion(medium / base, light, three_quarters, core),
        "contrast": _structure(medium, core) / float(np.median(base[core])),
        "sharpness": _structure(fine, core) / max(_structure(coarse, core), 0.05),
        "noise": _noise(green, core),
    }
    measures |= _color(color[core])
    measures["unlikeness"] = float(_unlikeness(measures, field, blurred[1] / base, coarse / base, core))
    return measures


def _resize(image: np.ndarray, field: FieldOfView) -> _Canonical:
    top, left, bottom, right = field.box
    scale = CANONICAL_DIAMETER / field.diameter
    size = (max(round((right - left) * scale), 8), max(round((bottom - top) * scale), 8))
    part = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    method = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BILINEAR
    color = np.asarray(part.resize(size, method, reducing_gap=2.0), dtype=np.float32)
    shape = Image.fromarray(np.ascontiguousarray(field.mask[top:bottom, left:right]))
    mask = np.asarray(shape.resize(size, Image.Resampling.NEAREST), dtype=bool)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    core = depth > RIM * CANONICAL_DIAMETER
    return _Canonical(color, mask, core if core.any() else mask)


def _background(channel: np.ndarray, mask: np.ndarray, sigma: float = 16.0, step: int = 4) -> np.ndarray:
    """Low-frequency part of a channel, averaged inside the mask only, computed on every 4th pixel."""
    weight = ndimage.uniform_filter(mask.astype(np.float32), step)[::step, ::step]
    value = ndimage.uniform_filter(channel * mask, step)[::step, ::step]
    total = ndimage.gaussian_filter(weight, sigma / step)
    mean = ndimage.gaussian_filter(value, sigma / step) / np.maximum(total, 1e-4)
    mean = np.where(total > 1e-3, mean, float(channel[mask].mean())).astype(np.float32)
    rows, columns = (
        np.minimum(np.arange(n) / step, m - 1) for n, m in zip(channel.shape, mean.shape, strict=True)
    )
    lines = np.stack([np.interp(columns, np.arange(mean.shape[1]), line) for line in mean])
    first = np.floor(rows).astype(int)
    part = (rows - first)[:, None]
    return ((1 - part) * lines[first] + part * lines[np.minimum(first + 1, len(lines) - 1)]).astype(
        np.float32
    )


def _noise(channel: np.ndarray, core: np.ndarray) -> float:
    response = ndimage.convolve1d(ndimage.convolve1d(channel, CROSS, axis=0), CROSS, axis=1)
    return float(np.median(np.abs(response[core])) / 0.6745 / 6.0)


def _structure(band: np.ndarray, core: np.ndarray) -> float:
    """Deviation of a band-pass image above its noise floor.

    Noise is everywhere, vessels and lesions are not: the floor is what the quietest 30 % of the field have
    (times 1.12: the mean of a noise's local energy over its 30th percentile).
    """
    energy = ndimage.uniform_filter(band**2, 21)[::4, ::4][core[::4, ::4]]
    if energy.size == 0:
        return 0.0
    return float(np.sqrt(max(float(energy.mean() - 1.12 * np.percentile(energy, 30)), 0.0)))


def _occlusion(medium: np.ndarray, light: np.ndarray, bright: float, core: np.ndarray) -> float:
    """Share of the core in shadow (under 30 % of the bright background) or without the usual texture."""
    step = 4
    energy = ndimage.uniform_filter(medium**2, 2 * step)[::step, ::step]
    texture = np.sqrt(np.maximum(ndimage.gaussian_filter(energy, 4.0), 0.0))
    inside = core[::step, ::step]
    usual = float(np.percentile(texture[inside], 75)) if inside.any() else 0.0
    hidden = (light[::step, ::step] < 0.3 * bright) | (texture < 0.15 * usual)
    return float(hidden[inside].mean()) if inside.any() else 0.0


def _color(pixels: np.ndarray) -> dict[str, float]:
    """Colour statistics of (N, 3) pixels."""
    red, green, blue = pixels.T
    colored = np.ptp(pixels, axis=1) > MIN_CHROMA
    if colored.mean() < 0.01:
        return {"chroma": float(colored.mean()), "hue": 0.0, "hue_agreement": 1.0}
    direction = (2 * red - green - blue + 1j * np.sqrt(3.0) * (green - blue))[colored]
    mean = (direction / np.abs(direction)).mean()
    return {
        "chroma": float(colored.mean()),
        "hue": float(np.degrees(np.angle(mean))),
        "hue_agreement": float(np.abs(mean)),
    }


def _unlikeness(
    measures: dict[str, float], field: FieldOfView, smooth: np.ndarray, coarse: np.ndarray, core: np.ndarray
) -> int:
    """Count the properties that photographs of a retina lack.

    Limits lie outside of the development sets' range and inside that of natural images, radiographs and
    pages of text: a retina has few strong edges, one hue, dark rather than bright thin lines that run far.
    """
    steepness = np.hypot(*np.gradient(smooth))
    dark, bright = _ridges(ndimage.gaussian_filter(smooth, 2.2, truncate=3.0))
    parts, count = ndimage.label((dark > 0.03) & core, np.ones((3, 3)))
    longest = (
        max((s.stop - s.start for part in ndimage.find_objects(parts) for s in part), default=0)
        if count
        else 0
    )
    foreign = (
        float(np.percentile(steepness[core], 99)) > 0.13,
        float(np.sqrt((coarse[core] ** 2).mean())) > 0.055,
        measures["unevenness"] > 1.5,
        measures["hue_agreement"] < 0.95,
        float(np.percentile(bright[core], 97)) > 1.05 * float(np.percentile(dark[core], 97)) + 0.005,
        measures["dark"] > 0.08,
        field.shape != "circle",
        longest < 0.22 * CANONICAL_DIAMETER,
        measures["sharpness"] > 1.3,
        measures["chroma"] < 0.05 and field.shape != "circle",
    )
    return sum(foreign)


def _ridges(smooth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength of dark and of bright lines about 3 pixels wide: Hessian eigenvalues, isotropy taken off."""
    down, across = np.gradient(smooth)
    (rr, rc), cc = np.gradient(down), np.gradient(across, axis=1)
    spread = np.hypot((rr - cc) / 2, rc)
    low, high = (rr + cc) / 2 - spread, (rr + cc) / 2 + spread
    return 9.0 * np.maximum(high - np.abs(low), 0.0), 9.0 * np.maximum(-low - np.abs(high), 0.0)
