"""One photograph, from its file to its record: quality, vessels and other structures, biomarkers, grade."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveal.files import write_atomically
from foveal.machine import keep_freed_memory
from foveal.screening.columns import (
    QUALITY_MEASURES,
    lesion_number_columns,
    measured_columns,
    screened_biomarkers,
)
from foveal.screening.records import Failure, Provenance, Record, Value, failure_reason, tidy, write_record
from foveal.screening.settings import ScreenSettings

if TYPE_CHECKING:
    from foveal.measurement.eye import Eye
    from foveal.measurement.landmark_finding import FoundLandmarks
    from foveal.measurement.landmarks import Laterality
    from foveal.scans.discovery import ScanRef
    from foveal.scans.field_of_view import FieldOfView
    from foveal.scans.quality import Quality
    from foveal.scans.scan import Scan
    from foveal.screening.structures import KindsOfVessels, LandmarksAndDoubt, LesionsAndDoubt

ARTERY, VEIN, CROSSING = 1, 2, 3
"""Values of vessel pixels in `masks/NAME.png`; 0 is background, and both kinds are where vessels cross."""

POSSIBLE_VESSEL = 0.1
"""Probability from which a pixel counts towards the mean confidence."""


@dataclass(frozen=True)
class Job:
    """What every worker needs to know; small and picklable, models are loaded where they run.

    Attributes:
        report: folder of the report; its sub-folders exist.
        settings: of the run.
        provenance: recorded with each result.
        models: folder of each network, by its name.
        grader: folder of a saved classifier, or None.
        device: torch device on which the networks run.
        threads: threads for torch in this process.
    """

    report: Path
    settings: ScreenSettings
    provenance: Provenance
    models: dict[str, Path]
    grader: Path | None
    device: str
    threads: int

    def __call__(self) -> "Screener":
        """A screener with its models loaded."""
        return Screener(self)


@dataclass
class Steps:
    """Names the step under way, so that a failure can say where it happened, and times each."""

    current: str = "read"
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Enter the step `name`."""
        self.current = name
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + round(time.perf_counter() - start, 4)


