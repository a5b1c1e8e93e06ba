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
