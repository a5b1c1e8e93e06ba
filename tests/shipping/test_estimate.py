"""The estimate of a rerun: a line where the runs differ enough, else too much rather than too little."""

from __future__ import annotations

import pytest

from kit.shipping.estimate import MARGIN, Took, estimate


@pytest.mark.parametrize(
    ("few", "many", "each"),
    [
        ((7, 2.0), (207, 6.0), 0.02),
        ((7, 2.0), (40, 4.0), 0.1),
        ((200, 9.0), (1000, 8.0), 0.008),
    ],
)
def test_seconds_a_row(few: tuple[int, float], many: tuple[int, float], each: float) -> None:
    """The slope, where the runs differ by a hundred rows and the larger took longer; else the larger one's mean."""
    runs = [Took(rows, 30 + seconds, seconds, 1000) for rows, seconds in (few, many)]
    for order in (runs, runs[::-1]):
        found = estimate(order, 3000)
        assert found is not None and found.seconds_per_row == pytest.approx(each)
        assert found.minutes == pytest.approx(MARGIN * (30 + 3000 * each) / 60)


def test_memory_grows_with_rows() -> None:
    """A run that keeps 1 MB a row will not do with a hundred thousand of them; one that keeps nothing will."""
    keeps = [Took(rows, 10, 5, 800 + rows) for rows in (0, 200)]
    found = estimate(keeps, 100_000)
    assert found is not None and found.gigabytes == pytest.approx(MARGIN * 100.8)
    streams = [Took(rows, 10, 5, 800) for rows in (0, 200)]
    found = estimate(streams, 100_000)
    assert found is not None and found.gigabytes == pytest.approx(MARGIN * 0.8)


def test_no_rows_no_estimate() -> None:
    """An empty test set tells nothing of others."""
    assert estimate([Took(0, 9, 1, 500)], 1000) is None
    assert estimate([], 1000) is None
