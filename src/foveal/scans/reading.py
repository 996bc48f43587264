"""One call from a file to a Scan, whatever clinics put in the file."""

import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

from foveal.scans.pixels import Limits
from foveal.scans.scan import Scan, ScanError

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"P5": "PPM",
    b"P6": "PPM",
}
# Recognised only to say what the file is.
REFUSED_SIGNATURES = {
    b"GIF8": "a GIF image",
    b"RIFF": "a RIFF file (WebP, AVI or WAV)",
    b"\0\0\0\x0cjP  ": "a bare JPEG 2000 image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive or Office document",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
}
DICOM_PREAMBLE_BYTES = 128
DICOM_SIGNATURE = b"DICM"
ALLOWED = "JPEG, PNG, TIFF, BMP, PPM or DICOM"


def read_scan(
    path: str | Path, *, frame: int = 0, salt: str = "", max_megapixels: float = 64.0, min_side: int = 64
) -> Scan:
    """Read a fundus photograph from JPEG, PNG, TIFF, BMP, PPM or DICOM as upright 8-bit RGB.

    The format is told by the content, never by the ending. Grey, palette, 1-bit, CMYK and 16-bit
    pictures become RGB; transparency is composited on black; the EXIF / TIFF orientation is applied.
    Samples deeper than 8 bits are scaled linearly to 0..255 from 2^bits - 1, where bits is DICOM's
    BitsStored, or for PNG and TIFF the smallest of 8, 10, 12, 14, 16 that holds the largest colour
    sample of the frame. Float TIFFs are scaled from the first of [0, 1], [0, 255], [0, 65535] that
    holds them. Colour profiles are not applied.

    Spacing comes from DICOM only. The resolution tags of JPEG, PNG and TIFF describe a print (72 or
    300 dots an inch, whatever the eye), so they are not used.

    Args:
        path: the file.
        frame: which page (TIFF) or frame (DICOM), from 0. The others have one.
        salt: for hashing the patient id of a DICOM, see `foveal.scans.dicom.hash_patient`.
        max_megapixels: largest frame that is decoded, in millions of pixels, checked from the header.
        min_side: smallest width and height, in pixels.

    Returns:
        The scan, with the SHA-256 of the file.

    Raises:
        ScanError: the file is missing, unreadable, no regular file, empty, of another kind, damaged,
            truncated, too small or too large, has no such frame, or is no photograph.
        ValueError: an argument is out of range.
    """
    if frame < 0:
        raise ValueError(f"frame is {frame}; allowed: 0 and above")
    path, limits = Path(path), Limits(max_megapixels=max_megapixels, min_side=min_side)
    try:
        _check_regular(path)
        format = _true_format(path)
        if format == "TIFF":
            from foveal.scans.tiff import read_tiff

            return replace(read_tiff(path, frame, limits), sha256=_sha256(path))
        if format == "DICOM":
            from foveal.scans.dicom import read_dicom

            return replace(read_dicom(path, frame, limits, salt=salt), sha256=_sha256(path))
        from foveal.scans.picture import read_picture

        data = path.read_bytes()
    except OSError as error:
        raise ScanError(path, f"cannot be read: {error.strerror or error}") from error
    if frame > 0:
        raise ScanError(path, f"frame is {frame}; allowed: 0 ({format} holds one image)")
    return replace(read_picture(path, data, format, limits), sha256=hashlib.sha256(data).hexdigest())


def has_dicom_preamble(path: Path) -> bool:
    """Whether the file carries DICOM's signature behind its 128-byte preamble."""
    with path.open("rb") as stream:
        return stream.read(DICOM_PREAMBLE_BYTES + 4)[DICOM_PREAMBLE_BYTES:] == DICOM_SIGNATURE


def _check_regular(path: Path) -> None:
    """Raise ScanError for anything that opening would block on or fail at. Opens nothing itself."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        reason = "is a link to a file that does not exist" if os.path.islink(path) else "does not exist"
        raise ScanError(path, reason) from error
    except ValueError as error:  # a NUL in the name
        raise ScanError(path, f"is no possible file name: {error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise ScanError(path, "is a folder; allowed: a file")
    if not stat.S_ISREG(status.st_mode):
        raise ScanError(path, "is a pipe, socket or device; allowed: a regular file")
    if status.st_size == 0:
        raise ScanError(path, "is empty (0 bytes)")


def _true_format(path: Path) -> str:
    """The format that the first bytes tell. DICOM first: its preamble may pose as a TIFF."""
    if has_dicom_preamble(path):
        return "DICOM"
    with path.open("rb") as stream:
        head = stream.read(16)
    for signature, format in SIGNATURES.items():
        if head.startswith(signature):
            return format
    found = next((name for start, name in REFUSED_SIGNATURES.items() if head.startswith(start)), None)
    if found is None:
        found = f"no image (it begins with {head!r})"
    ending = f", in spite of its ending {path.suffix}" if path.suffix else ""
    raise ScanError(path, f"is {found}{ending}; allowed: {ALLOWED}")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
