"""The structures of a photograph as DICOM Segmentation objects (PS3.3 A.51, C.8.20)."""

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless

from foveal.pages import NOTICE
from foveal.screening.dicom_codes import (
    MAKER,
    RETINA,
    algorithm,
    declarations,
    derived_uid,
    maker,
    structure,
    version_parts,
)
from foveal.screening.dicom_photograph import DicomPhotograph
from foveal.screening.dicom_source import referred_frame

SERIES, PROBABILITY_SERIES = 9201, 9202
"""Series numbers, far from those of a camera."""


def mask_segmentation(photograph: DicomPhotograph, source: Dataset) -> Segmentation:
    """The masks as one binary segmentation; a segment may overlap others.

    Frames are packed, eight pixels a byte, and not compressed: for one bit a pixel that is what readers
    understand. A segment without a pixel is described, and has no frame.

    Args:
        photograph: whose masks are written.
        source: header of the image that they lie on, see `foveal.screening.dicom_source`.
    """
    planes = np.stack([photograph.masks[name] for name in photograph.masks]).view(np.uint8)
    return _segmentation(
        photograph, source, photograph.masks, planes, "BINARY", ExplicitVRLittleEndian, SERIES
    )


def probability_segmentation(photograph: DicomPhotograph, source: Dataset) -> Segmentation:
    """The probabilities as one fractional segmentation, rounded to 1/255, compressed without loss.

    Args:
        photograph: whose probabilities are written; it has some.
        source: header of the image that they lie on.
    """
    planes = np.stack([photograph.probabilities[name] for name in photograph.probabilities])
    return _segmentation(
        photograph,
        source,
        photograph.probabilities,
        planes,
        "FRACTIONAL",
        JPEGLSLossless,
        PROBABILITY_SERIES,
    )


def segment_frames(segmentation: Segmentation) -> dict[int, int]:
    """Number of the frame that holds each segment, by segment number, both from 1."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    frames = {}
    for number, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence, 1):
        holder = groups if "SegmentIdentificationSequence" in groups else shared
        frames[int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)] = number
    return frames


def _segmentation(
    photograph: DicomPhotograph,
    source: Dataset,
    names: Mapping[str, np.ndarray],
    planes: np.ndarray,
    kind: str,
    syntax: UID,
    series: int,
) -> Segmentation:
    identity = (str(source.SOPInstanceUID), str(photograph.scan.frame), kind, *version_parts(photograph))
    packed = np.packbits(planes) if kind == "BINARY" else planes
    content = sha256(packed.data).hexdigest()
    segmentation = Segmentation(
        source_images=[source],
        # (1, H, W, K) with each plane whole in memory, which is how they are read.
        pixel_array=np.moveaxis(planes, 0, -1)[np.newaxis],
        segmentation_type=kind,
        segment_descriptions=_descriptions(photograph, tuple(names)),
        series_instance_uid=derived_uid("segmentation series", *identity),
        series_number=series,
        sop_instance_uid=derived_uid("segmentation", *identity, *names, content),
        instance_number=1,
        transfer_syntax_uid=syntax,
        content_label=MAKER.upper(),
        content_description=NOTICE,
        content_creator_name=f"{MAKER}^",
        **maker(photograph),
        **declarations(),
    )
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    # The spacing is the source's own; repeated here it would have to come with the thickness of a slice.
    if "PixelMeasuresSequence" in shared:
        del shared.PixelMeasuresSequence
    if "PatientOrientation" not in segmentation:  # demanded of an image that has no place in the patient
        segmentation.PatientOrientation = ""
    frame = referred_frame(photograph, source)
    if frame is not None:
        _refer_to_frame(segmentation, frame)
    return segmentation


def _descriptions(photograph: DicomPhotograph, names: tuple[str, ...]) -> list[SegmentDescription]:
    identification = algorithm(photograph)
    descriptions = []
    for number, name in enumerate(names, 1):
        told = structure(name)
        descriptions.append(
            SegmentDescription(
                segment_number=number,
                segment_label=told.label,
                segmented_property_category=told.category,
                segmented_property_type=told.type,
                algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=identification,
                anatomic_regions=[RETINA],
                display_color=CIELabColor.from_rgb(*told.colour),
            )
        )
    return descriptions


def _refer_to_frame(segmentation: Segmentation, frame: int) -> None:
    """Name the frame of a multi-frame source, which went into the segmentation as if it were the only one."""
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in groups.DerivationImageSequence:
            for image in derivation.SourceImageSequence:
                image.ReferencedFrameNumber = frame
