"""DICOM ophthalmic photography (PS3.3 A.41 and C.8.17), through pydicom and its decoder plug-ins."""

import hashlib
import math
import os
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_color_lut
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from foveal.scans.codestream import codestream_is_complete, codestream_size
from foveal.scans.decoders import decode_frame
from foveal.scans.pixels import Limits, decoding, deep_to_rgb, scale_to_8_bits, to_rgb
from foveal.scans.scan import Laterality, Scan, ScanError

# Ophthalmic photography, external-camera photography, and what converters write for lack of better.
PHOTOGRAPHIC_MODALITIES = ("OP", "XC", "OT")
# 8-bit, 16-bit, wide-field stereographic and wide-field 3D ophthalmic photography (PS3.4 B.5).
PHOTOGRAPHIC_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.77.1.5.{kind}" for kind in (1, 2, 5, 6))
GREY = ("MONOCHROME1", "MONOCHROME2")
# pydicom's decoders hand all but the first out as RGB; palettes are applied here.
COLOUR = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
SALT_VARIABLE = "FOVEAL_SALT"
PROJECT_SALT = "foveal"


def hash_patient(identifier: str | None, *, salt: str = "") -> str | None:
    """Pseudonym of a patient id: hexadecimal SHA-256 of the salt, a zero byte and the id, in UTF-8.

    The salt is `salt`, else the environment variable FOVEAL_SALT, else the project's own word. The
    same salt gives the same pseudonym everywhere, so a cohort can be joined over runs and machines.
    With the project's word it can also be guessed: whoever knows how ids are formed tries them all.
    Set a secret salt for anything that leaves the clinic.

    Args:
        identifier: the id; blanks around it do not count.
        salt: secret of the study.

    Returns:
        64 hexadecimal digits; None for an empty id.
    """
    identifier = (identifier or "").strip()
    if not identifier:
        return None
    salt = salt or os.environ.get(SALT_VARIABLE, "") or PROJECT_SALT
    return hashlib.sha256(f"{salt}\0{identifier}".encode()).hexdigest()


def read_dicom(path: Path, frame: int, limits: Limits, *, salt: str = "") -> Scan:
    """Read one frame of a DICOM photograph; the others are not decoded.

    MONOCHROME1 is inverted, palettes are applied, YBR becomes RGB, samples are scaled from BitsStored
    to 8 bits. Windowing is not applied: it is meant for displays and differs between cameras.
    Metadata that cannot be read count as absent.

    Args:
        path: a file with the DICOM preamble.
        frame: which frame, from 0.
        limits: checked from the header, and for compressed frames from the codestream's own header.
        salt: see `hash_patient`.

    Raises:
        ScanError: damaged, truncated, no photograph, outside the limits, or no such frame.
    """
    with decoding(path, "DICOM file"):
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            # pydicom inflates these whole, to whatever size they claim, before anything can be checked.
            raise ScanError(
                path, "DICOM has the Deflated transfer syntax; allowed: all that leave the header plain"
            )
        header = dcmread(path, stop_before_pixels=True)
        _check_photograph(path, header)
        frames = _check_pixel_module(path, header, frame, limits)
        dataset = dcmread(path)
        if not dataset.get("PixelData"):
            raise ScanError(path, "DICOM holds no pixel data, or ends before they do")
        codestream = _codestream(path, dataset, frame, frames, limits)
        rgb, bits = _frame_to_rgb(path, dataset, decode_frame(path, dataset, frame, codestream))
        return Scan(
            image=rgb,
            path=path,
            frame=frame,
            frames=frames,
            spacing_mm=_spacing(dataset, frame),
            laterality=_laterality(dataset, frame),
            acquired=_acquired(dataset, frame),
            patient=hash_patient(str(_value(dataset, "PatientID") or ""), salt=salt),
            bit_depth=bits,
            format="DICOM",
        )


def _check_photograph(path: Path, header: Dataset) -> None:
    modality = str(header.get("Modality") or "")
    sop_class = UID(str(header.get("SOPClassUID") or ""))
    if modality in PHOTOGRAPHIC_MODALITIES or (not modality and sop_class in PHOTOGRAPHIC_CLASSES):
        return
    raise ScanError(
        path,
        f"DICOM is no eye photograph: modality {modality or 'missing'}, class {sop_class.name or 'missing'}; "
        f"allowed: modality {', '.join(PHOTOGRAPHIC_MODALITIES)}",
    )


