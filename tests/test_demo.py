"""The demo: the whole road on the embedded digits."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path

import pandas as pd
import pytest

from kit import scaffold
from kit.demo import walk, write_digits
from kit.offline.places import load_competition
from kit.shipping.predict import predict_at_home
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import list_runs


@dataclasses.dataclass
class Walk:
    """A demo that was walked: where, and what it printed."""

    home: Path
    out: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """The demo, walked once."""
    home, out = tmp_path_factory.mktemp("demo"), io.StringIO()
    with contextlib.redirect_stdout(out):
        walk(home)
    return Walk(home, out.getvalue())


def test_the_demo_learns_and_its_score_holds_on_held_back_labels(demo: Walk) -> None:
    """OOF accuracy of 0.97 or more for the blend, and the held-back score within two standard errors of it."""
    blend = list_runs(demo.home / "competitions" / "digits")[-1].read("score.json")
    truth = pd.read_csv(demo.home / "held-back-labels.csv", dtype=str).set_index("image_id")["label"]
    said = pd.read_csv(demo.home / "submission.csv", dtype=str).set_index("image_id")["label"]
    held_back = (said.loc[truth.index] == truth).mean()
    error = (blend["pooled"] * (1 - blend["pooled"]) / len(truth)) ** 0.5
    assert blend["pooled"] >= 0.97
    assert abs(held_back - blend["pooled"]) <= 2 * error


def test_the_demo_submits_the_bytes_that_kit_predict_writes(demo: Walk) -> None:
    """The notebook's CSV, which the demo leaves as submission.csv, equals `kit predict`'s byte for byte."""
    bundle = next(demo.home.glob("offline_weights/*/manifest.json")).parent
    predict_at_home(bundle, demo.home / "competitions" / "digits" / "data", demo.home / "predicted.csv")
    assert (demo.home / "predicted.csv").read_bytes() == (demo.home / "submission.csv").read_bytes()


def test_the_demo_ends_with_the_path_of_the_submission(demo: Walk) -> None:
    """The last line printed is the path of submission.csv, for scripts."""
    assert demo.out.rstrip().splitlines()[-1] == str(demo.home / "submission.csv")


def test_shuffled_labels_score_like_chance(tmp_path: Path) -> None:
    """With training labels permuted, OOF accuracy is at most 0.13: nothing leaks from the rows that are scored."""
    folder = scaffold.new("digits", "digits", "handwritten-digits", tmp_path)
    write_digits(folder / "data", None, shuffle_labels=True)
    ground = open_ground(load_competition("digits", tmp_path), folder / "data")
    recipe = dataclasses.replace(find_recipe(folder, "small"), epochs=2)  # type: ignore[type-var]
    run = train_run(ground, "small", recipe, home=tmp_path)
    assert run.read("score.json")["pooled"] <= 0.13
