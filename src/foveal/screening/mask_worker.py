"""One mask, from its file to its record: field of view, landmarks, biomarkers."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import foveal
from foveal.files import file_sha256, write_atomically
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import Disc, Landmarks, MissingError, disc_of_mask, enclosing_disc
from foveal.measurement.measure import biomarker_columns, measure_eye
from foveal.measurement.registry import Kind
from foveal.scans.scan import ScanError
from foveal.scans.vessel_masks import VesselMask, read_vessel_mask
from foveal.screening.landmark_tables import DISC_COLUMNS, FOVEA_COLUMNS
from foveal.screening.mask_record import MaskRecord
from foveal.screening.mask_settings import MeasureSettings
from foveal.screening.mask_sources import MaskItem
from foveal.screening.records import Failure, Value, failure_reason, tidy
from foveal.screening.run import MARKER

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView


@dataclass(frozen=True)
class MaskJob:
    """What every worker needs to know; small and picklable.

    Attributes:
        settings: of the run.
        overlays: folder for pictures of what was measured; None for none.
    """

    settings: MeasureSettings
    overlays: Path | None = None

    def __call__(self) -> Callable[[MaskItem], MaskRecord | Failure]:
        """What a worker does with each mask; unlike a model it needs no preparation."""
        return self.measure

    def overlay(self, name: str) -> Path | None:
        """Where the picture of a mask lies."""
        return None if self.overlays is None else self.overlays / f"{name}.jpg"

    def measure(self, item: MaskItem) -> MaskRecord | Failure:
        """Measure one mask; whatever goes wrong comes back as a `Failure`."""
        stage = _Stage()
        try:
            return self._measure(item, stage)
        except MemoryError:
            reason = "not enough memory for this mask; lower the number of workers"
        except Exception as error:
            reason = failure_reason(error)
            if isinstance(error, ScanError) and error.path != item.path:
                reason = f"{error.path}: {reason}"
        return Failure(str(item.path), item.name, stage.name, reason)

    def _measure(self, item: MaskItem, stage: "_Stage") -> MaskRecord:
        settings = self.settings
        key = result_key(item, settings)
        with stage("read"):
            mask = read_vessel_mask(item.path, coding=_coding(item, settings), threshold=settings.threshold)  # type: ignore[arg-type]
            shape = mask.vessels.shape
        with stage("photograph"):
            image, image_spacing = _photograph(item, shape)
        with stage("field of view"):
            field, field_source = _field(item, image, shape)
        with stage("landmarks"):
            landmarks, circle = _landmarks(item, shape)
        spacing, scale_source = _scale(item, settings, image_spacing, landmarks)
        eye = Eye(field, mask.vessels, mask.arteries, mask.veins, landmarks, spacing, image)
        with stage("biomarkers"):
            columns = biomarker_columns(eye.kinds, settings.regions)
            measures = measure_eye(eye, columns=columns)
            values = _facts(item, mask, eye, field_source) | {"scale_source": scale_source}
            values |= {column.name: tidy(measures[column.name], column.biomarker.unit) for column in columns}
            missing = dict(measures.missing_reasons)
            if settings.compat == "pvbm3":
                _add_pvbm3(mask, circle, values, missing)
        overlay = self.overlay(item.name)
        if overlay is not None:
            with stage("overlay"):
                from foveal.screening.mask_overlays import overlay_jpeg

                write_atomically(overlay, overlay_jpeg(eye))
        return MaskRecord(
            name=item.name, key=key, kinds=eye.kinds, values=values, missing=missing, notes=mask.notes
        )


class _Stage:
    """Names the step under way, so that a failure can say where it happened."""

    name = "read"

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.name = name
        yield


def result_key(item: MaskItem, settings: MeasureSettings) -> str:
    """SHA-256 of all that decides the result: files, landmarks, scale, settings and foveal's version.

    Raises:
        OSError: a file cannot be read.
    """
    deciding = {
        "foveal": foveal.__version__,
        "settings": settings.result_hash(),
        "files": [file_sha256(path) for path in item.files],
        "disc": repr(item.disc) if isinstance(item.disc, Disc) else None,
        "fovea": item.fovea if isinstance(item.fovea, tuple) else None,
        "laterality": item.laterality,
        "spacing": item.spacing_mm,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _coding(item: MaskItem, settings: MeasureSettings) -> str:
    """The coding as given; label 3 of a mask in foveal's own report is told by where the mask lies."""
    folder = item.path.parent
    own = folder.name == "masks" and (folder.parent / MARKER).is_file()
    return "av-foveal" if own and settings.coding == "auto" else settings.coding


def _photograph(
    item: MaskItem, shape: tuple[int, ...]
) -> tuple[np.ndarray | None, tuple[float, float] | None]:
    if item.image is None:
        return None, None
    from foveal.scans.reading import read_scan

    scan = read_scan(item.image)
    _check_shape(item.image, "photograph", scan.image.shape[:2], shape)
    return scan.image, scan.spacing_mm


