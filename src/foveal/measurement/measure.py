"""All biomarkers of an eye at once, and the columns of their table."""

from collections.abc import Sequence
from typing import Any

from foveal.measurement.biomarkers import BIOMARKERS
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.regions import REGIONS, RegionMap
from foveal.measurement.registry import KINDS, BiomarkerColumn, Kind, Measures
from foveal.settings import unknown_name


def biomarker_columns(
    kinds: Sequence[Kind] = KINDS, regions: Sequence[str] = (), *, names: Sequence[str] | None = None
) -> list[BiomarkerColumn]:
    """Columns of a table of biomarkers, in order: the eye, then kind by kind, then region by region.

    Args:
        kinds: of vessels, from "vessel" (all), "artery", "vein".
        regions: names in `REGIONS`, besides all that is visible.
        names: of the biomarkers; None for all.

    Raises:
        ValueError: a kind, region or biomarker is not known.
    """
    _check("kind", kinds, KINDS)
    _check("region", regions, REGIONS)
    _check("biomarker", names or (), BIOMARKERS)
    chosen = [marker for name, marker in BIOMARKERS.items() if names is None or name in names]
    columns = [BiomarkerColumn(marker) for marker in chosen if not marker.kinds]
    for region in (None, *regions):
        for kind in kinds:
            columns += [
                BiomarkerColumn(marker, kind, region)
                for marker in chosen
                if kind in marker.kinds and (region is None or region.startswith(marker.regional or ("\0",)))
            ]
    return columns


def measure_eye(
    eye: Eye, *, regions: Sequence[str] = (), columns: Sequence[BiomarkerColumn] | None = None
) -> Measures:
    """Measure the biomarkers of an eye.

    Args:
        eye: its vessels and landmarks.
        regions: names in `REGIONS` in which to measure besides all that is visible.
        columns: what to measure, of `biomarker_columns`; None for every biomarker of the kinds of vessels
            that are known, in `regions`.

    Returns:
        One value for each column, in order; NaN where it is missing, with the reason in `.missing_reasons`.

    Raises:
        ValueError: a region is not known, or both `regions` and `columns` are given.
    """
    if columns is None:
        columns = biomarker_columns(eye.kinds, regions)
    elif regions:
        raise ValueError("give either regions or columns; the columns say in which regions to measure")
    used = tuple(dict.fromkeys(column.region for column in columns if column.region is not None))
    laid = lay_regions(eye, used) if used else None
    measurements: dict[tuple[Kind | None, str | None], Any] = {(None, None): eye}
    reasons_of: dict[tuple[Kind | None, str | None], str] = {}
    values, reasons = {}, {}
    for column in columns:
        place = (column.kind, column.region)
        if place not in measurements and place not in reasons_of:
            try:
                measurements[place] = measurement_of(eye, column, laid)
            except MissingError as reason:
                reasons_of[place] = str(reason)
        values[column.name] = float("nan")
        if place in reasons_of:
            reasons[column.name] = reasons_of[place]
            continue
        try:
            values[column.name] = float(column.biomarker.function(measurements[place]))
        except MissingError as reason:
            reasons[column.name] = str(reason)
    return Measures(values, reasons)


def measurement_of(eye: Eye, column: BiomarkerColumn, laid: RegionMap | None) -> VesselMeasurement:
    """What a column of one kind of vessels is measured on.

    Args:
        eye: its vessels and landmarks.
        column: with a kind.
        laid: regions of the eye, from `lay_regions`; only needed where the column has a region.

    Raises:
        MissingError: this kind of vessels is not known, or the region cannot be measured.
    """
    assert column.kind is not None, "columns without a kind are of the eye"
    if column.kind not in eye.layers:
        raise MissingError(f"the {'arteries' if column.kind == 'artery' else 'veins'} are not known apart")
    return VesselMeasurement(eye.layers[column.kind], laid, column.region)


def lay_regions(eye: Eye, names: Sequence[str]) -> RegionMap:
    """Regions laid on an eye, at its scale where that is known; `names` are of `REGIONS`."""
    try:
        mm_per_px = eye.mm_per_px
    except MissingError:
        mm_per_px = None
    return RegionMap(eye.field, eye.landmarks, mm_per_px=mm_per_px, names=names)


def _check(what: str, given: Sequence[str], known: Any) -> None:
    for name in given:
        if name not in known:
            raise ValueError(unknown_name(what, name, list(known)))
