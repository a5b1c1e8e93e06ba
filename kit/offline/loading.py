"""Loader processes: no more than shared memory holds; where one dies or hangs, the row that it died of is named."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from kit.offline.errors import RunError, examples

HANG_SECONDS = 300.0
"""How long a batch may take, and in the search after it a single row."""
DYING_SECONDS = 2.0
"""Time from the end of a process's connections to the signal of its death, at most."""
AHEAD = 2
"""Batches that a process prepares ahead; torch's default."""
SHARED = "/dev/shm"  # noqa: S108 - where torch hands over batches on Linux
MORE_SHARED = "give the container more shared memory (docker run --shm-size=8g), or lower workers or batch_size"
Collate = Callable[[Any], Any]
"""Makes a batch of a list of samples."""


def load(samples: Any, batches: Any, workers: int, collate: Collate, persistent: bool = False) -> Loader:
    """Batches from `workers` processes, or from fewer, with a warning, where shared memory is small.

    samples: a dataset whose `name_of(key)` is the id of a row. batches: gives the keys of each batch, anew for each
    epoch. persistent: whether processes outlive an epoch. A first sample is prepared to learn its size.
    """
    first = next(iter(batches), None) if workers else None
    ahead = AHEAD
    if first is not None:
        free, size = _shared_memory()
        sample = sum(part.nbytes for part in samples[first[0]] if isinstance(part, Tensor))
        asked, (workers, ahead) = workers, room_for(workers, sample * len(first), free)
        if (workers, ahead) != (asked, AHEAD):
            _warn(
                f"warning: {SHARED} ({size / 1e6:.0f} MB) is small for the batches of {asked} loader processes, "
                f"so fewer are made at a time; {MORE_SHARED}"
            )
    return Loader(samples, batches, workers, collate, persistent, ahead)


