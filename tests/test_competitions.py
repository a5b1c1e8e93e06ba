"""Each template on a tiny copy of its host's files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import kit
from kit.check import run_checks
from kit.offline.frames import checked, read_table
from kit.training.folds import make_folds, require_no_leak
from kit.training.recipe import load_recipes
from tests.worlds import WORLDS

CHECKOUT = Path(kit.__file__).parents[1]
EVERY = pytest.mark.parametrize("name", sorted(WORLDS))


def test_every_template_has_a_world() -> None:
    """No template goes untested."""
    assert sorted(WORLDS) == kit.list_competitions(CHECKOUT)


def test_the_chooser_names_every_template_with_its_metric() -> None:
    """The table of competitions/README.md and `kit list` agree."""
    text = (CHECKOUT / "competitions" / "README.md").read_text()
    rows = dict(re.findall(r"^\| [^|]+ \| `(\w+)` \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE))
    assert rows == {name: kit.load_competition(name, CHECKOUT).metric for name in kit.list_competitions(CHECKOUT)}


@EVERY
def test_frames_hold_what_the_host_gave(name: str, tmp_path: Path) -> None:
    """Rows of a host's table keep its order and its texts in their ids; a test row knows no answer."""
    WORLDS[name](tmp_path)
    adapter = kit.load_competition(name, CHECKOUT)
    train, test = (checked(frame, name) for frame in (adapter.train_frame(tmp_path), adapter.test_frame(tmp_path)))
    assert not set(adapter.task.columns) & set(test.columns)
    for file in ("train.csv", "labels.csv", "train_labels.csv"):
        host = read_table(tmp_path / file) if (tmp_path / file).is_file() else train[["sample_id"]]
        named = [host[column].tolist() for column in host.columns if host[column].is_unique]
        if len(host) == len(train):
            pairs = [zip(cells, train["sample_id"], strict=True) for cells in named]
            assert any(all(cell in given for cell, given in rows) for rows in pairs), file


@EVERY
def test_every_check_is_green(name: str, tmp_path: Path) -> None:
    """The templates keep the contract that they teach."""
    WORLDS[name](tmp_path)
    assert [result for result in run_checks(name, data=tmp_path, home=CHECKOUT) if not result.ok] == []


@EVERY
def test_folds_cover_every_row_and_do_not_leak(name: str, tmp_path: Path) -> None:
    """As many folds as the adapter asks for, every scored row in one of them."""
    WORLDS[name](tmp_path)
    adapter = kit.load_competition(name, CHECKOUT)
    frame = checked(adapter.train_frame(tmp_path), name, adapter.task.columns)
    table = make_folds(adapter, frame)
    require_no_leak(table)
    assert set(table["fold"][table["scored"]]) == set(range(adapter.scheme().n))
    assert set(table["sample_id"]) == set(frame["sample_id"])


@EVERY
def test_recipes_name_models_that_timm_knows(name: str) -> None:
    """Backbones exist in timm, with weights of that tag where they are asked for."""
    import timm

    recipes = load_recipes(CHECKOUT / "competitions" / name)
    assert recipes
    for recipe in recipes.values():
        assert timm.is_model(recipe.backbone)
        assert recipe.pretrained is not True or recipe.backbone in timm.list_pretrained()


@EVERY
def test_docstrings_name_the_commands(name: str) -> None:
    """recipes.py opens with a command that trains one of its recipes."""
    folder = CHECKOUT / "competitions" / name
    commands = [line.split() for line in (folder / "recipes.py").read_text().splitlines() if "    kit train" in line]
    assert commands
    assert {(command[2], command[3] in load_recipes(folder)) for command in commands} == {(name, True)}


def write_digits(*arguments: Any, **named: Any) -> None:
    """The demo's writer, imported late because the demo imports the whole kit."""
    from kit import demo

    demo.write_digits(*arguments, **named)


def test_digits_are_a_function_of_the_seed(tmp_path: Path) -> None:
    """The same seed writes the same bytes; another seed other ids."""
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_digits(tmp_path / folder, None, seed=seed)
    tables = [(tmp_path / folder / "train.csv").read_bytes() for folder in ("one", "two", "three")]
    assert tables[0] == tables[1] != tables[2]


def test_digits_keep_the_test_labels_aside(tmp_path: Path) -> None:
    """Answers lie outside the data folder, cover the sample submission, and none of the test ids is a training id."""
    write_digits(tmp_path / "data", tmp_path / "labels.csv")
    train, answers = read_table(tmp_path / "data/train.csv"), read_table(tmp_path / "labels.csv")
    assert list(answers.columns) == ["image_id", "label"]
    assert set(answers["image_id"]) == set(read_table(tmp_path / "data/sample_submission.csv")["image_id"])
    assert not set(answers["image_id"]) & set(train["image_id"])
    assert (len(train), len(answers)) == (1437, 360)


def test_digits_have_odd_ids(tmp_path: Path) -> None:
    """Some ids would lose zeros if they were read as numbers, and the host's order is not sorted."""
    write_digits(tmp_path, None)
    ids = read_table(tmp_path / "train.csv")["image_id"]
    assert ids.str.fullmatch(r"0\d{9}").sum() > 50
    assert not ids.is_monotonic_increasing


def test_shuffled_digits_have_the_same_labels_elsewhere(tmp_path: Path) -> None:
    """The negative control keeps ids, images and the share of each label, and agrees with the truth as chance does."""
    write_digits(tmp_path / "true", None)
    write_digits(tmp_path / "shuffled", None, shuffle_labels=True)
    true, shuffled = (pd.read_csv(tmp_path / name / "train.csv", dtype=str) for name in ("true", "shuffled"))
    assert true["image_id"].equals(shuffled["image_id"])
    assert sorted(true["label"]) == sorted(shuffled["label"])
    assert (true["label"] == shuffled["label"]).mean() < 0.2
