"""A JPEG photograph as a DICOM frame: its own codestream, so that nothing is lost and nothing grows."""

from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from foveal.scans.codestream import END, codestream_segments
from foveal.scans.pixels import to_rgb

START = b"\xff\xd8"
BASELINE, START_OF_SCAN = 0xC0, 0xDA
# Quantisation and Huffman tables, restart interval, the frame and the scan; not APPn and comments, which
# hold EXIF, thumbnails, positions and names.
KEPT = (0xC4, 0xDB, 0xDD, BASELINE)


class JpegFrame(NamedTuple):
    """A codestream for the transfer syntax JPEG Baseline.

    Attributes:
        codestream: from its start marker to its end marker, without metadata.
        photometric: DICOM's name for its colour space (PS3.5 8.2.1).
    """

    codestream: bytes
    photometric: str


def jpeg_frame(data: bytes, image: np.ndarray) -> JpegFrame | None:
    """The codestream of a JPEG file without its metadata, if it shows `image` as it is.

    Args:
        data: the file.
        image: (H, W, 3) uint8 RGB that was read from it.

    Returns:
        None where the file is not baseline coded, or decodes to other pixels: where its EXIF block turns it,
        or its colours are not YCbCr.
    """
    frame = _without_metadata(data)
    if frame is None:
        return None
    picture = JpegImageFile(BytesIO(frame.codestream))
    if picture.mode not in ("L", "RGB") or picture.size != image.shape[1::-1]:
        return None
    return frame if np.array_equal(to_rgb(np.asarray(picture)), image) else None


def _without_metadata(data: bytes) -> JpegFrame | None:
    segments = list(codestream_segments(data))
    headers = [offset for marker, offset in segments if marker == BASELINE]
    if len(headers) != 1 or segments[-1][0] != START_OF_SCAN:
        return None
    scan = segments[-1][1]
    end = data.find(END, scan)  # what may follow is no part of the picture
    if end < 0:
        return None
    kept = [
        data[offset : offset + 2 + int.from_bytes(data[offset + 2 : offset + 4])]
        for marker, offset in segments
        if marker in KEPT
    ]
    header = data[headers[0] :]
    samplings = {header[11 + 3 * component] for component in range(header[9])}
    if header[9] == 1:
        photometric = "MONOCHROME2"
    else:
        photometric = "YBR_FULL" if samplings == {0x11} else "YBR_FULL_422"
    return JpegFrame(b"".join([START, *kept, data[scan : end + 2]]), photometric)
