"""What a rerun will take, from what rehearsed runs took: a line through time and memory against rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MARGIN = 1.25
"""Kaggle's machines are shared, and hidden files are not those at hand."""


@dataclass(frozen=True)
class Took:
    """One run: rows, seconds of the whole notebook, seconds of the predicting alone, megabytes at the peak."""

    rows: int
    seconds: float
    predicting: float
    megabytes: float


@dataclass(frozen=True)
class Estimate:
    """For `rows` of a hidden set, MARGIN on top: minutes and gigabytes. seconds_per_row, bytes_per_row: the slopes."""

    rows: int
    minutes: float
    gigabytes: float
    seconds_per_row: float
    bytes_per_row: float


def estimate(runs: Sequence[Took], rows: int) -> Estimate | None:
    """A line through the runs; None where they had no rows."""
    largest = max(runs, key=lambda run: run.rows, default=None)
    if largest is None or largest.rows == 0:
        return None
    fixed = max(run.seconds - run.predicting for run in runs)
    each = _slope([(run.rows, run.predicting) for run in runs])
    byte = _slope([(run.rows, run.megabytes * 1e6) for run in runs], at_least=0.0)
    start = max(run.megabytes * 1e6 - byte * run.rows for run in runs)
    return Estimate(rows, MARGIN * (fixed + each * rows) / 60, MARGIN * (start + byte * rows) / 1e9, each, byte)


def _slope(points: Sequence[tuple[int, float]], at_least: float | None = None) -> float:
    """By least squares; where runs are of like size, or faster with more rows, the largest run's mean (which counts
    what is fixed as the rows': too much rather than too little), or `at_least`."""
    x, y = np.array(points, float).T
    if np.ptp(x) >= 100:
        slope = float(np.polyfit(x, y, 1)[0])
        if slope > 0:
            return slope
    return float(y[x.argmax()] / x.max()) if at_least is None else at_least
