import hashlib
from datetime import date
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    JPEG2000MC,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
    RLELossless,
)

from foveal.scans.dicom import hash_patient
from foveal.scans.reading import read_scan
from foveal.scans.scan import Scan, ScanError


def encode(image: np.ndarray, format: str, **options) -> bytes:
    stream = BytesIO()
    Image.fromarray(image).save(stream, format, **options)
    return stream.getvalue()


def item(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def reason(path, **options) -> str:
    with pytest.raises(ScanError) as caught:
        read_scan(path, **options)
    return caught.value.reason


# --- pixels -----------------------------------------------------------------------------------------


def test_uncompressed_and_rle_come_back_unchanged(photograph, write_dicom):
    for options in ({}, {"syntax": RLELossless, "compress": True}):
        scan = read_scan(write_dicom(photograph, **options))
        assert np.array_equal(scan.image, photograph)
        assert (scan.format, scan.bit_depth, scan.frames) == ("DICOM", 8, 1)


def test_planar_configuration_is_interleaved(photograph, write_dicom):
    path = write_dicom(photograph, PlanarConfiguration=1, PixelData=photograph.transpose(2, 0, 1).tobytes())
    assert np.array_equal(read_scan(path).image, photograph)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
def test_jpeg_baseline_has_the_photographs_colours(photograph, write_dicom, photometric):
    encoded = [encode(photograph, "JPEG", quality=95, keep_rgb=photometric == "RGB")]
    path = write_dicom(photograph, photometric=photometric, syntax=JPEGBaseline8Bit, encoded=encoded)
    assert np.abs(read_scan(path).image.astype(int) - photograph).mean() < 1


def test_jpeg_2000_lossless_comes_back_unchanged_and_lossy_nearly(photograph, write_dicom):
    encoded = [encode(photograph, "JPEG2000", no_jp2=True)]
    path = write_dicom(photograph, photometric="YBR_RCT", syntax=JPEG2000Lossless, encoded=encoded)
    assert np.array_equal(read_scan(path).image, photograph)
    encoded = [encode(photograph, "JPEG2000", no_jp2=True, irreversible=True)]
    path = write_dicom(photograph, photometric="YBR_ICT", syntax=JPEG2000, encoded=encoded)
    assert np.abs(read_scan(path).image.astype(int) - photograph).mean() < 1


def test_jpeg_lossless_equals_the_same_picture_stored_as_rle():
    """Both files come with pydicom; they hold one picture, written by another program than ours."""
    lossless, rle = (get_testdata_file(f"SC_rgb_{kind}.dcm") for kind in ("jpeg_gdcm", "rle"))
    assert dcmread(lossless).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    image = read_scan(lossless).image
    assert np.array_equal(image, read_scan(rle).image)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 5


def sample_codestream(name: str) -> bytes:
    """First frame of a file that comes with pydicom."""
    return get_frame(dcmread(get_testdata_file(name)).PixelData, 0, number_of_frames=1)


def test_near_lossless_jpeg_ls_is_as_near_as_it_promises(write_dicom):
    encoded = [sample_codestream("SC_rgb_jls_lossy_line.dcm")]
    samples = np.zeros((100, 100, 3), np.uint8)
    image = read_scan(write_dicom(samples, syntax=JPEGLSNearLossless, encoded=encoded)).image.astype(int)
    exact = read_scan(get_testdata_file("SC_rgb_rle.dcm")).image
    scan_header = encoded[0].index(b"\xff\xda")
    near = encoded[0][scan_header + 11]
    assert 0 < np.abs(image - exact).max() <= near


def test_grey_jpeg_of_12_bits_is_decoded_and_scaled(write_dicom):
    """The figures are those of libjpeg-turbo 3.1, another decoder than GDCM."""
    codestream = sample_codestream("JPEG-lossy.dcm")
    options = {"photometric": "MONOCHROME2", "syntax": JPEGExtended12Bit, "encoded": [codestream]}
    path = write_dicom(np.zeros((1024, 256), np.uint16), bits=12, **options)
    scan = read_scan(path)
    assert (scan.bit_depth, scan.image.shape) == (12, (1024, 256, 3))
    grey = scan.image[..., 0].astype(int)
    assert (grey.sum(), grey.max(), grey[600, 100], grey[420, 140]) == (220_464, 16, 1, 15)
    assert (grey.sum(axis=1).argmax(), grey.sum(axis=0).argmax()) == (423, 147)
    told = reason(
        write_dicom(np.zeros((1024, 256, 3), np.uint16), bits=12, **options | {"photometric": "RGB"})
    )
    assert "1 samples of 12 bits a pixel; allowed: 3 of 2 to 16" in told


def test_transfer_syntax_that_nothing_decodes_is_refused_by_name(write_dicom, photograph):
    encoded = [encode(photograph, "JPEG2000", no_jp2=True)]
    told = reason(write_dicom(photograph, syntax=JPEG2000MC, encoded=encoded))
    assert told.startswith("transfer syntax is JPEG 2000 Part 2 Multi-component Image Compression; allowed:")
    assert "JPEG-LS" in told


def test_missing_decoder_is_named_with_its_package(monkeypatch):
    """Without GDCM pydicom finds no decoder for lossless JPEG."""
    path = get_testdata_file("SC_rgb_jpeg_gdcm.dcm")
    monkeypatch.delitem(get_decoder(JPEGLosslessSV1)._available, "gdcm")
    assert reason(path).endswith("needs python-gdcm; install it with `pip install python-gdcm`")


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", JPEGLosslessSV1),
        ("SC_rgb_jls_lossy_line.dcm", JPEGLSNearLossless),
    ],
)
def test_damaged_lossless_headers_never_end_the_process(write_dicom, name, syntax):
    """GDCM aborts on some of these; what reaches it here must be sound."""
    encoded = sample_codestream(name)
    path = write_dicom(np.zeros((100, 100, 3), np.uint8), syntax=syntax, encoded=[encoded])
    data = np.frombuffer(path.read_bytes(), np.uint8)
    start = data.tobytes().index(encoded)
    rng, outcomes = np.random.default_rng(0), []
    target = path.with_name("damaged")
    for _ in range(300):
        damaged = data.copy()
        where = start + rng.integers(0, 70, rng.integers(1, 5))
        damaged[where] = rng.integers(0, 256, len(where))
        target.write_bytes(damaged.tobytes())
        try:
            outcomes.append(type(read_scan(target)))
        except ScanError:
            outcomes.append(ScanError)
    assert set(outcomes) == {Scan, ScanError}


