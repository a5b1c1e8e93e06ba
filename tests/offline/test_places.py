"""kit/offline/places.py"""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import pytest

from kit.offline.errors import DataError, NotFound
from kit.offline.places import (
    competition_folder,
    find_competition_data,
    has_module,
    home_folder,
    inside,
    list_competitions,
    load_adapter,
    load_competition,
    load_module,
    missing_files,
    mounted,
)

ADAPTER = """
from __future__ import annotations
from dataclasses import dataclass
from kit import Binary, Competition, Folds

@dataclass
class Site:
    name: str

class Adapter(Competition):
    slug = "{slug}"
    task = Binary("label")
    folds = Folds(5, group=None)
    greater_is_better = True
    site = Site("here")
"""


def write(home: Path, name: str, text: str | None = None) -> Path:
    folder = home / "competitions" / name
    folder.mkdir(parents=True)
    (folder / "adapter.py").write_text(text if text is not None else ADAPTER.format(slug=name))
    return folder


def zipped(tmp_path: Path, name: str) -> Path:
    with zipfile.ZipFile(tmp_path / "code.whl", "w") as wheel:
        wheel.writestr(f"competitions/{name}/adapter.py", ADAPTER.format(slug=name))
        wheel.writestr(f"competitions/{name}/model.py", "def build(spec, task): return 'built'")
    return tmp_path / "code.whl" / "competitions" / name


def test_an_adapter_is_loaded_by_path_without_touching_the_search_path(tmp_path):
    """The instance knows its folder; sys.path is as before, and a dataclass inside works."""
    before = list(sys.path)
    folder = write(tmp_path, "leaves")
    competition = load_competition("leaves", tmp_path)
    assert (competition.slug, competition.folder, competition.site.name) == ("leaves", folder, "here")
    assert sys.path == before


def test_an_adapter_is_loaded_from_inside_a_wheel(tmp_path):
    """The same from a zip, its neighbours too, and what is not there is said to be not there."""
    folder = zipped(tmp_path, "leaves")
    competition = load_adapter(folder)
    assert (competition.slug, competition.folder) == ("leaves", folder)
    assert load_module(folder, "model").build(None, None) == "built"
    assert has_module(folder, "model")
    assert not has_module(folder, "train")
    with pytest.raises(NotFound, match=r"train\.py"):
        load_module(folder, "train")


def test_two_competitions_do_not_share_a_module(tmp_path):
    """Both adapters are called adapter.py; each keeps its own, also after the other was loaded."""
    write(tmp_path, "a")
    write(tmp_path, "b")
    first, second = load_competition("a", tmp_path), load_competition("b", tmp_path)
    assert (first.slug, second.slug) == ("a", "b")
    assert sys.modules[type(first).__module__].Adapter is type(first)
    assert sys.modules[type(second).__module__].Adapter is type(second)


def test_a_changed_adapter_is_read_again(tmp_path):
    """Loading twice in one process sees the file as it is now."""
    folder = write(tmp_path, "a")
    assert load_adapter(folder).slug == "a"
    (folder / "adapter.py").write_text(ADAPTER.format(slug="another"))
    assert load_adapter(folder).slug == "another"


def test_an_adapter_that_breaks_leaves_no_module_behind(tmp_path):
    """The author's own exception comes through, and a half-run module is not kept."""
    folder = write(tmp_path, "broken", "1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_adapter(folder)
    assert not [name for name in sys.modules if name.startswith("kit_competition.broken")]


@pytest.mark.parametrize("text", ["", "Adapter = 3", "class Adapter: pass"])
def test_a_file_without_an_adapter_is_refused(tmp_path, text):
    """Only a class Adapter(Competition) is an adapter."""
    with pytest.raises(DataError, match="class Adapter"):
        load_adapter(write(tmp_path, "a", text))


def test_a_competition_travels_to_a_worker_as_its_path(tmp_path):
    """Pickled and back it is loaded anew from its folder, with the task it had."""
    competition = load_adapter(write(tmp_path, "a"))
    other = competition.with_task(type(competition.task)("label", answer="label"))
    copy = pickle.loads(pickle.dumps(other))
    assert (copy.slug, copy.task.answer, copy.folder) == ("a", "label", competition.folder)


def test_a_misspelt_competition_gets_the_nearest_name(tmp_path):
    """The error names the file that was looked for and the nearest competition."""
    for name in ("cassava", "cells"):
        write(tmp_path, name)
    (tmp_path / "competitions" / "empty").mkdir()
    assert list_competitions(tmp_path) == ["cassava", "cells"]
    with pytest.raises(NotFound, match="did you mean 'cassava'") as caught:
        competition_folder("casava", tmp_path)
    assert str(tmp_path / "competitions" / "casava" / "adapter.py") in caught.value.expected


@pytest.mark.parametrize("name", ["../outside", "", ".", "Cassava", "a/b", "a" * 51])
def test_names_that_are_no_names_are_not_found(tmp_path, name):
    """A name cannot leave competitions/, even where an adapter lies there."""
    (tmp_path / "competitions").mkdir()
    for place in (tmp_path, tmp_path / "competitions", tmp_path / "outside"):
        place.mkdir(exist_ok=True)
        (place / "adapter.py").write_text(ADAPTER.format(slug="x"))
    with pytest.raises(NotFound):
        competition_folder(name, tmp_path)


def test_home_is_what_is_said_then_kit_home_then_here(tmp_path, monkeypatch):
    """The argument wins over $KIT_HOME, which wins over the working folder."""
    monkeypatch.chdir(tmp_path)
    assert home_folder() == tmp_path.resolve()
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "a"))
    assert home_folder() == (tmp_path / "a").resolve()
    assert home_folder(tmp_path / "b") == (tmp_path / "b").resolve()