class Loader(DataLoader):
    """torch's DataLoader over batches of keys; what befalls its processes is a RunError that names rows.

    ahead: batches that each process prepares ahead. The rest is as for `load`, which fits both to shared memory.
    """

    def __init__(self, samples: Any, batches: Any, workers: int, collate: Collate, persistent: bool, ahead: int):
        self.under_way = UnderWay(batches)
        super().__init__(
            samples,
            batch_sampler=self.under_way,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=ahead if workers else None,
            persistent_workers=persistent and workers > 0,
            worker_init_fn=quiet_worker,
            timeout=HANG_SECONDS if workers else 0,
            pin_memory=torch.cuda.is_initialized(),  # a GPU may report itself that `pick_device` could not start
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from self._arriving()
            return
        except Lost as error:
            lost = error
        suspects = lost.batches[:1] if lost.hung else lost.batches  # what hangs holds up the batch that is awaited
        keys = [key for batch in suspects for key in batch]
        ended = "signal: Terminated" in lost.said  # by somebody, not of a row
        raise self._explained(lost, keys, None if ended else self._found(keys))

    def _arriving(self) -> Iterator[Any]:
        """The batches. Raises Lost."""
        batches, lost = super().__iter__(), None
        while True:
            try:
                with DEATHS.told():
                    batch = _fetched(batches)
            except RuntimeError as error:
                lost = self._lost(error)
            if lost:
                del batches
                self._iterator = None  # the processes that are left end now, with all that they hold
                raise lost
            if batch is None:
                return
            self.under_way.drawn.popleft()
            yield batch

    def _lost(self, error: RuntimeError) -> Lost:
        """What torch says of its processes as Lost; other errors are raised as they are, less a full shared memory."""
        said = str(error.__cause__ if isinstance(error.__cause__, RuntimeError) else error).strip()
        if "unable to allocate shared memory" in said:
            size = f"{SHARED} is full ({_shared_memory()[1] / 1e6:.0f} MB in all)"
            raise RunError("room in shared memory for the loader's batches", size, MORE_SHARED) from None
        hung = said.startswith("DataLoader timed out")
        if not hung and not re.match(r"DataLoader worker \(pid.* (killed by signal|exited unexpectedly)", said):
            raise error
        return Lost(hung, said, list(self.under_way.drawn))

    def _found(self, keys: list[Any]) -> Any:
        """The first key that is lost again when each is prepared alone, in a process that may die; None if none is."""
        alone = Loader(self.dataset, [[key] for key in keys], 1, self.collate_fn, persistent=False, ahead=1)
        alone.multiprocessing_context = self.multiprocessing_context
        try:
            for _ in alone._arriving():
                pass
        except Lost as lost:
            return lost.batches[0][0]
        return None

    def _explained(self, lost: Lost, keys: list[Any], found: Any) -> RunError:
        name_of: Callable[[Any], str] = self.dataset.name_of  # type: ignore[attr-defined]
        names, again = [name_of(key) for key in keys], "then the same command goes on"
        if found is not None:
            fault = f"takes longer than {HANG_SECONDS:.0f} s" if lost.hung else f"kills its process ({lost.said})"
            return RunError(
                f"a loader process to prepare {name_of(found)!r}",
                f"that row {fault}, alone too",
                f"look at its file, and at read, cut and augment (a decoder that crashes, memory for the row); {again}",
            )
        if lost.hung:
            return RunError(
                f"a batch of the loader within {HANG_SECONDS:.0f} s",
                f"none, though each row came alone; in flight: {examples(names, 64)}",
                f"look at the disk that holds the data, and at what else keeps the cores; {again}",
            )
        if "signal: Terminated" in lost.said:
            return RunError("loader processes that live", lost.said, f"do not end them one by one; {again}")
        return RunError(
            "loader processes that live",
            f"{lost.said}; none of the rows in flight kills a process alone: {examples(names, 8)}",
            f"memory ran out, most likely (RAM, or {SHARED}): lower workers, which keeps the run; {again}",
        )


@dataclass(eq=False)
class Lost(Exception):
    """A process that hangs, else died. said: in torch's words. batches: keys under way, those awaited first."""

    hung: bool
    said: str
    batches: list[list[Any]]


class UnderWay(Sampler[list[Any]]):
    """Batches of keys on their way through the processes: those drawn and not yet taken out of `drawn`."""

    def __init__(self, batches: Any):
        self.batches = batches
        self.drawn: deque[list[Any]] = deque()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        self.drawn.clear()
        for keys in self.batches:
            self.drawn.append(keys)
            yield keys


class Deaths:
    """torch's SIGCHLD handler raises wherever the main thread is, in an update of the weights too: here it waits until
    a batch is awaited."""

    def __init__(self) -> None:
        self.raising: Callable[[int, FrameType | None], Any] | None = None
        self.awaited = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler in its place."""
        if self.awaited and self.raising:
            self.raising(number, frame)

    @contextmanager
    def told(self) -> Iterator[None]:
        """The death of a loader process, since the last time or now, is raised here as torch's RuntimeError."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self.note:
            self.raising = handler
            signal.signal(signal.SIGCHLD, self.note)
        self.awaited = True
        try:
            self.note(signal.SIGCHLD, None)
            yield
        finally:
            self.awaited = False


DEATHS = Deaths()


def quiet_worker(worker: int) -> None:
    """One thread per loader process: OpenCV's own pool fights with the others and can deadlock after a fork.

    Ctrl-C reaches the whole group of processes: the loader goes on, so that the loop can finish its step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def room_for(workers: int, batch: int, free: int) -> tuple[int, int]:
    """(processes, batches that each makes ahead) for which `free` bytes of shared memory have room; maybe (0, 0).

    batch: its bytes; one more is in the loop's hands. What is made ahead goes first: processes bring more.
    """
    batches = free // max(batch, 1) - 1
    workers = max(min(workers, batches), 0)
    return workers, min(AHEAD, batches // workers) if workers else 0


def _shared_memory() -> tuple[int, int]:
    """Bytes of shared memory that are free, and there are in all; without bound where torch uses no such folder."""
    try:
        stat = os.statvfs(SHARED)
    except OSError:
        return sys.maxsize, sys.maxsize
    return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize


def _fetched(batches: Iterator[Any]) -> Any:
    """The next batch, None at the end. Where one cannot be fetched from its process, that process may be dying."""
    try:
        return next(batches, None)
    except (OSError, EOFError):
        time.sleep(DYING_SECONDS)  # which its death breaks into
        raise


@functools.cache
def _warn(line: str) -> None:
    """Once a process: each epoch has a loader of its own for evaluation."""
    print(line, file=sys.stderr, flush=True)