def test_ybr_full_becomes_rgb(photograph, write_dicom):
    path = write_dicom(np.array(Image.fromarray(photograph).convert("YCbCr")), photometric="YBR_FULL")
    assert np.abs(read_scan(path).image.astype(int) - photograph).mean() < 2


def test_palette_is_applied(photograph, write_dicom):
    palette = Image.fromarray(photograph).quantize(256)
    colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    colours = np.pad(colours, ((0, 256 - len(colours)), (0, 0)))
    elements = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        table = colours[:, channel].astype("<u2") * 257
        elements[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    path = write_dicom(np.asarray(palette), photometric="PALETTE COLOR", **elements)
    assert np.array_equal(read_scan(path).image, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_grey_is_scaled_from_bits_stored_whatever_the_maximum(photograph, write_dicom, bits):
    samples = photograph[..., 0].astype(np.uint16)  # dim: at most 213
    scan = read_scan(write_dicom(samples, photometric="MONOCHROME2", bits=bits))
    assert np.array_equal(scan.image[..., 1], np.rint(samples * (255 / (2**bits - 1))))
    assert scan.bit_depth == bits


def test_bits_above_bits_stored_are_ignored(photograph, write_dicom):
    samples = photograph[..., 0].astype(np.uint16) << 4
    plain = read_scan(write_dicom(samples, photometric="MONOCHROME2", bits=12)).image
    overlaid = read_scan(write_dicom(samples | 0x8000, photometric="MONOCHROME2", bits=12)).image
    assert np.array_equal(plain, overlaid)


def test_monochrome1_is_inverted(photograph, write_dicom):
    path = write_dicom(photograph[..., 0], photometric="MONOCHROME1")
    assert np.array_equal(read_scan(path).image[..., 2], 255 - photograph[..., 0])


@pytest.mark.parametrize("storage", ["plain", "basic offsets", "extended offsets"])
def test_frames_are_told_apart(photograph, write_dicom, storage):
    stack = np.stack([photograph, 255 - photograph, photograph // 2])
    options = {}
    if storage != "plain":
        frames = [encode(frame, "JPEG2000", no_jp2=True) for frame in stack]
        options = {"photometric": "YBR_RCT", "syntax": JPEG2000Lossless, "encoded": frames}
        if storage == "extended offsets":
            elements = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
            options |= dict(zip(elements, encapsulate_extended(frames), strict=True))
    path = write_dicom(stack, **options)
    for index, frame in enumerate(stack):
        scan = read_scan(path, frame=index)
        assert np.array_equal(scan.image, frame)
        assert (scan.frame, scan.frames) == (index, 3)
    assert reason(path, frame=3) == "frame is 3; allowed: 0 to 2"


@pytest.mark.parametrize("name", ["IM0001", "photograph.jpg", "1.2.840.55"])
def test_dicom_is_known_by_its_preamble(photograph, write_dicom, name):
    assert read_scan(write_dicom(photograph, name)).format == "DICOM"


def test_dicom_with_a_tiff_in_its_preamble_is_dicom(photograph, write_dicom):
    path = write_dicom(photograph)
    path.write_bytes(b"II*\0" + path.read_bytes()[4:])
    assert read_scan(path).format == "DICOM"


# --- what the file says about the eye ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.02, 0.01]}, (0.02, 0.01)),
        ({"NominalScannedPixelSpacing": [0.03, 0.04]}, (0.03, 0.04)),
        ({"ImagerPixelSpacing": [0.05, 0.06], "NominalScannedPixelSpacing": [0.03, 0.04]}, (0.03, 0.04)),
        ({"ImagerPixelSpacing": [0.05, 0.06]}, (0.05, 0.06)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.05, 0.06]}, (0.05, 0.06)),
        ({"PixelSpacing": [-1, 1]}, None),
    ],
    ids=str,
)
def test_spacing_is_row_then_column_millimetres(photograph, write_dicom, elements, spacing):
    assert read_scan(write_dicom(photograph, **elements)).spacing_mm == spacing


