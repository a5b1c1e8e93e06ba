"""kit/training/loop.py"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import DropPath

from kit.offline.errors import Diverged, RecipeError, RunError
from kit.offline.manifest import open_bundle
from kit.offline.places import load_competition
from kit.offline.predictions import Predictions
from kit.offline.tasks import Multiclass
from kit.shipping.bundle import make_bundle
from kit.training import augment, loop, stop
from kit.training.fanout import train_run
from kit.training.folds import split
from kit.training.samples import Steps, chances_of
from tests.tmpfs import run_on_tmpfs

HARD = {
    "epochs": 3, "ema": 0.9, "mixup": 0.4, "erasing": 0.5, "drop_path": 0.2, "drop_rate": 0.2, "accumulate": 2,
    "clip_grad": 1.0, "label_smoothing": 0.1, "batch_size": 7, "tta": ("identity", "hflip"),
}  # fmt: skip
KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from conftest import World
from kit.training import checkpoint, loop

torch.set_num_threads(1)
loop.COMMIT_SECONDS = 0.0
at, where = int(sys.argv[4]), sys.argv[5]
commit, write_json = checkpoint.commit, checkpoint.write_json

def killed_after(folder, step, state):
    commit(folder, step, state)
    if step >= at:
        os.kill(os.getpid(), signal.SIGKILL)

def killed_before_the_record(path, content):
    if content["step"] >= at:
        os.kill(os.getpid(), signal.SIGKILL)
    write_json(path, content)

if where == "after":
    checkpoint.commit = killed_after
else:
    checkpoint.write_json = killed_before_the_record
World(Path(sys.argv[2])).train([0], **json.loads(sys.argv[3]))
"""


def log_of(run, fold=0):
    return [json.loads(line) for line in (run.fold(fold) / "log.jsonl").read_text().splitlines()]


def bytes_of(run):
    return [(run.fold(0) / file).read_bytes() for file in ("weights.safetensors", "oof.npz")]


