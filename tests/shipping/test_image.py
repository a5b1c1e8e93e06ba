"""The dated list of what Kaggle's image has, how it is refreshed, and the replica that a rehearsal runs in."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from kit.offline.errors import KitError, NotFound
from kit.shipping import image as images
from kit.shipping.image import FOLDER, image_python, load_image, main, refresh
from kit.shipping.rehearse import run_notebook
from tests.shipping.test_rehearse import notebook_of

FREEZE = """# python 3.13.2
# glibc 2.39
timm==1.0.31
Scikit_Learn==1.9.0
torch==2.11.0+cu128
cucim-cu12 @ https://example.com/cucim_cu12-26.2.0-cp312-none-any.whl
-e git+https://example.com/somebody/something@abc#egg=something
ttach
"""


def test_the_list_holds_what_the_inference_path_needs() -> None:
    """Each package that kit/offline imports, in a version; what is told absent is not told present too."""
    image = load_image()
    needed = ["torch", "timm", "numpy", "pandas", "scipy", "scikit-learn", "opencv-python", "pillow", "safetensors"]
    assert all(image.packages[name] for name in needed)
    assert image.packages["pydicom"] is None and "pydicom" in image.packages
    assert not set(image.absent) & set(image.packages)
    assert image.minor == (3, 12) and image.environment["python_version"] == "3.12"
    assert "manylinux_2_35_x86_64" in image.platforms and "manylinux_2_36_x86_64" not in image.platforms


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A folder with the file of today alone."""
    (tmp_path / "lists").mkdir()
    newest = max(FOLDER.glob("image_*.json"))
    (tmp_path / "lists" / newest.name).write_bytes(newest.read_bytes())
    return tmp_path / "lists"


def test_a_freeze_becomes_the_newest_list(lists: Path) -> None:
    """Names are normalised, places have no version, what was absent and is there is absent no more."""
    path = refresh(FREEZE, "2027-01", "a test", lists)
    image = load_image(lists)
    assert path.name == "image_2027_01.json" and image.name == "2027-01"
    assert (image.python, image.glibc) == ("3.13.2", "2.39")
    assert image.packages == {
        "timm": "1.0.31",
        "scikit-learn": "1.9.0",
        "torch": "2.11.0+cu128",
        "cucim-cu12": None,
        "ttach": None,
    }
    assert "ttach" not in image.absent and "monai" in image.absent
    assert "cp313" in {tag.interpreter for tag in image.tags}
    assert "example.com" not in path.read_text()


def test_the_command_of_the_docstring_is_real(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes a file from a freeze; one without packages is refused in three lines and writes nothing."""
    assert "python -m kit.shipping.image --refresh" in (images.__doc__ or "")
    monkeypatch.setattr(images, "FOLDER", lists)
    (tmp_path / "freeze.txt").write_text("numpy==2.9.1\n")
    assert main(["--refresh", str(tmp_path / "freeze.txt"), "--name", "2030-02"]) == 0
    kept = json.loads((lists / "image_2030_02.json").read_text())
    assert kept["packages"] == {"numpy": "2.9.1"} and kept["python"].startswith("3.12")
    (tmp_path / "freeze.txt").write_text("# python 3.13.2\nERROR: no pip\n")
    assert main(["--refresh", str(tmp_path / "freeze.txt"), "--name", "2030-03"]) == 1
    assert not (lists / "image_2030_03.json").exists()


def test_without_the_images_python_there_is_no_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which one, and what to do; a shim that refuses to run is none."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3.12").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "bin" / "python3.12").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(images, "_candidates", lambda name: iter([str(tmp_path / "bin" / name)]))
    with pytest.raises(NotFound, match=r"Python 3\.12") as caught:
        image_python(tmp_path)
    assert "pyenv install 3.12" in caught.value.fix
    assert not list(tmp_path.glob("image-*"))


def test_a_replica_is_built_once_and_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that fails leaves nothing; one that is there is not built again; pins of the image bind pip."""
    asked: list[list[str]] = []

    def run(command: list[str | Path]) -> None:
        asked.append(list(map(str, command)))
        if "venv" in asked[-1]:
            venv.create(asked[-1][-1], with_pip=False)
        elif len(asked) == 2:
            raise KitError("an environment", "no network", "connect")

    monkeypatch.setattr(images, "_base_python", lambda image: Path(sys.executable))
    monkeypatch.setattr(images, "_run", run)
    with pytest.raises(KitError, match="no network"):
        image_python(tmp_path, lambda line: None)
    assert not list(tmp_path.iterdir())
    python = image_python(tmp_path, lambda line: None)
    assert python == image_python(tmp_path, lambda line: None) and len(asked) == 4
    assert subprocess.run([python, "-c", ""]).returncode == 0
    pins = (python.parents[1] / "constraints.txt").read_text().splitlines()
    assert "torch==2.10.0" in pins and "timm==1.0.26" in pins and not [pin for pin in pins if "+" in pin]
    assert "--only-binary=:all:" in asked[3] and "torch" in asked[3] and "ipykernel" in asked[3]


def test_the_kernel_runs_in_the_interpreter_that_is_named(tmp_path: Path) -> None:
    """Behind the walls too, where its folder lies in a hidden home; here one that borrows this one's packages."""
    home, working = tmp_path / "home", tmp_path / "working"
    venv.create(home / "other", with_pip=False)
    packages = next((home / "other" / "lib").glob("python*/site-packages"))
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "borrowed.pth").write_text("\n".join(ours) + "\n")
    working.mkdir()
    python = home / "other" / "bin" / "python"
    cell = "import sys; print(sys.prefix)"
    executed = run_notebook(notebook_of(cell), {}, working, 100, [home], python=python)
    assert executed.error is None, executed.error
    assert json.loads(executed.notebook)["cells"][0]["outputs"][0]["text"][0].strip() == str(home / "other")