@pytest.mark.parametrize(
    ("elements", "laterality"),
    [
        ({}, None),
        ({"ImageLaterality": "L"}, "L"),
        ({"Laterality": "R"}, "R"),
        ({"ImageLaterality": "R", "Laterality": "L"}, "R"),
        ({"ImageLaterality": "B"}, None),
    ],
    ids=str,
)
def test_laterality(photograph, write_dicom, elements, laterality):
    assert read_scan(write_dicom(photograph, **elements)).laterality == laterality


@pytest.mark.parametrize(
    ("elements", "day"),
    [
        ({}, None),
        ({"StudyDate": "20200101"}, date(2020, 1, 1)),
        ({"StudyDate": "20200101", "ContentDate": "20200102"}, date(2020, 1, 2)),
        ({"ContentDate": "20200102", "AcquisitionDate": "20200103"}, date(2020, 1, 3)),
        ({"AcquisitionDate": "20200103", "AcquisitionDateTime": "20200229235959.5+0100"}, date(2020, 2, 29)),
        ({"AcquisitionDate": "", "StudyDate": "20200101"}, date(2020, 1, 1)),
    ],
    ids=str,
)
def test_acquisition_day_comes_from_the_most_specific_date(photograph, write_dicom, elements, day):
    assert read_scan(write_dicom(photograph, **elements)).acquired == day