def test_a_killed_fold_ends_in_the_same_bits(world):
    """Killed twice in mid-epoch, after a commit and within one, a fold goes on to the weights and OOF of one never hit.

    Average, mixup, erasing, dropout, stochastic depth and accumulation are on, and batches do not divide by the latter.
    """
    runner = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(world.home), json.dumps(HARD)]
    steps = -(-32 // 7)
    assert len(split(world.ground().frame, 0)[0]) == 32
    assert steps % HARD["accumulate"] == 1
    for at, where in ((2, "after"), (steps + 4, "before the record")):
        child = subprocess.run([*runner, str(at), where], capture_output=True, text=True, timeout=120)
        assert child.returncode == -signal.SIGKILL, child.stderr
    [folder] = (world.folder / "runs").glob("tiny-*/fold0")
    assert json.loads((folder / "state.json").read_text())["step"] == steps + 2, "the state before the second kill"
    assert not (folder / "done.json").exists()
    went_on = world.train([0], **HARD)
    whole = world.train([0], name="whole", **HARD)
    assert went_on.folder != whole.folder
    assert bytes_of(went_on) == bytes_of(whole)
    assert [line["epoch"] for line in log_of(went_on)] == [1, 2, 3]
    assert log_of(went_on)[-1] | {"images_per_second": 0} == log_of(whole)[-1] | {"images_per_second": 0}
    left = {path.name for path in went_on.fold(0).iterdir()}
    assert left == {"weights.safetensors", "oof.npz", "model.json", "log.jsonl", "done.json"}
    other = world.train([0], name="whole", **{**HARD, "seed": 1})
    assert bytes_of(other)[0] != bytes_of(whole)[0]
    assert bytes_of(other)[1] != bytes_of(whole)[1]


STOPPED = """
import json, os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from conftest import World
from kit.training import loop

torch.set_num_threads(1)
seed_step, seen = loop.seed_step, []

def signalled(seed, fold, step):
    seed_step(seed, fold, step)
    if step == int(sys.argv[4]):
        os.kill(os.getpid(), getattr(signal, sys.argv[5]))

loop.seed_step = signalled
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
World(Path(sys.argv[2])).train([0], **json.loads(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("name", "code", "at", "committed"),
    [("SIGTERM", 143, 2, 4), ("SIGINT", -signal.SIGINT, 2, 4), ("SIGTERM", 143, 14, 15)],
)
def test_a_signal_waits_for_a_commit(world, name, code, at, committed):
    """Asked to stop within an update (of two steps, or the last of all), the loop finishes it and commits, though a
    commit was not due for 20 seconds; the handler from before then ends the process, and what goes on ends in the same
    bits."""
    settings = [str(Path(__file__).parent), str(world.home), json.dumps(HARD), str(at), name]
    runner = [sys.executable, "-c", STOPPED, *settings]
    child = subprocess.run(runner, capture_output=True, text=True, timeout=120)
    assert child.returncode == code, child.stderr
    [folder] = (world.folder / "runs").glob("tiny-*/fold0")
    assert json.loads((folder / "state.json").read_text())["step"] == committed
    went_on, whole = world.train([0], **HARD), world.train([0], name="whole", **HARD)
    assert bytes_of(went_on) == bytes_of(whole)


GROUP = """
import signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from conftest import World
from kit.training import loop

torch.set_num_threads(1)
seed_step = loop.seed_step

def telling(seed, fold, step):
    seed_step(seed, fold, step)
    print("step", step, flush=True)

loop.seed_step = telling
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
World(Path(sys.argv[2])).train([0], workers=2, batch_size=4)
"""
SLOW = """
    def cut(self, array, row, how, rng):
        import time

        if rng is not None:
            time.sleep(0.2)
        return array

    def submission("""


def test_a_signal_to_the_whole_group_commits(world):
    """As timeout, systemd and schedulers send it: loader processes die of it while the loop awaits their batch, which
    is no fault of a row; what is done is committed."""
    world.edit("\n    def submission(", SLOW)
    runner = [sys.executable, "-c", GROUP, str(Path(__file__).parent), str(world.home)]
    with subprocess.Popen(
        runner, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as one:
        for line in one.stdout:
            if line == "step 2\n":
                time.sleep(0.2)  # the step takes hundredths of a second, the next batch most of one
                os.killpg(one.pid, signal.SIGTERM)
        assert one.wait(60) == 143, one.stderr.read()
    [folder] = (world.folder / "runs").glob("tiny-*/fold0")
    assert json.loads((folder / "state.json").read_text())["step"] >= 3


def interrupted(world, monkeypatch, after, **changes):
    """Train fold 0 until its commit of that number."""
    real, commits = loop.checkpoint.commit, []

    def commit(folder, step, state):
        real(folder, step, state)
        commits.append(step)
        if len(commits) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "COMMIT_SECONDS", 0.0)
        patch.setattr(loop.checkpoint, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            world.train([0], **changes)


def test_a_fold_that_goes_on_elsewhere_says_so_and_adds_its_time(world, monkeypatch):
    """Other versions or threads give other bits: told. Seconds are those of all its legs, and so is the time left."""
    interrupted(world, monkeypatch, 3, epochs=3)
    said, resume = [], loop.checkpoint.resume

    def later(folder):
        step, state = resume(folder)
        return step, {**state, "seconds": 1000.0, "machine": {**state["machine"], "torch": "2.10.0", "threads": "64"}}

    monkeypatch.setattr(loop.checkpoint, "resume", later)
    run = train_run(world.ground(), "tiny", world.recipe(epochs=3), [0], world.home, say=said.append)
    told = next(line for line in said if "not to the bit" in line)
    assert "torch" in told and "(was 2.10.0)" in told and "threads 1 (was 64)" in told and "numpy" not in told
    assert 1000 < run.read("fold0/done.json")["seconds"] < 1500
    assert any(re.search(r"epoch +1/3 .* [12]\d{3} s left", line) for line in said)


def test_fp16_goes_on_exactly(world, monkeypatch):
    """The scale of the loss, which grows and shrinks on the way, is in the committed state."""
    settings = {"precision": "fp16", "epochs": 3}
    whole = world.train([0], name="whole", **settings)
    assert whole.read("fold0/done.json")["precision"] == "fp16"
    interrupted(world, monkeypatch, 4, **settings)
    assert bytes_of(world.train([0], **settings)) == bytes_of(whole)


def test_a_best_epoch_that_changed_on_the_disk_is_not_shipped(world, monkeypatch):
    """Its hash is in the state; a flipped bit is told with the file's name."""
    epochs_score(monkeypatch, [0.5, 0.4])
    interrupted(world, monkeypatch, 7, keep="best")
    [best] = (world.folder / "runs").glob("tiny-*/fold0/best-1.safetensors")
    content = bytearray(best.read_bytes())
    content[-1] ^= 1
    best.write_bytes(bytes(content))
    monkeypatch.undo()
    epochs_score(monkeypatch, [0.4])
    with pytest.raises(RunError, match=best.name):
        world.train([0], keep="best")


def test_a_second_signal_breaks_in():
    """Whoever asks twice does not wait; afterwards the handlers from before are back."""
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop.held() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_state_from_any_place_goes_on_alike(world, monkeypatch, at):
    """Stopped after commits at every update and epoch, keep="best", chance in network and batches, the run ends as one
    that never stopped.

    The clocks of its files, which stand in 1970 now and run backwards, change nothing.
    """
    monkeypatch.setattr(loop, "COMMIT_SECONDS", 0.0)
    settings = {"batch_size": 16, "keep": "best", "epochs": 3, "mixup": 0.4, "drop_path": 0.2}
    real, count = loop.checkpoint.commit, []

    def commit(folder, step, state):
        real(folder, step, state)
        count.append(step)
        if len(count) == at + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.checkpoint, "commit", commit)
    with pytest.raises(KeyboardInterrupt):
        world.train([0], **settings)
    for number, path in enumerate(sorted(world.home.rglob("*"), key=lambda path: -path.stat().st_mtime_ns)):
        os.utime(path, (number, number))
    went_on = world.train([0], **settings)
    whole = world.train([0], name="whole", **settings)
    assert count[:4] == [1, 2, 3, 4], "within an epoch of two steps, at its end, and so on"
    assert bytes_of(went_on) == bytes_of(whole)
    assert [line["loss"] for line in log_of(went_on)] == [line["loss"] for line in log_of(whole)]


def test_an_epoch_that_is_done_again_is_logged_once(world, monkeypatch):
    """Stopped after an epoch was logged and before any commit, the fold begins anew and tells each epoch once."""
    real = loop.evaluate

    def stopped(fold, *rest):
        if (fold.folder / "log.jsonl").exists():
            raise KeyboardInterrupt
        return real(fold, *rest)

    monkeypatch.setattr(loop, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        world.train([0])
    [log] = (world.folder / "runs").glob("*/fold0/log.jsonl")
    assert len(log.read_text().splitlines()) == 1
    monkeypatch.undo()
    assert [line["epoch"] for line in log_of(world.train([0]))] == [1, 2]


def test_a_loss_that_is_no_number_stops_the_fold(world, monkeypatch):
    """NaN in the loss names fold, epoch, step, rate and the rows of the batch; nothing is exported."""
    bad = split(world.ground().frame, 0)[0]["sample_id"].iloc[5]
    monkeypatch.setattr(
        loop, "row_weights", lambda frame: np.where(frame["sample_id"] == bad, np.nan, 1).astype(np.float32)
    )
    with pytest.raises(RunError) as caught:
        world.train([0])
    assert "fold 0" in caught.value.expected
    assert "nan at epoch 1, step " in caught.value.found
    assert "lr " in caught.value.found
    assert bad in caught.value.found
    assert "lower lr" in caught.value.fix
    [folder] = (world.folder / "runs").glob("tiny-*/fold0")
    assert not {path.name for path in folder.iterdir()} & {"weights.safetensors", "oof.npz", "done.json"}


def epochs_score(monkeypatch, told):
    """Let the epochs score what is told; returns the list that their weights go to. The final OOF is scored truly."""
    scores, weights, real = iter(told), [], loop.evaluate

    def evaluate(fold, setup, model, device, views, keep):
        if keep:
            return real(fold, setup, model, device, views, keep)
        weights.append(loop.weights_of(model))
        return next(scores)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    return weights


def test_the_best_epoch_is_kept_and_said(world, monkeypatch):
    """keep="best" ships the weights of the best epoch, not the last, and the score says what it was chosen on."""
    weights = epochs_score(monkeypatch, [0.5, 0.9, 0.7, 0.9])
    run = world.train([0], keep="best", epochs=4, lr=1e-2)
    assert len(set(weights)) == 4
    assert (run.fold(0) / "weights.safetensors").read_bytes() == weights[1]
    assert run.read("fold0/done.json")["kept_epoch"] == 2
    assert run.read("score.json")["fitted_on_scored_rows"] == ["epoch"]


@pytest.mark.parametrize("keep", ["last", "best"])
def test_patience_ends_a_fold_and_says_so(world, monkeypatch, keep):
    """Two epochs without a better score, an undefined one among them, end it; the epoch counts as fitted.

    A fold that was stopped after the last of them trains no further one.
    """
    real, told = loop.evaluate, [0.5, 0.9, float("nan"), 0.9, 1.0]

    def evaluate(fold, setup, model, device, views, kept):
        log = fold.folder / "log.jsonl"
        at = len(log.read_text().splitlines()) if log.exists() else 0
        return real(fold, setup, model, device, views, kept) if kept else told[at]

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(loop, "COMMIT_SECONDS", 0.0)

    def stopped(setup):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "model_record", stopped)
    with pytest.raises(KeyboardInterrupt):
        world.train([0], keep=keep, patience=2, epochs=5)
    monkeypatch.undo()
    monkeypatch.setattr(loop, "evaluate", evaluate)
    run = world.train([0], keep=keep, patience=2, epochs=5)
    done = run.read("fold0/done.json")
    assert [line["epoch"] for line in log_of(run)] == [1, 2, 3, 4]
    assert (done["epochs"], done["kept_epoch"]) == (4, 2 if keep == "best" else 4)
    assert run.read("score.json")["fitted_on_scored_rows"] == ["epoch"]


def test_the_last_epoch_is_kept_unless_asked_otherwise(world, monkeypatch):
    """keep="last" ships the last epoch's weights though an earlier one scored better, and has chosen nothing."""
    weights = epochs_score(monkeypatch, [0.9, 0.5])
    run = world.train([0])
    assert (run.fold(0) / "weights.safetensors").read_bytes() == weights[1] != weights[0]
    assert run.read("score.json")["fitted_on_scored_rows"] == []


def test_the_choice_is_said_where_the_last_epoch_won(world, monkeypatch):
    """keep="best" flatters the score even where the best epoch is the last one."""
    scores = iter([0.1, 0.2])
    real = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *args: real(*args) if args[-1] else next(scores))
    run = world.train([0], keep="best")
    assert run.read("fold0/done.json")["kept_epoch"] == run.read("fold0/done.json")["epochs"] == 2
    assert run.read("score.json")["fitted_on_scored_rows"] == ["epoch"]


