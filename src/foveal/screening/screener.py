"""One photograph, from its file to its record: field of view, quality, vessels, biomarkers, grade."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveal.files import write_atomically
from foveal.screening.columns import QUALITY_MEASURES, screened_biomarkers
from foveal.screening.records import Failure, Provenance, Record, Value, failure_reason, tidy, write_record
from foveal.screening.settings import ScreenSettings

if TYPE_CHECKING:
    from foveal.measurement.eye import Eye
    from foveal.scans.discovery import ScanRef
    from foveal.scans.field_of_view import FieldOfView
    from foveal.scans.quality import Quality
    from foveal.scans.scan import Scan

VESSEL_OF_UNKNOWN_KIND = 3
"""Value of a vessel pixel in `masks/NAME.png`; 0 is background, 1 (artery) and 2 (vein) are reserved."""

POSSIBLE_VESSEL = 0.1
"""Probability from which a pixel counts towards the mean confidence."""


@dataclass(frozen=True)
class Job:
    """What every worker needs to know; small and picklable, models are loaded where they run.

    Attributes:
        report: folder of the report; its sub-folders exist.
        settings: of the run.
        provenance: recorded with each result.
        vessel_model: folder of the saved vessel model.
        grader: folder of a saved classifier, or None.
        device: torch device on which the networks run.
        threads: threads for torch in this process.
    """

    report: Path
    settings: ScreenSettings
    provenance: Provenance
    vessel_model: Path
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

        from foveal.models import Segmenter

        self.job = job
        torch.set_num_threads(job.threads)
        self.vessel_model = Segmenter.from_pretrained(job.vessel_model).to(job.device).eval()
        self.grader = None
        if job.grader is not None:
            from foveal.screening.grading import Grader

            self.grader = Grader(job.grader, job.device)
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
        from foveal.measurement.measure import measure_eye
        from foveal.scans.field_of_view import find_field_of_view
        from foveal.scans.quality import assess_quality
        from foveal.scans.reading import read_scan
        from foveal.screening import pictures
        from foveal.screening.report import write_first_page
        from foveal.segmentation.inference import segment_vessels

        settings = self.job.settings
        with steps("read"):
            scan = read_scan(ref.path, salt=settings.salt, max_megapixels=settings.max_megapixels)
        with steps("field of view"):
            eye = find_field_of_view(scan.image)
        with steps("quality"):
            quality = assess_quality(scan.image, eye)
        with steps("vessels"):
            vessels = segment_vessels(self.vessel_model, scan.image, eye, views=settings.views)
            confidence = _mean_confidence(vessels.probability, vessels.confidence, eye.mask)
            levels = probability_levels(vessels.probability, eye.mask)
            doubt = pictures.shrink(_doubt_levels(vessels.confidence, eye.mask), side=pictures.SOFT_SIDE)
            del vessels
            # From the levels, so that the mask can be made again from the written probability map.
            vessel = levels >= round(settings.threshold * 65535)
        with steps("biomarkers"):
            columns = screened_biomarkers()
            measured = Eye(eye, vessel, spacing_mm=scan.spacing_mm, image=scan.image)
            biomarkers = measure_eye(measured, columns=columns)
        grade, relevance = None, None
        if self.grader is not None:
            with steps("grader"):
                grade, relevance = self.grader(scan.image, eye)
        with steps("pictures"):
            maps = {
                f"vessels/{ref.name}.png": pictures.grey_png(levels),
                f"masks/{ref.name}.png": pictures.grey_png(mask_levels(vessel)),
            }
            layers = _layers(measured, levels, doubt, relevance)
            outline, thumbnail = pictures.field_path(eye), pictures.thumbnail(scan.image, eye)
        with steps("write"):
            values = _photograph_values(ref, scan, eye, settings.salt) | _quality_values(quality)
            values |= {c.name: tidy(biomarkers[c.name], c.biomarker.unit) for c in columns}
            values |= {"vessel_confidence": tidy(confidence)} | (grade or {})
            values |= {"sha256": scan.sha256} | _provenance_values(self.job.provenance)
            record = Record(
                name=ref.name,
                input_sha256=scan.sha256,
                provenance=self.job.provenance,
                software=self.software,
                values=values,
                reasons=list(quality.reasons),
                missing=biomarkers.missing_reasons,
                notes=_notes(scan),
                outputs={
                    path: write_atomically(self.job.report / path, content) for path, content in maps.items()
                },
                thumbnail=thumbnail,
                seconds={},
            )
            write_first_page(self.job.report, record, layers, outline)
        record = record.model_copy(update={"seconds": steps.seconds})
        write_record(self.job.report, record)
        return record


def _layers(
    measured: "Eye", levels: np.ndarray, doubt: np.ndarray, relevance: np.ndarray | None
) -> dict[str, str]:
    """Data URIs of a page's pictures by name, see `foveal.screening.report.LAYERS`."""
    from foveal.screening import pictures
    from foveal.screening.vessel_overlays import vessel_layers

    assert measured.image is not None, "a photograph is screened"
    assert measured.vessels is not None, "its vessels were segmented"
    coverage = pictures.shrink(measured.vessels.view(np.uint8) * np.uint8(255))
    probability = pictures.shrink((levels >> 8).astype(np.uint8), side=pictures.SOFT_SIDE)
    layers = {
        "photograph": pictures.photograph(measured.image),
        "outline": pictures.vessel_outline(coverage),
        "fill": pictures.vessel_fill(coverage),
        **vessel_layers(measured),
        "probability": pictures.stain(probability, pictures.PROBABILITY_RAMP, opaque_from=0.6),
        "doubt": pictures.stain(doubt, pictures.DOUBT_RAMP),
    }
    if relevance is not None:
        layers["relevance"] = pictures.stain(relevance, pictures.RELEVANCE_RAMP, opaque_from=1.2)
    return layers


def mask_levels(vessel: np.ndarray) -> np.ndarray:
    """(H, W) bool vessels as uint8: 0 background, 3 vessel of unknown kind."""
    return vessel.view(np.uint8) * np.uint8(VESSEL_OF_UNKNOWN_KIND)


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


def _photograph_values(ref: "ScanRef", scan: "Scan", eye: "FieldOfView", salt: str) -> dict[str, Value]:
    from foveal.scans.dicom import hash_patient

    height, width = scan.image.shape[:2]
    row, column = scan.spacing_mm or (None, None)
    return {
        "name": ref.name,
        "path": str(ref.path),
        "patient": hash_patient(ref.patient, salt=salt) or scan.patient,
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


def _quality_values(quality: "Quality") -> dict[str, Value]:
    measures = {
        column.name: tidy(quality.measures[column.name.removeprefix("quality_")], column.unit)
        for column in QUALITY_MEASURES
    }
    return {"quality": quality.grade, "quality_reasons": "; ".join(quality.reasons) or None} | measures


def _provenance_values(provenance: Provenance) -> dict[str, Value]:
    return {
        "foveal": provenance.foveal,
        "vessel_weights": provenance.vessel_weights,
        "grader_weights": provenance.grader_weights,
    }


def _notes(scan: "Scan") -> list[str]:
    notes = []
    if scan.frames > 1:
        notes.append(f"The file holds {scan.frames} frames; only the first one is screened.")
    return notes
