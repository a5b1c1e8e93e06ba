"""kit/training/checkpoint.py"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from timm import create_model

from kit.offline import files
from kit.offline.errors import RunError
from kit.training import checkpoint, loop
from tests.tmpfs import run_on_tmpfs

GROUPS = [{"betas": [0.9, 0.999], "lr": 1e-3}]
STATE = {
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "param_groups": GROUPS},
    "model": {"weight": torch.arange(6.0).reshape(2, 3).t(), "half": torch.ones(2, dtype=torch.bfloat16)},
    "average": None,
    "best": {"epoch": 2, "score": 0.5},
    "kinds": [(1, (torch.float32,)), torch.bfloat16],
}


def test_a_state_comes_back_whole(tmp_path):
    """Tensors keep values, dtypes and shapes (strided, scalar), numbers as keys stay numbers, None stays None,
    tuples and dtypes (which some optimisers keep) stay what they are."""
    checkpoint.commit(tmp_path, 7, STATE)
    step, state = checkpoint.resume(tmp_path)
    assert step == 7
    torch.testing.assert_close(state["model"], STATE["model"], rtol=0, atol=0)
    assert state["optimizer"]["state"][0]["step"].item() == 3.0
    assert list(state["optimizer"]["state"]) == [0, 1]
    assert state["optimizer"]["param_groups"] == GROUPS
    assert state["average"] is None
    assert state["best"] == STATE["best"]
    assert state["kinds"] == STATE["kinds"]


def test_nothing_was_committed(tmp_path):
    """A folder without a record resumes from nowhere, even with a file of tensors in it."""
    assert checkpoint.resume(tmp_path) is None
    (tmp_path / "state-3.safetensors").write_bytes(b"torn")
    assert checkpoint.resume(tmp_path) is None


def test_only_the_newest_stays(tmp_path):
    """A commit removes older states and what killed writers left aside; clearing removes all, the best epoch too."""
    checkpoint.commit(tmp_path, 9, STATE)
    (tmp_path / ".state-9.safetensors.tmp-123").write_bytes(b"torn")
    checkpoint.commit(tmp_path, 10, STATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-10.safetensors", "state.json"]
    for name in ("weights.safetensors", "best-2.safetensors", "best-4.safetensors"):
        (tmp_path / name).write_bytes(b"other")
    checkpoint.commit(tmp_path, 10, STATE)
    assert not (tmp_path / "best-4.safetensors").exists()  # of an epoch that the state does not know: it is done again
    assert (tmp_path / "best-2.safetensors").exists()
    checkpoint.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("how", ["flip", "remove"])
def test_a_damaged_state_is_refused(tmp_path, how):
    """A flipped bit or a missing file is an error that names the file and the remedy, not another training."""
    checkpoint.commit(tmp_path, 7, STATE)
    path = tmp_path / json.loads((tmp_path / "state.json").read_text())["file"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink() if how == "remove" else path.write_bytes(bytes(content))
    with pytest.raises(RunError) as caught:
        checkpoint.resume(tmp_path)
    assert str(path) in caught.value.expected
    assert str(tmp_path) in caught.value.fix


def test_no_damage_to_the_record_is_taken_for_another_state(tmp_path):
    """One flipped bit in any byte of the record, in a learning rate or a best score too, is an error that names it."""
    checkpoint.commit(tmp_path, 7, STATE)
    path, flip = tmp_path / "state.json", np.random.RandomState(0)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << flip.randint(8)]) + whole[at + 1 :])
        with pytest.raises(RunError) as caught:
            checkpoint.resume(tmp_path)
        assert "state.json" in caught.value.expected
    path.write_bytes(whole)
    assert checkpoint.resume(tmp_path)[0] == 7


def test_the_record_decides_and_no_clock(tmp_path):
    """An older state that was left behind is not the newest for its younger clock; nor is one of 1970 stale."""
    checkpoint.commit(tmp_path, 9, {"x": torch.zeros(2)})
    older = (tmp_path / "state-9.safetensors").read_bytes()
    checkpoint.commit(tmp_path, 10, {"x": torch.ones(2)})
    (tmp_path / "state-9.safetensors").write_bytes(older)
    for name in ("state-10.safetensors", "state.json"):
        os.utime(tmp_path / name, (0, 0))
    step, state = checkpoint.resume(tmp_path)
    assert (step, state["x"].tolist()) == (10, [1.0, 1.0])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no folder /proc/self/fd")
def test_every_file_is_durable_before_what_it_replaces_goes(world, monkeypatch):
    """In a whole fold each file is synced before it takes its name and its folder after; older states go last of all.

    A state may be removed once the record that names another one is on the disk, not before.
    """
    done = []

    def told(name, path_of):
        real = getattr(os, name)

        def call(*arguments, **named):
            done.append((name, *map(str, path_of(*arguments))))
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, call)

    told("fsync", lambda handle: [Path(f"/proc/self/fd/{handle}").readlink()])
    told("replace", lambda old, new: [old, new])
    told("unlink", lambda path, **_: [path])
    monkeypatch.setattr(loop, "COMMIT_SECONDS", 0.0)
    world.train([0], keep="best", batch_size=16)
    monkeypatch.undo()
    replaced = [at for at, (name, *_) in enumerate(done) if name == "replace"]
    for at in replaced:
        _, old, new = done[at]
        assert done[at - 1] == ("fsync", old)
        assert done[at + 1] == ("fsync", str(Path(new).parent))
    names = [Path(done[at][2]).name for at in replaced]
    assert names.count("state.json") == 3
    assert {"state-1.safetensors", "best-1.safetensors", "weights.safetensors", "oof.npz", "done.json"} <= set(names)
    for at, (name, *paths) in enumerate(done):
        if name == "unlink" and "state-" in paths[0] and Path(paths[0]).name != "state-3.safetensors":
            assert done[at - 1][0] == "fsync" and done[at - 2][0] == "replace"
            assert Path(done[at - 2][2]).name == "state.json"


FULL = """
import sys
from pathlib import Path
import torch
from kit.offline.errors import RunError
from kit.training import checkpoint

