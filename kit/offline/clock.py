"""The time a notebook has: views, then members, are left out where the rest would not be done in it, never silently."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

AIM = 0.85
"""Share of the limit that a plan must fit."""
LAST = 0.95
"""Share of the limit after which nothing is begun: decoding, blending and writing take the rest."""
SPAN = 0.005
"""Share of the limit that a measure of speed must span: of few rows it says little, and nothing left out comes back."""


@dataclass
class Clock:
    """seconds: the limit. begun: when it began to count, as `now` tells it."""

    seconds: float
    begun: float
    now: Callable[[], float] = time.monotonic

    def left(self, share: float) -> float:
        """Seconds until `share` of the limit."""
        return self.begun + share * self.seconds - self.now()

    def plan(self, views: Sequence[Sequence[str]], weights: Sequence[float], rows: int, droppable: bool = True) -> Plan:
        """All views of all members over so many rows, to begin with. droppable: whether a whole member may be left
        out."""
        return Plan(self, [tuple(some) for some in views], list(weights), rows, droppable)


@dataclass
class Plan:
    """views: of each member, what is still computed; none for a member that is left out. rows: still to come.

    One plan holds from the first row to the last, however many calls they come in.
    """

    clock: Clock
    views: list[tuple[str, ...]]
    weights: list[float]
    rows: int
    droppable: bool = True
    left_out: list[str] = field(default_factory=list)
    _mark: float | None = None
    _over: bool = False
    _rows: int = 0
    _wall: float = 0.0
    _networks: float = 0.0

    def note(self, rows: int, views: Sequence[Sequence[str]], networks: float) -> None:
        """Note a batch of `rows` that is done, its views and its networks' seconds; shorten the plan if the rows to
        come would take too long.

        The first batch, in which libraries warm up, is no measure.
        """
        before, self._mark = self._mark, self.clock.now()
        self.rows = max(0, self.rows - rows)
        if before is None or list(map(tuple, views)) != self.views:
            return
        self._rows += rows
        self._wall += self._mark - before
        self._networks += networks
        if self._wall >= SPAN * self.clock.seconds:
            self._shorten(self.rows)

    def waited(self, seconds: float) -> None:
        """So many seconds since the last batch passed in waiting for another: they are gone, and no measure."""
        if self._mark is not None:
            self._mark += seconds

    def is_over(self) -> bool:
        """Whether no row more may be begun; says so once."""
        if not self._over and self.clock.left(LAST) <= 0:
            self._over = True
            self._say("time is up: the rows that are left get the prior")
        return self._over

    def _shorten(self, left: int) -> None:
        """Leave out as much as brings `left` rows into time; what was measured counts for what is kept."""
        each, before = self._wall / max(self._rows, 1), sum(map(len, self.views))
        share = min(1.0, self._networks / self._wall) if self._wall > 0 else 1.0
        kept = list(self.views)
        while left * each * (1 - share + share * sum(map(len, kept)) / before) > self.clock.left(AIM):
            shorter = self._shorter(kept)
            if shorter is None:
                break
            kept = shorter
        if kept != self.views:
            members = sum(1 for views in kept if views)
            self._say(
                f"{left} rows at {each:.3g} s are more than the {self.clock.left(AIM):.0f} s left: they get "
                f"{max(map(len, kept))} of {max(map(len, self.views))} views, {members} of {len(kept)} members"
            )
            self.views, self._rows, self._wall, self._networks = kept, 0, 0.0, 0.0

    def _shorter(self, views: list[tuple[str, ...]]) -> list[tuple[str, ...]] | None:
        most = max(map(len, views))
        if most > 1:
            return [some[: most - 1] for some in views]
        there = [at for at, some in enumerate(views) if some]
        if len(there) == 1 or not self.droppable:
            return None
        lightest = min(there, key=lambda at: (self.weights[at], -at))
        return [() if at == lightest else some for at, some in enumerate(views)]

    def _say(self, line: str) -> None:
        self.left_out.append(line)
        print(f"warning: {line}", file=sys.stderr, flush=True)
