"""Small pictures and a DICOM writer for the tests of reading."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

OPHTHALMIC_PHOTOGRAPHY_8_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"


@pytest.fixture
def photograph() -> np.ndarray:
    """(72, 96, 3) uint8, smooth enough for lossy coding, no two of its symmetries equal."""
    row, column = np.mgrid[:72, :96]
    return np.stack([row * 3, column * 2, 200 - row - column], axis=-1).astype(np.uint8)


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    """Write samples (or encoded frames) as an ophthalmic photograph; keywords are DICOM elements."""

    def write(
        samples: np.ndarray,
        name: str = "photograph.dcm",
        *,
        photometric: str = "RGB",
        bits: int = 8,
        syntax: str = ExplicitVRLittleEndian,
        encoded: list[bytes] | None = None,
        compress: bool = False,
        **elements: Any,
    ) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if compress else syntax
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = OPHTHALMIC_PHOTOGRAPHY_8_BIT
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.Modality = "OP"
        dataset.SamplesPerPixel = 3 if samples.shape[-1] == 3 else 1
        if dataset.SamplesPerPixel == 3:
            dataset.PlanarConfiguration = 0
        dataset.Rows, dataset.Columns = (
            samples.shape[-3:-1] if dataset.SamplesPerPixel == 3 else samples.shape[-2:]
        )
        if samples.ndim - (dataset.SamplesPerPixel == 3) == 3:
            dataset.NumberOfFrames = len(samples)
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = 8 * samples.dtype.itemsize
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
        dataset.PixelData = encapsulate(encoded) if encoded else samples.tobytes()
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        if compress:
            dataset.compress(syntax)
        path = tmp_path / name
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write