def _field(item: MaskItem, image: np.ndarray | None, shape: tuple[int, ...]) -> tuple["FieldOfView", str]:
    from foveal.scans.area_masks import field_of_mask, read_field_mask, whole_frame

    if item.field is not None:
        seen = read_field_mask(item.field)
        _check_shape(item.field, "field of view", seen.shape, shape)
        return field_of_mask(seen), "mask"
    if image is not None:
        from foveal.scans.field_of_view import find_field_of_view

        return find_field_of_view(image), "photograph"
    return whole_frame(shape), "whole frame"


def _landmarks(item: MaskItem, shape: tuple[int, ...]) -> tuple[Landmarks, Disc | None]:
    """Landmarks, and the disc as PVBM takes it."""
    from foveal.scans.area_masks import read_area_mask

    disc = circle = item.disc
    if isinstance(item.disc, Path):
        area = read_area_mask(item.disc)
        _check_shape(item.disc, "disc's mask", area.shape, shape)
        disc, circle = disc_of_mask(area), enclosing_disc(area)
    fovea = item.fovea
    if isinstance(item.fovea, Path):
        area = read_area_mask(item.fovea)
        _check_shape(item.fovea, "fovea's mask", area.shape, shape)
        fovea = disc_of_mask(area).center
    assert not isinstance(disc, Path)
    assert not isinstance(circle, Path)
    assert not isinstance(fovea, Path)
    for what, place in (("disc", disc.center if disc else None), ("fovea", fovea)):
        if place is not None and not all(
            -0.5 <= p <= size - 0.5 for p, size in zip(place, shape, strict=True)
        ):
            raise ValueError(
                f"the {what} at row {place[0]:g}, column {place[1]:g} lies outside of the mask, which has "
                f"{shape[0]} rows and {shape[1]} columns"
            )
    return Landmarks(disc, fovea, item.laterality), circle


def _check_shape(path: Path, what: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if tuple(found) != tuple(wanted):
        raise ScanError(
            path,
            f"the {what} is {found[1]} x {found[0]} px and the mask {wanted[1]} x {wanted[0]} px (width x "
            "height); allowed: the same size",
        )


def _scale(
    item: MaskItem, settings: MeasureSettings, photographed: tuple[float, float] | None, landmarks: Landmarks
) -> tuple[tuple[float, float] | None, str | None]:
    """(row, column) millimetres a pixel, None where it is left to the disc, and where it comes from."""
    for spacing, source in (
        (item.spacing_mm, "table"),
        (settings.spacing_mm, "given"),
        (photographed, "photograph"),
    ):
        if spacing is not None:
            return spacing, source
    return None, None if landmarks.disc is None else "disc"


def _facts(item: MaskItem, mask: VesselMask, eye: Eye, field_source: str) -> dict[str, Value]:
    """The columns that are no biomarkers."""
    known = eye.landmarks
    height, width = mask.vessels.shape
    with suppress(MissingError):
        known = replace(known, laterality=known.side)
    disc = (*known.disc.center, known.disc.radius) if known.disc else (None,) * 3
    spacing: tuple[float | None, float | None] = (None, None)
    with suppress(MissingError):
        spacing = eye.known_spacing
    numbers = {
        "field_diameter": eye.field.diameter,
        "field_completeness": eye.field.completeness,
        **dict(zip(DISC_COLUMNS, disc, strict=True)),
        **dict(zip(FOVEA_COLUMNS, known.fovea or (None, None), strict=True)),
        **dict(zip(("spacing_row", "spacing_column"), spacing, strict=True)),
    }
    return {
        "laterality": known.laterality,
        "coding": mask.coding,
        "height": height,
        "width": width,
        "field_source": field_source,
        "field_shape": eye.field.shape,
        **{name: None if value is None else tidy(value) for name, value in numbers.items()},
        "sha256": mask.sha256,
        "foveal": foveal.__version__,
    }


def _add_pvbm3(
    mask: VesselMask, disc: Disc | None, values: dict[str, Value], missing: dict[str, str]
) -> None:
    """Add the measures of PVBM with all digits; its lengths do not know of the field of view."""
    from foveal.measurement.pvbm3 import measure_pvbm3
    from foveal.screening.mask_table import pvbm3_families

    masks: dict[Kind, np.ndarray | None] = {
        "vessel": mask.vessels,
        "artery": mask.arteries,
        "vein": mask.veins,
    }
    for kind, shown in masks.items():
        if shown is None:
            continue
        families = pvbm3_families(kind)
        for name, value in measure_pvbm3(shown, disc=disc, kind=kind, families=families).items():
            column = f"{kind}_pvbm3_{name}"
            values[column] = value if np.isfinite(value) else None
            if values[column] is None:
                reason = "the optic disc is not known" if disc is None else "PVBM has no value here"
                missing[column] = reason