def _check_pixel_module(path: Path, header: Dataset, frame: int, limits: Limits) -> int:
    """Raise ScanError unless the header describes a frame that can be read; returns the frame count."""
    if "Rows" not in header or "Columns" not in header:
        raise ScanError(path, "DICOM holds no image (no Rows and Columns)")
    limits.check(path, int(header.Columns), int(header.Rows))
    frames = int(header.get("NumberOfFrames") or 1)
    if frame >= frames:
        raise ScanError(path, f"frame is {frame}; allowed: 0 to {frames - 1}")
    photometric, samples = str(header.PhotometricInterpretation), int(header.SamplesPerPixel)
    if photometric not in GREY + COLOUR:
        raise ScanError(
            path, f"photometric interpretation is {photometric}; allowed: {', '.join(GREY + COLOUR)}"
        )
    if samples != (1 if photometric in (*GREY, "PALETTE COLOR") else 3):
        raise ScanError(
            path, f"{samples} samples a pixel do not go with {photometric}; allowed: 1 grey, 3 colour"
        )
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if allocated not in (1, 8, 16) or not 1 <= stored <= allocated:
        raise ScanError(path, f"{stored} bits stored in {allocated}; allowed: 1 to 16 in 1, 8 or 16")
    return frames


def _codestream(path: Path, dataset: Dataset, frame: int, frames: int, limits: Limits) -> bytes | None:
    """A compressed frame (None where there is no codestream); ScanError if cut short or of another size."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return None
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    codestream = get_frame(dataset.PixelData, frame, number_of_frames=frames, extended_offsets=offsets)
    size, expected = codestream_size(codestream), (int(dataset.Columns), int(dataset.Rows))
    if size is None:
        raise ScanError(path, f"frame {frame} has no JPEG or JPEG 2000 header ({syntax.name})")
    limits.check(path, *size)
    if size != expected:
        raise ScanError(path, f"frame {frame} is {size} px inside; allowed: {expected}, as the header says")
    if not codestream_is_complete(codestream):
        raise ScanError(path, f"frame {frame} is truncated: its end marker (FF D9) is missing")
    return codestream


def _frame_to_rgb(path: Path, dataset: Dataset, samples: np.ndarray) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 of a decoded frame, and BitsStored."""
    bits, photometric = int(dataset.BitsStored), str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(samples, dataset)[..., :3]
        return (to_rgb(colours) if colours.dtype == np.uint8 else deep_to_rgb(colours)[0]), bits
    if samples.dtype.kind == "i" and samples.min() < 0:
        raise ScanError(path, f"signed samples reach {samples.min()}; allowed: 0 and above")
    # What lies above BitsStored is no image (overlay planes, in older files).
    rgb = to_rgb(scale_to_8_bits(samples.astype(np.uint16) & ((1 << bits) - 1), bits))
    return (255 - rgb if photometric == "MONOCHROME1" else rgb), bits


def _value(dataset: Dataset, keyword: str) -> Any:
    """Value of an optional element; None where it is absent or cannot be parsed."""
    try:
        return dataset.get(keyword)
    except Exception:  # parsing is lazy; a broken optional value does not take the photograph with it
        return None


def _functional_groups(dataset: Dataset, frame: int, macro: str) -> Iterator[Dataset]:
    """Items of a functional-group macro that hold for a frame: its own first, then the shared ones."""
    for sequence, index in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        groups = _value(dataset, sequence)
        if groups and index < len(groups):
            yield from _value(groups[index], macro) or ()


def _spacing(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """(row, column) millimetres a pixel, from the most specific element that holds two positive numbers.

    ImagerPixelSpacing comes last: it is measured at the detector, and equals the spacing on the retina
    only for a camera with unit magnification.
    """
    values = [
        _value(item, "PixelSpacing") for item in _functional_groups(dataset, frame, "PixelMeasuresSequence")
    ]
    keywords = ("PixelSpacing", "NominalScannedPixelSpacing", "ImagerPixelSpacing")
    values += [_value(dataset, keyword) for keyword in keywords]
    for value in values:
        try:
            row, column = (float(part) for part in value)
        except (TypeError, ValueError):
            continue
        if 0 < row < math.inf and 0 < column < math.inf:
            return row, column
    return None


def _laterality(dataset: Dataset, frame: int) -> Laterality | None:
    """The eye, from the frame's anatomy, else the image's, else the series' element."""
    values = [
        _value(item, "FrameLaterality") for item in _functional_groups(dataset, frame, "FrameAnatomySequence")
    ]
    values += [_value(dataset, "ImageLaterality"), _value(dataset, "Laterality")]
    for value in values:
        if value == "L":
            return "L"
        if value == "R":
            return "R"
    return None


def _acquired(dataset: Dataset, frame: int) -> date | None:
    """Day of acquisition, from the most specific element that holds a valid date."""
    contents = _functional_groups(dataset, frame, "FrameContentSequence")
    values = [_value(item, "FrameAcquisitionDateTime") for item in contents]
    keywords = ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "StudyDate")
    values += [_value(dataset, keyword) for keyword in keywords]
    for value in values:
        try:
            return datetime.strptime(str(value or "")[:8], "%Y%m%d").date()
        except ValueError:
            continue
    return None
