"""The DICOM image that the results of a photograph refer to: the one it came from, else a copy of it.

The copy is a Secondary Capture image, DICOM's word for a picture that came from elsewhere. The Ophthalmic
Photography classes demand what an ordinary picture does not tell: laterality, kind of camera, time of
acquisition, whether text is burned in.
"""

from collections.abc import Callable
from typing import Any

from highdicom import SOPClass
from highdicom.frame import encode_frame
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGLSLossless, SecondaryCaptureImageStorage
from pydicom.valuerep import DA, TM

from foveal.screening.dicom_codes import UTF_8, derived_uid, maker
from foveal.screening.dicom_jpeg import JpegFrame, jpeg_frame
from foveal.screening.dicom_photograph import DicomPhotograph

IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# Type 2 elements of the patient and the study: what is unknown is there, and empty.
NEEDED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
PARSED: dict[str, Callable[[str], Any]] = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
SEXES = ("M", "F", "O", "")


def referred_header(photograph: DicomPhotograph) -> Dataset | None:
    """Header of the DICOM image that the photograph came from, as far as the results refer to it.

    Foveal shows a DICOM frame as it is stored, neither turned nor cropped, so results on the grid of the
    photograph are on the grid of the stored frame.

    Returns:
        The header of a single frame, whichever of its frames was screened; patient and study are complete,
        with elements that are missing or no valid DICOM left empty. None where the photograph is no DICOM
        image, or is one that cannot be referred to, as it lacks a unique identifier or its class is private.

    Raises:
        OSError: the file cannot be read.
    """
    scan = photograph.scan
    if scan.format != "DICOM":
        return None
    header = dcmread(scan.path, stop_before_pixels=True)
    identifiers = [UID(str(header.get(keyword) or "")) for keyword in IDENTIFIERS]
    if not all(uid.is_valid and uid for uid in identifiers) or identifiers[0].is_private:
        return None
    for keyword in NEEDED:
        setattr(header, keyword, _valid(header, keyword))
    _make_flat_frame(header)
    return header


def _make_flat_frame(header: Dataset) -> None:
    """Make a header that of one frame without a place in the patient's space.

    Ophthalmic Photography is multi-frame without functional groups, which highdicom looks for.
    """
    for keyword in ("PerFrameFunctionalGroupsSequence", "ImagePositionPatient", "ImageOrientationPatient"):
        if keyword in header:
            delattr(header, keyword)
    if "NumberOfFrames" in header:
        header.NumberOfFrames = 1
    groups = Dataset()
    groups.PixelMeasuresSequence = [Dataset()]
    header.SharedFunctionalGroupsSequence = [groups]


def referred_frame(photograph: DicomPhotograph, source: Dataset) -> int | None:
    """Number, from 1, of the frame of `source` that was screened; None where it has but one."""
    return photograph.scan.frame + 1 if "NumberOfFrames" in source and photograph.scan.frames > 1 else None


def photograph_copy(photograph: DicomPhotograph) -> Dataset:
    """A Secondary Capture image of the photograph, with a pseudonym for the patient.

    A baseline JPEG keeps its codestream, without the metadata of the file; anything else is stored as
    `scan.image`, by JPEG-LS without loss. The unique identifiers follow from the file's content and the
    patient's pseudonym. The pseudonym is `scan.patient`, else one of this file alone.

    Raises:
        OSError: the file cannot be read.
    """
    scan = photograph.scan
    data = scan.path.read_bytes() if scan.format == "JPEG" else b""
    frame = jpeg_frame(data, scan.image) if data else None
    patient = scan.patient or f"file-{scan.sha256[:32]}"
    day = scan.acquired.strftime("%Y%m%d") if scan.acquired else ""
    identity = (
        scan.sha256,
        str(scan.frame),
        patient,
        day,
        scan.laterality or "",
        photograph.versions["foveal"],
    )
    copy = SOPClass(
        study_instance_uid=derived_uid("study", *identity[:3]),
        series_instance_uid=derived_uid("photograph series", *identity),
        series_number=1,
        sop_instance_uid=derived_uid("photograph", *identity),
        sop_class_uid=SecondaryCaptureImageStorage,
        instance_number=1,
        modality="OP",
        transfer_syntax_uid=JPEGBaseline8Bit if frame else JPEGLSLossless,
        patient_id=patient,
        patient_name="",
        patient_birth_date="",
        patient_sex="",
        study_id=scan.sha256[:16],
        accession_number="",
        study_date=day,
        study_time="",
        referring_physician_name="",
        specific_character_set=UTF_8,
        series_description="Photograph that foveal screened",
        **maker(photograph),
    )
    copy.PatientIdentityRemoved = "YES"
    copy.DeidentificationMethod = "Salted SHA-256 in place of the patient's id"
    copy.LongitudinalTemporalInformationModified = "UNMODIFIED" if day else "REMOVED"
    copy.ConversionType = "WSD"
    copy.ImageType = ["DERIVED", "SECONDARY"]
    copy.PatientOrientation = ""
    copy.Laterality = scan.laterality or ""
    if day:
        copy.AcquisitionDate = day
    if scan.spacing_mm:
        copy.PixelSpacing = [f"{spacing:.10g}" for spacing in scan.spacing_mm]
    _add_pixels(copy, photograph, frame)
    if scan.format == "JPEG":
        copy.LossyImageCompression = "01"
        copy.LossyImageCompressionRatio = f"{scan.image.nbytes / len(data):.4g}"
        copy.LossyImageCompressionMethod = "ISO_10918_1"
    return copy


def _add_pixels(copy: Dataset, photograph: DicomPhotograph, frame: JpegFrame | None) -> None:
    image = photograph.scan.image
    copy.Rows, copy.Columns = image.shape[:2]
    copy.BitsAllocated, copy.BitsStored, copy.HighBit, copy.PixelRepresentation = 8, 8, 7, 0
    copy.PhotometricInterpretation = frame.photometric if frame else "RGB"
    copy.SamplesPerPixel = 1 if copy.PhotometricInterpretation == "MONOCHROME2" else 3
    if copy.SamplesPerPixel == 3:
        copy.PlanarConfiguration = 0
    codestream = (
        frame.codestream
        if frame
        else encode_frame(
            image,
            transfer_syntax_uid=JPEGLSLossless,
            bits_allocated=8,
            bits_stored=8,
            photometric_interpretation="RGB",
            pixel_representation=0,
            planar_configuration=0,
        )
    )
    copy.PixelData = encapsulate([codestream])
    copy["PixelData"].VR = "OB"


def _valid(header: Dataset, keyword: str) -> Any:
    """Value of an element; empty where it is missing or cannot be parsed."""
    try:
        value = header.get(keyword) or ""
        if keyword in PARSED:
            PARSED[keyword](value)
    except Exception:  # parsing is lazy; a broken element does not take the others with it
        return ""
    return "" if keyword == "PatientSex" and value not in SEXES else value
