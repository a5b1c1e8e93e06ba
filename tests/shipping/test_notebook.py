"""The rendered notebook finds its own bundle, trusts nothing else, and tells Kaggle every setting."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from kit.offline.contract import Rules
from kit.offline.errors import BundleError
from kit.offline.files import sha256_of
from kit.offline.manifest import open_bundle
from kit.shipping.datasets import datasets_of
from kit.shipping.notebook import kernel_metadata, notebook_folder, render_notebook
from tests.shipping.conftest import World, reseal

ROOT = Path(__file__).parents[2]


def code_of(folder: Path) -> list[str]:
    """The code cells of a rendered notebook."""
    notebook = nbformat.read(folder / "submit.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def found_by(code: str, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[str]]:
    """Run the notebook's first cell over `inputs`: its names, and what it put on the import path."""
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    monkeypatch.setenv("KIT_INPUT", str(inputs))
    names: dict[str, Any] = {}
    exec(code, names)
    return names, [entry for entry in sys.path if entry not in before]


def test_the_notebook_is_a_function_of_the_bundle(bundle: Path) -> None:
    """The same bundle gives the same bytes, also over an older notebook."""
    folder = render_notebook(bundle, owner="someone")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    assert folder == render_notebook(bundle, owner="someone") == notebook_folder(bundle)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert set(first) == {"submit.ipynb", "kernel-metadata.json"}


def test_the_notebook_is_valid_and_holds_nothing_of_home(bundle: Path) -> None:
    """No outputs, no placeholder left, no path but Kaggle's, no user; few lines, since logic travels in the wheel."""
    folder = render_notebook(bundle)
    notebook = nbformat.read(folder / "submit.ipynb", as_version=4)
    nbformat.validate(notebook)
    text = (folder / "submit.ipynb").read_text()
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if "outputs" in cell)
    assert not re.search(r"\{(bundle|slug|score|manifest_sha256|file|verb|minutes|strict)\}", text)
    assert set(re.findall(r"(?<![\w\"/}])/[a-z]\w*(?:/\w+)*", text)) <= {"/kaggle/input"}
    assert str(Path.home()) not in text and str(bundle.parent) not in text
    assert sha256_of(bundle / "manifest.json") in text
    lines = [line for code in code_of(folder) for line in code.splitlines() if line.strip()]
    assert len(lines) <= 33


def test_the_head_tells_the_score_and_which_folds(world: World) -> None:
    """A reader of the notebook on Kaggle sees what it should score."""
    manifest = open_bundle(world.bundle)
    notebook = nbformat.read(render_notebook(world.bundle) / "submit.ipynb", as_version=4)
    assert f"{manifest.score['pooled']:.5f} over 40 units" in notebook.cells[0].source


@pytest.mark.parametrize("accelerator", ["NvidiaTeslaT4", None])
def test_every_setting_is_written(world: World, accelerator: str | None) -> None:
    """Kaggle's client switches the internet on where nothing is said, which bars a notebook from code competitions."""
    manifest = open_bundle(world.bundle)
    other = type(world.competition)()
    other.rules = Rules(accelerator=accelerator)
    assert kernel_metadata(manifest, other, "someone") == {
        "id": f"someone/{manifest.bundle}",
        "title": manifest.bundle,
        "code_file": "submit.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": accelerator is not None,
        "enable_tpu": False,
        "enable_internet": False,
        "machine_shape": accelerator or "",
        "dataset_sources": [f"someone/{each.slug}" for each in datasets_of(manifest)],
        "competition_sources": ["coloured-tiles"],
        "kernel_sources": [],
        "model_sources": [],
        "keywords": [],
        "docker_image_pinning_type": "original",
    }


def test_the_title_is_its_own_slug(world: World) -> None:
    """Kaggle makes the slug from the title: where they differ, the push ends in a conflict."""
    from slugify import slugify

    metadata = kernel_metadata(open_bundle(world.bundle), world.competition, "someone")
    assert slugify(metadata["title"]) == metadata["id"].split("/")[1]
    assert 5 <= len(metadata["title"]) <= 50


