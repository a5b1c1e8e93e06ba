"""The clock leaves out as little as brings the rest into time, aloud, and ends before the host does."""

from __future__ import annotations

import pytest

from kit.offline.clock import AIM, LAST, Clock, Plan


class Hands:
    """A clock's hands that a test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def walked(
    limit: float, plan_views: list[tuple[str, ...]], each: float, rows: int, droppable: bool = True, wait: float = 0.0
) -> Plan:
    """A plan after batches of 10 rows, `each` seconds a row and view, until all is done or time is up; the fourth batch
    is waited for."""
    hands = Hands()
    plan = Clock(limit, hands.at, hands).plan(plan_views, [0.5, 0.2, 0.3][: len(plan_views)], rows, droppable)
    left = rows
    while left and not plan.is_over():
        views = plan.views
        seconds = 10 * each * sum(map(len, views))
        hands.at += seconds
        left -= 10
        plan.note(10, views, seconds)
        if rows - left == 30:
            hands.at += wait
            plan.waited(wait)
    plan.left_out.append(f"{hands.at - 100:.1f} seconds, {left} rows left")
    return plan


def test_time_enough_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """All views of all members, and no word."""
    plan = walked(1000, [("identity", "hflip")] * 3, 0.1, 1000)
    assert plan.views == [("identity", "hflip")] * 3
    assert plan.left_out == ["600.0 seconds, 0 rows left"]
    assert capsys.readouterr().err == ""


def test_views_go_before_members(capsys: pytest.CaptureFixture[str]) -> None:
    """The last views of all first; where that will do, every member stays, and it is in time."""
    plan = walked(450, [("identity", "hflip")] * 3, 0.1, 1000)
    assert plan.views == [("identity",)] * 3
    assert len(plan.left_out) == 2 and "1 of 2 views, 3 of 3 members" in capsys.readouterr().err
    seconds = float(plan.left_out[-1].split()[0])
    assert seconds <= AIM * 450 and plan.left_out[-1].endswith(" 0 rows left")


def test_the_lightest_member_goes_first() -> None:
    """Weights 0.5, 0.2, 0.3: with time for one, the first stays; a gallery's members all stay, and time is up."""
    views: list[tuple[str, ...]] = [("identity",)] * 3
    plan = walked(140, views, 0.1, 1000)
    assert plan.views == [("identity",), (), ()]
    kept = walked(140, views, 0.1, 1000, droppable=False)
    assert kept.views == views and any("get the prior" in line for line in kept.left_out)
    assert float(kept.left_out[-1].split()[0]) <= LAST * 140 + 3


def test_the_warm_up_is_no_measure() -> None:
    """A first batch of a minute does not throw views away that there is time for."""
    hands = Hands()
    plan = Clock(200, hands.at, hands).plan([("identity", "hflip")], [1.0], 1000)
    for seconds in (60, 1):
        hands.at += seconds
        plan.note(10, plan.views, seconds)
        assert plan.views == [("identity", "hflip")]


def test_a_few_rows_are_no_measure() -> None:
    """A row of a second, of 20,000 in an hour, leaves nothing out; a minute of such rows does."""
    hands = Hands()
    plan = Clock(3600, hands.at, hands).plan([("identity", "hflip")], [1.0], 20_000)
    for _ in range(2):
        hands.at += 1
        plan.note(1, plan.views, 1)
    assert plan.views == [("identity", "hflip")]
    for _ in range(60):
        hands.at += 1
        plan.note(1, plan.views, 1)
    assert plan.views == [("identity",)]


def test_waiting_is_time_that_is_gone_and_no_measure_of_speed() -> None:
    """400 seconds of work and 200 of waiting for one batch: in a limit that holds both nothing is left out, though that
    batch alone took 204 seconds; in one that does not, views are."""
    views: list[tuple[str, ...]] = [("identity", "hflip")] * 2
    kept = walked(720, views, 0.1, 1000, wait=200)
    assert kept.views == views and kept.left_out == ["600.0 seconds, 0 rows left"]
    short = walked(600, views, 0.1, 1000, wait=200)
    assert short.views == [("identity",)] * 2 and short.left_out[-1].endswith(" 0 rows left")


def test_more_rows_than_were_told_end_in_time() -> None:
    """A hidden set that is larger than the rules say has no plan any more, and the limit all the same."""
    hands = Hands()
    plan = Clock(100, hands.at, hands).plan([("identity",)], [1.0], 20)
    done = 0
    while not plan.is_over() and done < 100:
        hands.at += 5
        done += 1
        plan.note(10, plan.views, 5)
    assert plan.rows == 0 and done == LAST * 100 / 5
    assert plan.is_over() and ["time is up" in line for line in plan.left_out] == [True]
