"""The pictures of a report: a photograph at screen size and transparent overlays, each as a data URI.

Overlays are indexed PNGs of 16 tones with one alpha each: half the bytes of RGBA, sharp edges, and every
browser and printer shows them.
"""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

from foveal.pages import data_uri
from foveal.scans.field_of_view import FieldOfView

REPORT_SIDE = 1200
"""Longer side of the photograph in a report, pixels."""
SOFT_SIDE = 600
"""Longer side of overlays without fine detail; the browser scales them up smoothly."""
THUMBNAIL_SIDE = 96

TONES = 16
VESSEL_COLOUR = "#19e3ff"
Ramp = Sequence[tuple[int, int, int]]
PROBABILITY_RAMP: Ramp = ((16, 40, 160), (0, 160, 230), (120, 255, 220), (255, 255, 255))
DOUBT_RAMP: Ramp = ((255, 0, 200), (255, 0, 200))
ARTERY_COLOUR, VEIN_COLOUR = "#ff5a3c", "#4d7dff"
LESION_COLOURS = {
    "microaneurysms": "#ff4fd8",
    "haemorrhages": "#ff2a2a",
    "hard_exudates": "#fff04a",
    "soft_exudates": "#7dffb0",
}
RELEVANCE_RAMP: Ramp = ((60, 0, 140), (190, 30, 160), (255, 140, 40), (255, 250, 120))


def fitted_size(shape: Sequence[int], side: int) -> tuple[int, int]:
    """(width, height) of an image of `shape` (H, W, ...) whose longer side is at most `side`."""
    height, width = shape[:2]
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def photograph(image: np.ndarray, *, side: int = REPORT_SIDE) -> str:
    """JPEG of (H, W, 3) uint8 `image`, scaled down to `side`, as a data URI."""
    return _jpeg(Image.fromarray(image), fitted_size(image.shape, side), quality=84)


def thumbnail(image: np.ndarray, field: FieldOfView) -> str:
    """Small JPEG of the field of view, as a data URI of about 3 kB."""
    top, left, bottom, right = field.box
    inside = image[top:bottom, left:right]
    return _jpeg(Image.fromarray(inside), fitted_size(inside.shape, THUMBNAIL_SIDE), quality=70)


def _jpeg(picture: Image.Image, size: tuple[int, int], *, quality: int) -> str:
    small = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return data_uri(buffer.getvalue(), "jpeg")


def shrink(levels: np.ndarray, *, side: int = REPORT_SIDE) -> np.ndarray:
    """(H, W) uint8 averaged down until its longer side is at most `side`."""
    size = fitted_size(levels.shape, side)
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BOX, reducing_gap=3.0))


def vessel_fill(coverage: np.ndarray) -> str:
    """Vessels in one colour; `coverage` is (h, w) uint8, 255 where a pixel is all vessel."""
    return stain(coverage, [_rgb(VESSEL_COLOUR)] * 2)


def vessel_outline(coverage: np.ndarray) -> str:
    """Thin line around the vessels, outside them, so that the vessel itself stays visible."""
    vessel = coverage >= 128
    line = ndimage.binary_dilation(vessel, ndimage.generate_binary_structure(2, 2)) & ~vessel
    return stain(np.where(line, np.uint8(255), np.uint8(0)), [_rgb(VESSEL_COLOUR)] * 2)


def stain(levels: np.ndarray, ramp: Ramp, *, opaque_from: float = 1.0) -> str:
    """Transparent overlay whose colour and opacity follow `levels`, as the data URI of an indexed PNG.

    Args:
        levels: (h, w) uint8; 0 is fully transparent.
        ramp: colours at equal distances from level 0 to level 255.
        opaque_from: level, as a fraction of 255, at which the overlay becomes opaque; opacity grows linearly
            up to it.
    """
    fraction = np.linspace(0, 1, TONES)
    stops = np.linspace(0, 1, len(ramp))
    palette = np.stack([np.interp(fraction, stops, [colour[c] for colour in ramp]) for c in range(3)], axis=1)
    table = np.rint(np.arange(256) * ((TONES - 1) / 255)).astype(np.uint8)
    return _indexed_png(table[levels], palette, np.clip(fraction / opaque_from, 0, 1))


def stain_classes(levels: np.ndarray, colours: Sequence[str]) -> str:
    """Transparent overlay of several classes, each in one colour whose opacity follows its level.

    Args:
        levels: (K, h, w) uint8, 0 where a class is not; a pixel shows the class with the highest level.
        colours: of the K classes, "#rrggbb"; at most seven.

    Returns:
        The data URI of an indexed PNG.

    Raises:
        ValueError: there are no classes or too many, or not one colour for each.
    """
    count = len(levels)
    if not 1 <= count <= (TONES - 1) // 2 or len(colours) != count:
        raise ValueError(
            f"{count} classes and {len(colours)} colours: one to {(TONES - 1) // 2} of each are wanted"
        )
    tones = (TONES - 1) // count
    winner = levels.argmax(axis=0).astype(np.uint8)
    tone = np.ceil(levels.max(axis=0) * (tones / 255)).astype(np.uint8)
    palette = np.array([(0, 0, 0), *(_rgb(colour) for colour in colours for _ in range(tones))])
    alpha = np.append(0.0, np.tile(np.arange(1, tones + 1) / tones, count))
    return _indexed_png(np.where(tone > 0, winner * np.uint8(tones) + tone, np.uint8(0)), palette, alpha)


def _indexed_png(index: np.ndarray, palette: np.ndarray, alpha: np.ndarray) -> str:
    """Data URI of an indexed PNG: (h, w) uint8 below 16, (n, 3) colours to 255 and (n,) opacity to 1."""
    picture = Image.frombytes("P", index.shape[::-1], np.ascontiguousarray(index).tobytes())
    picture.putpalette(np.rint(palette).astype(np.uint8).tobytes())
    buffer = BytesIO()
    opacity = np.rint(alpha * 255).astype(np.uint8).tobytes()
    picture.save(buffer, "PNG", transparency=opacity, bits=4, compress_level=6)
    return data_uri(buffer.getvalue(), "png")


def field_path(field: FieldOfView) -> str:
    """Outline of the field of view as an SVG path in pixels of the original photograph."""
    from skimage.measure import approximate_polygon, find_contours

    step = max(1, max(field.mask.shape) // 400)
    coarse = np.pad(field.mask[::step, ::step], 1).astype(np.float32)
    lines = find_contours(coarse, 0.5)
    parts = []
    for line in lines:
        points = (approximate_polygon(line, 0.5) - 1) * step + (step - 1) / 2
        parts.append("M" + "L".join(f"{column:.0f} {row:.0f}" for row, column in points) + "Z")
    return "".join(parts)


def grey_png(levels: np.ndarray) -> bytes:
    """Lossless PNG of (H, W) uint8 or uint16.

    Run-length matching (zlib strategy Z_RLE) makes probability maps both smaller and faster than the default
    strategy at levels 1 to 3: their low bits are noise and their long runs are zeros.
    """
    buffer = BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", compress_type=3)
    return buffer.getvalue()


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
