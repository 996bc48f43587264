"""The DICOM that foveal writes, read back by pydicom and, where it is there, checked by dciodvfy."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, generate_uid

from foveal.measurement.landmarks import Disc, Landmarks
from foveal.measurement.registry import BIOMARKERS
from foveal.pages import NOTICE
from foveal.scans.dicom import hash_patient
from foveal.scans.reading import read_scan
from foveal.scans.scan import Scan
from foveal.screening.dicom_codes import SCHEME, UNITS, derived_uid, own_code
from foveal.screening.dicom_output import (
    MEASUREMENTS,
    PHOTOGRAPH,
    PROBABILITIES,
    SEGMENTATION,
    write_deidentified_dicom,
    write_dicom,
)
from foveal.screening.dicom_photograph import DicomPhotograph, MeasuredValue

HEIGHT, WIDTH = 75, 101  # the pixels of a mask do not fill whole bytes
FOUND = Landmarks(Disc((30.0, 40.5), 8.25), fovea=(37.5, 70.0))
VALUES = (
    MeasuredValue("vessel_density", "Vessel density", 0.1234, "fraction"),
    MeasuredValue("vessel_fractal_dimension", "Fractal dimension", 1.5, "1"),
    MeasuredValue("disc_fovea_distance", "Distance of disc and fovea", 512.25, "px"),
    MeasuredValue("missing", "Missing", float("nan"), "px"),
    MeasuredValue("unknown", "Unknown", None, "um"),
)


@pytest.fixture
def picture() -> np.ndarray:
    """(H, W, 3) uint8, no two of its symmetries equal."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([row * 3, column * 2, 220 - row - column], axis=-1).astype(np.uint8)


@pytest.fixture
def save_source(tmp_path: Path) -> Callable[..., Path]:
    """Write samples as an Ophthalmic Photography image of a known patient; keywords are DICOM elements."""

    def save(samples: np.ndarray, *, photometric: str = "RGB", **elements: Any) -> Path:
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
        image.SOPInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
        image.StudyInstanceUID, image.FrameOfReferenceUID = generate_uid(), generate_uid()
        image.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        image.PatientName, image.PatientID = "Yamada^Tarou=山田^太郎", "4711"
        image.PatientBirthDate, image.PatientSex = "19560102", "M"
        image.StudyDate, image.StudyTime, image.AccessionNumber = "20240102", "101010", "A1"
        image.Modality, image.ImageLaterality, image.PixelSpacing = "OP", "R", [0.01, 0.01]
        image.SamplesPerPixel = 3 if photometric == "RGB" else 1
        image.PlanarConfiguration = 0
        image.Rows, image.Columns, image.PhotometricInterpretation = HEIGHT, WIDTH, photometric
        image.NumberOfFrames = samples.size // (HEIGHT * WIDTH * image.SamplesPerPixel)
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
        image.PixelData = samples.tobytes() + b"\0" * (samples.size % 2)
        for keyword, value in elements.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        path = tmp_path / "source.dcm"
        image.save_as(path, enforce_file_format=True)
        return path

    return save


def screened(scan: Scan, **changes: Any) -> DicomPhotograph:
    row, column = np.mgrid[: scan.image.shape[0], : scan.image.shape[1]]
    vessels = (row + 2 * column) % 7 == 0
    arteries = vessels & (row < 30)
    masks = {
        "vessels": vessels,
        "arteries": arteries,
        "veins": vessels & ~arteries,
        "microaneurysms": np.zeros_like(vessels),
        "disc": np.hypot(row - 30, column - 40.5) < 8.25,
    }
    photograph = DicomPhotograph(
        scan, masks, FOUND, VALUES, "usable", {"foveal": "0.1.0", "vessel weights": "ab" * 32}
    )
    return replace(photograph, **changes)


def read_masks(path: Path, photograph: DicomPhotograph) -> dict[str, np.ndarray]:
    """Masks by segment label, unpacked by pydicom alone."""
    segmentation = pydicom.dcmread(path)
    shape = photograph.scan.image.shape[:2]
    frames = segmentation.pixel_array.reshape(-1, *shape).astype(bool)
    labels = {item.SegmentNumber: item.SegmentLabel for item in segmentation.SegmentSequence}
    masks = {label: np.zeros(shape, bool) for label in labels.values()}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        groups = groups if "SegmentIdentificationSequence" in groups else shared
        masks[labels[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber]] |= frame
    return masks


def report_items(dataset: Dataset, value_type: str) -> list[Dataset]:
    """All content items of a type, in the order of the tree."""
    found = [dataset] if dataset.get("ValueType") == value_type else []
    for item in dataset.get("ContentSequence", ()):
        found += report_items(item, value_type)
    return found