def test_oof_has_the_scored_rows_of_the_fold_and_training_has_none(trained):
    """OOF holds each scored sample of the fold once; rows that train share no unit and no box with them."""
    world, run, _ = trained
    frame = world.ground().frame
    for number in run.folds:
        oof = Predictions.load(run.fold(number) / "oof.npz")
        held = frame[(frame["fold"] == number) & frame["scored"]]
        assert sorted(oof.ids) == sorted(held["sample_id"])
        rows, scored = split(frame, number)
        assert not set(rows["box"]) & set(scored["box"])
        assert not set(rows["unit_id"]) & set(scored["unit_id"])
        assert run.read(f"fold{number}/done.json")["rows"] == {"train": len(rows), "scored": len(held)}
    assert not frame["scored"].all(), "some rows train without being scored"
    np.testing.assert_allclose(oof.values.sum(1), 1.0, atol=1e-5)


def test_only_the_rows_that_train_are_drawn(world, monkeypatch):
    """The samples of the loop are built on the rows that train alone, each of which is shown in every epoch."""
    shown, real = [], loop.TrainingSamples.__getitem__

    def getitem(self, key):
        shown.append((key[1], self.row(key[0])["sample_id"]))
        return real(self, key)

    monkeypatch.setattr(loop.TrainingSamples, "__getitem__", getitem)
    world.train([1])
    rows, _ = split(world.ground().frame, 1)
    for epoch in (0, 1):
        assert sorted(name for at, name in shown if at == epoch) == sorted(rows["sample_id"])


