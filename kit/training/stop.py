"""A stop between two steps: a signal waits until the loop has committed; a second one does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kit.offline.errors import RunError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Asked:
    """Whether a signal waits. True once one came; `leave` hands it to whoever handled it before."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.number is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler: the first signal is noted, the second breaks in wherever the loop is."""
        if self:
            self.leave()
        self.number = number

    @contextmanager
    def first(self) -> Iterator[None]:
        """A signal goes before a RunError: where it reached the whole group, it has ended the loader's processes."""
        try:
            yield
        except RunError:
            self.leave()
            raise

    def leave(self) -> None:
        """End the work, if a signal waits, as the handler from before would have: an exit or KeyboardInterrupt."""
        if self.number is not None:
            _restore(self.before)
            signal.raise_signal(self.number)
            raise KeyboardInterrupt  # where that handler let it pass


@contextmanager
def held() -> Iterator[Asked]:
    """SIGINT and SIGTERM are noted instead of breaking in; outside the main thread, which alone gets them, nothing is.

    On the way out the handlers from before are back, and a signal that still waits is raised.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    asked.before = {number: signal.signal(number, asked.note) for number in SIGNALS}
    try:
        yield asked
    finally:
        _restore(asked.before)
    asked.leave()


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
