"""kit/offline/rle.py"""

from __future__ import annotations

import numpy as np
import pytest

from kit.offline import rle
from kit.offline.errors import DataError


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([[1, 0, 0], [0, 0, 0]], "1 1"),
        ([[0, 0, 0], [1, 0, 0]], "2 1"),  # down the column first
        ([[0, 1, 0], [0, 0, 0]], "3 1"),
        ([[0, 0, 0], [1, 1, 0]], "2 1 4 1"),
        ([[0, 1, 0], [1, 0, 0]], "2 2"),  # a run goes on at the top of the next column
        ([[0, 0, 1], [0, 0, 1]], "5 2"),
        ([[1, 1, 1], [1, 1, 1]], "1 6"),
        ([[0, 0, 0], [0, 0, 0]], ""),
    ],
)
def test_cases_by_hand(mask, text):
    """Masks of 2 x 3 drawn by hand: 1-based, down columns first."""
    assert rle.encode(np.array(mask)) == text
    assert (rle.decode(text, 2, 3) == np.array(mask, bool)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 5), (33, 64)])
def test_round_trip(shape):
    """Random masks of odd shapes come back as they were."""
    for seed in range(10):
        mask = np.random.default_rng(seed).random(shape) < 0.4
        assert (rle.decode(rle.encode(mask), *shape) == mask).all()


def test_strided_masks_encode_like_their_copies():
    """Views (flipped, every second pixel) are encoded by their values, not their memory."""
    mask = np.random.default_rng(0).random((12, 10)) < 0.5
    for view in (mask[::-1], mask[:, ::2], mask.T, np.asfortranarray(mask)):
        assert rle.encode(view) == rle.encode(view.copy())


@pytest.mark.parametrize(
    "text",
    ["1", "1 2 3", "0 1", "7 1", "6 2", "-1 2", "1 -1", "1.5 2", "a b", "nan", "9223372036854775807 9", "9" * 30],
)
def test_texts_that_are_no_mask_of_this_image_are_refused(text):
    """Odd counts, starts below 1, ends beyond 2 x 3, fractions, words and overflows are refused, showing the text."""
    with pytest.raises(DataError) as caught:
        rle.decode(text, 2, 3)
    assert text[:20] in caught.value.found


@pytest.mark.parametrize(
    ("mask", "text"), [([[1, 1, 0], [0, 0, 1]], "1 2 6 1"), ([[0, 0, 1], [1, 0, 0]], "3 2"), ([[0, 0, 0]] * 2, "")]
)
def test_hosts_that_number_along_rows(mask, text):
    """Masks of 2 x 3 drawn by hand, along the rows; down the columns they are the turned mask's."""
    mask = np.array(mask, bool)
    assert rle.encode(mask, "rows") == rle.encode(mask.T) == text
    assert (rle.decode(text, 2, 3, "rows") == mask).all()


@pytest.mark.parametrize("order", ["columns", "rows"])
def test_points_lie_inside_and_cover_the_mask(order):
    """As many points as pixels are just those pixels; fewer are pixels of the mask; an empty mask has none."""
    mask = np.random.default_rng(0).random((13, 8)) < 0.3
    text = rle.encode(mask, order)
    assert sorted(map(tuple, rle.points(text, 13, 8, 1000, order))) == sorted(map(tuple, np.argwhere(mask)))
    some = rle.points(text, 13, 8, 5, order)
    assert len(some) == 5 and mask[some[:, 0], some[:, 1]].all()
    assert rle.points("", 13, 8, 5, order).shape == (0, 2)


def test_runs_are_numbers_of_pixels():
    """Starts from 0 and lengths, in the text's order, without painting a mask of any size."""
    assert rle.runs("3 2 1 1", 10**12).tolist() == [[2, 2], [0, 1]]
