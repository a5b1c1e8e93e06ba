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


@dataclass
class Clock:
    """seconds: the limit. begun: when it began to count, as `now` tells it."""

    seconds: float
    begun: float
    now: Callable[[], float] = time.monotonic

    def left(self, share: float) -> float:
        """Seconds until `share` of the limit."""
        return self.begun + share * self.seconds - self.now()

    def plan(self, views: Sequence[Sequence[str]], weights: Sequence[float], droppable: bool = True) -> Plan:
        """All views of all members, to begin with. droppable: whether a whole member may be left out."""
        return Plan(self, [tuple(some) for some in views], list(weights), droppable)


@dataclass
class Plan:
    """views: of each member, what is still computed; none for a member that is left out."""

    clock: Clock
    views: list[tuple[str, ...]]
    weights: list[float]
    droppable: bool = True
    left_out: list[str] = field(default_factory=list)
    _marks: list[float] = field(default_factory=list)
    _rows: int = 0
    _wall: float = 0.0
    _networks: float = 0.0

    def goes_on(self, rows: int, left: int, views: Sequence[Sequence[str]], networks: float) -> bool:
        """Note a batch of `rows` that is done, its views and its networks' seconds; shorten the plan if the `left` rows
        would take too long. False where time is up.

        The first batch, in which libraries warm up, is no measure.
        """
        self._marks.append(self.clock.now())
        if left and self.clock.left(LAST) <= 0:
            self._say(f"time is up: {left} rows get the prior")
            return False
        if len(self._marks) == 1 or list(map(tuple, views)) != self.views:
            return True
        self._rows += rows
        self._wall += self._marks[-1] - self._marks[-2]
        self._networks += networks
        self._shorten(left)
        return True

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
