"""The sign-digits photographs: a fork of cassava in three edits, as README and the real tests use it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from kit.offline.predictions import Predictions
from kit.training.rundir import Run
from tests.forks import fork_edited

DATA = Path(os.environ.get("KIT_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "sign-digits"

EDITS = {
    # 1: one person shows all ten signs, so signers must not be split
    "group=None": 'group="signer"',
    # 2: ids in train.csv have no suffix
    'path="train_images/" + table["image_id"]': 'path="train_images/" + table["image_id"] + ".jpg"',
    # 3: nor have the ids of the sample submission
    '{"sample_id": names,': '{"sample_id": [name.removesuffix(".jpg") for name in names],',
}

RECIPES = """
from dataclasses import replace

from kit.training import Recipe, augment

resnet = Recipe(
    backbone="test_resnet", pretrained=False, image_size=64, epochs=20, batch_size=32, lr=3e-3, augment=augment.light
)
byob = replace(resnet, backbone="test_byobnet")
"""


def fork_signs(home: Path) -> Path:
    """`kit new signs --from cassava --slug sign-digits`, the three edits, two recipes; returns the folder."""
    return fork_edited("signs", "cassava", "sign-digits", EDITS, RECIPES, home)


def interval_by_groups(run: Run, frame: pd.DataFrame, draws: int = 2000) -> tuple[float, float, float]:
    """(pooled OOF accuracy, low, high): 95 % of a bootstrap that draws signers, since rows of one signer are alike."""
    oof = Predictions.load(run.folder / "oof.npz").frame()
    rows = frame.set_index("sample_id").loc[oof.index]
    right = oof.columns.to_numpy()[oof.to_numpy().argmax(axis=1)] == rows["label"].to_numpy()
    by_signer = pd.Series(right).groupby(rows["signer"].to_numpy()).agg(["sum", "size"]).to_numpy()
    picks = np.random.default_rng(0).integers(len(by_signer), size=(draws, len(by_signer)))
    sums = by_signer[picks].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(right.mean()), float(low), float(high)