def updates_of(world, monkeypatch, **changes):
    """The learning rates of all updates of a fold."""
    rates = []
    make = loop.make_optimizer

    def counting(recipe, model):
        optimizer = make(recipe, model)
        optimizer.register_step_post_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", counting)
    world.train([0], **changes)
    monkeypatch.undo()
    return rates


def test_accumulation_updates_as_the_larger_batch_does(world, monkeypatch):
    """Two batches of 4 to an update give as many updates, of the same rates, as batches of 8."""
    twice = updates_of(world, monkeypatch, batch_size=4, accumulate=2)
    once = updates_of(world, monkeypatch, batch_size=8)
    assert twice == once
    assert len(set(twice)) == len(twice) == 2 * 4, "the schedule moves on at each update"
    assert len(updates_of(world, monkeypatch, batch_size=4)) == 2 * 8
    assert len(updates_of(world, monkeypatch, batch_size=7, accumulate=3)) == 2 * 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("size", "accumulate"), [(4, 2), (4, 3), (6, 2)])
def test_accumulation_learns_as_the_larger_batch_does(world, size, accumulate, weighted):
    """A network without batch-norm learns the same from batches that are added up as from batches of the whole size,
    whatever the rows weigh: the last and smaller group of an epoch (8 batches in threes) and a group whose batches
    differ in size (6 and 2 rows) among them."""
    settings = {"backbone": "test_vit", "optimizer": "momentum", "lr": 0.05}
    if weighted:
        weigh(world)
    runs = [
        world.train([0], name="several", batch_size=size, accumulate=accumulate, **settings),
        world.train([0], name="one", batch_size=size * accumulate, **settings),
    ]
    several, one = (load_file(run.fold(0) / "weights.safetensors") for run in runs)
    for name in one:
        torch.testing.assert_close(several[name], one[name], rtol=1e-3, atol=1e-5, msg=name)


def test_scores_without_number_are_never_the_best():
    """NaN beats nothing; better means greater or smaller as the competition says; an equal score keeps the earlier."""
    assert not loop.is_better(float("nan"), None, True)
    assert loop.is_better(0.1, None, True)
    best = {"epoch": 1, "score": 0.5}
    assert [loop.is_better(score, best, True) for score in (0.4, 0.5, 0.6, np.nan)] == [False, False, True, False]
    assert [loop.is_better(score, best, False) for score in (0.4, 0.5, 0.6, np.nan)] == [True, False, False, False]


def test_a_score_that_is_undefined_is_null_in_the_log(world):
    """The log stays JSON where the metric is NaN, and the score is null there and in done.json."""
    world.edit("return metrics.accuracy(", 'return float("nan") * metrics.accuracy(')
    run = world.train([0], epochs=1)
    assert "NaN" not in (run.fold(0) / "log.jsonl").read_text()
    assert log_of(run)[0]["score"] is None
    assert run.read("fold0/done.json")["score"] is None
    assert run.read("score.json")["pooled"] is None


@pytest.mark.parametrize(("train", "held", "found"), [(1, 3, "1 that train"), (9, 0, "0 that score")])
def test_a_fold_without_rows_says_so(world, train, held, found):
    """One row that trains, or none that scores, is an error that counts both, before anything is read."""
    ground, recipe = world.ground(), world.recipe()
    rows, scored = split(ground.frame, 0)
    fold = loop.Fold(
        competition=ground.competition,
        recipe=recipe,
        learned={"classes": ["blue", "green", "red"]},
        number=0,
        train=rows.head(train),
        held=scored.head(held),
        every=ground.frame,
        data=ground.data,
        folder=world.home / "fold0",
        cache=world.home / "cache",
        home=world.home,
    )
    with pytest.raises(RunError) as caught:
        loop.train_fold(fold)
    assert found in caught.value.found
    assert world.reads() == []


def test_a_further_head_changes_training_and_not_what_is_predicted(world):
    """With a head for the box the body learns otherwise, by its weight; OOF columns and score stay the colours'."""
    runs = [
        world.train([0], name=name, task=Multiclass("colour").with_aux(box=(Multiclass("box"), weight)))
        for name, weight in (("idle", 0.0), ("busy", 1.0))
    ]
    idle, busy = (load_file(run.fold(0) / "weights.safetensors") for run in runs)
    assert idle.keys() == busy.keys()
    assert not torch.equal(idle["conv1.0.weight"], busy["conv1.0.weight"])
    spec = json.loads((runs[1].fold(0) / "model.json").read_text())["spec"]
    boxes = world.ground().frame
    assert spec["outputs"] == 3 + spec["aux"]
    assert spec["aux"] == split(boxes, 0)[0]["box"].nunique()
    for run in runs:
        said = Predictions.load(run.fold(0) / "oof.npz")
        assert said.columns == ("blue", "green", "red")
        np.testing.assert_allclose(said.values.sum(axis=1), 1, atol=1e-5)
        assert np.isfinite(json.loads((run.fold(0) / "done.json").read_text())["score"])


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_gradients_are_clipped_as_the_recipe_says(world, monkeypatch, mode):
    """timm is asked for the recipe's mode at each update, with its limit."""
    asked = []
    monkeypatch.setattr(loop, "dispatch_clip_grad", lambda parameters, limit, how: asked.append((limit, how)))
    world.train([0], epochs=1, clip_grad=0.5, clip_mode=mode)
    assert set(asked) == {(0.5, mode)}