class Screener:
    """Screens one photograph at a time with models that are loaded once.

    Args:
        job: what to screen with.

    Raises:
        OSError, ValueError: a model folder cannot be loaded.
    """

    def __init__(self, job: Job) -> None:
        import torch

        from foveal.screening.structures import Networks

        self.job = job
        keep_freed_memory()
        torch.set_num_threads(job.threads)
        self.networks = Networks.load(job.models, job.device)
        self.grader = None
        if job.grader is not None:
            from foveal.screening.grading import Grader

            self.grader = Grader(job.grader, job.device, job.settings.explain)
        self.software = {
            "foveal": job.provenance.foveal,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }

    def __call__(self, ref: "ScanRef") -> Record | Failure:
        """Screen one photograph and write its files; whatever goes wrong comes back as a `Failure`."""
        steps = Steps()
        try:
            return self._screen(ref, steps)
        except MemoryError:
            reason = (
                "not enough memory for this photograph; lower `workers`, or set `max_megapixels` below it"
            )
        except Exception as error:
            reason = failure_reason(error)
        return Failure(str(ref.path), ref.name, steps.current, reason)

    def _screen(self, ref: "ScanRef", steps: Steps) -> Record:
        from foveal.measurement.eye import Eye
        from foveal.measurement.lesion_columns import measure_lesions
        from foveal.measurement.lesion_summary import rule_summary
        from foveal.measurement.measure import measure_eye
        from foveal.scans.field_of_view import find_field_of_view
        from foveal.scans.quality import assess_quality
        from foveal.scans.reading import read_scan
        from foveal.screening import pictures
        from foveal.screening import structures as of
        from foveal.screening.explaining import Explained, explain_landmarks
        from foveal.screening.layers import Seen, report_layers
        from foveal.screening.report import write_first_page
        from foveal.segmentation.inference import segment_vessels

        settings = self.job.settings
        with steps("read"):
            scan = read_scan(ref.path, salt=settings.salt, max_megapixels=settings.max_megapixels)
            stated = laterality_of(ref.laterality or scan.laterality)
        with steps("field of view"):
            field = find_field_of_view(scan.image)
        with steps("quality"):
            quality = assess_quality(scan.image, field)
        with steps("vessels"):
            vessels = segment_vessels(self.networks.vessels, scan.image, field, views=settings.views)
            confidence = _mean_confidence(vessels.probability, vessels.confidence, field.mask)
            levels = probability_levels(vessels.probability, field.mask)
            doubt = pictures.shrink(_doubt_levels(vessels.confidence, field.mask), side=pictures.SOFT_SIDE)
            del vessels
            # From the levels, so that the mask can be made again from the written probability map.
            vessel = levels >= round(settings.threshold * 65535)
        with steps("landmarks"):
            landmarks = of.look_for_landmarks(self.networks, scan.image, field, vessel, stated=stated)
            known = landmarks.found.landmarks
        with steps("arteries and veins"):
            eye = Eye(field, vessel, landmarks=known, spacing_mm=scan.spacing_mm, image=scan.image)
            kinds = of.tell_arteries_from_veins(self.networks, eye, views=settings.views)
            eye = kinds.eye
        with steps("lesions"):
            disc = landmarks.found.disc_mask
            lesions = of.look_for_lesions(self.networks, scan.image, field, disc=disc)
        with steps("biomarkers"):
            columns = screened_biomarkers()
            biomarkers = measure_eye(eye, columns=columns)
            lesion_values = measure_lesions(lesions.found, eye)
            rule = rule_summary(lesions.found, eye, quality=quality.grade)
        grade: dict[str, Value] = {}
        explained = Explained()
        if self.grader is not None:
            with steps("grader"):
                grade, explained = self.grader(scan.image, field)
        if settings.explain:
            with steps("explanations"):
                explained.extend(
                    explain_landmarks(self.networks.landmarks, scan.image, field, methods=settings.explain)
                )
        with steps("pictures"):
            maps = {
                f"vessels/{ref.name}.png": pictures.grey_png(levels),
                f"arteries/{ref.name}.png": pictures.grey_png(_artery_levels(levels, kinds.artery)),
                f"masks/{ref.name}.png": pictures.grey_png(mask_levels(kinds.eye)),
                f"structures/{ref.name}.png": pictures.grey_png(of.structure_levels(disc, lesions.found)),
            }
            layers = report_layers(
                Seen(eye, levels, doubt, landmarks, kinds, lesions, [r.levels for r in explained.reasons])
            )
            outline, thumbnail = pictures.field_path(field), pictures.thumbnail(scan.image, field)
        with steps("write"):
            values = _photograph_values(ref, scan, field, settings.salt) | _quality_values(quality)
            values |= {c.name: tidy(biomarkers[c.name], c.biomarker.unit) for c in columns}
            values |= {
                "vessel_confidence": tidy(confidence),
                "artery_vein_confidence": tidy(kinds.confidence),
            }
            values |= landmark_values(landmarks.found)
            values |= {c.name: tidy(lesion_values[c.name], c.unit) for c in lesion_number_columns()}
            values |= {"lesion_rule_summary": rule.value, "lesion_rule_basis": rule.basis} | grade
            values |= {"sha256": scan.sha256} | _provenance_values(self.job.provenance)
            outputs = {
                path: write_atomically(self.job.report / path, content) for path, content in maps.items()
            }
            if settings.dicom:
                outputs |= self._write_dicom(
                    ref.name,
                    replace(scan, laterality=stated, patient=_patient(ref, scan, settings.salt)),
                    kinds,
                    landmarks,
                    lesions,
                    values,
                )
            record = Record(
                name=ref.name,
                input_sha256=scan.sha256,
                provenance=self.job.provenance,
                software=self.software,
                values=values,
                reasons=list(quality.reasons),
                missing=biomarkers.missing_reasons | lesion_values.missing_reasons,
                notes=_notes(scan, landmarks.found) + explained.remarks + explained.failures,
                explanations=[reason.told for reason in explained.reasons],
                unexplained=explained.failures,
                outputs=outputs,
                thumbnail=thumbnail,
                seconds={},
            )
            write_first_page(self.job.report, record, layers, outline)
        record = record.model_copy(update={"seconds": steps.seconds})
        write_record(self.job.report, record)
        return record

    def _write_dicom(
        self,
        name: str,
        scan: "Scan",
        kinds: "KindsOfVessels",
        landmarks: "LandmarksAndDoubt",
        lesions: "LesionsAndDoubt",
        values: dict[str, Value],
    ) -> dict[str, int]:
        from foveal.screening.dicom_output import write_dicom
        from foveal.screening.dicom_photograph import DicomPhotograph, MeasuredValue

        eye, disc = kinds.eye, landmarks.found.disc_mask
        assert eye.vessels is not None
        assert eye.arteries is not None
        assert eye.veins is not None
        masks = {"vessels": eye.vessels, "arteries": eye.arteries, "veins": eye.veins}
        masks |= {"disc": disc if disc is not None else np.zeros_like(eye.vessels)}
        masks |= {kind: lesions.found.mask(kind) for kind in lesions.found.names}
        measured = [
            MeasuredValue(column.name, column.title, float(value), column.unit)
            for column in measured_columns()
            if isinstance(value := values.get(column.name), int | float)
        ]
        weights = {f"{network} weights": digest for network, digest in self.job.provenance.weights.items()}
        photograph = DicomPhotograph(
            scan,
            masks,
            landmarks.found.landmarks,
            measured,
            str(values["quality"]),
            {"foveal": self.job.provenance.foveal} | weights,
        )
        folder = self.job.report / "dicom" / name
        return {f"dicom/{name}/{file}": size for file, size in write_dicom(folder, photograph).items()}


