"""kit/training/rundir.py"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kit.offline.errors import LockedError, NotFound, RunError
from kit.offline.predictions import Predictions
from kit.training import rundir
from kit.training.fanout import planned, train_run
from kit.training.repredict import predict_rows
from kit.training.rundir import (
    Run,
    begin_run,
    find_run,
    labels_hash,
    list_runs,
    locked,
    parts_of,
    shaping_hashes,
    table_of,
)


def opened(world, name="tiny", **changes):
    """The name of the run that a training would use; nothing is trained."""
    ground = world.ground()
    run = planned(ground, name, world.recipe(**changes))
    begin_run(run, ground.competition, ground.table)
    return run.name


def test_the_same_command_skips_what_is_done(world):
    """The same recipe finds its folder and leaves finished folds untouched, to the nanosecond."""
    run = world.train([0])
    before = {path: path.stat().st_mtime_ns for path in run.fold(0).iterdir()}
    again = world.train([0, 1])
    assert again.folder == run.folder
    assert {path: path.stat().st_mtime_ns for path in run.fold(0).iterdir()} == before
    assert again.folds == [0, 1]


def test_what_shapes_the_result_makes_another_run(world):
    """A field, the name, `read`, a preset's code, model.py, the folds and the weights to start from each do."""
    names = [opened(world), opened(world, name="other"), opened(world, lr=1e-4), opened(world, seed=3)]
    start = world.home / "start.safetensors"
    for content in (b"one", b"two"):
        start.write_bytes(content)
        names.append(opened(world, pretrained="start.safetensors"))
    world.edit("return opened(data, row.path)", "return opened(data, row.path)[::-1]")
    names.append(opened(world))
    (world.folder / "model.py").write_text("def build(spec, task):\n    return None\n")
    names.append(opened(world))
    world.edit("return None", "return 1", "model.py")
    names.append(opened(world))
    table = pd.read_csv(world.folder / "folds.csv", dtype=str)
    swapped = table["fold"].map({"0": "1", "1": "0", "2": "2"})
    table.assign(fold=swapped).to_csv(world.folder / "folds.csv", index=False)
    names.append(opened(world))
    assert len(set(names)) == len(names)


def test_labels_that_change_make_another_run(world):
    """Other classes do, and one row that was relabelled among the same classes: done folds would stand for it.

    The order of the host's rows, and columns that nothing looks at, are the same run.
    """
    first, path = opened(world), world.data / "train.csv"
    table = pd.read_csv(path, dtype=str)
    table[::-1].assign(note="new").to_csv(path, index=False)
    assert opened(world) == first
    at = table.index[table["colour"] == "red"][2]
    table.assign(colour=table["colour"].where(table.index != at, "blue")).to_csv(path, index=False)
    assert opened(world) != first
    table.assign(colour=table["colour"].replace("red", "rot")).to_csv(path, index=False)
    assert opened(world) != first


def test_weights_and_numbers_beside_the_image_are_labels_too(world):
    """Either changes what a network learns; a cell's file counts by its place in the data, wherever that lies."""
    ground = world.ground()
    competition, frame = ground.competition, ground.frame
    competition.table = ("age",)
    frame = frame.assign(age=3, colour=f"{ground.data.resolve()}/masks/1.png")
    first = labels_hash(competition, frame, ground.data)
    assert labels_hash(competition, frame.assign(age=4), ground.data) != first
    assert labels_hash(competition, frame.assign(weight=2.0), ground.data) != first
    moved, link = world.home / "moved", world.home / "link"
    link.symlink_to(ground.data)
    for place in (moved, link):
        assert labels_hash(competition, frame.assign(colour=f"{place}/masks/1.png"), place) == first


