"""What the markers of a JPEG or JPEG 2000 codestream say, without decoding it (ITU-T T.81, T.87, T.800)."""

from collections.abc import Iterator

START_OF_SCAN = 0xDA
# Frame headers of T.81 (C4, C8, CC in their range are something else) and of JPEG-LS.
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}
JPEG_2000_START = b"\xff\x4f\xff\x51"
END = b"\xff\xd9"


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of the marker) of a JPEG up to its first scan."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        yield marker, offset
        if marker == START_OF_SCAN:
            return
        length = 0 if marker in WITHOUT_LENGTH else int.from_bytes(data[offset + 2 : offset + 4])
        offset += 2 + length


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels that the frame header claims; None when there is no such header."""
    start = data[:4096].find(JPEG_2000_START)
    if start >= 0:
        fields = data[start + 8 : start + 24]
        right, bottom, left, top = (int.from_bytes(fields[i : i + 4]) for i in range(0, 16, 4))
        return right - left, bottom - top
    for marker, offset in _segments(data):
        if marker in START_OF_FRAME:
            height, width = (int.from_bytes(data[offset + i : offset + i + 2]) for i in (5, 7))
            return width, height
    return None


def codestream_is_complete(data: bytes) -> bool:
    """Whether the end marker follows the (first) scan.

    Decoders fill what is missing with grey or leave it blurred; only the markers tell. Entropy-coded
    data never holds FF D9, so finding it behind the start of the scan is proof. A file cut in the
    middle and given an end marker by a repair tool is not found out.
    """
    if JPEG_2000_START in data[:4096]:
        return data.rstrip(b"\0").endswith(END)
    start = next((offset for marker, offset in _segments(data) if marker == START_OF_SCAN), None)
    return start is not None and data.find(END, start) >= 0
