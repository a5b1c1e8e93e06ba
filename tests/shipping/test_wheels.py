"""A bundle carries what Kaggle's image lacks, and that alone; what contradicts the image is told at home."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from kit.offline.errors import BundleError
from kit.shipping import wheels
from kit.shipping.image import load_image
from kit.shipping.wheels import carry, fits, install, missing, pack, stand_ins

SMP = "segmentation-models-pytorch"
DOWNLOADED = wheels._downloaded  # before conftest takes its place
IMAGE = load_image()


def installed(monkeypatch, tmp_path, name, *requires, number="1.5", files=()):
    """A package of that name, installed in a folder on the path."""
    info = tmp_path / "site" / f"{name.replace('-', '_')}-{number}.dist-info"
    info.mkdir(parents=True)
    asked = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{asked}")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "RECORD").write_text("".join(f"{one},,\n" for one in files))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return info


def test_segmentation_models_brings_nothing_else():
    """All that it requires is in the image in a version that serves, torch and torchvision among it."""
    assert missing([SMP], IMAGE) == [SMP]


def test_what_the_image_has_stays_at_home():
    """A package that the adapter names needlessly is no fault, and torch never travels, listed or not."""
    bare = replace(IMAGE, packages={})
    assert missing(["pydicom", "scikit-learn>=1.5"], IMAGE) == []
    assert missing(["torch", "torchvision>=0.9", "nvidia-cudnn-cu12"], bare) == []


def test_requirements_are_followed_for_the_images_python(monkeypatch, tmp_path):
    """Those of other systems and of unasked extras are left, those of asked extras come, each once."""
    installed(monkeypatch, tmp_path, "zz-leaf", "zz-root")
    installed(monkeypatch, tmp_path, "zz-extra")
    installed(
        monkeypatch,
        tmp_path,
        "zz-root",
        "ZZ.Leaf>=1",
        "numpy>=1.20",
        "gone; sys_platform == 'win32'",
        "gone; python_version < '3.12'",
        "zz-extra; extra == 'more'",
    )
    assert missing(["zz-root"], IMAGE) == ["zz-leaf", "zz-root"]
    assert missing(["zz-root", "zz_root[more]"], IMAGE) == ["zz-extra", "zz-leaf", "zz-root"]


def test_a_requirement_that_the_image_contradicts_is_told(monkeypatch, tmp_path):
    """The package would break on Kaggle, hours later: who asks, for what, and what is there."""
    installed(monkeypatch, tmp_path, "zz-modern", "numpy>=2.3")
    with pytest.raises(BundleError) as caught:
        missing(["zz-modern"], IMAGE)
    assert "numpy>=2.3, as zz-modern 1.5 asks" in caught.value.expected
    assert f"numpy {IMAGE.packages['numpy']}" in caught.value.found
    installed(monkeypatch, tmp_path, "zz-lucky", "pydicom>=99")  # there, in a version unknown
    assert missing(["zz-lucky"], IMAGE) == ["zz-lucky"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("no-such-package", "pip install no-such-package"),
        ("zz-old>=2", "version 1.5"),
        ("two words", "the name of a package"),
    ],
)
def test_what_cannot_be_carried_is_named(monkeypatch, tmp_path, wanted, said):
    """Not installed, installed too old, or no name at all: the error says what to do."""
    installed(monkeypatch, tmp_path, "zz-old")
    with pytest.raises(BundleError) as caught:
        carry(tmp_path, [wanted])
    assert said in str(caught.value)


def test_an_editable_package_is_refused(monkeypatch, tmp_path):
    """Its files lie elsewhere: the wheel would be empty."""
    info = installed(monkeypatch, tmp_path, "zz-mine")
    (info / "direct_url.json").write_text('{"url": "file:///somewhere", "dir_info": {"editable": true}}')
    with pytest.raises(BundleError, match="editable"):
        carry(tmp_path, ["zz-mine"])


def test_an_installed_package_becomes_its_wheel_again(tmp_path):
    """The same bytes each time, under a wheel's name, with every file hashed in RECORD and no bytecode."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (name,) = carry(tmp_path / "one", [SMP])
    assert name.startswith("segmentation_models_pytorch-") and name.endswith("-py3-none-any.whl")
    content = (tmp_path / "one" / name).read_bytes()
    assert carry(tmp_path / "two", [SMP.replace("-", "_")]) == [name]
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
    (name,) = carry(tmp_path, [SMP])
    code = "import segmentation_models_pytorch as p; print(p.__file__); p.create_model('unet', 'tu-test_resnet', None)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(tmp_path / name)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / name))