def test_frames_own_functional_groups_win_over_shared_ones_and_these_over_the_image(photograph, write_dicom):
    own = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.1, 0.2])],
        FrameAnatomySequence=[item(FrameLaterality="R")],
        FrameContentSequence=[item(FrameAcquisitionDateTime="20210304101500")],
    )
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.3, 0.4])],
        FrameAnatomySequence=[item(FrameLaterality="L")],
    )
    path = write_dicom(
        np.stack([photograph, photograph]),
        PerFrameFunctionalGroupsSequence=[Dataset(), own],
        SharedFunctionalGroupsSequence=[shared],
        PixelSpacing=[0.5, 0.6],
        AcquisitionDate="20200103",
        ImageLaterality="R",
    )
    first, second = read_scan(path), read_scan(path, frame=1)
    assert (first.spacing_mm, first.laterality, first.acquired) == ((0.3, 0.4), "L", date(2020, 1, 3))
    assert (second.spacing_mm, second.laterality, second.acquired) == ((0.1, 0.2), "R", date(2021, 3, 4))


def test_patient_is_only_a_salted_hash(photograph, write_dicom, monkeypatch):
    monkeypatch.delenv("FOVEAL_SALT", raising=False)
    path = write_dicom(photograph, PatientID=" MRN-77 ", PatientName="Doe^Jane")
    scan = read_scan(path, salt="study")
    assert scan.patient == hashlib.sha256(b"study\0MRN-77").hexdigest()
    assert "MRN-77" not in repr(scan)
    assert "Doe" not in repr(scan)
    assert read_scan(path).patient == hash_patient("MRN-77")
    monkeypatch.setenv("FOVEAL_SALT", "clinic")
    assert read_scan(path).patient == hashlib.sha256(b"clinic\0MRN-77").hexdigest()
    assert read_scan(path, salt="study").patient == scan.patient
    assert len({hash_patient("MRN-77", salt=salt) for salt in ("", "study", "other")}) == 3


@pytest.mark.parametrize("identifier", ["", "   "])
def test_empty_patient_id_is_no_patient(photograph, write_dicom, identifier):
    assert read_scan(write_dicom(photograph, PatientID=identifier)).patient is None
    assert read_scan(write_dicom(photograph)).patient is None


def test_optional_metadata_that_cannot_be_parsed_count_as_absent(photograph, write_dicom):
    path = write_dicom(photograph, PixelSpacing=[0.25, 0.25], AcquisitionDate="20200103")
    data = path.read_bytes()
    assert data.count(b"0.25\\0.25") == 1
    path.write_bytes(data.replace(b"0.25\\0.25", b"a.bc\\de.f").replace(b"20200103", b"20201399"))
    scan = read_scan(path)
    assert (scan.spacing_mm, scan.acquired) == (None, None)
    # Declared as binary doubles, the ten bytes are no whole number of them.
    assert data.count(b"\x28\x00\x30\x00DS") == 1
    path.write_bytes(data.replace(b"\x28\x00\x30\x00DS", b"\x28\x00\x30\x00FD"))
    scan = read_scan(path)
    assert (scan.spacing_mm, scan.acquired) == (None, date(2020, 1, 3))
    assert np.array_equal(scan.image, photograph)


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["CT", "OPT", "SR"])
def test_other_modalities_are_refused_by_name(photograph, write_dicom, modality):
    told = reason(write_dicom(photograph, Modality=modality))
    assert f"modality {modality}" in told
    assert "allowed: modality OP, XC, OT" in told


