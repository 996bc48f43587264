"""From stored samples to upright 8-bit RGB, and the sizes that are allowed to get that far."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np

from foveal.scans.scan import ScanError

SAMPLE_DEPTHS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class Limits:
    """What a file may claim to hold before anything of it is decoded.

    Attributes:
        max_megapixels: most pixels a frame, in millions.
        min_side: fewest pixels a side.

    Raises:
        ValueError: a limit is not positive.
    """

    max_megapixels: float = 64.0
    min_side: int = 64

    def __post_init__(self) -> None:
        if not self.max_megapixels > 0:
            raise ValueError(f"max_megapixels is {self.max_megapixels}; allowed: above 0")
        if self.min_side < 1:
            raise ValueError(f"min_side is {self.min_side}; allowed: at least 1")

    def check(self, path: Path, width: int, height: int) -> None:
        """Raise ScanError unless a frame of `width` x `height` pixels is within the limits."""
        if min(width, height) < self.min_side:
            raise ScanError(
                path,
                f"image is {width} x {height} px (width x height); allowed: at least {self.min_side} a side",
            )
        megapixels = width * height / 1e6
        if megapixels > self.max_megapixels:
            raise ScanError(
                path,
                f"image is {width} x {height} px, {megapixels:.1f} megapixels; allowed: at most "
                f"{self.max_megapixels:g} (raise max_megapixels if you trust the file)",
            )


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a ScanError, and keep its warnings to itself.

    Decoders answer damaged files with almost any exception (SyntaxError, struct.error, KeyError,
    zlib.error, ...); behind this line all of them mean the same: the file is damaged or unsupported.
    """
    try:
        with catch_warnings():
            simplefilter("ignore")
            yield
    except ScanError:
        raise
    except MemoryError as error:
        raise ScanError(path, f"{what} needs more memory than there is") from error
    except Exception as error:
        detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ScanError(path, f"{what} is damaged, truncated or of an unsupported kind: {detail}") from error


def significant_bits(values: np.ndarray) -> int:
    """Bits that the samples really use: the smallest of 8, 10, 12, 14, 16 that holds their maximum.

    Cameras write 10 to 14-bit sensors into 16-bit files without shifting; PNG and TIFF have no field
    that says so (DICOM has: BitsStored, and does not come here).

    Args:
        values: unsigned integer samples of any shape, without alpha.
    """
    maximum = int(values.max())
    return next(bits for bits in SAMPLE_DEPTHS if maximum < 1 << bits)


def scale_to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Map 0 to 2^bits - 1 linearly onto 0 to 255, rounded to nearest.

    Args:
        values: unsigned integer samples below 2^bits, any shape.
        bits: 1 to 16.

    Returns:
        uint8 samples of the same shape.
    """
    if bits == 8:
        return values.astype(np.uint8)
    top = (1 << bits) - 1
    table = np.rint(np.arange(top + 1) * (255.0 / top)).astype(np.uint8)
    return table[values]


def scale_floats_to_8_bits(path: Path, values: np.ndarray) -> np.ndarray:
    """Map floats to 0 to 255 by the first of the ranges [0, 1], [0, 255], [0, 65535] that holds them.

    Raises:
        ScanError: NaN, infinite, negative or larger values, where no range can be told.
    """
    broken = values.size - int(np.isfinite(values).sum())
    if broken:
        raise ScanError(path, f"{broken} of {values.size} float samples are NaN or infinite; allowed: finite")
    low, high = float(values.min()), float(values.max())
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= top), None)
    if low < 0 or top is None:
        raise ScanError(
            path, f"float samples span {low:g} to {high:g}; allowed: [0, 1], [0, 255] or [0, 65535]"
        )
    return np.rint(values.astype(np.float64) * (255.0 / top)).astype(np.uint8)


def to_rgb(samples: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """Make RGB of grey, grey + alpha, RGB or RGBA; transparency is composited on black.

    Args:
        samples: (H, W) or (H, W, 1 to 4) uint8.
        premultiplied: the colours already carry their alpha (TIFF's "associated alpha").

    Returns:
        (H, W, 3) uint8, contiguous.
    """
    if samples.ndim == 2:
        samples = samples[..., None]
    colour, alpha = samples, None
    if samples.shape[2] in (2, 4):
        colour, alpha = samples[..., :-1], samples[..., -1:]
    if alpha is not None and not premultiplied:
        colour = ((colour.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
    if colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    return np.ascontiguousarray(colour)


def deep_to_rgb(samples: np.ndarray, *, premultiplied: bool = False) -> tuple[np.ndarray, int]:
    """Make 8-bit RGB of 16-bit samples; colours and alpha each by their own `significant_bits`.

    Args:
        samples: (H, W) or (H, W, 1 to 4) uint16.
        premultiplied: see `to_rgb`.

    Returns:
        (H, W, 3) uint8, and the bits that the colours use.
    """
    if samples.ndim == 2:
        samples = samples[..., None]
    colours = samples.shape[2] - (samples.shape[2] in (2, 4))
    bits = significant_bits(samples[..., :colours])
    parts = [scale_to_8_bits(samples[..., :colours], bits)]
    if colours < samples.shape[2]:
        alpha = samples[..., colours:]
        parts.append(scale_to_8_bits(alpha, significant_bits(alpha)))
    return to_rgb(np.concatenate(parts, axis=2), premultiplied=premultiplied), bits


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF / TIFF orientation (tag 274, 1 to 8); other values mean upright.

    Args:
        image: (H, W, ...) array as stored.
        orientation: the tag's value.

    Returns:
        The array as it is to be looked at; (W, H, ...) for 5 to 8.
    """
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