def test_masks_read_back_bit_by_bit_and_refer_to_the_source(picture, save_source, tmp_path):
    path = save_source(picture)
    photograph = screened(read_scan(path))
    sizes = write_dicom(tmp_path / "out", photograph)
    assert set(sizes) == {SEGMENTATION, MEASUREMENTS}
    assert all((tmp_path / "out" / name).stat().st_size == size for name, size in sizes.items())
    masks = read_masks(tmp_path / "out" / SEGMENTATION, photograph)
    for found, expected in zip(masks.values(), photograph.masks.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    source = pydicom.dcmread(path)
    segmentation = pydicom.dcmread(tmp_path / "out" / SEGMENTATION)
    series = segmentation.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    for name in sizes:
        written = pydicom.dcmread(tmp_path / "out" / name)
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientSex", "AccessionNumber"):
            assert written[keyword].value == source[keyword].value
        assert written.SeriesInstanceUID != source.SeriesInstanceUID
        assert written.SeriesDescription == NOTICE


def test_the_report_holds_values_landmarks_quality_and_the_notice(picture, save_source, tmp_path):
    path = save_source(picture)
    photograph = screened(read_scan(path))
    write_dicom(tmp_path, photograph)
    report = pydicom.dcmread(tmp_path / MEASUREMENTS)
    numbers = {}
    for item in report_items(report, "NUM"):
        name, value = item.ConceptNameCodeSequence[0], item.MeasuredValueSequence[0]
        if name.CodingSchemeDesignator == SCHEME:
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            numbers[name.get("CodeValue") or name.LongCodeValue] = (float(value.NumericValue), unit)
    assert numbers == {
        "vessel_density": (0.1234, "1"),
        "vessel_fractal_dimension": (1.5, "1"),
        "disc_fovea_distance": (512.25, "{pixels}"),
    }
    circle, point = report_items(report, "SCOORD")
    assert circle.GraphicType == "CIRCLE"
    assert circle.GraphicData == [41.0, 30.5, 49.25, 30.5]  # column before row, from the corner of the image
    assert (point.GraphicType, point.GraphicData) == ("POINT", [70.5, 38.0])
    assert NOTICE in [item.TextValue for item in report_items(report, "TEXT")]
    codes = [item.ConceptCodeSequence[0].CodeMeaning for item in report_items(report, "CODE")]
    assert "Usable quality" in codes
    assert "Right" in codes
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_each_segment_group_points_to_its_own_frame_and_measures_its_area(picture, save_source, tmp_path):
    photograph = screened(read_scan(save_source(picture)))
    write_dicom(tmp_path, photograph)
    segmentation = pydicom.dcmread(tmp_path / SEGMENTATION)
    names = list(photograph.masks)
    areas = {}
    for group in srread(tmp_path / MEASUREMENTS).content.get_planar_roi_measurement_groups():
        items = group[0].ContentSequence
        reference = next(
            (i for i in items if i.ConceptNameCodeSequence[0].CodeMeaning == "Referenced Segmentation Frame"),
            None,
        )
        if reference is None:
            continue
        referred = reference.ReferencedSOPSequence[0]
        assert referred.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        frame = segmentation.PerFrameFunctionalGroupsSequence[referred.ReferencedFrameNumber - 1]
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        areas[names[number - 1]] = int(group.get_measurements()[0].value)
    assert areas == {name: mask.sum() for name, mask in photograph.masks.items() if mask.any()}


def test_the_first_frame_of_several_is_referred_to_by_its_number(picture, save_source, tmp_path):
    photograph = screened(read_scan(save_source(np.stack([picture, picture[::-1]]))))
    write_dicom(tmp_path / "out", photograph)
    segmentation = pydicom.dcmread(tmp_path / "out" / SEGMENTATION)
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        image = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert image.ReferencedFrameNumber == 1
    source = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    report = pydicom.dcmread(tmp_path / "out" / MEASUREMENTS)
    references = [item.ReferencedSOPSequence[0] for item in report_items(report, "IMAGE")]
    frames = [r.get("ReferencedFrameNumber") for r in references if r.ReferencedSOPInstanceUID == source]
    assert set(frames[1:]) == {1}, "the library names the whole instance, every other reference the frame"


def test_a_second_frame_is_referred_to_as_the_second(picture, save_source, tmp_path):
    path = save_source(np.stack([picture, picture[::-1]]))
    write_dicom(tmp_path, screened(read_scan(path, frame=1)))
    groups = pydicom.dcmread(tmp_path / SEGMENTATION).PerFrameFunctionalGroupsSequence[0]
    assert groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 2


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed"
)
@pytest.mark.parametrize("kind", ["colour", "grey", "frames", "jpeg", "png", "deidentified", "nothing found"])
def test_dciodvfy_finds_no_error(picture, save_source, tmp_path, kind):
    if kind in ("jpeg", "png"):
        path = tmp_path / f"eye.{kind}"
        Image.fromarray(picture).save(path)
    elif kind == "grey":
        path = save_source(picture[..., 1], photometric="MONOCHROME1", PixelSpacing=None)
    else:
        path = save_source(np.stack([picture, picture]) if kind in ("frames", "deidentified") else picture)
    scan = read_scan(path)
    level = {"vessels": np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)}
    photograph = screened(scan, probabilities=level)
    if kind == "nothing found":
        empty = {"microaneurysms": np.zeros((HEIGHT, WIDTH), bool)}
        photograph = screened(scan, masks=empty, landmarks=Landmarks(), values=())
    (write_deidentified_dicom if kind == "deidentified" else write_dicom)(tmp_path / "out", photograph)
    for file in sorted((tmp_path / "out").iterdir()):
        outcome = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, check=False)
        assert not [line for line in outcome.stderr.splitlines() if line.startswith("Error")], file.name