def test_adaptive_clipping_spares_the_head(world):
    """The ratio to weights that begin at zero would hold the head there; every other gradient is clipped."""
    model = timm.create_model("test_resnet", num_classes=3)
    for mode in ("norm", "agc"):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        recipe = world.recipe(clip_grad=0.01, clip_mode=mode)
        loop.dispatch_clip_grad(loop.clipped(recipe, model), recipe.clip_grad, mode)
        assert (model.fc.weight.grad == 1).all().item() == (mode == "agc")
        assert model.conv1[0].weight.grad.abs().max() < 0.5


def test_arguments_reach_the_network(world, monkeypatch):
    """What the recipe's `model` says is timm's to take, in training and in what is kept for a bundle."""
    built, real = [], loop.build_model
    monkeypatch.setattr(loop, "build_model", lambda *given: built.append(real(*given)) or built[-1])
    run = world.train([0], epochs=1, model={"global_pool": "max"})
    assert built[0].global_pool.pool_type == "max"
    assert run.read("fold0/model.json")["spec"]["arguments"] == {"global_pool": "max"}


def test_images_come_channels_last(world, monkeypatch):
    """In training and evaluation: convolutions on GPUs and in bf16 are faster so."""
    orders, real = set(), loop.build_model

    def built(spec, competition):
        model = real(spec, competition)
        model.register_forward_pre_hook(
            lambda module, inputs: orders.add(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
        return model

    monkeypatch.setattr(loop, "build_model", built)
    world.train([0], epochs=1)
    assert orders == {True}


def test_gradient_checkpointing_reaches_timm_or_is_refused(world, monkeypatch):
    """The loop asks for it where the recipe does; a network that has none says so, before an image is shown."""
    network = timm.create_model("test_vit")
    loop.checkpoint_gradients(network)
    assert network.grad_checkpointing
    with pytest.raises(RecipeError, match="gradient checkpointing"):
        loop.checkpoint_gradients(torch.nn.Linear(3, 2))
    asked, real = [], loop.checkpoint_gradients
    monkeypatch.setattr(loop, "checkpoint_gradients", lambda model: asked.append(model) or real(model))
    assert world.train([0], epochs=1, grad_checkpointing=True).read("score.json")["pooled"] is not None
    assert len(asked) == 1
    world.train([0], epochs=1)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"backbone": "halonet26t", "image_size": 96}, "multiples of 256"),
        ({"backbone": "vit_tiny_patch16_224", "start_size": 16}, "dynamic_img_size"),
        ({"backbone": "vit_tiny_patch16_224", "tta": ("identity", "scale2.0")}, "drop that view"),
    ],
)
def test_a_size_that_the_network_does_not_take_is_told_before_training(world, settings, fix):
    """Blocks that do not divide and fixed positions are no bare assertions from within timm."""
    with pytest.raises(RecipeError) as caught:
        world.train([0], **settings)
    assert settings["backbone"] in caught.value.expected
    assert fix in caught.value.fix


def test_a_batch_of_one_is_refused_where_batch_norm_cannot_train(world):
    """At 32 pixels the last maps are single values: told before training, with the batch size that would do."""
    with pytest.raises(RecipeError, match="batch_size of at least 2 for test_resnet"):
        world.train([0], batch_size=1)
    assert world.train([0], batch_size=1, backbone="test_vit", epochs=1).folds == [0]


def test_an_augmentation_that_does_not_take_the_images_is_told(world):
    """timm's RandAugment of grey images raises in its colour operations: told before training, with what they are."""
    world.edit("return opened(data, row.path)", "return opened(data, row.path)[:, :, :1]")
    with pytest.raises(RecipeError, match="takes images of 1 channels and uint8"):
        world.train([0], augment=augment.rand_augment)
    assert world.train([0], epochs=1, augment=augment.light).folds == [0]


@pytest.mark.parametrize(
    ("rows", "size", "sizes"),
    [(8, 8, [8]), (8, 4, [4, 4]), (9, 4, [3, 3, 3]), (3, 2, [3]), (5, 2, [3, 2]), (3, 1, [1, 1, 1]), (1, 4, [1])],
)
def test_no_part_of_a_batch_has_one_row(rows, size, sizes):
    """Batch-norm cannot train on one; shares are those of the weights and add up to one."""
    weight = torch.arange(1.0, rows + 1)
    parts = list(loop.in_parts(weight, size))
    assert [len(weight[part]) for part, _ in parts] == sizes
    assert float(sum(share for _, share in parts)) == pytest.approx(1)


def weigh(world):
    """Give the rows weights of 1, 2, 3, 1 ..., in no order of their classes."""
    scored = 'table["scored"] = table["scored"] == "yes"\n'
    world.edit(scored, f'{scored}        table["weight"] = [1 + at % 3 for at in range(len(table))]\n')


