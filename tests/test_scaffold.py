"""Forking a template."""

from __future__ import annotations

from pathlib import Path

import pytest

import kit
from kit import scaffold
from kit.offline.errors import DataError, NotFound
from kit.training.recipe import load_recipes


def test_a_fork_loads_with_its_own_slug(tmp_path: Path) -> None:
    """The fork has the template's code and recipes, and differs in the slug alone."""
    folder = scaffold.new("my_leaves", "cassava", home=tmp_path)
    assert folder == tmp_path / "competitions/my_leaves"
    assert kit.load_competition("my_leaves", tmp_path).slug == "my-leaves"
    assert "baseline" in load_recipes(folder)
    source = (scaffold.template_folder("cassava") / "adapter.py").read_text()
    changed = set((folder / "adapter.py").read_text().splitlines()) - set(source.splitlines())
    assert changed == {'    slug = "my-leaves"'}


def test_the_slug_can_be_given_and_keeps_its_case(tmp_path: Path) -> None:
    """Hosts have slugs with capitals."""
    scaffold.new("ovary", "cassava", slug="UBC-OCEAN", home=tmp_path)
    assert kit.load_competition("ovary", tmp_path).slug == "UBC-OCEAN"


def test_only_code_is_taken_along(tmp_path: Path) -> None:
    """Data, folds and runs of the template stay; model.py and train.py go along where they are."""
    source = scaffold.new("first", "digits", home=tmp_path)
    for name in ("model.py", "train.py", "folds.csv", "LEDGER.tsv"):
        (source / name).write_text("# mine\n")
    (source / "data").mkdir()
    fork = scaffold.new("second", "first", home=tmp_path)
    assert sorted(path.name for path in fork.iterdir()) == ["adapter.py", "model.py", "recipes.py", "train.py"]


def test_templates_at_home_come_before_those_of_the_kit(tmp_path: Path) -> None:
    """A user's own `cassava` is the one that is forked."""
    source = scaffold.new("cassava", "digits", home=tmp_path)
    assert scaffold.template_folder("cassava", tmp_path) == source


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A second fork under one name is refused and the first stays; a folder with data alone is no hindrance."""
    (tmp_path / "competitions/leaves/data").mkdir(parents=True)
    adapter = scaffold.new("leaves", "cassava", home=tmp_path) / "adapter.py"
    adapter.write_text("# mine\n")
    with pytest.raises(DataError, match=r"adapter\.py"):
        scaffold.new("leaves", "digits", home=tmp_path)
    assert adapter.read_text() == "# mine\n"


@pytest.mark.parametrize("name", ["", "Leaves", "2019_leaves", "my-leaves", "../leaves", "a/b", "x" * 51, "leaves\n"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name is a folder: small letters, digits and underscores."""
    with pytest.raises(DataError, match="a name of small letters"):
        scaffold.new(name, "cassava", home=tmp_path)
    assert not (tmp_path / "competitions").exists()


@pytest.mark.parametrize("slug", ["", 'x"; import os', "a/b", "a b"])
def test_bad_slugs_are_refused(tmp_path: Path, slug: str) -> None:
    """A slug cannot smuggle code into the adapter."""
    with pytest.raises(DataError, match="a slug of letters"):
        scaffold.new("leaves", "cassava", slug=slug, home=tmp_path)


def test_an_unknown_template_names_the_nearest(tmp_path: Path) -> None:
    """A misspelling is answered with the name that was meant."""
    with pytest.raises(NotFound, match="did you mean 'cassava'"):
        scaffold.new("leaves", "casava", home=tmp_path)


def test_the_next_commands_name_the_fork_and_a_recipe_it_has(tmp_path: Path) -> None:
    """The three commands can be typed as they are printed."""
    folder = scaffold.new("leaves", "cassava", home=tmp_path)
    assert scaffold.next_commands(folder) == ["kit check leaves", "kit folds leaves", "kit train leaves baseline"]
