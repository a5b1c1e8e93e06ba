"""Exactness of kit/training/loop.py: whatever stops a fold, the same command ends in the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kit.training import loop

pytestmark = pytest.mark.full

HARD = {
    "ema": 0.9, "mixup": 0.4, "erasing": 0.5, "drop_path": 0.2, "drop_rate": 0.2, "accumulate": 2, "clip_grad": 1.0,
    "label_smoothing": 0.1,
}  # fmt: skip


def test_a_kill_at_any_file_operation_changes_nothing(make_world, tmp_path):
    """Killed at every opening for writing, fsync, replace and unlink of a whole run in turn, the same command ends in
    the same files, byte for byte: weights, OOF, records, scores, the last committed state with the optimiser in it; no
    file is missing and none is left over."""
    world = make_world(tmp_path / "home", units=18)
    world.ground()  # freezes the folds
    for name in ("scratch", "tmp"):
        (tmp_path / name).mkdir()
    settings = {**HARD, "epochs": 2, "batch_size": 9, "keep": "best", "patience": 2}
    arguments = [str(world.home), str(tmp_path / "scratch"), json.dumps(settings)]
    script = Path(__file__).with_name("crashes.py")
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["at"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line for line in lines if line["went_on"] or line["different"]] == [], done.stderr
    operations = " ".join(line["operation"] for line in lines)
    for name in ("data.bin", ".state-", ".state.json", ".best-", "log.jsonl", ".weights.", ".oof.npz", ".done.json"):
        assert f"open {name}" in operations, name
    for name in ("state.json", "state-", "best-"):
        assert f"unlink {name}" in operations, name


def keep_optimizer(monkeypatch):
    """A list to which the optimiser of each training goes."""
    make, made = loop.make_optimizer, []
    monkeypatch.setattr(loop, "make_optimizer", lambda *given: made.append(make(*given)) or made[-1])
    return made


def stop_after(monkeypatch, number):
    """Commit after every update; stop after that commit, counted from 1. Returns the steps that were committed."""
    real, steps = loop.checkpoint.commit, []

    def commit(folder, step, state):
        real(folder, step, state)
        steps.append(step)
        if len(steps) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(loop.checkpoint, "commit", commit)
    return steps


def ends_alike(run, optimizer):
    """What has to be the same: weights, OOF, record, and all that the optimiser knows."""
    done = run.read("fold0/done.json")
    files = [(run.fold(0) / file).read_bytes() for file in ("weights.safetensors", "oof.npz")]
    return [*files, {name: done[name] for name in done if name not in ("seconds", "peak_memory_mb")}, flat(optimizer)]


def flat(optimizer):
    """An optimiser's state as JSON: counts, moments, groups."""
    state = optimizer.state_dict()
    assert all({"step", "exp_avg", "exp_avg_sq"} <= of.keys() for of in state["state"].values())
    return json.dumps(state, default=torch.Tensor.tolist)


PLACES = {"the first step": (1, 1), "mid-epoch": (2, 2), "the last step": (7, 7), "an epoch's end": (4, 4)}
"""Name -> number of the commit after which training stops, and its step: of two epochs with four updates each."""


@pytest.fixture(scope="module")
def never_stopped(make_world, tmp_path_factory):
    """How a fold ends without workers, by accumulation."""
    ends = {}
    for accumulate in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            made = keep_optimizer(patch)
            torch.set_num_threads(1)
            run = make_world(tmp_path_factory.mktemp("never")).train([0], **settings_of(accumulate, 0))
            ends[accumulate] = ends_alike(run, made[-1])
    return ends


def settings_of(accumulate, workers):
    """Two epochs of four updates each, the last of them smaller than the others."""
    return {**HARD, "epochs": 2, "accumulate": accumulate, "batch_size": 9 // accumulate, "workers": workers}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_a_fold_goes_on_exactly(world, monkeypatch, never_stopped, place, accumulate, workers):
    """Stopped after the first step, within an epoch, before the last step or at an epoch's end, with loader processes
    or without: weights, OOF, record and optimiser are those of a fold that was never stopped and had no workers."""
    number, at = PLACES[place]
    settings = settings_of(accumulate, workers)
    steps = stop_after(monkeypatch, number)
    with pytest.raises(KeyboardInterrupt):
        world.train([0], **settings)
    assert steps[-1] == at * accumulate
    monkeypatch.undo()
    made = keep_optimizer(monkeypatch)
    assert ends_alike(world.train([0], **settings), made[-1]) == never_stopped[accumulate]


def test_without_its_seeds_a_fold_goes_on_otherwise(world, monkeypatch, never_stopped):
    """The control: a fold whose later steps are not seeded ends in other weights, OOF and moments."""
    stop_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        world.train([0], **settings_of(1, 0))
    monkeypatch.undo()
    made = keep_optimizer(monkeypatch)
    monkeypatch.setattr(loop, "seed_step", lambda *key: None)
    ends = ends_alike(world.train([0], **settings_of(1, 0)), made[-1])
    for found, wanted in zip((*ends[:2], ends[3]), (*never_stopped[1][:2], never_stopped[1][3]), strict=True):
        assert found != wanted


@pytest.mark.parametrize("number", range(1, 8))
def test_early_stopping_remembers(world, monkeypatch, number):
    """With patience, keep="best" and an average, a fold that was stopped anywhere ends after the same epoch with the
    same best one, whose averaged weights it ships."""
    real, told = loop.evaluate, [0.5, 0.9, float("nan"), 0.9, 1.0, 1.0]

    def evaluate(fold, setup, model, device, views, kept):
        log = fold.folder / "log.jsonl"
        at = len(log.read_text().splitlines()) if log.exists() else 0
        return real(fold, setup, model, device, views, kept) if kept else told[at]

    settings = {**HARD, "epochs": 6, "batch_size": 9, "keep": "best", "patience": 2}
    monkeypatch.setattr(loop, "evaluate", evaluate)
    whole = world.train([0], name="whole", **settings)
    stop_after(monkeypatch, number)
    with pytest.raises(KeyboardInterrupt):
        world.train([0], **settings)
    monkeypatch.undo()
    monkeypatch.setattr(loop, "evaluate", evaluate)
    went_on = world.train([0], **settings)
    done = went_on.read("fold0/done.json")
    assert (done["epochs"], done["kept_epoch"]) == (4, 2)
    for file in ("weights.safetensors", "oof.npz"):
        assert (went_on.fold(0) / file).read_bytes() == (whole.fold(0) / file).read_bytes()
