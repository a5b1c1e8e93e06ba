"""kit/training/fanout.py"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kit.offline.errors import DataError, FoldError
from kit.offline.tasks import Multiclass
from kit.training import fanout
from kit.training.augment import none


def test_colours_are_learned(world):
    """A few epochs tell the colours apart on rows that were held out."""
    run = world.train(epochs=8)
    assert run.read("score.json")["pooled"] > 0.9


def test_shuffled_labels_score_as_chance_does(world):
    """With labels dealt at random the OOF score is that of guessing: nothing of the held-out rows is learned."""
    table = pd.read_csv(world.data / "train.csv", dtype=str)
    units = table["unit_id"].unique()
    dealt = dict(zip(units, np.random.RandomState(1).permutation(["blue", "green", "red"] * 8), strict=True))
    table.assign(colour=table["unit_id"].map(dealt)).to_csv(world.data / "train.csv", index=False)
    run = world.train(epochs=8)
    assert run.read("score.json")["pooled"] < 0.67
    assert (world.folder / "folds.csv").is_file()


def test_one_fold_is_a_run_of_its_own(world):
    """A run of one fold has a score over its units, and says how many folds there are; the next fold joins it."""
    run = world.train([2])
    score = run.read("score.json")
    assert run.folds == [2]
    assert list(score["folds"]) == ["2"]
    assert score["pooled"] == score["folds"]["2"]
    assert score["folds_of"] == 3
    assert score["spread"] is None
    frame = world.ground().frame
    assert score["units"] == frame[(frame["fold"] == 2) & frame["scored"]]["unit_id"].nunique()
    again = world.train([0])
    assert again.folder == run.folder
    assert again.folds == [0, 2]
    assert list(again.read("score.json")["folds"]) == ["0", "2"]


def test_folds_that_are_not_there_are_refused(world):
    """A fold number outside the frozen table is an error that names the range; nothing is trained."""
    with pytest.raises(FoldError, match="folds 0 to 2"):
        world.train([3])


def test_the_frozen_table_counts_the_folds(world):
    """Where the adapter asks for another number of folds later, the frozen table still decides."""
    world.ground()
    world.edit("Folds(3", "Folds(5")
    run = world.train([0])
    assert run.record["folds_of"] == 3


def test_host_files_that_are_missing_are_named_at_once(world):
    """A listed image that is not there stops before training, by its name; so does a data folder that is not there."""
    path = sorted((world.data / "images").iterdir())[3]
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        world.ground()
    with pytest.raises(DataError, match="--data"):
        fanout.training_frame(world.ground, world.data / "nowhere")


def test_smoke_keeps_nothing(world):
    """A smoke test runs an epoch of the recipe and leaves no run and no cache behind."""
    told = []
    before = {path for path in world.folder.rglob("*") if "data" not in path.parts}
    ground = world.ground()
    fanout.smoke(ground, world.recipe(epochs=9, augment=none), world.home, told.append)
    assert any("epoch   1/1" in line for line in told)
    assert {path for path in world.folder.rglob("*") if "data" not in path.parts} - before == {
        world.folder / "folds.csv"
    }


FORK = """
from kit.training.loop import train_fold as kits


def train_fold(fold):
    fold.say("forked")
    kits(fold)
"""


def test_a_fork_of_the_loop_is_used(world):
    """A competition's train.py trains its folds and its smoke tests, and makes another run than the kit's loop."""
    plain = world.train([0])
    (world.folder / "train.py").write_text(FORK)
    told = []
    run = fanout.train_run(world.ground(), "tiny", world.recipe(), [0], world.home, told.append)
    assert "forked" in told
    assert run.folder != plain.folder
    told.clear()
    fanout.smoke(world.ground(), world.recipe(), world.home, told.append)
    assert "forked" in told


def test_a_task_that_cannot_be_rebuilt_is_told_before_training(world):
    """A task class of recipes.py is lost to scores and bundles, which build tasks anew; adapter.py keeps it."""

    class Mine(Multiclass):
        """Known to this file alone."""

    with pytest.raises(DataError, match="Mine"):
        world.train([0], task=Mine("colour"))
    assert not list((world.folder / "runs").glob("*/fold0/*"))


def test_a_finished_run_needs_no_weights_and_is_scored_anew(world, monkeypatch):
    """The same command on a finished run asks no hub, and tells the score as the adapter counts it now."""
    run = world.train([0])
    before = run.read("score.json")["pooled"]
    monkeypatch.setattr("kit.training.fanout.require_weights", lambda *arguments: pytest.fail("weights were asked for"))
    world.edit("return metrics.accuracy(", "return 2 * metrics.accuracy(")
    again = world.train([0])
    assert again.folder == run.folder
    assert again.read("score.json")["pooled"] == 2 * before


def test_what_killed_writers_left_aside_goes(world):
    """A run that is done, or goes on, has no half files of commands that were killed; other files stay."""
    run = world.train([0], epochs=1)
    left = [run.folder / ".score.json.tmp-123", run.folder / "source" / ".folds.csv.tmp-7"]
    for path in (*left, run.folder / "notes.tmp-1"):
        path.write_bytes(b"torn")
    world.train([0], epochs=1)
    assert not any(path.exists() for path in left)
    assert (run.folder / "notes.tmp-1").is_file()
