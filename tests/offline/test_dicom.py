"""kit/offline/dicom.py"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from kit.offline.dicom import TOP, read_dicom
from kit.offline.errors import ImageError
from tests.dicoms import write_dicom

SYNTAXES = [
    None,
    "JPEG2000Lossless",
    "JPEGLosslessProcess14_1",
    "JPEGLosslessProcess14",
    "JPEGLSLossless",
    "RLELossless",
]


def ramp(bits=12, dtype=np.uint16, height=48, width=40):
    """Every few values of the range that the bits can hold, its ends among them."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if np.dtype(dtype).kind == "i" else (0, 2**bits - 1)
    return np.linspace(low, high, height * width).round().reshape(height, width).astype(dtype)


def read(tmp_path, pixels, window="full", **options):
    write_dicom(tmp_path / "0.dcm", pixels, **options)
    return read_dicom(tmp_path, "0.dcm", window)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("bits", "dtype"), [(8, np.uint8), (10, np.uint16), (12, np.uint16), (12, np.int16), (16, np.uint16)]
)
def test_every_stored_value_keeps_a_level_of_its_own(tmp_path, syntax, bits, dtype):
    """Of any bit depth, sign and lossless compression: the lowest is 0, the highest 65535, the rest inverts exactly."""
    pixels = ramp(bits, dtype)
    got = read(tmp_path, pixels, bits=bits, syntax=syntax)
    assert (got.dtype, got.shape, got.min(), got.max()) == (np.uint16, pixels.shape, 0, TOP)
    back = np.round(got.astype(float) / TOP * (2**bits - 1)) + int(pixels.min())
    assert (back == pixels).all()


def test_monochrome1_is_inverted(tmp_path):
    """Both interpretations of one picture show it alike: bright is high."""
    plain = read(tmp_path, ramp())
    assert (read(tmp_path, 4095 - ramp(), PhotometricInterpretation="MONOCHROME1") == plain).all()


def test_a_window_counts_in_units_of_the_modality(tmp_path):
    """Slope and intercept come first; below the window is 0, above it full, its middle half (PS3.3 C.11.2.1)."""
    pixels = np.array([[0, 1023, 1024, 1064, 1104, 1105, 4095]], np.uint16)
    got = read(tmp_path, pixels, (40, 81), RescaleIntercept=-1024, RescaleSlope=1)
    share = got[0] / TOP
    assert share[[0, 1]].tolist() == [0, 0]
    assert share[2] == pytest.approx(0.5 + (0 - 39.5) / 80, abs=1e-4)
    assert share[3] == pytest.approx(0.5 + (40 - 39.5) / 80, abs=1e-4)
    assert share[[5, 6]].tolist() == [1, 1]
    stretched = read(tmp_path, pixels, (80, 161), RescaleIntercept=-2048, RescaleSlope=2)
    assert stretched[0][3] / TOP == pytest.approx(0.5 + (80 - 79.5) / 160, abs=1e-4)


def test_the_header_s_window_may_be_declared(tmp_path):
    """The first of several windows counts; a sigmoid bends; a file without a window is refused by name."""
    window = {"WindowCenter": [2000, 100], "WindowWidth": [1000, 50]}
    assert (read(tmp_path, ramp(), "header", **window) == read(tmp_path, ramp(), (2000, 1000))).all()
    bent = read(tmp_path, ramp(), "header", VOILUTFunction="SIGMOID", **window)
    want = 1 / (1 + np.exp(-4 * (ramp().astype(float) - 2000) / 1000))
    np.testing.assert_allclose(bent / TOP, want, atol=1e-4)
    with pytest.raises(ImageError, match="no WindowCenter"):
        read(tmp_path, ramp(), "header")
    with pytest.raises(ImageError, match="bone"):
        read(tmp_path, ramp(), "bone", **window)


def test_frames_stay_apart(tmp_path):
    """A file of three frames is F x H x W."""
    frames = np.stack([ramp(), ramp()[::-1], ramp()[:, ::-1]])
    assert (read(tmp_path, frames)[1] == read(tmp_path, ramp()[::-1])).all()


def test_overlays_in_unused_bits_are_no_brightness(tmp_path):
    """What old files keep above their 12 bits is not part of the value (PS3.5 8.1.1)."""
    overlay = ramp() | np.uint16(1 << 12)
    assert (read(tmp_path, overlay) == read(tmp_path, ramp())).all()


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("syntax", [None, "JPEG2000Lossless", "JPEGLosslessProcess14_1"])
def test_a_truncated_file_is_refused(tmp_path, keep, syntax):
    """A missing part of the pixels, or more, is an ImageError that names the file."""
    write_dicom(tmp_path / "0.dcm", ramp(), syntax=syntax)
    content = (tmp_path / "0.dcm").read_bytes()
    (tmp_path / "0.dcm").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ImageError, match=r"0\.dcm"):
        read_dicom(tmp_path, "0.dcm")


def test_missing_files_and_colour_are_refused(tmp_path):
    """What is not there, is no DICOM or is coloured says so."""
    with pytest.raises(ImageError, match="no such file"):
        read_dicom(tmp_path, "1.dcm")
    (tmp_path / "1.dcm").write_bytes(b"<html>404</html>")
    with pytest.raises(ImageError, match="InvalidDicom"):
        read_dicom(tmp_path, "1.dcm")
    with pytest.raises(ImageError, match="grey"):
        read(tmp_path, ramp(8, np.uint8), bits=8, PhotometricInterpretation="PALETTE COLOR")


WITHOUT_DECODERS = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Wall())
from pathlib import Path
from kit.offline.dicom import read_dicom
from kit.offline.errors import KitError
for name in sys.argv[2:]:
    try:
        print(name, read_dicom(Path(sys.argv[1]), name).shape)
    except KitError as error:
        print(name, error.fix)
"""


def behind_a_wall(tmp_path, blocked, *names):
    script = WITHOUT_DECODERS.format(blocked=blocked)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_kaggle_s_image_decodes_and_what_must_travel(tmp_path):
    """With Pillow alone, plain, RLE and JPEG 2000 files are read; JPEG lossless names the decoder that must travel."""
    names = {"plain": None, "rle": "RLELossless", "j2k": "JPEG2000Lossless", "lossless": "JPEGLosslessProcess14_1"}
    for name, syntax in names.items():
        write_dicom(tmp_path / name, ramp(), syntax=syntax)
    told = behind_a_wall(tmp_path, ["gdcm", "_gdcm", "pylibjpeg"], *names)
    assert told[:3] == ["plain (48, 40)", "rle (48, 40)", "j2k (48, 40)"]
    assert "python-gdcm" in told[3]
    assert "kit[dicom]" in behind_a_wall(tmp_path, ["pydicom"], "plain")[0]
