"""What a bundle remembers of OOF: the prior of each column, and rows that its notebook predicts again."""

from __future__ import annotations

import numpy as np

from kit.offline.golden import means_of
from kit.offline.manifest import Remembered
from kit.offline.predictions import Maps, Predictions, load_predictions
from kit.training.rundir import ALL, Run

ROWS = 64
"""Rows that all members of a bundle remember together."""
SEED = 64


def prior_of(run: Run, embeds: bool) -> list[float] | None:
    """The mean OOF prediction by column over the run's folds; None for maps and embeddings, whose mean says nothing."""
    folds = [load_predictions(run.fold(number) / "oof") for number in run.folds]
    if embeds or not folds or isinstance(folds[0], Maps):
        return None
    values = np.concatenate([fold.values for fold in folds if isinstance(fold, Predictions)])
    return np.nanmean(values, axis=0).astype(float).tolist()  # type: ignore[no-any-return]


def remembered_of(run: Run, fold: int, members: int) -> Remembered | None:
    """A member's share of ROWS, drawn by chance from what it held back; None for a fit on all rows."""
    if fold == ALL:
        return None
    held_back = load_predictions(run.fold(fold) / "oof")
    count = min(max(1, ROWS // members), len(held_back))
    drawn = np.random.RandomState(SEED).choice(len(held_back), count, replace=False)
    ids = tuple(map(str, held_back.ids[np.sort(drawn)]))
    return Remembered(ids, means_of(held_back, ids).astype(float).tolist())
