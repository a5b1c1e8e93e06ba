"""kit/training/chance.py"""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch

from kit.training.chance import draw, drawn_order, draws_per_epoch, epoch_order, seed_step


def test_every_part_of_a_draw_counts():
    """Seed, fold, epoch, number and sample each change what is drawn; the same five draw the same."""
    base = (0, 0, 0, 0, "a")
    others = [(1, 0, 0, 0, "a"), (0, 1, 0, 0, "a"), (0, 0, 1, 0, "a"), (0, 0, 0, 1, "a"), (0, 0, 0, 0, "b")]
    drawn = [draw(*key).integers(2**62) for key in [base, *others]]
    assert len(set(drawn)) == len(drawn)
    assert draw(*base).integers(2**62) == drawn[0]
    assert draw(0, -1, 0, 0, "a").integers(2**62) not in drawn, "fold -1 has draws of its own"


def pairs(*key):
    return [(at, number) for at, number in epoch_order(*key).tolist()]


def test_the_order_of_an_epoch_stays():
    """Orders are as they were when runs on disk began, which go on with them."""
    assert pairs(5, 1, 2, 7, 1) == [(0, 0), (4, 0), (5, 0), (1, 0), (3, 0), (6, 0), (2, 0)]
    assert pairs(5, 1, 2, 7, 2) == [(4, 1), (0, 0), (4, 0), (5, 0), (5, 1), (0, 1)]


@pytest.mark.parametrize("rows", [1, 2, 7, 32, 33])
def test_an_epoch_shows_each_row_once(rows):
    """Without repeats an epoch is a permutation, another one each epoch, fold and seed."""
    keys = list(itertools.product((0, 5), (0, 1), (0, 1, 2)))
    orders = [pairs(seed, fold, epoch, rows, 1) for seed, fold, epoch in keys]
    assert all(sorted(order) == [(at, 0) for at in range(rows)] for order in orders)
    if rows > 30:
        assert len({tuple(order) for order in orders}) == len(keys)


@pytest.mark.parametrize(("rows", "repeats"), [(12, 3), (13, 3), (2, 3), (7, 2)])
def test_repeats_show_fewer_rows_as_often(rows, repeats):
    """Each chosen row comes `repeats` times under numbers of its own, in a mixed order, and their count is foretold."""
    order = pairs(0, 0, 0, rows, repeats)
    assert len(order) == len(set(order)) == draws_per_epoch(rows, repeats)
    assert set(Counter(at for at, _ in order).values()) == {repeats}
    assert len({at for at, _ in order}) == max(1, rows // repeats)
    if rows > 10:
        assert [number for _, number in order] != sorted(number for _, number in order)
        assert {at for at, _ in order} != {at for at, _ in pairs(0, 0, 1, rows, repeats)}


def test_a_step_seeds_all_generators():
    """torch, numpy and random draw the same after the same step was seeded, and otherwise after any other."""

    def drawn(*key):
        seed_step(*key)
        return torch.rand(1).item(), np.random.rand(), random.random()

    first = drawn(0, 0, 7)
    assert drawn(0, 0, 7) == first
    for other in ((1, 0, 7), (0, 1, 7), (0, 0, 8)):
        assert all(a != b for a, b in zip(first, drawn(*other), strict=True))


def test_drawn_epochs_hang_on_seed_fold_and_epoch():
    """The same three draw the same rows in the same order, others others; rows without a chance never come."""
    chances = np.array([0.0, 0.5, 0.25, 0.25, 0.0] * 8) / 8
    keys = list(itertools.product((0, 5), (-1, 1), (0, 1, 2)))
    orders = [list(map(tuple, drawn_order(*key, chances).tolist())) for key in keys]
    assert len({tuple(order) for order in orders}) == len(keys)
    assert list(map(tuple, drawn_order(*keys[3], chances).tolist())) == orders[3]
    for order in orders:
        assert len(order) == len(set(order)) == len(chances)
        assert all(chances[at] > 0 for at, _ in order)
