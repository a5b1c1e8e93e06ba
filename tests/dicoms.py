"""Real DICOM files, written by pydicom; compressed ones by GDCM's encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

MAMMOGRAPH = "1.2.840.10008.5.1.4.1.1.1.2"


def write_dicom(path: Path, pixels: np.ndarray, bits: int = 12, syntax: str | None = None, **tags: Any) -> None:
    """H x W (or F x H x W) integers as a grey DICOM of `bits` stored bits; `tags` override or add elements.

    syntax: a transfer syntax by GDCM's name ("JPEG2000Lossless", "JPEGLosslessProcess14_1"), else uncompressed.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MAMMOGRAPH, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{abs(hash(path.name)) % 10**9}"
    file = Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality, file.PatientID = "1.2.4", "1.2.5", "MG", "p"
    file.Rows, file.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 8 * pixels.itemsize, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    file["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    if syntax:
        _recode(path, syntax)


def _recode(path: Path, syntax: str) -> None:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
