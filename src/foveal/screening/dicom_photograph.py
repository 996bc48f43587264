"""What is known of one screened photograph, in the form in which it becomes DICOM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from foveal.measurement.landmarks import NOTHING_KNOWN, Landmarks, Laterality
from foveal.scans.scan import Scan


class MeasuredValue(NamedTuple):
    """One measured number.

    Attributes:
        name: of the column; it becomes the code of the measurement.
        title: for people.
        value: the number; one that is not finite, or None, is left out of the report.
        unit: one of `foveal.screening.dicom_codes.UNITS`.
    """

    name: str
    title: str
    value: float | None
    unit: str


@dataclass(frozen=True, eq=False)
class DicomPhotograph:
    """One screened photograph.

    Attributes:
        scan: the photograph as it was read; where a manifest knows more of the patient or the eye than the
            file does, `dataclasses.replace` puts that in first. Its file is read again.
        masks: (H, W) bool on the grid of `scan.image` by structure. The names in
            `foveal.screening.dicom_codes.STRUCTURES` have codes that other software knows; any other name
            gets one of foveal's own. An empty mask says that the structure was looked for and not found.
        landmarks: what was found of disc and fovea, in pixels of `scan.image`.
        values: the measurements.
        quality: grade of the photograph.
        versions: of everything that decided the result, by name: the package, its networks' weights.
        probabilities: (H, W) in [0, 1] by structure; they become a segmentation of their own.

    Raises:
        ValueError: a mask or a map of probabilities does not fit the photograph, there is no mask, or
            no version.
    """

    scan: Scan
    masks: Mapping[str, np.ndarray]
    landmarks: Landmarks = NOTHING_KNOWN
    values: Sequence[MeasuredValue] = ()
    quality: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    probabilities: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.scan.image.shape[:2]
        if not self.masks:
            raise ValueError("masks is empty; a segmentation needs one mask or more")
        if not self.versions.get("foveal"):
            raise ValueError(f"versions must name foveal's version, got {dict(self.versions)}")
        for name, mask in self.masks.items():
            if mask.shape != shape or mask.dtype != bool:
                raise ValueError(f"mask {name!r} is {mask.shape} {mask.dtype}; allowed: {shape} bool")
        for name, level in self.probabilities.items():
            if level.shape != shape or level.dtype.kind != "f" or not (level.min() >= 0 and level.max() <= 1):
                found = f"{level.shape} {level.dtype} from {level.min()} to {level.max()}"
                raise ValueError(f"probability {name!r} is {found}; allowed: {shape} floats in [0, 1]")

    @property
    def laterality(self) -> Laterality | None:
        """The eye: as the file says, else as it was found."""
        return self.scan.laterality or self.landmarks.laterality