def test_loader_processes_are_no_part_of_a_run(world):
    """A fold that ran out of memory goes on with fewer: they change no sample. What it began with is recorded."""
    assert opened(world) == opened(world, workers=2) == opened(world, workers=None)
    assert find_run(world.folder, opened(world)).record["recipe"]["workers"] == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Which colour is it?"""', '"""Another docstring."""'),
        ("def opened(", "# a comment\ndef opened("),
        ("return metrics.accuracy(", "return 1 - metrics.accuracy("),
        ('rename_axis("thing")', 'rename_axis("id")'),
    ],
)
def test_words_formatting_and_scoring_keep_the_run(world, old, new):
    """Docstrings, comments, `submission` and `score` may change: they are done anew each time."""
    first = opened(world)
    world.edit(old, new)
    assert opened(world) == first


def test_two_runs_never_share_a_folder(world):
    """Where six digits of two hashes meet, the second is refused, not mixed with the first."""
    run = world.folder / "runs" / opened(world)
    text = (run / "run.json").read_text()
    digest = rundir.read_run(run).record["code_sha256"]
    (run / "run.json").write_text(text.replace(digest, digest[:6] + "0" * 58))
    with pytest.raises(RunError, match=digest[:12]):
        opened(world)


def test_a_run_keeps_its_sources_and_circumstances(trained):
    """source/ holds adapter, recipes and folds as they were; run.json tells recipe, hashes, versions and classes."""
    world, run, _ = trained
    for file in ("adapter.py", "recipes.py"):
        assert (run.folder / "source" / file).read_bytes() == (world.folder / file).read_bytes()
    assert (run.folder / "source" / "folds.csv").read_text() == (world.folder / "folds.csv").read_text()
    assert run.record["recipe"]["backbone"] == "test_resnet"
    assert run.record["folds"] == world.ground().folds_sha256
    assert run.record["learned"] == {"classes": ["blue", "green", "red"]}
    assert run.record["columns"] == ["blue", "green", "red"]
    assert {"python", "torch", "timm"} <= set(run.record["versions"])
    assert set(run.record["git"]) == {"commit", "dirty"}
    assert run.record["threads"] == 1


HOLD = """
import os, sys
from pathlib import Path
from kit.training.rundir import Run, locked
with locked(Run(Path(sys.argv[1]), {})):
    if not os.fork():
        os.read(int(sys.argv[2]), 1)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_one_process_trains_a_run(tmp_path, monkeypatch):
    """While another process holds the lock a second is refused, with its id, host and start, after ten seconds.

    Once it is killed the lock is free at the first try, though a child of it, as its loader processes are, lives on.
    """
    waits = []
    monkeypatch.setattr(rundir.time, "sleep", waits.append)
    ours, theirs = os.pipe()
    start = [sys.executable, "-c", HOLD, str(tmp_path), str(ours)]
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[ours]) as child:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(LockedError) as caught, locked(Run(tmp_path, {})):
            pass
        child.kill()
    assert sum(waits) == 10
    said = rf"process {child.pid} on {re.escape(platform.node())} since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.search(said, caught.value.found)
    waits.clear()
    with locked(Run(tmp_path, {})):
        assert f"process {os.getpid()} " in (tmp_path / "run.lock").read_text()
    assert waits == [0]
    os.write(theirs, b".")  # let the child go


def test_a_full_disk_keeps_what_was_there(world, monkeypatch):
    """A disk that fills up while a fold is written stops with a remedy; done folds stay; the same command goes on."""
    run = world.train([0])
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != "run.lock"}

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        world.train([1])
    with pytest.raises(RunError, match="the disk is full"):
        opened(world, lr=1e-4)
    monkeypatch.undo()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list_runs(world.folder)) == 1
    assert world.train([1]).folds == [0, 1]


def test_units_that_are_scored_in_part(world):
    """Samples that are not scored train with their unit's group and are left out of its prediction."""
    world.edit('table["scored"] == "yes"', '(table["scored"] == "yes") & ~table["sample_id"].str.endswith("a.png")')
    run = world.train([0])
    oof = Predictions.load(run.folder / "oof.npz")
    assert all(name.endswith("b.png") for name in oof.ids)
    assert run.read("score.json")["units"] == len(oof)


def test_oof_is_joined_and_brought_to_units(trained):
    """oof.npz joins the folds' samples; parts hold each scored unit once, the mean of its two samples."""
    world, run, _ = trained
    frame = world.ground().frame
    scored = frame[frame["scored"]]
    table = Predictions.load(run.folder / "oof.npz").frame()
    assert sorted(table.index) == sorted(scored["sample_id"])
    parts = parts_of(run, world.ground().competition, frame)
    units = Predictions.join([part.predictions for part in parts.values()]).frame()
    assert sorted(units.index) == sorted(scored["unit_id"].unique())
    for unit, rows in scored.groupby("unit_id"):
        np.testing.assert_allclose(units.loc[unit], table.loc[rows["sample_id"]].mean(), rtol=1e-5)


