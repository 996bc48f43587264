"""JPEG, PNG, BMP and PPM photographs, through Pillow."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile

from foveal.scans.codestream import codestream_is_complete
from foveal.scans.pixels import Limits, decoding, deep_to_rgb, to_rgb, upright
from foveal.scans.scan import Scan, ScanError

# The plug-ins are called directly: Image.open would guess among all formats and apply its own,
# process-wide pixel limit before ours.
PLUGINS: dict[str, Callable[[BytesIO], Image.Image]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "BMP": BmpImageFile,
    "PPM": PpmImageFile,
}
ORIENTATION = 0x0112
PNG_HEADER_BYTES = 8
# Colour type -> Pillow mode and raw modes that pick the high and the low byte of big-endian samples.
DEEP_PNG = {2: ("RGB", "RGB;16B", "RGB;16L"), 6: ("RGBA", "RGBA;16B", "RGBA;16L")}
GREY_ALPHA = 4


def read_picture(path: Path, data: bytes, format: str, limits: Limits) -> Scan:
    """Read the first image of a JPEG, PNG, BMP or PPM.

    Args:
        path: for the errors and the result; not opened.
        data: the whole file.
        format: "JPEG", "PNG", "BMP" or "PPM".
        limits: checked from the header, before decoding.

    Raises:
        ScanError: damaged, truncated or outside the limits.
    """
    with decoding(path, f"{format} file"):
        image = PLUGINS[format](BytesIO(data))
        limits.check(path, *image.size)
        if format == "JPEG" and not codestream_is_complete(data):
            raise ScanError(path, "JPEG file is truncated: its end marker (FF D9) is missing")
        deep = _deep_png_samples(data) if format == "PNG" else None
        if deep is not None:
            rgb, bits = deep_to_rgb(deep)
        else:
            image.load()
            rgb, bits = picture_to_rgb(path, image)
        rgb = upright(rgb, _orientation(image))
    return Scan(image=rgb, path=path, bit_depth=bits, format=format)


def picture_to_rgb(path: Path, image: Image.Image) -> tuple[np.ndarray, int]:
    """Make (H, W, 3) uint8 of any mode that Pillow decodes an 8 or 16-bit photograph to.

    Returns:
        The RGB image, not yet upright, and the significant bits of the file's samples.

    Raises:
        ScanError: a mode that no photograph has (32-bit integers, floats, ...).
    """
    if image.mode.startswith("I;16"):
        return deep_to_rgb(np.asarray(image).astype(np.uint16))
    if image.mode in ("1", "L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        bits = 1 if image.mode == "1" else 8
        return to_rgb(np.asarray(image.convert("L") if bits == 1 else image)), bits
    if image.mode in ("CMYK", "YCbCr", "LAB", "RGBX"):
        return to_rgb(np.asarray(image.convert("RGB"))), 8
    if image.mode in ("1", "L", "RGB", "P", "PA", "La", "RGBa"):
        return to_rgb(np.asarray(image.convert("RGBA"))), 8
    raise ScanError(
        path, f"samples are of Pillow mode {image.mode}; allowed: grey, palette or colour of 8 or 16 bits"
    )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none or the EXIF block itself cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which are fine
        return 1
    return value if isinstance(value, int) else 1


def _deep_png_samples(data: bytes) -> np.ndarray | None:
    """(H, W, C) uint16 of a 16-bit PNG with several channels; None for every other PNG.

    Pillow keeps only the high bytes of these, which would turn a 12-bit sensor's picture nearly black.
    Its inflating and unfiltering code is used here twice, once for each byte of the samples.
    """
    header = data[16:29]
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    depth, colour_type, interlace = header[8], header[9], header[12]
    if depth != 16 or colour_type not in {*DEEP_PNG, GREY_ALPHA}:
        return None
    compressed = b"".join(body for kind, body in _png_chunks(data) if kind == b"IDAT")

    def unpack(mode: str, raw_mode: str) -> np.ndarray:
        return np.asarray(Image.frombytes(mode, (width, height), compressed, "zip", raw_mode, interlace))

    if colour_type == GREY_ALPHA:  # four bytes a pixel, as RGBA has: high and low grey, high and low alpha
        return unpack("RGBA", "RGBA").copy().view(">u2").astype(np.uint16)
    mode, high, low = DEEP_PNG[colour_type]
    return unpack(mode, high).astype(np.uint16) << 8 | unpack(mode, low)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, body) of every chunk that is there whole."""
    chunks, offset = [], PNG_HEADER_BYTES
    while offset + 12 <= len(data):
        length = int.from_bytes(data[offset : offset + 4])
        chunks.append((data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    return chunks