def watch(monkeypatch, fails=()):
    """Note the shape of each batch that a network in training is given; it runs out of memory at those that `fails`
    counts. Returns that list."""
    build, seen = loop.build_model, []

    def look(module, inputs):
        if module.training:
            seen.append(tuple(inputs[0].shape))
            if len(seen) - 1 in fails:
                raise torch.OutOfMemoryError("out of memory, says the test")

    def built(spec, competition):
        model = build(spec, competition)
        model.register_forward_pre_hook(look)
        return model

    monkeypatch.setattr(loop, "build_model", built)
    return seen


def watch_keys(monkeypatch):
    """Note which rows are drawn, by the loader's keys."""
    shown, real = [], loop.TrainingSamples.__getitem__
    monkeypatch.setattr(loop.TrainingSamples, "__getitem__", lambda self, key: shown.append(key) or real(self, key))
    return shown


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batches_are_split_where_memory_runs_out(world, monkeypatch, accumulate):
    """Parts double until they fit, then and in later steps; rows, draws and the number of updates stay as they were,
    and of a network without batch-norm the weights, whatever the rows weigh. Gradients of a failed pass are dropped."""
    weigh(world)
    settings = {
        "backbone": "test_vit", "optimizer": "momentum", "lr": 0.05, "batch_size": 8, "accumulate": accumulate,
        "mixup": 0.4, "label_smoothing": 0.1,
    }  # fmt: skip
    seen, keys = watch(monkeypatch), watch_keys(monkeypatch)
    whole = world.train([0], name="whole", **settings)
    assert {shape[0] for shape in seen} == {8}
    expected = list(keys)
    monkeypatch.undo()
    seen, keys = watch(monkeypatch, fails={2, 4}), watch_keys(monkeypatch)
    split_up = world.train([0], name="split", **settings)
    sizes = [shape[0] for shape in seen]
    assert sizes[:5] == [8, 8, 8, 4, 4]
    assert set(sizes[5:]) == {2}
    assert keys == expected
    assert (whole.read("fold0/done.json")["parts"], split_up.read("fold0/done.json")["parts"]) == (1, 4)
    one, other = (load_file(run.fold(0) / "weights.safetensors") for run in (whole, split_up))
    assert any(not torch.equal(one[name], other[name]) for name in one), "parts round otherwise"
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-5, msg=name)
    assert log_of(split_up)[0]["loss"] == pytest.approx(log_of(whole)[0]["loss"], rel=1e-5)


def test_a_fold_that_ran_out_of_memory_goes_on_in_parts(world, monkeypatch):
    """The parts are in the committed state: a fold that was stopped afterwards goes on with them, to the very bits of
    one that met the same shortage and was never stopped."""
    settings = {"batch_size": 8, "epochs": 2}
    watch(monkeypatch, fails={2})
    short = world.train([0], name="short", **settings)
    monkeypatch.undo()
    plenty = world.train([0], name="plenty", **settings)
    assert bytes_of(plenty)[0] != bytes_of(short)[0], "statistics of batch-norm are those of parts"
    watch(monkeypatch, fails={2})
    interrupted(world, monkeypatch, 4, **settings)
    monkeypatch.undo()
    [folder] = (world.folder / "runs").glob("tiny-*/fold0")
    assert loop.checkpoint.resume(folder)[1]["limits"] == {"parts": 2, "precision": "fp32"}
    seen = watch(monkeypatch)
    went_on = world.train([0], **settings)
    assert {shape[0] for shape in seen} == {4}
    assert bytes_of(went_on) == bytes_of(short)