def test_missing_modality_is_forgiven_to_ophthalmic_photographs_only(photograph, write_dicom):
    assert read_scan(write_dicom(photograph, Modality=None)).format == "DICOM"
    path = write_dicom(photograph, Modality=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    assert "modality missing, class CT Image Storage" in reason(path)


def test_structured_report_is_no_photograph(photograph, write_dicom):
    path = write_dicom(
        photograph, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", PixelData=None, Rows=None
    )
    assert "modality SR, class Basic Text SR Storage" in reason(path)


def test_dicom_without_pixels_is_refused(photograph, write_dicom):
    assert "holds no pixel data" in reason(write_dicom(photograph, PixelData=None))
    assert "no Rows and Columns" in reason(write_dicom(photograph, Rows=None))


def test_absurd_size_is_refused_from_the_header(photograph, write_dicom):
    told = reason(write_dicom(photograph, Rows=50_000, Columns=60_000))
    assert "60000 x 50000 px, 3000.0 megapixels" in told
    assert "32 x 72 px" in reason(write_dicom(photograph, Columns=32))


def test_codestream_larger_than_the_header_says_is_refused_before_decoding(photograph, write_dicom):
    encoded = bytearray(encode(photograph, "JPEG"))
    start = encoded.index(b"\xff\xc0")
    encoded[start + 5 : start + 9] = (60_000).to_bytes(2) + (50_000).to_bytes(2)
    options = {"photometric": "YBR_FULL_422", "syntax": JPEGBaseline8Bit}
    assert "3000.0 megapixels" in reason(write_dicom(photograph, encoded=[bytes(encoded)], **options))
    larger = encode(np.zeros((80, 96, 3), np.uint8), "JPEG")
    assert "allowed: (96, 72), as the header says" in reason(
        write_dicom(photograph, encoded=[larger], **options)
    )


@pytest.mark.parametrize("keep", [0.5, 0.9])
@pytest.mark.parametrize("format", ["JPEG", "JPEG2000"])
def test_truncated_codestream_is_refused_and_never_filled(write_dicom, format, keep):
    noise = np.random.default_rng(0).integers(0, 256, (72, 96, 3)).astype(np.uint8)
    encoded = encode(noise, format, **({"no_jp2": True} if format == "JPEG2000" else {}))
    syntax, photometric = (
        (JPEGBaseline8Bit, "YBR_FULL_422") if format == "JPEG" else (JPEG2000Lossless, "YBR_RCT")
    )
    path = write_dicom(
        noise, encoded=[encoded[: int(len(encoded) * keep)]], syntax=syntax, photometric=photometric
    )
    assert "frame 0 is truncated" in reason(path)


@pytest.mark.parametrize("options", [{}, {"syntax": RLELossless, "compress": True}], ids=["plain", "RLE"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_file_is_refused(write_dicom, options, keep):
    noise = np.random.default_rng(0).integers(0, 256, (72, 96, 3)).astype(np.uint8)
    path = write_dicom(noise, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    told = reason(path)
    assert "truncated" in told or "ends before they do" in told


def test_deflated_dicom_is_refused_before_it_inflates(photograph, write_dicom):
    told = reason(write_dicom(photograph, syntax=DeflatedExplicitVRLittleEndian))
    assert "Deflated" in told


def test_photometric_interpretations_without_a_meaning_here_are_refused(photograph, write_dicom):
    assert "photometric interpretation is CMYK" in reason(write_dicom(photograph, photometric="CMYK"))
    assert "3 samples a pixel" in reason(write_dicom(photograph, photometric="MONOCHROME2"))
    assert "9 bits stored in 8" in reason(write_dicom(photograph, bits=9))


def test_negative_samples_are_refused(write_dicom):
    samples = np.full((72, 96), -5, np.int16)
    path = write_dicom(samples, photometric="MONOCHROME2", bits=16, PixelRepresentation=1)
    assert "signed samples reach -5" in reason(path)