def test_compiled_packages_of_another_python_are_downloaded_for_the_image(tmp_path, monkeypatch):
    """pip is asked for a wheel of the installed version, for the image's Python and platforms, alone."""
    asked = []

    def pip(command, **named):
        asked.append(command)
        if len(asked) == 1:
            (Path(command[command.index("--dest") + 1]) / "odd-1-cp312-cp312-manylinux2014_x86_64.whl").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "ERROR: no matching distribution")

    monkeypatch.setattr(wheels, "_downloaded", DOWNLOADED)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    lacking = replace(IMAGE, python="3.10.4", packages={"torch": None})  # numpy's wheel is for a newer one
    assert carry(tmp_path, ["numpy"], lacking) == ["odd-1-cp312-cp312-manylinux2014_x86_64.whl"]
    assert {"--no-deps", "--only-binary=:all:", "--python-version=3.10", f"numpy=={version('numpy')}"} <= set(asked[0])
    assert {"--platform=manylinux2014_x86_64", "--platform=manylinux_2_28_x86_64"} <= set(asked[0])
    with pytest.raises(BundleError, match="no matching distribution"):
        carry(tmp_path, ["numpy"], lacking)


@pytest.mark.parametrize(
    ("tag", "fitting"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp39-abi3-manylinux2014_x86_64", True),
        ("cp312-cp312-manylinux_2_35_x86_64", True),
        ("cp312-cp312-manylinux_2_36_x86_64", False),
        ("cp311-cp311-manylinux2014_x86_64", False),
        ("cp313-abi3-manylinux2014_x86_64", False),
        ("cp312-cp312-linux_x86_64", False),
        ("cp312-cp312-macosx_11_0_arm64", False),
        ("cp312-cp312-manylinux2014_aarch64", False),
    ],
)
def test_what_the_image_takes(tag, fitting):
    """Pure wheels, and compiled ones for Python 3.12 on 64-bit Linux with a C library as old or older."""
    assert fits(tag, IMAGE) is fitting


def test_compiled_wheels_are_installed_aside_by_the_interpreter_that_runs(tmp_path):
    """Into a folder of its own, without an index; a wheel of another Python is refused in pip's words."""
    ours = "cp{0}{1}-cp{0}{1}-linux_x86_64".format(*sys.version_info)
    for name, tag in (("good", ours), ("bad", "cp27-cp27m-win32")):
        info = f"zz_{name}-1.dist-info"
        files = {
            f"zz_{name}.py": b"",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: zz-{name}\nVersion: 1\nRequires-Dist: gone\n".encode(),
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
        }
        pack(tmp_path, f"zz_{name}-1-{tag}", info, files)
    install(Path(sys.executable), [tmp_path / f"zz_good-1-{ours}.whl"], tmp_path / "there")
    assert (tmp_path / "there" / "zz_good.py").is_file()
    with pytest.raises(BundleError, match="not a supported wheel"):
        install(Path(sys.executable), [tmp_path / "zz_bad-1-cp27-cp27m-win32.whl"], tmp_path / "there")


def test_a_name_can_carry_its_hash(tmp_path):
    """Other content is another name."""
    names = [pack(tmp_path, "a-1-0{digest}-py3-none-any", "a-1.dist-info", {"a.py": text}) for text in (b"1", b"2")]
    assert len(set(names)) == 2 and all(zipfile.is_zipfile(tmp_path / name) for name in names)


def test_what_stands_in_for_a_wheel_is_the_installed_package_of_its_name(monkeypatch, tmp_path):
    """By all of its top-level modules, under any spelling; wheels that fit this Python have no need of it."""
    installed(monkeypatch, tmp_path, "zz-Lib", files=("zz_lib/__init__.py", "_zz_lib.py"))
    here = f"zz_lib-2-cp{sys.version_info[0]}{sys.version_info[1]}-none-any.whl"
    other = "zz_lib-2-cp27-cp27m-win32.whl"
    assert stand_ins(["zz_lib-2-py3-none-any.whl", here, other]) == {other: ["_zz_lib", "zz_lib"]}
    assert stand_ins(["nowhere-1-cp27-cp27m-win32.whl"]) == {"nowhere-1-cp27-cp27m-win32.whl": []}
