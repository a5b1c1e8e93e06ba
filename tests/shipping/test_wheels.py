"""kit/shipping/wheels.py"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kit.offline.errors import BundleError
from kit.shipping import wheels
from kit.shipping.wheels import KAGGLE, carry, pack

SMP = "segmentation-models-pytorch"
DOWNLOADED = wheels._downloaded  # before conftest takes its place


def test_an_installed_package_becomes_its_wheel_again(tmp_path):
    """The same bytes each time, under a wheel's name, with every file hashed in RECORD and no bytecode."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    name = carry(tmp_path / "one", SMP)
    assert name.startswith("segmentation_models_pytorch-") and name.endswith("-py3-none-any.whl")
    content = (tmp_path / "one" / name).read_bytes()
    assert carry(tmp_path / "two", SMP.replace("-", "_")) == name
    assert (tmp_path / "two" / name).read_bytes() == content
    with zipfile.ZipFile(tmp_path / "one" / name) as archive:
        names = archive.namelist()
        record = next(entry for entry in names if entry.endswith(".dist-info/RECORD"))
        lines = dict(line.split(",", 1) for line in archive.read(record).decode().splitlines())
        for entry in set(names) - {record}:
            assert hashlib.sha256(archive.read(entry)).hexdigest() in lines[entry]
    assert set(lines) == set(names) and not [entry for entry in names if entry.endswith(".pyc")]
    assert any("LICENSE" in entry for entry in names)


def test_the_wheel_is_imported_from_the_path(tmp_path):
    """Put first on sys.path it is what is imported, straight out of the file, and it builds a network."""
    name = carry(tmp_path, SMP)
    code = "import segmentation_models_pytorch as p; print(p.__file__); p.create_model('unet', 'tu-test_resnet', None)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(tmp_path / name)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / name))


def test_a_package_that_is_not_installed_is_named(tmp_path):
    """The error says what to install."""
    with pytest.raises(BundleError, match="pip install no-such-package"):
        carry(tmp_path, "no-such-package")


def test_compiled_packages_of_another_python_are_downloaded_for_kaggle(tmp_path, monkeypatch):
    """pip is asked for the installed version, for Python 3.12 on Linux, without dependencies; no wheel is an error."""
    asked = []

    def pip(command, **named):
        asked.append(command)
        if len(asked) == 1:
            (Path(command[command.index("--dest") + 1]) / "odd-1-cp312-cp312-manylinux2014_x86_64.whl").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "ERROR: no matching distribution")

    monkeypatch.setattr(wheels, "_downloaded", DOWNLOADED)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    monkeypatch.setattr(wheels, "KAGGLE", wheels.re.compile("nothing"))
    assert carry(tmp_path, "numpy").startswith("odd-1-cp312")
    version = __import__("numpy").__version__
    assert {"--no-deps", "--only-binary=:all:", "--python-version=3.12", f"numpy=={version}"} <= set(asked[0])
    with pytest.raises(BundleError, match="no matching distribution"):
        carry(tmp_path, "numpy")


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp39-abi3-manylinux2014_x86_64", True),
        ("cp311-cp311-manylinux2014_x86_64", False),
        ("cp312-cp312-macosx_11_0_arm64", False),
        ("cp312-cp312-manylinux2014_aarch64", False),
    ],
)
def test_what_kaggle_takes(tag, fits):
    """Pure wheels, and compiled ones for Python 3.12 on 64-bit Linux."""
    assert bool(KAGGLE.fullmatch(tag)) is fits


def test_a_name_can_carry_its_hash(tmp_path):
    """Other content is another name."""
    names = [pack(tmp_path, "a-1-0{digest}-py3-none-any", "a-1.dist-info", {"a.py": text}) for text in (b"1", b"2")]
    assert len(set(names)) == 2 and all(zipfile.is_zipfile(tmp_path / name) for name in names)
