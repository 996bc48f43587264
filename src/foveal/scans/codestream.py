"""What the markers of a JPEG or JPEG 2000 codestream say, without decoding it (ITU-T T.81, T.87, T.800)."""

from collections.abc import Iterator

START_OF_SCAN = 0xDA
# Frame headers of T.81 (C4, C8, CC in their range are something else) and of JPEG-LS.
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
ADOBE = 0xEE
WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}
JPEG_2000_START = b"\xff\x4f\xff\x51"
END = b"\xff\xd9"


def codestream_segments(data: bytes) -> Iterator[tuple[int, int]]:
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
    for marker, offset in codestream_segments(data):
        if marker in START_OF_FRAME:
            height, width = (int.from_bytes(data[offset + i : offset + i + 2]) for i in (5, 7))
            return width, height
    return None


def header_fault(data: bytes, *, samples: int, most_bits: int) -> str | None:
    """What is wrong with the header of a JPEG (or JPEG-LS) for a decoder that expects it to be sound.

    Args:
        data: the codestream.
        samples: samples a pixel that the frame must have.
        most_bits: bits a sample that it may have at most.

    Returns:
        What was found and what is allowed; None for a header with each segment where the last one ends, one
        frame header that fits, and one scan after it.
    """
    segments = list(codestream_segments(data))
    if data[:2] != b"\xff\xd8" or not segments or segments[-1][0] != START_OF_SCAN:
        return "its segments do not lead from its start to a scan"
    unknown = [marker for marker, _ in segments if marker < 0xC0 or marker in WITHOUT_LENGTH]
    if unknown:
        return f"marker {unknown[0]:02X} stands before the scan; allowed there: C0 to CF, DA to FE"
    frames = [offset for marker, offset in segments if marker in START_OF_FRAME]
    if len(frames) != 1:
        return f"it has {len(frames)} frame headers; allowed: 1"
    bits, found = data[frames[0] + 4], data[frames[0] + 9]
    if found != samples or not 2 <= bits <= most_bits:
        return f"{found} samples of {bits} bits a pixel; allowed: {samples} of 2 to {most_bits}"
    for marker, offset in segments:
        transform = data[offset + 15 : offset + 16]
        if (
            marker == ADOBE
            and data[offset + 4 : offset + 9] == b"Adobe"
            and transform not in (b"\0", b"\1", b"\2")
        ):
            return f"Adobe colour transform {transform.hex()}; allowed: 00 to 02"
    return None


def codestream_is_complete(data: bytes) -> bool:
    """Whether the end marker follows the (first) scan.

    Decoders fill what is missing with grey or leave it blurred; only the markers tell. Entropy-coded
    data never holds FF D9, so finding it behind the start of the scan is proof. A file cut in the
    middle and given an end marker by a repair tool is not found out.
    """
    if JPEG_2000_START in data[:4096]:
        return data.rstrip(b"\0").endswith(END)
    start = next((offset for marker, offset in codestream_segments(data) if marker == START_OF_SCAN), None)
    return start is not None and data.find(END, start) >= 0