def test_memory_too_small_for_one_image_says_so(world, monkeypatch):
    """Where a part is one image already, the error names its size and the network, and nothing is exported."""
    seen = watch(monkeypatch, fails=range(99))
    with pytest.raises(RunError, match="one image of 32 pixels through test_resnet"):
        world.train([0], batch_size=7)
    assert [shape[0] for shape in seen] == [7, 4, 3, 1]
    [folder] = (world.folder / "runs").glob("tiny-*/fold0")
    assert not {path.name for path in folder.iterdir()} & {"weights.safetensors", "oof.npz", "done.json"}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_no_number_stops_the_fold(world, monkeypatch, accumulate, clip):
    """Though the loss is finite: the update is not done, its rows are named with step and rate, nothing is exported."""
    make, backward, updates = loop.make_optimizer, [], []

    def made(recipe, model):
        optimizer = make(recipe, model)
        model.fc.weight.register_hook(lambda of: backward.append(1) or (of * np.inf if len(backward) == 5 else of))
        optimizer.register_step_post_hook(lambda *_: updates.append(torch.isfinite(model.fc.weight).all().item()))
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", made)
    keys = watch_keys(monkeypatch)
    with pytest.raises(Diverged, match="a finite gradient in fold 0") as caught:
        world.train([0], batch_size=4, accumulate=accumulate, clip_grad=clip)
    assert updates == [True] * (4 // accumulate)
    assert "at epoch 1, step 5, lr " in caught.value.found
    rows = split(world.ground().frame, 0)[0]["sample_id"]
    of_update = [rows.iloc[at] for at, _, _ in keys[16 : 16 + 4 * accumulate]]
    assert caught.value.found.endswith(f"rows {', '.join(of_update)}")
    [folder] = (world.folder / "runs").glob("tiny-*/fold0")
    assert not {path.name for path in folder.iterdir()} & {"weights.safetensors", "oof.npz", "done.json"}


def test_images_grow_in_training_and_are_scored_at_full_size(world, monkeypatch):
    """The network sees the size of the epoch's images, from start_size on, and the full one in every evaluation."""
    seen, scored, real = watch(monkeypatch), [], loop.predict_samples

    def predict(model, *rest):
        handle = model.register_forward_pre_hook(lambda module, inputs: scored.append(inputs[0].shape[2:]))
        said = real(model, *rest)
        handle.remove()
        return said

    monkeypatch.setattr(loop, "predict_samples", predict)
    run = world.train([0], start_size=(32, 48), image_size=(128, 64), epochs=4, batch_size=16)
    recipe = world.recipe(start_size=(32, 48), image_size=(128, 64), epochs=4)
    sizes = [recipe.size_at(epoch) for epoch in range(4) for _ in range(2)]
    assert [shape[2:] for shape in seen] == sizes
    assert sorted(set(sizes)) == [(32, 48), (64, 64), (96, 64), (128, 64)]
    assert set(scored) == {(128, 64)}
    assert run.read("fold0/model.json")["preparation"]["size"] == [128, 64]


def test_balanced_draws_reach_the_network(world, monkeypatch):
    """The rows that the loop shows are those that the classes' chances draw, epoch by epoch."""
    keys = watch_keys(monkeypatch)
    recipe = world.recipe(sampling="balanced")
    world.train([0], sampling="balanced")
    ground = world.ground()
    rows = split(ground.frame, 0)[0]
    chances = chances_of(recipe, ground.competition.task, rows, ground.competition.task.learn(rows))
    assert len(set(chances)) > 1, "classes equally common would show nothing"
    steps = Steps(recipe, 0, len(rows), chances)
    expected = list(steps)
    steps.epoch = 1
    assert keys == [key for batch in [*expected, *steps] for key in batch]


@pytest.mark.parametrize("sampling", ["all", "weighted"])
def test_weights_count_once(world, monkeypatch, sampling):
    """Where the column weighs the draws it leaves the loss alone; where it does not, it weighs the loss."""
    weigh(world)
    real, weights, epochs = loop.batch_mix, [], []

    def batch_mix(*given):
        mix = real(*given)
        epochs.append(given[2:])
        return lambda images, targets, weight, beside: (
            weights.extend(weight.tolist()) or mix(images, targets, weight, beside)
        )

    monkeypatch.setattr(loop, "batch_mix", batch_mix)
    keys = watch_keys(monkeypatch)
    world.train([0], sampling=sampling)
    rows = split(world.ground().frame, 0)[0]["weight"]
    told = [rows.iloc[at] for at, _, _ in keys]
    assert weights == (told if sampling == "all" else [1.0] * len(told))
    assert epochs == [(0,), (1,)], "mix_off_epochs counts them"
    assert set(rows) == {1.0, 2.0, 3.0}
    assert (np.mean(told) > rows.mean() + 0.1) == (sampling == "weighted")


def test_a_head_of_zeros_is_what_the_first_step_finds(world, monkeypatch):
    """head_init_scale=0 is done before the optimiser is made, after pretrained weights; then the head learns."""
    make, found = loop.make_optimizer, []
    monkeypatch.setattr(
        loop, "make_optimizer", lambda recipe, model: found.append(model.fc.weight.any().item()) or make(recipe, model)
    )
    weights = load_file(world.train([0], head_init_scale=0.0, epochs=1).fold(0) / "weights.safetensors")
    world.train([0], epochs=1)
    assert found == [False, True]
    assert weights["fc.weight"].any()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_a_compiled_network_trains_and_its_weights_load(world, monkeypatch, backend):
    """torch.compile is asked for the network, whose weights keep their names and learn what they learn uncompiled."""
    compiled, real = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or real(model, backend=backend))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(world.home / "compiled"))
    settings = {"epochs": 1, "batch_size": 16, "optimizer": "momentum"}
    plain = world.train([0], name="plain", **settings)
    assert compiled == []
    run = world.train([0], compile=True, **settings)
    assert len(compiled) == 1
    one, other = (load_file(of.fold(0) / "weights.safetensors") for of in (plain, run))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("crop", "kept"), [(0.5, 0.5), (None, 0.95)])
def test_crop_and_interpolation_travel(world, crop, kept):
    """What the recipe or else the backbone's config says is in model.json and in the bundle's manifest."""
    world.edit("    greater_is_better = True\n", "    greater_is_better = True\n    sample = None\n")
    run = world.train([0], backbone="test_vit", fit="crop", crop_pct=crop, epochs=1)
    preparation = run.read("fold0/model.json")["preparation"]
    assert (preparation["crop"], preparation["interpolation"]) == (kept, "bicubic")
    member = open_bundle(make_bundle(run, load_competition("colours", world.home), world.home)).members[0]
    assert (member.preparation.crop, member.preparation.interpolation) == (kept, "bicubic")


DEADLY = """
    def cut(self, array, row, how, rng):
        import os
        import torch
        if rng is not None and row.sample_id == BAD and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), 9)
        return array

    def submission("""