def test_what_choosing_an_epoch_flatters_is_told(world):
    """Each fold's score at its own best epoch less that at the epoch which the other folds would choose; not where an
    epoch's score is undefined, nor with one fold."""
    run = world.train(keep="best")

    def told(*folds):
        for number, scores in enumerate(folds):
            lines = [json.dumps({"epoch": at, "score": score}) for at, score in enumerate(scores, 1)]
            (run.fold(number) / "log.jsonl").write_text("\n".join(lines))
        return rundir.optimism(run, greater_is_better=True)

    # Fold 0's best is epoch 1, and the others' mean is best in epoch 2; fold 1 and 2 choose 2 as the others do.
    assert told([0.9, 0.8, 0.1], [0.5, 0.7, 0.6], [0.5, 0.9, 0.6, 1.0]) == pytest.approx(((0.9 - 0.8) + 0 + 0) / 3)
    assert told([0.9, None], [0.5, 0.7], [0.5, 0.9]) is None
    (run.fold(1) / "log.jsonl").unlink()
    assert rundir.optimism(run, greater_is_better=True) is None
    told([0.9, None], [0.5, 0.7], [0.5, 0.9])
    world.train(keep="best")
    score = run.read("score.json")
    assert score["fitted_on_scored_rows"] == ["epoch"] and score["optimism_of_epoch"] is None
    told([0.9, 0.8], [0.5, 0.7], [0.5, 0.9])
    world.train(keep="best")
    assert run.read("score.json")["optimism_of_epoch"] == pytest.approx(0.1 / 3)


def test_a_changed_file_of_a_fold_is_named(world):
    """One flipped bit of trained weights: neither soft labels nor anything else is made with them."""
    run = world.train([0], epochs=1)
    weights = run.fold(0) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    ground = world.ground()
    with pytest.raises(RunError, match=r"weights\.safetensors as it was trained"):
        predict_rows(run, 0, ground.competition, ground.frame, world.data, world.home)


def test_an_unfinished_run_of_other_settings_is_told(world):
    """Whoever changed something between a kill and the same command learns what: nothing starts anew in silence."""
    old = world.train([0], epochs=1)
    said = []
    world.edit("pixels.read_rgb(data, name)", "pixels.read_rgb(data, name).copy()")
    train_run(world.ground(), "tiny", world.recipe(epochs=1, lr=1e-4), [0], world.home, say=said.append)
    [line] = [line for line in said if "begins anew" in line]
    assert old.name in line and "recipe (lr)" in line and "code" in line and "labels" not in line
    said.clear()
    train_run(world.ground(), "tiny", world.recipe(epochs=1, lr=1e-4), [1], world.home, say=said.append)
    assert not any("begins anew" in line for line in said)


def test_runs_are_found_by_their_beginning(trained):
    """A name or an unambiguous beginning finds a run; others are an error that names the nearest."""
    world, run, other = trained
    assert {one.name for one in list_runs(world.folder)} >= {run.name, other.name}
    assert find_run(world.folder, run.name).folder == run.folder
    assert find_run(world.folder, other.name[:7]).folder == other.folder
    with pytest.raises(NotFound, match=f"did you mean '{run.name}'"):
        find_run(world.folder, "x" + run.name)
    with pytest.raises(NotFound, match="begin so"):
        find_run(world.folder, "")


def test_the_table_of_runs(trained):
    """A row tells folds done of all, scores and minutes; a run that has no score yet has a row too."""
    _, run, _ = trained
    unscored = replace(run, folder=run.folder / "nothing")
    row, empty = table_of([run, unscored])
    assert row["folds"] == "3/3"
    assert row["pooled"] == run.read("score.json")["pooled"]
    assert row["minutes"] >= 0
    assert empty["folds"] == "0/3"
    assert empty["pooled"] is None


def test_a_planned_run_writes_nothing_and_tells_what_shapes_it(world):
    """It has the name that training will use; two plans differ in the parts that were changed, and in no other."""
    ground = world.ground()
    plan = planned(ground, "tiny", world.recipe())
    assert not plan.has_begun and not (world.folder / "runs").exists()
    assert opened(world) == plan.name
    begun = planned(ground, "tiny", world.recipe(workers=2))
    assert begun.has_begun and shaping_hashes(begun) == shaping_hashes(plan)
    other = shaping_hashes(planned(ground, "tiny", world.recipe(lr=1e-4)))
    assert [part for part, digest in other.items() if digest != shaping_hashes(plan)[part]] == ["recipe"]


def test_a_package_that_is_not_there_is_recorded_as_such(monkeypatch):
    """Kaggle's image has several OpenCVs: a missing one is no reason not to train."""
    monkeypatch.setattr(rundir, "PACKAGES", ("torch", "no-such-package"))
    assert rundir.versions()["no-such-package"] is None
