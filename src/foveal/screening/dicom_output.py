"""DICOM output of one screened photograph: segmentation, measurement report and, if need be, the photograph.

The objects are for archives and viewers that speak DICOM. Every one says that it is research, and none is
marked as verified or final. What comes from a DICOM image joins that image's patient and study, as DICOM
demands of what refers to it, so these objects carry the patient's name and belong where the image belongs.
`write_deidentified_dicom` makes them refer to a copy of the photograph under a pseudonym instead.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from foveal.files import write_atomically
from foveal.screening.dicom_photograph import DicomPhotograph

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PHOTOGRAPH, SEGMENTATION = "photograph.dcm", "segmentation.dcm"
PROBABILITIES, MEASUREMENTS = "probabilities.dcm", "measurements.dcm"
FILES = (PHOTOGRAPH, SEGMENTATION, PROBABILITIES, MEASUREMENTS)
"""Every file that may be written for a photograph."""


def write_dicom(folder: Path, photograph: DicomPhotograph) -> dict[str, int]:
    """Write the results of a photograph as DICOM.

    A photograph that came from DICOM is referred to, and its patient and study are those of the results.
    Any other photograph, and a DICOM image that lacks its identifiers, is written as DICOM itself first,
    under a pseudonym. The same photograph, results and versions give the same unique identifiers.

    Args:
        folder: of this photograph alone; made where it is missing. Files of an older run are replaced, or
            removed where there is no such file now.
        photograph: what is known of it.

    Returns:
        Size in bytes by file name: "segmentation.dcm", "measurements.dcm", with probabilities also
        "probabilities.dcm", and for a photograph that is no DICOM image "photograph.dcm".

    Raises:
        OSError: the photograph cannot be read again, or the folder cannot be written.
        ValueError: a value has a unit without a code.
    """
    from foveal.screening.dicom_source import referred_header

    return _write(folder, photograph, referred_header(photograph))


def write_deidentified_dicom(folder: Path, photograph: DicomPhotograph) -> dict[str, int]:
    """Write the results as `write_dicom` does, referring to a copy of the photograph under a pseudonym.

    The copy holds the pixels, the pseudonym, the day of acquisition, laterality and spacing, nothing else of
    the source. Text that is burned into the picture stays in it.
    """
    return _write(folder, photograph, None)


def _write(folder: Path, photograph: DicomPhotograph, source: "Dataset | None") -> dict[str, int]:
    from foveal.screening.dicom_measurements import measurement_report
    from foveal.screening.dicom_segmentation import mask_segmentation, probability_segmentation
    from foveal.screening.dicom_source import photograph_copy

    datasets: dict[str, Dataset] = {}
    if source is None:
        source = datasets[PHOTOGRAPH] = photograph_copy(photograph)
    masks = datasets[SEGMENTATION] = mask_segmentation(photograph, source)
    if photograph.probabilities:
        datasets[PROBABILITIES] = probability_segmentation(photograph, source)
    datasets[MEASUREMENTS] = measurement_report(photograph, source, masks)

    folder.mkdir(parents=True, exist_ok=True)
    sizes = {name: write_atomically(folder / name, _saver(dataset)) for name, dataset in datasets.items()}
    for name in FILES:
        if name not in sizes:
            (folder / name).unlink(missing_ok=True)
    return sizes


def _saver(dataset: "Dataset") -> Callable[[Path], None]:
    return lambda path: dataset.save_as(path, enforce_file_format=True)
