"""The measurements of a photograph as a DICOM structured report (PS3.16, TID 1500 "Measurement Report")."""

import math
from hashlib import sha256

import numpy as np
from highdicom.seg import Segmentation
from highdicom.sr import (
    AlgorithmIdentification,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegmentationFrame,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    SourceImageForSegmentation,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from foveal.pages import NOTICE
from foveal.screening.dicom_codes import (
    ANATOMY,
    MAKER,
    RETINA,
    SIDES,
    declarations,
    derived_uid,
    maker,
    own_code,
    structure,
    unit,
    version_parts,
)
from foveal.screening.dicom_photograph import DicomPhotograph
from foveal.screening.dicom_segmentation import segment_frames
from foveal.screening.dicom_source import referred_frame

SERIES = 9203
Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations


def measurement_report(
    photograph: DicomPhotograph, source: Dataset, segmentation: Segmentation
) -> ComprehensiveSR:
    """The report: notice, quality and values of the photograph, then landmarks, then each segment.

    Landmarks are points and circles on the source image. DICOM puts the origin at the corner of the first
    pixel (PS3.3 C.18.6), foveal at its centre: half a pixel lies between the two.

    Args:
        photograph: whose results are written.
        source: header of the image that they lie on, see `foveal.screening.dicom_source`.
        segmentation: of its masks.

    Raises:
        ValueError: a value has an unknown unit.
    """
    writer = _Groups(photograph, source, segmentation)
    groups = [writer.image(), *writer.landmarks(), *writer.segments()]
    observer = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", *version_parts(photograph)),
        name=f"{MAKER} {photograph.versions['foveal']}",
        manufacturer_name=MAKER,
        model_name=MAKER,
    )
    report = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(codes.DCM.Device, observer)
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[source],
    )
    # The template is extensible; the notice stands where a reader of the report begins.
    report[0].ContentSequence.append(
        TextContentItem(codes.DCM.Comment, NOTICE, RelationshipTypeValues.CONTAINS)
    )
    return ComprehensiveSR(
        evidence=[source, segmentation],
        content=report,
        series_instance_uid=derived_uid("measurement series", *writer.identity),
        series_number=SERIES,
        sop_instance_uid=derived_uid("measurements", *writer.identity, _fingerprint(photograph)),
        instance_number=1,
        is_complete=True,
        **maker(photograph),
        **declarations(),
    )


class _Groups:
    """Measurement groups of one photograph."""

    def __init__(self, photograph: DicomPhotograph, source: Dataset, segmentation: Segmentation) -> None:
        self.photograph = photograph
        self.segmentation = segmentation
        self.identity = (str(source.SOPInstanceUID), str(segmentation.SOPInstanceUID))
        self.image_uids = (str(source.SOPClassUID), str(source.SOPInstanceUID))
        frame = referred_frame(photograph, source)
        self.frame = None if frame is None else [frame]
        side = SIDES.get(photograph.laterality or "")
        self.site = [FindingSite(RETINA, laterality=side)]
        self.algorithm = AlgorithmIdentification(
            name=MAKER, version=photograph.versions["foveal"], parameters=version_parts(photograph)
        )

    def image(self) -> Group:
        """What was measured on the photograph as a whole."""
        quality = self.photograph.quality
        evaluations = (
            [
                QualitativeEvaluation(
                    codes.DCM.ImageQuality, own_code(quality, f"{quality.capitalize()} quality")
                )
            ]
            if quality
            else []
        )
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking("photograph"),
            finding_type=RETINA,
            finding_category=ANATOMY,
            finding_sites=self.site,
            algorithm_id=self.algorithm,
            source_images=[SourceImageForMeasurementGroup(*self.image_uids, self.frame)],
            measurements=[
                Measurement(own_code(name, title), value, unit(symbol))
                for name, title, value, symbol in self.photograph.values
                if value is not None and math.isfinite(value)
            ],
            qualitative_evaluations=evaluations,
        )

    def landmarks(self) -> list[Group]:
        """Disc, as a circle with its radius, and fovea, as a point, where known."""
        groups: list[Group] = []
        disc, fovea = self.photograph.landmarks.disc, self.photograph.landmarks.fovea
        if disc is not None:
            rim = (disc.center[0], disc.center[1] + disc.radius)
            radius = Measurement(codes.SCT.Radius, disc.radius, unit("px"))
            groups.append(self._region("disc", "CIRCLE", [disc.center, rim], [radius]))
        if fovea is not None:
            groups.append(self._region("fovea", "POINT", [fovea], []))
        return groups

    def segments(self) -> list[Group]:
        """Each segment that is not empty, with its area."""
        frames = segment_frames(self.segmentation)
        groups: list[Group] = []
        for number, (name, mask) in enumerate(self.photograph.masks.items(), 1):
            area = int(np.count_nonzero(mask))
            if not area:
                continue
            segment = ReferencedSegmentationFrame(
                str(self.segmentation.SOPClassUID),
                str(self.segmentation.SOPInstanceUID),
                frame_number=frames[number],
                segment_number=number,
                source_image=SourceImageForSegmentation(*self.image_uids, self.frame),
            )
            # The frame says which segment is meant, and DICOM allows one of the two (PS3.3 C.18.4, 10-3).
            del segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
            told = structure(name)
            groups.append(
                PlanarROIMeasurementsAndQualitativeEvaluations(
                    tracking_identifier=self._tracking(f"segment {name}"),
                    referenced_segment=segment,
                    finding_type=told.type,
                    finding_category=told.category,
                    finding_sites=self.site,
                    measurements=[Measurement(codes.SCT.Area, area, unit("px2"))],
                )
            )
        return groups

    def _region(
        self, name: str, shape: str, points: list[tuple[float, float]], measurements: list[Measurement]
    ) -> Group:
        told = structure(name)
        corners = np.array([(column + 0.5, row + 0.5) for row, column in points])
        return PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(f"landmark {name}"),
            referenced_region=ImageRegion(shape, corners, SourceImageForRegion(*self.image_uids, self.frame)),
            finding_type=told.type,
            finding_category=told.category,
            finding_sites=self.site,
            measurements=measurements,
        )

    def _tracking(self, name: str) -> TrackingIdentifier:
        return TrackingIdentifier(derived_uid("tracking", *self.identity, name), name)


def _fingerprint(photograph: DicomPhotograph) -> str:
    """Hash of what the report says beyond its segments."""
    told = (
        tuple(map(tuple, photograph.values)),
        photograph.landmarks,
        photograph.quality,
        photograph.laterality,
    )
    return sha256(repr(told).encode()).hexdigest()
