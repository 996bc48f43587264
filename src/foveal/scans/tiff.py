"""TIFF and BigTIFF photographs, through tifffile; through Pillow's libtiff for LZW and JPEG compression."""

import logging
from pathlib import Path

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile
from tifffile import PHOTOMETRIC, TiffFile, TiffPage

from foveal.scans.picture import picture_to_rgb
from foveal.scans.pixels import Limits, decoding, deep_to_rgb, scale_floats_to_8_bits, to_rgb, upright
from foveal.scans.scan import Scan, ScanError

REDUCED_OR_MASK = 1 | 4  # NewSubfileType bits: a thumbnail or pyramid level, a transparency mask
ORIENTATION = 274
ASSOCIATED_ALPHA = 1
SUPPORTED_PHOTOMETRICS = (
    PHOTOMETRIC.MINISBLACK,
    PHOTOMETRIC.MINISWHITE,
    PHOTOMETRIC.PALETTE,
    PHOTOMETRIC.RGB,
    PHOTOMETRIC.SEPARATED,
)
COLOURS: dict[int, int] = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.SEPARATED: 4}
MAX_SAMPLES = 5  # CMYK with alpha

# Without a handler, what tifffile logs about damaged files would appear on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read_tiff(path: Path, frame: int, limits: Limits) -> Scan:
    """Read one page of a TIFF; thumbnails, pyramid levels and masks are not counted as pages.

    Raises:
        ScanError: damaged, truncated, outside the limits, not finite, no such frame, or compressed in
            a way that needs the `imagecodecs` package.
    """
    with decoding(path, "TIFF file"), TiffFile(path) as tiff:
        everything = [page for page in tiff.pages if isinstance(page, TiffPage)]
        if not everything:
            raise ScanError(path, "TIFF file holds no page, or is truncated before its first")
        pages = [page for page in everything if not int(page.subfiletype) & REDUCED_OR_MASK] or everything
        if frame >= len(pages):
            raise ScanError(path, f"frame is {frame}; allowed: 0 to {len(pages) - 1}")
        page = pages[frame]
        limits.check(path, page.imagewidth, page.imagelength)
        _check_layout(path, page)
        if page.photometric == PHOTOMETRIC.YCBCR:  # tifffile leaves these as they are
            rgb, bits = _read_with_pillow(path, page)
        else:
            try:
                rgb, bits = _page_to_rgb(path, page, page.asarray())
            except (ImportError, ValueError) as error:  # both mean a codec that tifffile does not bring along
                if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                    raise
                rgb, bits = _read_with_pillow(path, page)
        orientation = page.tags.valueof(ORIENTATION, default=1)
        rgb = upright(rgb, int(orientation))
    return Scan(image=rgb, path=path, frame=frame, frames=len(pages), bit_depth=bits, format="TIFF")


def _check_layout(path: Path, page: TiffPage) -> None:
    """Raise ScanError unless the page is a flat picture whose data are all inside the file."""
    if page.imagedepth != 1 or not 1 <= page.samplesperpixel <= MAX_SAMPLES:
        raise ScanError(
            path,
            f"page has depth {page.imagedepth} and {page.samplesperpixel} samples a pixel; "
            f"allowed: depth 1 and 1 to {MAX_SAMPLES} samples",
        )
    size = path.stat().st_size
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    # tifffile fills absent strips and tiles with zeros, which would pass for a dark photograph.
    missing = sum(count == 0 or end > size for end, count in zip(ends, page.databytecounts, strict=True))
    if missing or not ends:
        raise ScanError(
            path,
            f"TIFF file is truncated: {missing} of {len(ends)} strips or tiles are missing ({size} bytes)",
        )


def _page_to_rgb(path: Path, page: TiffPage, samples: np.ndarray) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 of a decoded page, not yet upright, and the significant bits of its samples."""
    if samples.ndim == 3 and page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, 2)
    if samples.ndim == 2:
        samples = samples[..., None]
    premultiplied = ASSOCIATED_ALPHA in page.extrasamples
    photometric = page.photometric
    colours = COLOURS.get(photometric, 1)
    if photometric not in SUPPORTED_PHOTOMETRICS or samples.shape[2] < colours:
        name = getattr(page.photometric, "name", page.photometric)
        raise ScanError(
            path,
            f"{samples.shape[2]} samples a pixel with photometric {name}; "
            "allowed: grey, palette, RGB or CMYK, with or without alpha",
        )
    if photometric == PHOTOMETRIC.PALETTE:
        colormap = page.colormap
        if colormap is None:
            raise ScanError(path, "palette TIFF has no colour map")
        # 16-bit entries are written as 8-bit ones times 256 or 257, or (against the standard) unscaled.
        entries = colormap >> 8 if colormap.max() > 255 else colormap
        return to_rgb(np.moveaxis(entries, 0, 1).astype(np.uint8)[samples[..., 0]]), page.bitspersample
    if photometric == PHOTOMETRIC.SEPARATED:
        if samples.dtype != np.uint8:
            raise ScanError(path, f"CMYK samples are {samples.dtype}; allowed: uint8")
        light = 255 - samples[..., :4].astype(np.uint16)
        return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8), 8
    samples = samples[..., : colours + (1 if page.extrasamples and int(page.extrasamples[0]) else 0)]
    return _samples_to_rgb(path, samples, page, premultiplied, inverted=photometric == PHOTOMETRIC.MINISWHITE)


def _samples_to_rgb(
    path: Path, samples: np.ndarray, page: TiffPage, premultiplied: bool, *, inverted: bool
) -> tuple[np.ndarray, int]:
    bits = page.bitspersample
    if samples.dtype == bool:
        rgb = to_rgb(samples.astype(np.uint8) * 255)
    elif samples.dtype.kind == "f":
        rgb = to_rgb(scale_floats_to_8_bits(path, samples), premultiplied=premultiplied)
    elif samples.dtype.kind in "ui" and samples.dtype.itemsize <= 2:
        if samples.dtype.kind == "i" and samples.min() < 0:
            raise ScanError(path, f"signed samples reach {samples.min()}; allowed: 0 and above")
        if samples.dtype.itemsize == 1:
            # Packed samples of fewer than 8 bits come unscaled.
            scaled = np.rint(samples * (255.0 / ((1 << bits) - 1))).astype(np.uint8) if bits < 8 else samples
            rgb = to_rgb(scaled.astype(np.uint8), premultiplied=premultiplied)
        else:
            rgb, bits = deep_to_rgb(samples.astype(np.uint16), premultiplied=premultiplied)
    else:
        raise ScanError(path, f"samples are {samples.dtype}; allowed: integers up to 16 bits, or floats")
    return (255 - rgb if inverted else rgb), bits


def _read_with_pillow(path: Path, page: TiffPage) -> tuple[np.ndarray, int]:
    """The page through libtiff, where tifffile alone cannot undo the compression or the colours."""
    compression = getattr(page.compression, "name", page.compression)
    if page.bitspersample > 8 and page.samplesperpixel > 1:  # Pillow would drop the low bytes
        raise ScanError(
            path,
            f"{page.samplesperpixel} x {page.bitspersample}-bit samples with {compression} compression need "
            "the imagecodecs package (pip install imagecodecs)",
        )
    with path.open("rb") as stream:
        image = TiffImageFile(stream)
        image.seek(page.index)
        image.load()
        return picture_to_rgb(path, image)
