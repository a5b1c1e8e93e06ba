"""kit/offline/loading.py"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from kit.offline import loading
from kit.offline.errors import RunError
from kit.offline.loading import load, room_for

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
"""torch warns of more processes than cores."""
KEYS = [9, 4, 20, 7, 1, 13, 2, 16]
BATCHES = [KEYS[at : at + 2] for at in range(0, len(KEYS), 2)]


class Rows(Dataset):
    """Row `bad` does what `act` does, in a loader process alone; the others are there at once."""

    def __init__(self, act=None, bad=None):
        self.act, self.bad = act, bad

    def __getitem__(self, key):
        if key == self.bad and torch.utils.data.get_worker_info():
            self.act()
        return key, torch.full((3,), key)

    def name_of(self, key):
        return f"row {key:03d}"


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def crash():
    faulthandler.disable()  # pytest's would print the stack
    os.kill(os.getpid(), signal.SIGSEGV)


def leave():
    os._exit(3)


def hang():
    time.sleep(1000)


def keys_of(loader):
    return [key for keys, _ in loader for key in keys.tolist()]


@pytest.fixture
def short(monkeypatch):
    """A row may take two seconds, and whoever is left is not waited for."""
    monkeypatch.setattr(loading, "HANG_SECONDS", 2.0)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(("act", "word"), [(kill, "Killed"), (crash, "Segmentation fault"), (leave, "exit code 3")])
def test_the_row_that_kills_its_process_is_named(act, word, persistent):
    """Killed, crashed or gone: of all rows in flight the culprit is told, with torch's word for its end, and causes."""
    with pytest.raises(RunError) as caught:
        keys_of(load(Rows(act, 13), BATCHES, 2, default_collate, persistent))
    assert "'row 013'" in caught.value.expected
    assert word in caught.value.found and "alone too" in caught.value.found
    assert "decoder that crashes" in caught.value.fix and "memory" in caught.value.fix
    assert not multiprocessing.active_children()


def test_a_process_that_dies_of_no_row_blames_none(tmp_path):
    """What kills once (memory that ran out) and not again names the rows in flight, memory and shared memory."""
    once = tmp_path / "once"

    def killed_once():
        if not once.exists():
            once.touch()
            kill()

    with pytest.raises(RunError) as caught:
        keys_of(load(Rows(killed_once, 20), BATCHES, 2, default_collate))
    assert "none of the rows in flight" in caught.value.found and "'row 020'" in caught.value.found
    assert "RAM" in caught.value.fix and "/dev/shm" in caught.value.fix


def test_a_death_between_two_batches_waits_for_the_next():
    """What the loop does with a batch is never broken into, as torch's handler would: a death meanwhile is told after
    it."""

    def killed_later():
        time.sleep(0.5)
        kill()

    loader, seen = load(Rows(killed_later, 20), BATCHES, 1, default_collate, persistent=True), []
    with pytest.raises(RunError, match="'row 020'"):
        for keys, _ in loader:
            [process] = multiprocessing.active_children()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seen.append(keys.tolist())
    assert seen == BATCHES[:1]


@pytest.mark.parametrize("persistent", [True, False])
def test_the_row_that_hangs_is_named_in_bounded_time(short, persistent):
    """A row that never comes is an error with its name; its process does not outlive the error."""
    with pytest.raises(RunError) as caught:
        keys_of(load(Rows(hang, 1), BATCHES, 2, default_collate, persistent))
    assert "'row 001'" in caught.value.expected
    assert "longer than 2 s" in caught.value.found
    assert not multiprocessing.active_children()


def test_a_batch_that_hangs_once_names_its_rows(short, tmp_path):
    """Where each row comes alone, those of the batch that was awaited are told, and no others."""
    once = tmp_path / "once"

    def hang_once():
        if not once.exists():
            once.touch()
            hang()

    with pytest.raises(RunError) as caught:
        keys_of(load(Rows(hang_once, 1), BATCHES, 2, default_collate))
    assert "'row 001', 'row 013'" in caught.value.found and "row 002" not in caught.value.found


def test_other_errors_of_a_row_are_told_as_they_are(short):
    """An exception in a loader process is none of its end: it comes through with its text."""

    def refuse():
        raise ValueError("a picture of nothing")

    with pytest.raises(ValueError, match="a picture of nothing"):
        keys_of(load(Rows(refuse, 7), BATCHES, 2, default_collate))
    gc.collect()  # torch waits for the processes of an iterator in garbage, and not as short in other tests


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_in_every_epoch(workers):
    """Persistent or not there is each batch once, in its place; an epoch that was left early leaves nothing behind."""
    loader = load(Rows(), BATCHES, workers, default_collate, persistent=True)
    assert len(loader) == len(BATCHES)
    next(iter(loader))
    assert keys_of(loader) == keys_of(loader) == KEYS
    assert keys_of(load(Rows(), [], workers, default_collate)) == []


def test_processes_fit_shared_memory():
    """What is made ahead goes first, then processes, then all of them; one batch more is always in the loop's hands."""
    batch = 10
    fitting = {free: room_for(4, batch, free) for free in (10**6, 90, 89, 50, 49, 30, 20, 19, 0)}
    assert fitting == {
        10**6: (4, 2), 90: (4, 2), 89: (4, 1), 50: (4, 1), 49: (3, 1), 30: (2, 1), 20: (1, 1), 19: (0, 0), 0: (0, 0),
    }  # fmt: skip
    assert all((workers * ahead + 1) * batch <= free for free, (workers, ahead) in fitting.items() if workers)
    assert room_for(2, 0, 100) == (2, 2)


def test_little_shared_memory_is_told_once(monkeypatch, capsys):
    """A small /dev/shm leaves fewer processes, or none, and one line names docker's flag; batches are the same."""
    loading._warn.cache_clear()
    batch = 2 * torch.zeros(3, dtype=torch.long).nbytes
    for free, workers in ((3 * batch, 2), (batch, 0)):
        monkeypatch.setattr(loading, "_shared_memory", lambda free=free: (free, 64_000_000))
        loader = load(Rows(), BATCHES, 3, default_collate)
        assert loader.num_workers == workers
        assert keys_of(loader) == KEYS
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "64 MB" in said[0] and "--shm-size" in said[0]
    monkeypatch.setattr(loading, "_shared_memory", lambda: (10**6, 10**6))
    load(Rows(), BATCHES, 3, default_collate)
    assert not capsys.readouterr().err


def test_shared_memory_that_is_full_after_all_is_told():
    """torch's own words for it become an error with docker's flag."""

    def full():
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    with pytest.raises(RunError, match="--shm-size"):
        keys_of(load(Rows(full, 9), BATCHES, 2, default_collate))


def test_where_there_is_no_such_folder_nothing_is_held_back(monkeypatch):
    """macOS shares memory without a folder: as many processes as were asked for."""
    monkeypatch.setattr(loading, "SHARED", "/nowhere/shm")
    assert load(Rows(), BATCHES, 3, default_collate).num_workers == 3