def test_a_row_that_kills_its_loader_process_is_named(world):
    """A loader process that dies ends training with the id of the row that it died of, not with torch's traceback."""
    bad = split(world.ground().frame, 0)[0]["sample_id"].iloc[7]
    world.edit("\n    def submission(", DEADLY.replace("BAD", repr(bad)))
    with pytest.raises(RunError) as caught:
        world.train([0], workers=2)
    assert repr(bad) in caught.value.expected
    assert "Killed" in caught.value.found


LITTLE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import World

World(Path(sys.argv[2])).train([0], image_size=1024, batch_size=8, workers=2, epochs=1)
"""
CHEAP = """
from torch import nn


def build(spec, task):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, spec.outputs))
"""


@pytest.mark.full
def test_training_ends_well_in_little_shared_memory(world):
    """With the 64 MB that docker gives by default, four batches of 25 MB ahead are too many: one process makes one at a
    time, a line tells of it, and the fold is done."""
    (world.folder / "model.py").write_text(CHEAP)
    done = run_on_tmpfs(Path("/dev/shm"), "64m", LITTLE, str(Path(__file__).parent), str(world.home))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("--shm-size") == 1
    assert list(world.folder.glob("runs/*/fold0/done.json"))


def test_smoothed_targets_are_learned(world, monkeypatch):
    """label_smoothing spreads its share of each target over the classes before batches are mixed; without it targets
    are 0 and 1."""
    real, seen = loop.batch_mix, set()

    def batch_mix(*given):
        mix = real(*given)
        return lambda images, targets, *rest: seen.update(targets.unique().tolist()) or mix(images, targets, *rest)

    monkeypatch.setattr(loop, "batch_mix", batch_mix)
    world.train([0], epochs=1, label_smoothing=0.3)
    assert sorted(seen) == pytest.approx([0.1, 0.8])
    seen.clear()
    world.train([0], epochs=1)
    assert seen == {0.0, 1.0}


def test_the_head_alone_learns_at_first(world, monkeypatch):
    """In freeze_epochs the loop gives gradients to the head only, from the next epoch on to all."""
    make, learning = loop.make_optimizer, []

    def made(recipe, model):
        optimizer = make(recipe, model)
        names = {id(one): name for name, one in model.named_parameters()}
        optimizer.register_step_post_hook(
            lambda *_: learning.append({names[id(one)] for one in model.parameters() if one.grad is not None})
        )
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", made)
    world.train([0], epochs=2, freeze_epochs=1, batch_size=16)
    assert learning[:2] == [{"fc.weight", "fc.bias"}] * 2
    assert all("conv1.0.weight" in names for names in learning[2:])


def test_dropout_and_stochastic_depth_reach_the_network(world, monkeypatch):
    """The network that is trained has the recipe's rates, and none where the recipe has none."""
    build, built = loop.build_model, []
    monkeypatch.setattr(loop, "build_model", lambda *given: built.append(build(*given)) or built[-1])
    world.train([0], epochs=1, drop_rate=0.25, drop_path=0.2)
    world.train([0], epochs=1)
    depths = [max((of.drop_prob for of in one.modules() if isinstance(of, DropPath)), default=0.0) for one in built]
    assert [one.drop_rate for one in built] == [0.25, 0.0]
    assert depths == pytest.approx([0.2, 0.0])


def test_the_average_of_the_weights_is_shipped(world, monkeypatch):
    """ema ships timm's moving average over the updates, which forgets the beginning faster at first (warm-up)."""
    make, after = loop.make_optimizer, []

    def made(recipe, model):
        optimizer = make(recipe, model)
        optimizer.register_step_post_hook(lambda *_: after.append(model.conv1[0].weight.detach().clone()))
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", made)
    run = world.train([0], ema=0.6, lr=1e-2)
    shipped = load_file(run.fold(0) / "weights.safetensors")["conv1.0.weight"]
    average = after[0]
    for update, weights in enumerate(after):
        decay = min(0.6, 1 - update ** (-2 / 3)) if update > 1 else 0.0
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(shipped, average)
    assert not torch.allclose(shipped, after[-1])


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_network_trains_in_the_precision_of_the_recipe(world, monkeypatch, precision, dtype):
    """Its outputs in training have that type; weights and OOF stay float32, and the record says which it was."""
    build, seen = loop.build_model, []

    def built(*given):
        model = build(*given)
        model.register_forward_hook(lambda module, inputs, said: seen.append(said.dtype) if module.training else None)
        return model

    monkeypatch.setattr(loop, "build_model", built)
    run = world.train([0], epochs=1, precision=precision)
    assert set(seen) == {dtype}
    assert run.read("fold0/done.json")["precision"] == precision
    assert load_file(run.fold(0) / "weights.safetensors")["fc.weight"].dtype == torch.float32
    assert Predictions.load(run.fold(0) / "oof.npz").values.dtype == np.float32


def test_oof_is_the_mean_over_the_views(world):
    """tta changes what is predicted in the end, to the mean of what each view alone says, and no weight."""
    views = (("identity",), ("hflip",), ("identity", "hflip"))
    runs = [world.train([0], tta=view) for view in views]
    assert len({bytes_of(run)[0] for run in runs}) == 1
    plain, flipped, both = (Predictions.load(run.fold(0) / "oof.npz") for run in runs)
    assert list(plain.ids) == list(flipped.ids) == list(both.ids)
    np.testing.assert_allclose(both.values, (plain.values + flipped.values) / 2, atol=1e-6)
    assert abs(plain.values - flipped.values).max() > 1e-4
