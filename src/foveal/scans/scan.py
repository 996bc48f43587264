"""The scan: one photograph as the rest of foveal sees it, and the error that names a file which is none."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np

Laterality = Literal["L", "R"]


@dataclass(frozen=True, eq=False)
class Scan:
    """One photograph (or one frame of a multi-frame file), upright and in 8-bit colour.

    Attributes:
        image: (H, W, 3) uint8 RGB; the orientation tag of the file is already applied.
        path: the file that was read.
        frame: index of this frame, from 0.
        frames: number of frames (or pages) in the file.
        spacing_mm: millimetres a pixel along (rows, columns) of `image`; None when the file does not say.
        laterality: "L" or "R"; None when the file does not say.
        acquired: day of acquisition; None when the file does not say.
        patient: salted SHA-256 of the patient id, never the id itself; None when the file has none.
        bit_depth: significant bits a channel in the file, before scaling to 8 (32 or 64 for floats).
        format: what the content is, whatever the ending says: "JPEG", "PNG", "TIFF", "BMP", "PPM" or "DICOM".
        sha256: hexadecimal SHA-256 of the file's bytes.

    Raises:
        ValueError: `image` is not (H, W, 3) uint8, or `frame` is not one of `frames`.
    """

    image: np.ndarray
    path: Path
    frame: int = 0
    frames: int = 1
    spacing_mm: tuple[float, float] | None = None
    laterality: Laterality | None = None
    acquired: date | None = None
    patient: str | None = None
    bit_depth: int = 8
    format: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"image is {self.image.shape} {self.image.dtype}; allowed: (H, W, 3) uint8")
        if not 0 <= self.frame < self.frames:
            raise ValueError(f"frame is {self.frame} of {self.frames}; allowed: 0 to {self.frames - 1}")


class ScanError(ValueError):
    """A file that cannot be used as a scan. Reads "PATH: reason"; survives pickling between processes.

    Attributes:
        path: the file.
        reason: what was found and what is allowed.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
