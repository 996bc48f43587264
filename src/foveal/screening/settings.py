"""Settings of a screening run."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from foveal.settings import Settings


class ScreenSettings(Settings):
    """How photographs are screened.

    Attributes:
        title: heading of the report.
        workers: processes that screen at the same time; None: one a processor core.
        device: where the networks run; "auto" takes a CUDA device when there is one.
        threshold: probability from which a pixel counts as vessel, within (0, 1).
        views: mirror images over which the vessel network is averaged; more are slower and steadier.
        max_megapixels: larger photographs are refused before they are decoded.
        salt: secret that is mixed into the hash of a patient id. The same salt gives the same hash, so keep
            one for all reports that shall be joined by patient, and keep it from their readers.
        vessel_model: folder of a saved `Segmenter` of vessels; None: the shipped one, here and below.
        artery_vein_model: of a `Segmenter` that tells arteries from veins.
        landmark_model: of a `Segmenter` of disc and fovea.
        lesion_model: of a `Segmenter` of lesions.
        explain: methods of `foveal.explanation` that explain the grade, the disc and the fovea of each
            photograph; none: only the grade of a run with a grader is explained, by "cam".
        dicom: also write each photograph's structures and measurements as DICOM objects.
    """

    title: str = "Retinal photographs"
    workers: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    views: Literal[1, 2, 4] = 2
    max_megapixels: float = Field(default=64.0, gt=0)
    salt: str = ""
    vessel_model: Path | None = None
    artery_vein_model: Path | None = None
    landmark_model: Path | None = None
    lesion_model: Path | None = None
    explain: tuple[str, ...] = ()
    dicom: bool = False

    def model_folders(self) -> dict[str, Path]:
        """The folder of each network by name: the given one, else the shipped one."""
        from foveal.models import shipped_model

        given = {
            "vessels": self.vessel_model,
            "artery-vein": self.artery_vein_model,
            "landmarks": self.landmark_model,
            "lesions": self.lesion_model,
        }
        return {name: folder or shipped_model(name) for name, folder in given.items()}

    def result_hash(self) -> str:
        """SHA-256 of the settings that change a result (weights have hashes of their own)."""
        from foveal.scans.dicom import hash_patient

        # The hash of a fixed word stands for the salt, which may also come from the environment.
        deciding = {
            "threshold": self.threshold,
            "views": self.views,
            "dicom": self.dicom,
            "explain": self.explain,
            "patients": hash_patient("foveal", salt=self.salt),
        }
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