def test_the_rules_come_from_the_bundle(bundle: Path) -> None:
    """The adapter in the wheel speaks, not the checkout's: of the file, the minutes, and of who asks whom."""
    manifest = open_bundle(bundle)
    code = (
        "from kit import Competition, Multiclass, Rules\n"
        "class Adapter(Competition):\n    slug = 'coloured-tiles'\n    task = Multiclass('kind')\n"
        "    rules = Rules(kind='server', file='answers.parquet', minutes=77)\n"
    )
    reseal(bundle, {f"competitions/{manifest.competition}/adapter.py": code})
    cells = code_of(render_notebook(bundle, strict=True))
    assert cells[2] == ('table = serve(bundle, MANIFEST, "answers.parquet", minutes=77, strict=True, begun=BEGUN)')
    code = code.replace("kind='server', file='answers.parquet'", "file='answers.csv', accelerator=None")
    reseal(bundle, {f"competitions/{manifest.competition}/adapter.py": code})
    folder = render_notebook(bundle, strict=False)
    assert code_of(folder)[2].startswith('table = submit(bundle, MANIFEST, "answers.csv", minutes=77, strict=False')
    assert '"enable_gpu": false' in (folder / "kernel-metadata.json").read_text()


@pytest.mark.parametrize("place", ["{name}", "datasets/owner/{name}", "renamed/{name}", "elsewhere", "a/b/c/{name}"])
def test_the_bundle_is_found_by_its_manifest_wherever_it_is_mounted(
    bundle: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of Kaggle's layouts and others, beside another dataset with a manifest.json."""
    code = code_of(render_notebook(bundle))[0]
    inputs = tmp_path / "input"
    for decoy in ("a-dataset", "datasets/owner/a-dataset"):
        (inputs / decoy).mkdir(parents=True)
        (inputs / decoy / "manifest.json").write_text("{}")
    there = inputs / place.format(name=bundle.name)
    shutil.copytree(bundle, there)
    names, added = found_by(code, inputs, monkeypatch)
    assert names["bundle"] == there
    assert added == [str(there / open_bundle(bundle).wheel)]
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_a_missing_bundle_is_told_with_what_is_mounted(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commonest fault on Kaggle: the wrong dataset, or an old version of it."""
    code = code_of(render_notebook(bundle))[0]
    inputs = tmp_path / "input"
    shutil.copytree(bundle, inputs / "datasets" / "owner" / bundle.name)
    path = inputs / "datasets" / "owner" / bundle.name / "manifest.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(FileNotFoundError) as caught:
        found_by(code, inputs, monkeypatch)
    assert f"datasets/owner/{bundle.name}" in str(caught.value)
    assert bundle.name in str(caught.value).split("mounted")[0]
    with pytest.raises(FileNotFoundError, match=r"mounted: \[\]"):
        found_by(code, tmp_path / "nothing", monkeypatch)


def test_a_changed_wheel_never_reaches_the_import_path(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code would run before the bundle is compared with the manifest."""
    code = code_of(render_notebook(bundle))[0]
    inputs = tmp_path / "input"
    shutil.copytree(bundle, inputs / bundle.name)
    wheel = inputs / bundle.name / open_bundle(bundle).wheel
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    before = list(sys.path)
    with pytest.raises(ValueError, match=re.escape(wheel.name)):
        found_by(code, inputs, monkeypatch)
    assert sys.path == before


def test_other_wheels_come_along(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kaggle's image lacks travels as a wheel beside the kit's."""
    (bundle / "segments-1.0-py3-none-any.whl").write_bytes(b"PK")
    reseal(bundle)
    code = code_of(render_notebook(bundle))[0]
    shutil.copytree(bundle, tmp_path / "input" / bundle.name)
    _, added = found_by(code, tmp_path / "input", monkeypatch)
    assert {Path(entry).name for entry in added} == {"segments-1.0-py3-none-any.whl", open_bundle(bundle).wheel}


def test_a_damaged_bundle_gets_no_notebook(bundle: Path) -> None:
    """What cannot run is not rendered."""
    next(bundle.glob("*.safetensors")).unlink()
    with pytest.raises(BundleError):
        render_notebook(bundle)
    assert not notebook_folder(bundle).exists()


def test_the_exploration_runs_on_the_embedded_digits(tmp_path: Path) -> None:
    """It is the first notebook that a newcomer opens; it is stored without outputs."""
    notebook = nbformat.read(ROOT / "notebooks" / "explore.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    code = "\n".join(cell.source for cell in cells).replace("%matplotlib inline", "").replace("display(", "print(")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KIT_HOME": str(ROOT), "MPLBACKEND": "agg", "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "handwritten-digits: 1437 samples" in done.stdout