@pytest.mark.parametrize("elements", [{"PatientSex": "X"}, {"StudyDate": None}, {"PixelSpacing": None}])
def test_a_source_with_unusable_or_missing_elements_is_still_referred_to(
    picture, save_source, tmp_path, elements
):
    path = save_source(picture[..., 1], photometric="MONOCHROME1", **elements)
    assert PHOTOGRAPH not in write_dicom(tmp_path / "out", screened(read_scan(path)))


def test_a_source_without_identifiers_becomes_a_copy(picture, save_source, tmp_path):
    path = save_source(picture, StudyInstanceUID=None)
    assert PHOTOGRAPH in write_dicom(tmp_path / "out", screened(read_scan(path)))
    np.testing.assert_array_equal(read_scan(tmp_path / "out" / PHOTOGRAPH).image, picture)


def test_deidentified_output_names_neither_patient_nor_source(picture, save_source, tmp_path):
    path = save_source(np.stack([picture, picture[::-1]]))
    write_deidentified_dicom(tmp_path / "out", screened(read_scan(path, salt="s")))
    source = pydicom.dcmread(path)
    for name in (PHOTOGRAPH, SEGMENTATION, MEASUREMENTS):
        content = (tmp_path / "out" / name).read_bytes()
        for secret in ("Yamada", "4711", "19560102", "A1\0", source.StudyInstanceUID, source.SOPInstanceUID):
            assert not re.search(rb"(?<![\d.])" + re.escape(secret.encode()) + rb"(?![\d.])", content)
        assert pydicom.dcmread(tmp_path / "out" / name).PatientID == hash_patient("4711", salt="s")
    copy = read_scan(tmp_path / "out" / PHOTOGRAPH)
    np.testing.assert_array_equal(copy.image, picture)
    assert (copy.laterality, copy.spacing_mm) == ("R", (0.01, 0.01))


