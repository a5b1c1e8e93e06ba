"""DICOM files to pixels: grey values in 16 bits, by a window that the adapter declares.

pydicom is on Kaggle's image; a decoder for compressed files is not. Uncompressed, RLE and JPEG 2000 files need none
beside Pillow, JPEG lossless (what mammographs write) needs python-gdcm: `pip install 'kit[dicom]'` at home. Where a
competition has such files its adapter says `wheels = ("python-gdcm",)`, and the wheel for Kaggle's Python travels in
the bundle.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from kit.offline.errors import ImageError, KitError
from kit.offline.pixels import MAX_PIXELS

TOP = 65535
Window = tuple[float, float] | str


def read_dicom(data: Path, name: str, window: Window = "full") -> np.ndarray:
    """`data/name` as H x W uint16 (F x H x W if it has several frames), 0 dark and 65535 bright.

    Stored values become those of the modality (Hounsfield units for CT) by RescaleSlope and RescaleIntercept.
    window: (centre, width) in those units, clipped to at its ends; "header": the file's first window, with its
    function; "full": all that BitsStored can hold, so that nothing is clipped and each stored value has its own level.
    MONOCHROME1 is inverted. Formulas: DICOM PS3.3 C.7.6.3.1.2 and C.11.2.1. Raises ImageError for files that are
    damaged, hold colour, lack a decoder or hold values beyond their bits.
    """
    path = data / name
    file, stored = _decoded(path)
    if file.get("SamplesPerPixel", 1) != 1 or not str(file.get("PhotometricInterpretation", "")).startswith("MONO"):
        found = f"{file.get('SamplesPerPixel')} samples a pixel, {file.get('PhotometricInterpretation')}"
        raise _bad(path, "a grey DICOM", found, "read it with pydicom in the adapter")
    slope, intercept = float(file.get("RescaleSlope", 1) or 1), float(file.get("RescaleIntercept", 0) or 0)
    least, most = _range(file)
    if stored.min() < least or stored.max() > most:
        found = f"{stored.min()} to {stored.max()}"
        raise _bad(path, f"values of {file.BitsStored} bits, {least} to {most},", found, "drop its row, or read it raw")
    if isinstance(window, str) and window == "full":
        share = (stored.astype(np.float64) - least) / (most - least)
        share = 1 - share if slope < 0 else share
    else:
        share = _windowed(path, file, stored * slope + intercept, window)
    if file.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    return np.round(share * TOP).astype(np.uint16)


def _decoded(path: Path) -> tuple[Any, np.ndarray]:
    """The data set and its stored values. Raises ImageError for whatever pydicom and its decoders raise."""
    try:
        from pydicom import dcmread
    except ImportError:
        raise KitError("pydicom, to read DICOM files", "it is not installed", "pip install 'kit[dicom]'") from None
    if not path.is_file():
        raise _bad(path, "a whole DICOM file", "no such file", "download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd headers are common and harmless; pixels are checked here
            file = dcmread(path)
            frames = int(file.get("NumberOfFrames") or 1)
            if int(file.Rows) * int(file.Columns) * frames > MAX_PIXELS:
                found = f"{file.Columns} x {file.Rows} pixels, {frames} times"
                raise _bad(path, f"at most {MAX_PIXELS} pixels", found, "read it with pydicom in the adapter")
            return file, file.pixel_array
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders are many, and each has errors of its own
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        fix = "download it again, or drop its row"
        if "missing dependencies" in str(error) or "plugins are" in str(error) or "no decod" in str(error).lower():
            fix = "pip install 'kit[dicom]' at home, and wheels = (\"python-gdcm\",) in the adapter for Kaggle"
        raise _bad(path, "a whole DICOM file that can be decoded", found, fix) from None


def _range(file: Any) -> tuple[int, int]:
    """The smallest and the largest value that BitsStored can hold."""
    bits = int(file.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if int(file.PixelRepresentation) else (0, 2**bits - 1)


def _windowed(path: Path, file: Any, values: np.ndarray, window: Window) -> np.ndarray:
    """Values in 0..1 by a window, as the standard's LINEAR, or by the header's own function."""
    function = "LINEAR"
    if isinstance(window, str):
        centres, widths = file.get("WindowCenter"), file.get("WindowWidth")
        if window != "header" or centres is None or widths is None:
            found = f"window={window!r}" if window != "header" else "no WindowCenter and WindowWidth"
            raise _bad(path, 'a window: (centre, width), "header" or "full"', found, "declare one in the adapter")
        centre, width = (float(np.atleast_1d(np.asarray(of, float))[0]) for of in (centres, widths))
        function = str(file.get("VOILUTFunction", "") or "LINEAR")
    else:
        centre, width = map(float, window)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":  # whole numbers: the window of width w holds w values
        centre, width = centre - 0.5, max(width - 1, 1e-9)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _bad(path: Path, expected: str, found: str, fix: str) -> ImageError:
    return ImageError(f"{expected} at {path}", found, fix)
