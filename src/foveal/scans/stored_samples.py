"""The values that a mask's file holds, unscaled: labels, bits, probabilities, colours."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.scans.pixels import Limits, decoding
from foveal.scans.scan import ScanError

MASK_ENDINGS = frozenset({
    ".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".pnm", ".jpg", ".jpeg", ".npy",
})  # fmt: skip
_NUMPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PICTURES = ("PNG", "BMP", "GIF", "PPM", "JPEG")


@dataclass(frozen=True, eq=False)
class StoredSamples:
    """What a file holds.

    Attributes:
        path: the file.
        values: (H, W) bool, integer or float samples, palette indices, or (H, W, 3) RGB.
        palette: (256, 3) uint8 colours of palette indices; None for everything else.
        sha256: hexadecimal SHA-256 of the file's bytes.
    """

    path: Path
    values: np.ndarray
    palette: np.ndarray | None
    sha256: str

    @property
    def colours(self) -> np.ndarray:
        """The values with the palette applied: (H, W), or (H, W, 3) where there are colours."""
        return self.values if self.palette is None else _flatten(self.palette[self.values])


def read_samples(path: str | Path, *, max_megapixels: float = 64.0, min_side: int = 64) -> StoredSamples:
    """Read the stored values of a PNG, TIFF, BMP, GIF, PGM, PPM, JPEG or NPY.

    The format is told by the content. Nothing is scaled: a label of 3 stays 3. Colours whose three channels
    are equal everywhere become (H, W); pixels that are wholly or partly transparent are composited on black.
    Only the first frame of a GIF is read.

    Args:
        path: the file.
        max_megapixels: largest picture that is decoded, in millions of pixels, checked from the header.
        min_side: smallest width and height, in pixels.

    Raises:
        ScanError: missing, unreadable, empty, damaged, of another kind, of more than one page, outside the
            limits, or of another shape.
    """
    path, limits = Path(path), Limits(max_megapixels=max_megapixels, min_side=min_side)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScanError(path, f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise ScanError(path, "is empty (0 bytes)")
    palette = None
    if data.startswith(_NUMPY):
        values = _read_array(path, data, limits)
    elif data.startswith(_TIFF):
        values, palette = _read_tiff(path, data, limits)
    else:
        values, palette = _read_picture(path, data, limits)
    if values.ndim == 3 and palette is None:
        values = _flatten(values)
    return StoredSamples(path, values, palette, hashlib.sha256(data).hexdigest())


def _read_array(path: Path, data: bytes, limits: Limits) -> np.ndarray:
    with decoding(path, "NPY file"):
        values = np.load(BytesIO(data), allow_pickle=False)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.reshape(max(values.shape[:2], values.shape[1:]))
    flat = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if not flat or values.dtype.kind not in "buif":
        raise ScanError(
            path,
            f"array is {values.shape} {values.dtype}; allowed: (H, W) or (H, W, 3) bool, integer or float",
        )
    limits.check(path, values.shape[1], values.shape[0])
    return values


def _read_tiff(path: Path, data: bytes, limits: Limits) -> tuple[np.ndarray, np.ndarray | None]:
    from tifffile import PHOTOMETRIC, TiffFile

    with decoding(path, "TIFF file"), TiffFile(BytesIO(data)) as tiff:
        if len(tiff.pages) != 1:
            raise ScanError(path, f"TIFF file holds {len(tiff.pages)} pages; allowed: one")
        page = tiff.pages.first
        limits.check(path, page.imagewidth, page.imagelength)
        try:
            values = np.asarray(page.asarray())
        except (ImportError, ValueError) as error:  # a codec that tifffile does not bring along
            if "imagecodecs" not in str(error):
                raise
            return _decoded(Image.open(BytesIO(data), formats=("TIFF",)), path)
        if values.ndim == 3 and page.planarconfig == 2:
            values = np.moveaxis(values, 0, 2)
        if page.photometric == PHOTOMETRIC.PALETTE and page.colormap is not None:
            entries = page.colormap >> 8 if page.colormap.max() > 255 else page.colormap
            palette = np.zeros((256, 3), np.uint8)
            palette[: entries.shape[1]] = entries.T[:256]
            return values, palette
        # Not for single bits: Python's bool arrays are written as MINISWHITE, but with 1 for true.
        if page.photometric == PHOTOMETRIC.MINISWHITE and values.dtype.kind == "u":
            values = ((1 << page.bitspersample) - 1 - values).astype(values.dtype)
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3, 4))):
        raise ScanError(path, f"TIFF page is {values.shape}; allowed: grey, palette or colour")
    return (values[..., :3] if values.ndim == 3 else values), None


def _read_picture(path: Path, data: bytes, limits: Limits) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        picture = Image.open(BytesIO(data), formats=_PICTURES)
    except Image.DecompressionBombError as error:
        raise ScanError(path, f"picture is too large: {error}") from error
    except Exception as error:
        raise ScanError(
            path, f"is no mask (it begins with {data[:8]!r}); allowed: {', '.join(_PICTURES)}, TIFF or NPY"
        ) from error
    limits.check(path, *picture.size)
    return _decoded(picture, path)


def _decoded(picture: Image.Image, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with decoding(path, f"{picture.format} file"):
        if picture.mode == "P":
            palette = np.zeros((256, 3), np.uint8)
            entries = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette[: len(entries)] = entries
            return np.asarray(picture), palette
        if picture.mode == "1":  # whose bytes are 0 and 255, not those of a bool
            return np.asarray(picture.convert("L")) > 0, None
        if picture.mode in ("L", "I", "F", "RGB") or picture.mode.startswith("I;16"):
            return np.asarray(picture), None
        return np.asarray(_on_black(picture)), None


def _on_black(picture: Image.Image) -> Image.Image:
    coloured = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), coloured).convert("RGB")


def _flatten(values: np.ndarray) -> np.ndarray:
    """(H, W) where all channels of (H, W, C) are equal."""
    first = values[..., 0]
    return first if all(np.array_equal(first, values[..., c]) for c in range(1, values.shape[2])) else values