def laterality_of(text: str | None) -> "Laterality | None":
    """A stated laterality, "L" or "R"; None where it is neither."""
    return text if text in ("L", "R") else None  # type: ignore[return-value]


def mask_levels(eye: "Eye") -> np.ndarray:
    """(H, W) uint8 vessels of an eye whose arteries and veins are known: 0, ARTERY, VEIN or CROSSING."""
    assert eye.arteries is not None
    assert eye.veins is not None
    return eye.arteries * np.uint8(ARTERY) + eye.veins * np.uint8(VEIN)


def _artery_levels(levels: np.ndarray, artery: np.ndarray) -> np.ndarray:
    """(H, W) uint8: 255 times the probability of an artery, given a vessel, where a vessel is possible."""
    scaled = np.rint(artery * 255).astype(np.uint8)
    scaled[levels < POSSIBLE_VESSEL * 65535] = 0
    return scaled


def probability_levels(probability: np.ndarray, field_mask: np.ndarray) -> np.ndarray:
    """Probability in [0, 1] as uint16, rounded to 1/65535; 0 outside the field of view. Both are (H, W)."""
    scaled = np.multiply(probability, 65535, dtype=np.float32)
    np.rint(scaled, out=scaled)
    levels = scaled.astype(np.uint16)
    levels[~field_mask] = 0
    return levels


def _doubt_levels(confidence: np.ndarray, field_mask: np.ndarray) -> np.ndarray:
    """255 where the network is undecided, 0 where it is sure or outside the field of view."""
    doubt = np.rint((1 - confidence) * 255).astype(np.uint8)
    doubt[~field_mask] = 0
    return doubt


def _mean_confidence(probability: np.ndarray, confidence: np.ndarray, field_mask: np.ndarray) -> float:
    possible = (probability >= POSSIBLE_VESSEL) & field_mask
    return float(confidence[possible].mean()) if possible.any() else float("nan")


def _patient(ref: "ScanRef", scan: "Scan", salt: str) -> str | None:
    """Hash of the patient's id in the manifest, else in the file."""
    from foveal.scans.dicom import hash_patient

    return hash_patient(ref.patient, salt=salt) or scan.patient


def _photograph_values(ref: "ScanRef", scan: "Scan", eye: "FieldOfView", salt: str) -> dict[str, Value]:
    height, width = scan.image.shape[:2]
    row, column = scan.spacing_mm or (None, None)
    return {
        "name": ref.name,
        "path": str(ref.path),
        "patient": _patient(ref, scan, salt),
        "laterality": ref.laterality or scan.laterality,
        "acquired": scan.acquired.isoformat() if scan.acquired else None,
        "height": height,
        "width": width,
        "frames": scan.frames,
        "format": scan.format,
        "bit_depth": scan.bit_depth,
        "spacing_row": None if row is None else tidy(row),
        "spacing_column": None if column is None else tidy(column),
        "field_shape": eye.shape,
        "field_diameter": tidy(eye.diameter),
        "field_completeness": tidy(eye.completeness),
    }


def landmark_values(found: "FoundLandmarks") -> dict[str, Value]:
    """Cells of the landmark columns."""
    disc, fovea = found.landmarks.disc, found.landmarks.fovea
    numbers = {
        "disc_row": disc.center[0] if disc else None,
        "disc_column": disc.center[1] if disc else None,
        "disc_radius": disc.radius if disc else None,
        "disc_confidence": found.disc_confidence,
        "fovea_row": fovea[0] if fovea else None,
        "fovea_column": fovea[1] if fovea else None,
        "fovea_confidence": found.fovea_confidence,
        "laterality_confidence": found.laterality_confidence,
    }
    cells = {name: None if value is None else tidy(value) for name, value in numbers.items()}
    return {"laterality_found": found.laterality} | cells


def _quality_values(quality: "Quality") -> dict[str, Value]:
    measures = {
        column.name: tidy(quality.measures[column.name.removeprefix("quality_")], column.unit)
        for column in QUALITY_MEASURES
    }
    return {"quality": quality.grade, "quality_reasons": "; ".join(quality.reasons) or None} | measures


def _provenance_values(provenance: Provenance) -> dict[str, Value]:
    return {
        "foveal": provenance.foveal,
        "weights": " ".join(f"{name}:{digest[:16]}" for name, digest in provenance.weights.items()),
        "grader_weights": provenance.grader_weights,
    }


def _notes(scan: "Scan", found: "FoundLandmarks") -> list[str]:
    notes = [found.laterality_note] if found.laterality_note else []
    if scan.frames > 1:
        notes.append(f"The file holds {scan.frames} frames; only the first one is screened.")
    return notes
