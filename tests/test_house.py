"""The house: README, tree, command line and figures agree; nothing of one machine is committed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kit
from tests.benchmarks.bench import MARK, RESULTS, measured

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def tracked() -> list[str]:
    """Files that git tracks, or would."""
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    return [name for name in subprocess.run(listed, capture_output=True, text=True).stdout.split("\n") if name]


def test_the_map_in_the_readme_is_the_tree() -> None:
    """Every file of kit/, notebooks/ and competitions/ stands once in README's map, and nothing that is not there."""
    block = README.split("<!-- map -->")[1]
    named = re.findall(r"^`([\w./]+)`", block, re.MULTILINE)
    folders = ("kit/", "notebooks/", "competitions/", "offline_weights/")
    there = {name for name in tracked() if name.startswith(folders) and not name.endswith("__init__.py")}
    there = {re.sub(r"^competitions/\w+/(adapter|recipes|model|train)\.py$", r"competitions/", name) for name in there}
    there.discard("competitions/")
    assert sorted(named) == sorted(there | {"kit/__init__.py"})


def test_every_command_in_the_readme_is_real() -> None:
    """Each `kit VERB` that README shows is a verb, and each verb is shown."""
    done = subprocess.run([sys.executable, "-m", "kit.cli", "--help"], capture_output=True, text=True, check=True)
    verbs = set(re.findall(r"^  (\w+)  ", done.stdout, re.MULTILINE))
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S) + re.findall(r"`(kit [^`]+)`", README)
    shown = set(re.findall(r"\bkit (\w+)\b", "\n".join(blocks)))
    assert shown == verbs


def test_figures_in_the_readme_were_measured() -> None:
    """README's figures are those that `make bench` wrote into results.json."""
    assert README.split(MARK)[1].strip() == measured(RESULTS).strip()


def test_public_names_are_pinned() -> None:
    """The adapter author's vocabulary: a name goes or comes only on purpose."""
    assert kit.__all__ == sorted(kit.__all__)
    assert set(kit.__all__) >= {"Competition", "Folds", "Rules", "Task", "Binary", "Multiclass", "load_competition"}
    for name in kit.__all__:
        assert getattr(kit, name).__doc__, name


@pytest.mark.parametrize("pattern", [r"(?<![\w.])/(?:work|root|home/\w+)/", r"pypi\.org|pythonhosted"])
def test_nothing_of_one_machine_is_committed(pattern: str) -> None:
    """No tracked text names a path of the machine it was written on or a package index."""
    found = []
    for name in tracked():
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".jpg") and name != "tests/test_house.py":
            found += [name for line in path.read_text(errors="ignore").splitlines() if re.search(pattern, line)]
    assert found == []


def test_the_lock_pins_every_package_with_hashes() -> None:
    """requirements.lock has a hash for each package and holds all that pyproject asks for."""
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.findall(r"^([a-z0-9][\w.-]*)==\S+(.*?)(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    assert len(packages) > 60 and all("--hash=sha256:" in rest for _, rest in packages)
    asked = re.findall(r'^    "([a-z][\w-]*)[><=]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(asked) <= {name for name, _ in packages}
    assert not any(name == "opencv-python" for name, _ in packages)