folder = Path(sys.argv[1])
checkpoint.commit(folder, 1, {"x": torch.ones(1_000_000)})
try:
    checkpoint.commit(folder, 2, {"x": torch.zeros(2_000_000)})
except RunError as error:
    print(error)
assert sorted(path.name for path in folder.iterdir()) == ["state-1.safetensors", "state.json"]
step, state = checkpoint.resume(folder)
assert step == 1 and state["x"].all()
checkpoint.commit(folder, 3, {"x": torch.zeros(1_000_000)})
assert checkpoint.resume(folder)[0] == 3
"""


def test_a_full_disk_keeps_the_older_state(tmp_path):
    """On a real disk of 10 MB a state of 8 MB beside one of 4 is refused with need and room; the older one goes on."""
    done = run_on_tmpfs(tmp_path, "10m", FULL, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "8.0 MB of free disk to write" in done.stdout and "state-2.safetensors" in done.stdout
    assert "the disk is full (6." in done.stdout


@pytest.mark.parametrize(("ema", "states"), [(None, 3), (0.9, 4)])
def test_a_fold_asks_for_its_room_before_it_trains(world, monkeypatch, ema, states):
    """Three states of model, moments and average: a byte less is refused before the first step, with need and room."""
    size = sum(tensor.nbytes for tensor in create_model("test_resnet", num_classes=3).state_dict().values())
    usage = namedtuple("usage", "total used free")
    world.train([1], ema=ema, epochs=1)  # so that the pixels are cached: the cache asks for itself
    for free in (3 * states * size - 1, 3 * states * size):
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path, free=free: usage(free, 0, free))
        if free < 3 * states * size:
            with pytest.raises(RunError) as caught:
                world.train([0], ema=ema, epochs=1)
            assert f"{3 * states * size / 1e6:.0f} MB of free disk" in caught.value.expected
            assert not list(world.folder.glob("runs/*/fold0/*"))
    assert world.train([0], ema=ema, epochs=1).folds == [0, 1]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_kill_between_two_writes_leaves_the_old_state_or_the_new(tmp_path, monkeypatch, nth):
    """Stopped at the n-th sync (content and folder of two files), a commit leaves a state that resumes, old or new."""
    checkpoint.commit(tmp_path, 1, {"x": torch.zeros(2)})
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == nth:
            raise Killed
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(Killed):
        checkpoint.commit(tmp_path, 2, {"x": torch.ones(2)})
    monkeypatch.undo()
    step, state = checkpoint.resume(tmp_path)
    assert (step, state["x"].tolist()) in [(1, [0.0, 0.0]), (2, [1.0, 1.0])]
    assert step == (2 if nth == 4 else 1)


def test_the_bytes_do_not_hang_on_the_process(tmp_path):
    """Another process that commits the same state writes the same bytes."""
    checkpoint.commit(tmp_path, 2, {"a": torch.arange(3.0), "b": torch.ones(2), "n": 4})
    code = (
        "import sys, pathlib, torch; from kit.training import checkpoint; "
        "checkpoint.commit(pathlib.Path(sys.argv[1]), 2, {'a': torch.arange(3.), 'b': torch.ones(2), 'n': 4})"
    )
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run([sys.executable, "-c", code, str(other)], check=True)
    for name in ("state-2.safetensors", "state.json"):
        assert (tmp_path / name).read_bytes() == (other / name).read_bytes()