@pytest.mark.parametrize("layout", ["competitions/cassava", "cassava"])
def test_data_are_found_in_both_mount_layouts(tmp_path, monkeypatch, layout):
    """Kaggle mounts at input/<slug> or input/competitions/<slug>; $KIT_INPUT moves the whole."""
    (tmp_path / layout).mkdir(parents=True)
    monkeypatch.setenv("KIT_INPUT", str(tmp_path))
    assert find_competition_data("cassava") == tmp_path / layout


def test_data_are_found_in_a_layout_that_nobody_knows_yet(tmp_path):
    """At most five levels down, the shallowest first; a folder of the known layouts goes before all, a file is none."""
    for place in ("a/b/c/d/e/cassava", "z/cassava", "b/c/d/e/cassava/cassava"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "a" / "cassava").touch()
    assert find_competition_data("cassava", tmp_path) == tmp_path / "z/cassava"
    (tmp_path / "z" / "cassava").rmdir()
    assert find_competition_data("cassava", tmp_path) == tmp_path / "b/c/d/e/cassava"
    (tmp_path / "competitions" / "cassava").mkdir(parents=True)
    assert find_competition_data("cassava", tmp_path) == tmp_path / "competitions/cassava"
    with pytest.raises(NotFound, match="mounted: a, b, competitions"):
        find_competition_data("e*", tmp_path)


def test_data_that_lie_too_deep_are_not_looked_for(tmp_path):
    """Six levels down is inside somebody's files."""
    (tmp_path / "a/b/c/d/e/cassava").mkdir(parents=True)
    with pytest.raises(NotFound, match="a/b/c"):
        find_competition_data("cassava", tmp_path)


def test_missing_data_tell_what_is_mounted(tmp_path):
    """The error lists the folders that are there, at most forty, three levels deep."""
    (tmp_path / "datasets" / "me" / "bundle" / "deeper").mkdir(parents=True)
    with pytest.raises(NotFound, match="datasets/me/bundle") as caught:
        find_competition_data("cassava", tmp_path)
    assert "deeper" not in caught.value.found
    for at in range(50):
        (tmp_path / f"d{at}").mkdir()
    assert len(mounted(tmp_path)) == 40
    with pytest.raises(NotFound, match="nothing"):
        find_competition_data("cassava", tmp_path / "no")


def test_paths_inside_are_paths_below_the_root(tmp_path):
    """Plain relative paths are joined, odd letters and inner dots included."""
    assert inside(tmp_path, "train/ä b..jpg") == tmp_path / "train" / "ä b..jpg"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a\0b", "a/.."])
def test_paths_that_escape_are_refused(tmp_path, name):
    """Absolute paths, parents and NUL are refused, naming the path."""
    with pytest.raises(DataError, match="a path inside"):
        inside(tmp_path, name)
    with pytest.raises(DataError):
        missing_files(tmp_path, [name])


def test_missing_files_are_those_that_are_no_files(tmp_path):
    """Folders and absent names are missing, files are not."""
    (tmp_path / "there").touch()
    (tmp_path / "folder").mkdir()
    assert missing_files(tmp_path, ["there", "folder", "absent"]) == ["folder", "absent"]