def test_a_jpeg_keeps_its_codestream_and_loses_its_metadata(picture, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    Image.fromarray(picture).save(tmp_path / "eye.jpg", exif=exif, comment="Jane Doe", quality=90)
    scan = read_scan(tmp_path / "eye.jpg")
    write_dicom(tmp_path / "out", screened(scan))
    copy = pydicom.dcmread(tmp_path / "out" / PHOTOGRAPH)
    assert copy.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert copy.LossyImageCompression == "01"
    assert b"Jane Doe" not in copy.PixelData
    assert (tmp_path / "eye.jpg").read_bytes()[-200:] in copy.PixelData
    # Decoders differ by a few levels in how they upsample the colours.
    shown = read_scan(tmp_path / "out" / PHOTOGRAPH).image
    assert np.abs(shown.astype(int) - scan.image).max() <= 6


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_jpeg_is_stored_upright_without_loss(picture, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "eye.jpg", exif=exif)
    photograph = screened(read_scan(tmp_path / "eye.jpg"))
    write_dicom(tmp_path / "out", photograph)
    assert pydicom.dcmread(tmp_path / "out" / PHOTOGRAPH).file_meta.TransferSyntaxUID == JPEGLSLossless
    np.testing.assert_array_equal(read_scan(tmp_path / "out" / PHOTOGRAPH).image, photograph.scan.image)
    masks = read_masks(tmp_path / "out" / SEGMENTATION, photograph)
    np.testing.assert_array_equal(masks["Optic disc"], photograph.masks["disc"])


def identifiers(folder: Path) -> dict[str, str]:
    return {path.name: str(pydicom.dcmread(path).SOPInstanceUID) for path in folder.glob("*.dcm")}


def test_identifiers_repeat_with_the_result_and_change_with_it(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "eye.png")
    photograph = screened(read_scan(tmp_path / "eye.png"))
    write_dicom(tmp_path / "a", photograph)
    write_dicom(tmp_path / "b", photograph)
    first = identifiers(tmp_path / "a")
    assert identifiers(tmp_path / "b") == first
    assert len(set(first.values())) == 3

    write_dicom(tmp_path / "b", replace(photograph, values=VALUES[:1]))
    changed = identifiers(tmp_path / "b")
    assert {name for name in first if changed[name] != first[name]} == {MEASUREMENTS}
    masks = {**photograph.masks, "disc": ~photograph.masks["disc"]}
    write_dicom(tmp_path / "b", replace(photograph, masks=masks))
    changed = identifiers(tmp_path / "b")
    assert {name for name in first if changed[name] != first[name]} == {MEASUREMENTS, SEGMENTATION}


def test_probabilities_are_a_fractional_segmentation_and_go_with_the_run(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "eye.png")
    level = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    photograph = screened(read_scan(tmp_path / "eye.png"), probabilities={"vessels": level})
    assert PROBABILITIES in write_dicom(tmp_path / "out", photograph)
    segmentation = pydicom.dcmread(tmp_path / "out" / PROBABILITIES)
    assert segmentation.SegmentationFractionalType == "PROBABILITY"
    assert (
        np.abs(segmentation.pixel_array / segmentation.MaximumFractionalValue - level).max()
        <= 0.5 / 255 + 1e-6
    )
    write_dicom(tmp_path / "out", replace(photograph, probabilities={}))
    assert not (tmp_path / "out" / PROBABILITIES).exists()


def test_a_photograph_without_any_finding_is_written(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "eye.png")
    empty = {"microaneurysms": np.zeros((HEIGHT, WIDTH), bool)}
    photograph = screened(read_scan(tmp_path / "eye.png"), masks=empty, landmarks=Landmarks(), values=())
    write_dicom(tmp_path / "out", photograph)
    assert not read_masks(tmp_path / "out" / SEGMENTATION, photograph)["Microaneurysms"].any()


def test_own_codes_are_declared_and_standard_codes_are_standard(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "eye.png")
    write_dicom(tmp_path, screened(read_scan(tmp_path / "eye.png")))
    segmentation = pydicom.dcmread(tmp_path / SEGMENTATION)
    assert segmentation.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == SCHEME
    types = {s.SegmentLabel: s.SegmentedPropertyTypeCodeSequence[0] for s in segmentation.SegmentSequence}
    assert types["Optic disc"].CodeValue == "81016008"
    assert types["Microaneurysms"].CodingSchemeDesignator == SCHEME


def test_every_unit_of_a_biomarker_has_a_code():
    assert {biomarker.unit for biomarker in BIOMARKERS.values()} <= set(UNITS)


def test_long_meanings_are_cut_to_what_dicom_holds():
    assert len(own_code("a", "x" * 65).meaning) == 64
    assert own_code("a", "x" * 64).meaning == "x" * 64


def test_derived_identifiers_are_valid_and_keep_parts_apart():
    assert derived_uid("a", "b").is_valid
    assert derived_uid("a", "b") != derived_uid("ab")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"masks": {}}, "masks is empty"),
        ({"masks": {"disc": np.zeros((2, 2), bool)}}, r"mask 'disc' is \(2, 2\) bool"),
        ({"masks": {"disc": np.zeros((HEIGHT, WIDTH))}}, "float64; allowed"),
        ({"versions": {}}, "versions must name"),
        ({"probabilities": {"vessels": np.full((HEIGHT, WIDTH), 1.5)}}, "floats in"),
    ],
)
def test_what_does_not_fit_is_refused(picture, changes, complaint):
    photograph = screened(Scan(picture, Path("eye.png")))
    with pytest.raises(ValueError, match=complaint):
        replace(photograph, **changes)


def test_an_unknown_unit_is_named(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "eye.png")
    value = MeasuredValue("a", "A", 1.0, "furlong")
    with pytest.raises(ValueError, match="'furlong' has no UCUM code; allowed: 1, "):
        write_dicom(tmp_path / "out", screened(read_scan(tmp_path / "eye.png"), values=(value,)))
