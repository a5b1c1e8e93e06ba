"""kit/training/session.py"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kit.offline.errors import NotFound, RunError
from kit.training import session
from kit.training.fanout import planned
from kit.training.rundir import ALL, shaping_hashes
from kit.training.session import RECORD, STOPPED, Job, earlier_states, keep, packed_name, require_run, run_session

ROOT = Path(__file__).resolve().parents[2]
HELD = '''
"""The kit's loop; but in a session a fold that is new waits after its first epoch until it is told to stop."""

import signal
import time
from dataclasses import replace

from kit.training.loop import train_fold as kits


def train_fold(fold):
    waits = (fold.home / "session").is_file() and not (fold.folder / "state.json").is_file()

    def track(line):
        print(f"an epoch of {fold.name}", flush=True)
        while waits and not signal.getsignal(signal.SIGTERM).__self__:
            time.sleep(0.01)

    kits(replace(fold, track=track))
'''


@pytest.fixture
def held(world):
    """A world whose folds can be stopped after their first epoch, whatever the clock; they are frozen."""
    (world.folder / "train.py").write_text(HELD)
    world.ground()
    return world


@pytest.fixture
def code(held, tmp_path):
    """What travels: the competition's sources and folds."""
    folder = tmp_path / "code" / "competitions" / "colours"
    folder.mkdir(parents=True)
    for path in held.folder.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    (tmp_path / "code" / "session").touch()
    return tmp_path / "code"


@pytest.fixture
def inputs(held, tmp_path, monkeypatch):
    """What is mounted: the competition's files. Folds find this checkout's kit."""
    (tmp_path / "inputs" / "competitions").mkdir(parents=True)
    (tmp_path / "inputs" / "competitions" / "colours-of-things").symlink_to(held.data)
    monkeypatch.setenv("KIT_INPUT", str(tmp_path / "inputs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "inputs"


SETTINGS = {"epochs": 3, "seed": 5}


def job_of(world, **changes):
    """A session's job for the first fold of the world's recipe."""
    run = planned(world.ground(), "tiny", world.recipe(**SETTINGS))
    job = Job(
        slug="colours-of-things",
        competition="colours",
        recipe="tiny",
        settings=[f"{name}={value}" for name, value in SETTINGS.items()],
        scheme=None,
        folds=["fold0"],
        run=run.name,
        parts=shaping_hashes(run),
        number=1,
        states=[],
        minutes=600.0,
        gpu=False,
    )
    return replace(job, **changes)


def states_of(told):
    return {fold: kept["state"] for fold, kept in told["folds"].items()}


def require_same_files(packed, fold, scratch):
    """The weights, OOF and records of a packed fold are those of the fold at home."""
    shutil.unpack_archive(packed, scratch, "zip")
    assert {path.name for path in fold.iterdir()} == {path.name for path in (scratch / fold.name).iterdir()}
    for name in ("weights.safetensors", "oof.npz", "model.json"):
        assert (fold / name).read_bytes() == (scratch / fold.name / name).read_bytes(), name


def test_a_session_that_is_stopped_goes_on_in_the_next_to_the_same_bits(held, code, inputs, tmp_path):
    """Stopped while fold 0 trains, its state is packed and fold 2 waits; the next session, which has that output among
    its inputs, ends in the weights and OOF of a run that was never stopped, under the same name."""
    first, second = inputs / "notebooks" / "tester" / "first", tmp_path / "second"
    first.mkdir(parents=True)
    second.mkdir()
    log = tmp_path / "one" / "fold0" / "competitions" / "colours" / "runs" / job_of(held).run / "fold0" / "log.jsonl"
    run_session(job_of(held, folds=["fold0", "fold2"]), code, first, tmp_path / "one", log.is_file)
    told = json.loads((first / RECORD).read_text())
    assert states_of(told) == {"fold0": "paused", "fold2": "waiting"}
    assert told["folds"]["fold0"]["step"] > 0
    assert sorted(path.name for path in first.iterdir()) == ["fold0.packed", RECORD]

    run_session(job_of(held, number=2, states=["fold0"]), code, second, tmp_path / "two", lambda: False)
    told = json.loads((second / RECORD).read_text())
    assert states_of(told) == {"fold0": "done"}
    run = held.train([0], **SETTINGS)
    assert (run.name, shaping_hashes(run)) == (told["run"], told["parts"])
    assert told["versions"] == run.record["versions"]
    require_same_files(second / "fold0.packed", run.fold(0), tmp_path / "unpacked")


@pytest.mark.full
def test_a_signal_is_a_wall(held, code, inputs, tmp_path):
    """A session that gets SIGTERM, as a process of its own, stops its folds, packs them and ends well."""
    (tmp_path / "job.json").write_text(json.dumps(asdict(job_of(held))))
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-u", "-m", "kit.training.session", tmp_path / "job.json", code, tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        next(line for line in process.stdout if line == "an epoch of 0\n")
        process.send_signal(signal.SIGTERM)
        assert "fold0: paused" in process.stdout.read()
    assert process.returncode == 0
    assert states_of(json.loads((tmp_path / "out" / RECORD).read_text())) == {"fold0": "paused"}


@pytest.mark.full
def test_a_fit_on_all_rows_needs_of_its_folds_only_what_they_say(world, code, inputs, tmp_path):
    """With their done.json alone beside the code, it ends in the bits of one at home, where the folds are whole."""
    run = world.train([0, 1, 2, ALL], **SETTINGS)
    for number in (0, 1, 2):
        there = code / run.fold(number).relative_to(world.home)
        there.mkdir(parents=True)
        shutil.copy(run.fold(number) / "done.json", there)
    (code / "session").unlink()
    run_session(job_of(world, folds=["all"]), code, tmp_path, tmp_path / "work", lambda: False)
    assert states_of(json.loads((tmp_path / RECORD).read_text())) == {"all": "done"}
    shutil.unpack_archive(tmp_path / "all.packed", tmp_path / "unpacked", "zip")
    for name in ("weights.safetensors", "model.json"):
        assert (run.fold(ALL) / name).read_bytes() == (tmp_path / "unpacked" / "all" / name).read_bytes()


def test_another_run_than_home_waits_for_is_not_trained(held, code, inputs, tmp_path):
    """Where data or recipe differ from those at home, the session ends before it trains, and names what differs."""
    job = job_of(held)
    assert require_run(job, code, held.data).name == job.run
    with pytest.raises(RunError, match=rf"{job.run}.*\n.*other recipe"):
        require_run(replace(job, settings=["epochs=4", "seed=5"]), code, held.data)
    table = held.data / "train.csv"
    table.write_text(table.read_text().replace(",blue,", ",green,", 1))
    with pytest.raises(RunError, match=r"other labels\n"):
        run_session(job, code, tmp_path, tmp_path / "work", lambda: False)
    assert not (tmp_path / "work").exists()


def test_no_gpu_that_works_is_told_before_hours_are_spent(held, code, inputs, tmp_path, monkeypatch):
    """A job for GPUs on a machine without one ends at once."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RunError, match="T4 x2"):
        run_session(job_of(held, gpu=True), code, tmp_path, tmp_path / "work", lambda: False)


def test_a_session_in_which_nothing_can_be_trained_says_why(held, code, inputs, tmp_path, capsys):
    """Three lines on standard error and exit code 1, which the notebook repeats; nothing is left."""
    (tmp_path / "job.json").write_text(json.dumps(asdict(job_of(held, settings=["epochs=4"]))))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert session.main(str(tmp_path / "job.json"), str(code), str(tmp_path)) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["expected", "found", "to do"]
    assert not (tmp_path / RECORD).exists()


def test_a_fold_sees_one_gpu_its_own_kit_and_the_cache_of_all(tmp_path, monkeypatch):
    """Folds side by side share what is decoded, and nothing else; without a GPU none is hidden."""
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = session.environment_of(tmp_path / "fold1", tmp_path / "cache", 1)
    assert (found["CUDA_VISIBLE_DEVICES"], found["KIT_CACHE"]) == ("1", str(tmp_path / "cache"))
    assert found["PYTHONPATH"].split(":") == [str(tmp_path / "fold1"), "before"]
    assert "CUDA_VISIBLE_DEVICES" not in session.environment_of(tmp_path, tmp_path, None)


def write_session(folder, number, fold="fold0", run="tiny-1a2b3c", content=b"state"):
    """The output of a session that left a fold unfinished."""
    folder.mkdir(parents=True)
    (folder / packed_name(fold)).write_bytes(content)
    sha256 = session.sha256_of(folder / packed_name(fold))
    kept = {"state": "paused", "step": 3, "sha256": sha256}
    (folder / RECORD).write_text(json.dumps({"run": run, "number": number, "folds": {fold: kept}}))


def test_the_newest_state_is_found_wherever_it_is_mounted(held, inputs):
    """Under both layouts, by what the sessions say; those of other runs are none of ours."""
    job = job_of(held, run="tiny-1a2b3c", states=["fold0", "fold1"])
    write_session(inputs / "kit-train-2", 2)
    write_session(inputs / "notebooks" / "tester" / "kit-train-10", 10)
    write_session(inputs / "notebooks" / "tester" / "kit-train-9", 9, "fold1")
    write_session(inputs / "notebooks" / "tester" / "other-11", 11, run="tiny-ffffff")
    found = earlier_states(job, inputs)
    assert {fold: path.parent.name for fold, path in found.items()} == {"fold0": "kit-train-10", "fold1": "kit-train-9"}


def test_a_state_that_is_lost_or_changed_stops_the_session(held, inputs):
    """Training anew in its place would throw hours away without a word."""
    job = job_of(held, run="tiny-1a2b3c", states=["fold0"])
    with pytest.raises(NotFound, match=r"fold0.*\n.*colours-of-things"):
        earlier_states(job, inputs)
    write_session(inputs / "kit-train-1", 1)
    (inputs / "kit-train-1" / "fold0.packed").write_bytes(b"stale")
    with pytest.raises(RunError, match="missing or changed"):
        earlier_states(job, inputs)


SLEEPS = "import signal, sys, time; signal.signal(signal.SIGTERM, {}); print(flush=True); time.sleep(600)"
WILLING, STUBBORN = SLEEPS.format("lambda *_: sys.exit(143)"), SLEEPS.format("signal.SIG_IGN")


def side_by_side(programs, slots=2, seconds=600.0, grace=600.0, asked=lambda: False):
    """Run Python programs by fold; returns codes, whether they were stopped, and which slot each had.

    A program that is to be stopped says so by its first line, which is waited for.
    """
    had = {}

    def start(fold, slot):
        had[fold] = slot
        process = subprocess.Popen([sys.executable, "-c", programs[fold]], stdout=subprocess.PIPE)
        if programs[fold] in (STUBBORN, WILLING):
            process.stdout.readline()
        process.stdout.close()
        return process

    codes, stopped = session.side_by_side(list(programs), start, slots, seconds, grace, asked)
    return codes, stopped, had


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(session, "POLL_SECONDS", 0.01)


def test_each_fold_has_a_slot_of_its_own_and_none_waits_in_vain():
    """Two at a time on two slots; the third takes the slot that is free first; a code is kept for each."""
    programs = {"fold0": "import time; time.sleep(1)", "fold1": "raise SystemExit(4)", "fold2": "pass"}
    codes, stopped, had = side_by_side(programs)
    assert codes == {"fold0": 0, "fold1": 4, "fold2": 0}
    assert had == {"fold0": 0, "fold1": 1, "fold2": 1}
    assert not stopped


def test_at_the_wall_folds_stop_and_no_other_starts():
    """SIGTERM goes to those that run; SIGKILL, after the grace, to one that does not listen."""
    codes, stopped, had = side_by_side({"a": WILLING, "b": STUBBORN, "c": "pass"}, seconds=0.5, grace=0.5)
    assert codes == {"a": 143, "b": -signal.SIGKILL}
    assert stopped and set(codes.values()) <= set(STOPPED) and set(had) == {"a", "b"}


def test_what_becomes_of_a_fold_is_told(held, tmp_path):
    """Done, paused, failed with its words, killed for memory without any, or never begun; only what can go on, or go
    home, is packed."""
    job = job_of(held)
    folder = session.run_folder(tmp_path, job) / "fold0"

    def told(code, stopped=False):
        return keep("fold0", job, tmp_path, code, stopped, tmp_path)

    assert told(None) == {"state": "waiting"}
    assert told(143, stopped=True) == {"state": "paused"}
    session.errors_of(tmp_path).write_text("expected: a\nfound:    b\nto do:    c\n")
    assert told(1) == {"state": "failed", "error": "expected: a\nfound:    b\nto do:    c"}
    assert told(1, stopped=True)["state"] == "failed"
    session.errors_of(tmp_path).write_text("")
    assert "out of memory" in told(-signal.SIGKILL)["error"]
    assert not (tmp_path / "fold0.packed").exists()
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"step": 7}')
    (folder / ".state-9.safetensors.tmp-1").write_text("torn")
    assert told(143, stopped=True)["step"] == 7
    shutil.unpack_archive(tmp_path / "fold0.packed", tmp_path / "unpacked", "zip")
    assert [path.name for path in (tmp_path / "unpacked" / "fold0").iterdir()] == ["state.json"]
    (folder / "done.json").write_text("{}")
    assert told(0)["state"] == told(143, stopped=True)["state"] == "done"
