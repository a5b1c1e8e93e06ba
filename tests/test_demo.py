"""The demo: the whole road on the embedded digits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from kit import scaffold
from kit.demo import walk, write_digits
from kit.offline.places import load_competition
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import list_runs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the demo was walked."""
    home = tmp_path_factory.mktemp("demo")
    walk(home)
    return home


def test_the_demo_learns_and_its_score_holds_on_held_back_labels(home: Path) -> None:
    """OOF accuracy of 0.97 or more for the blend, and the held-back score within two standard errors of it."""
    blend = list_runs(home / "competitions" / "digits")[-1].read("score.json")
    truth = pd.read_csv(home / "held-back-labels.csv", dtype=str).set_index("image_id")["label"]
    said = pd.read_csv(home / "submission.csv", dtype=str).set_index("image_id")["label"]
    held_back = (said.loc[truth.index] == truth).mean()
    error = (blend["pooled"] * (1 - blend["pooled"]) / len(truth)) ** 0.5
    assert blend["pooled"] >= 0.97
    assert abs(held_back - blend["pooled"]) <= 2 * error


def test_the_demo_rehearsed_the_bytes_that_it_predicts(home: Path) -> None:
    """The notebook's CSV in the rehearsal equals `kit predict`'s byte for byte."""
    rehearsed = home.glob("offline_weights/*-notebook/rehearsal/**/submission.csv")
    assert (home / "submission.csv").read_bytes() in [path.read_bytes() for path in rehearsed]


def test_the_demo_ends_with_the_path_of_the_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    """The last line printed is the path of submission.csv, for scripts; a second walk trains nothing."""
    weights = {
        path: path.stat().st_mtime_ns for path in home.glob("competitions/digits/runs/*/fold*/weights.safetensors")
    }
    path = walk(home)
    assert Path(capsys.readouterr().out.strip().splitlines()[-1]) == path == home / "submission.csv"
    assert weights == {path: path.stat().st_mtime_ns for path in weights}


def test_shuffled_labels_score_like_chance(tmp_path: Path) -> None:
    """With training labels permuted, OOF accuracy is at most 0.13: nothing leaks from the rows that are scored."""
    folder = scaffold.new("digits", "digits", "handwritten-digits", tmp_path)
    write_digits(folder / "data", None, shuffle_labels=True)
    ground = open_ground(load_competition("digits", tmp_path), folder / "data")
    recipe = dataclasses.replace(find_recipe(folder, "small"), epochs=2)  # type: ignore[type-var]
    run = train_run(ground, "small", recipe, home=tmp_path)
    assert run.read("score.json")["pooled"] <= 0.13
