"""Determinism by counting: a draw hangs on what it is for alone, so workers, restarts and processes change nothing."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pandas as pd
import torch


def draw(seed: int, fold: int, epoch: int, number: int, sample_id: str) -> np.random.Generator:
    """The generator of one draw of one sample."""
    return np.random.default_rng([seed, fold + 1, epoch, number, zlib.crc32(sample_id.encode())])


def draws_per_epoch(rows: int, repeats: int) -> int:
    """The length of `epoch_order`: about `rows`, a multiple of `repeats`."""
    return max(1, rows // repeats) * repeats


def epoch_order(seed: int, fold: int, epoch: int, rows: int, repeats: int) -> np.ndarray:
    """(position, draw number) of an epoch, M x 2 int32, shuffled: each row once, or rows/repeats rows `repeats` times.

    An array, because a list of pairs would take 100 bytes a row where this takes 8.
    """
    order = np.random.default_rng([seed, fold + 1, epoch]).permutation(rows)
    chosen = order[: draws_per_epoch(rows, repeats) // repeats]
    draws = np.stack([np.tile(chosen, repeats), np.repeat(np.arange(repeats), len(chosen))], axis=1, dtype=np.int32)
    if repeats > 1:
        draws = draws[np.random.default_rng([seed, fold + 1, epoch, repeats]).permutation(len(draws))]
    return draws


def drawn_order(seed: int, fold: int, epoch: int, chances: np.ndarray) -> np.ndarray:
    """(position, draw number) of an epoch of N draws with replacement, N x 2 int32.

    chances: of each row, N float64, sum 1. The draw number counts how often the row came before.
    """
    chosen = np.random.default_rng([seed, fold + 1, epoch]).choice(len(chances), len(chances), p=chances)
    numbers = pd.Series(chosen).groupby(chosen).cumcount().to_numpy()
    return np.stack([chosen, numbers], axis=1, dtype=np.int32)


def seed_step(seed: int, fold: int, step: int) -> None:
    """Seed torch, numpy and random for a training step: dropout, drop path, mixing and erasing draw from them."""
    value = int(np.random.SeedSequence([seed, fold + 1, step, 7]).generate_state(1)[0])
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)
