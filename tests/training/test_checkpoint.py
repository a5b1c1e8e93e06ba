"""kit/training/checkpoint.py"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from kit.offline import files
from kit.offline.errors import RunError
from kit.training import checkpoint

GROUPS = [{"betas": [0.9, 0.999], "lr": 1e-3}]
STATE = {
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "param_groups": GROUPS},
    "model": {"weight": torch.arange(6.0).reshape(2, 3).t(), "half": torch.ones(2, dtype=torch.bfloat16)},
    "average": None,
    "best": {"epoch": 2, "score": 0.5},
}


def test_a_state_comes_back_whole(tmp_path):
    """Tensors keep values, dtypes and shapes (strided, scalar), numbers as keys stay numbers, None stays None."""
    checkpoint.commit(tmp_path, 7, STATE)
    step, state = checkpoint.resume(tmp_path)
    assert step == 7
    torch.testing.assert_close(state["model"], STATE["model"], rtol=0, atol=0)
    assert state["optimizer"]["state"][0]["step"].item() == 3.0
    assert list(state["optimizer"]["state"]) == [0, 1]
    assert state["optimizer"]["param_groups"] == GROUPS
    assert state["average"] is None
    assert state["best"] == STATE["best"]


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
    for name in ("weights.safetensors", checkpoint.BEST):
        (tmp_path / name).write_bytes(b"other")
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
