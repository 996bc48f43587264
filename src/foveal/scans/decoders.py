"""Which library decodes which DICOM transfer syntax: one each, so that every machine reads the same pixels.

GDCM is the only permissively licensed decoder of lossless JPEG and JPEG-LS for pydicom. Some damaged headers
make it end the whole process, so it is handed only frames whose headers are sound.
"""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from foveal.scans.codestream import header_fault
from foveal.scans.scan import ScanError

PLUGINS = {
    RLELossless: "pydicom",
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",  # 8 bits; deeper ones go to GDCM directly
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless), "gdcm"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "pylibjpeg"),
}
PACKAGES = {"gdcm": "python-gdcm", "pylibjpeg": "pylibjpeg-openjpeg"}


def decode_frame(path: Path, dataset: Dataset, frame: int, codestream: bytes | None) -> np.ndarray:
    """Samples of one frame, palettes not applied, YBR made RGB.

    Args:
        path: named in errors.
        dataset: a DICOM image whose sizes and depths have been checked.
        frame: which frame, from 0.
        codestream: its compressed bytes; None where pixels are plain or run-length encoded.

    Returns:
        (H, W) or (H, W, 3) integers as stored.

    Raises:
        ScanError: a transfer syntax that nothing here decodes, a library that is missing, a damaged header.
        Exception: whatever the library makes of damaged data.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return pixel_array(dataset, index=frame)
    if syntax not in PLUGINS:
        allowed = ", ".join(UID(known).name for known in PLUGINS)
        raise ScanError(path, f"transfer syntax is {syntax.name}; allowed: uncompressed, {allowed}")
    deep = syntax == JPEGExtended12Bit and dataset.BitsStored > 8
    plugin = "gdcm" if deep else PLUGINS[syntax]
    if plugin not in get_decoder(syntax).available_plugins:
        package = PACKAGES.get(plugin, plugin)
        raise ScanError(path, f"{syntax.name} needs {package}; install it with `pip install {package}`")
    if plugin == "gdcm" and codestream is not None:
        depth, samples = int(dataset.BitsAllocated), int(dataset.SamplesPerPixel)
        fault = header_fault(codestream, samples=samples, most_bits=depth)
        if fault:
            raise ScanError(path, f"frame {frame} has a damaged JPEG header: {fault}")
        if deep:
            return _decode_deep_grey(path, dataset, codestream)
    return pixel_array(dataset, index=frame, decoding_plugin=plugin)


def _decode_deep_grey(path: Path, dataset: Dataset, codestream: bytes) -> np.ndarray:
    """(H, W) uint16 of a lossy JPEG with 12 bits a sample (T.81, process 4); pydicom does not let GDCM."""
    import gdcm

    if dataset.SamplesPerPixel != 1:
        raise ScanError(path, "JPEG Extended holds 12-bit colour; allowed: 8-bit colour, 8 or 12-bit grey")
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsStored)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(codestream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    pixels = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    pixels.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(pixels)
    grey = gdcm.PhotometricInterpretation.GetPIType(str(dataset.PhotometricInterpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    syntax = gdcm.TransferSyntax.GetTSType(str(dataset.file_meta.TransferSyntaxUID))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, 0))
    decoded = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM hands bytes out as text
    return np.frombuffer(decoded, "<u2").reshape(rows, columns)
