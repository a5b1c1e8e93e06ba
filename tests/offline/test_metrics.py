"""kit/offline/metrics.py"""

from __future__ import annotations

import math

import pandas as pd
import pytest

from kit.offline.errors import SubmissionError
from kit.offline.metrics import accuracy, match, roc_auc

IDS = ["z9", "007", "a", "ü"]


def host(values, ids=IDS):
    return pd.DataFrame({"id": ids, "y": values})


def test_accuracy_is_the_share_of_right_rows():
    """Three of four right is 0.75, also where one table holds numbers and the other text."""
    assert accuracy(host([1, 0, 1, 1]), host(["1", "0", "1", "0"]), "id", "y") == 0.75


@pytest.mark.parametrize(
    ("said", "area"),
    [([0.9, 0.1, 0.8, 0.2], 1.0), ([0.1, 0.9, 0.2, 0.8], 0.0), ([5, 5, 5, 5], 0.5), ([3, 2, 1, 0], 0.75)],
)
def test_roc_auc_counts_pairs_in_order(said, area):
    """Closed form: the share of (positive, negative) pairs in the right order, ties a half."""
    assert roc_auc(host([1, 0, 1, 0]), host(said), "id", "y") == area


def test_roc_auc_of_one_class_is_nan():
    """Without both classes the area is undefined, not an error and not a number."""
    assert math.isnan(roc_auc(host([1, 1, 1, 1]), host([1, 2, 3, 4]), "id", "y"))


@pytest.mark.parametrize("metric", [accuracy, roc_auc])
def test_the_order_of_rows_does_not_matter(metric):
    """Shuffled rows on either side give the same score, since rows are matched by id."""
    truth, said = host([1, 0, 1, 0]), host([1, 0, 0, 1])
    want = metric(truth, said, "id", "y")
    for seed in range(5):
        assert metric(truth.sample(frac=1, random_state=seed), said, "id", "y") == want
        assert metric(truth, said.sample(frac=1, random_state=seed), "id", "y") == want


def test_match_gives_both_tables_in_the_order_of_the_solution():
    """Rows of the submission follow the solution's, and only the columns asked for are left."""
    truth, said = match(host([1, 2, 3, 4]), host([4, 3, 2, 1], IDS[::-1]).assign(other="x"), "id", ["y"])
    assert truth.index.tolist() == said.index.tolist() == IDS
    assert said["y"].tolist() == [1, 2, 3, 4]
    assert list(said.columns) == ["y"]


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (host([1, 1, 1], IDS[:3]), ["missing: 'ü'", "extra: none"]),
        (host([1] * 5, [*IDS, "new"]), ["missing: none", "extra: 'new'"]),
        (host([1] * 4, [*IDS[:3], "7"]), ["missing: 'ü'", "extra: '7'"]),
        (host([1] * 5, [*IDS, "007"]), ["repeated: '007'"]),
        (host([1, None, 1, None]), ["'007'", "'ü'"]),
        (host([1, 1, 1, 1], [*IDS[:3], None]), ["none for"]),
        (pd.DataFrame({"id": IDS, "z": 1}), ["['id', 'z']"]),
    ],
)
def test_bad_tables_are_refused_by_name(said, names):
    """Missing, extra and repeated ids, empty cells, empty ids and missing columns are refused, naming them."""
    with pytest.raises(SubmissionError) as caught:
        accuracy(host([1, 0, 1, 0]), said, "id", "y")
    assert all(name in caught.value.found for name in names), caught.value.found


def test_ids_that_are_the_same_text_are_repeats():
    """The number 1 and the text "1" are one id."""
    with pytest.raises(SubmissionError, match="repeated: '1'"):
        accuracy(host([1, 0], ["1", "2"]), host([1, 0], [1, "1"]), "id", "y")
