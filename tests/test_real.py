"""Real photographs, end to end; skipped where the maintainers' data are missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from kit.check import run_checks
from kit.offline.places import load_competition
from kit.shipping.bundle import make_bundle
from kit.shipping.rehearse import rehearse
from kit.training.ensemble import blend_runs
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import find_recipe
from tests.signs import DATA, fork_signs

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}; set KIT_REAL_DATA"),
]


def test_sign_digits_from_fork_to_rehearsal(tmp_path: Path) -> None:
    """Three edits of cassava: folds by signer, an accuracy far over chance in few epochs, a legal submission."""
    folder = fork_signs(tmp_path)
    competition = load_competition("signs", tmp_path)
    assert [one for one in run_checks(competition, DATA) if not one.ok] == []
    ground = open_ground(competition, DATA)
    assert ground.frame.groupby("signer")["fold"].nunique().max() == 1
    runs = [
        train_run(ground, name, dataclasses.replace(find_recipe(folder, name), epochs=6), [0, 1], tmp_path)  # type: ignore[type-var]
        for name in ("resnet", "convnext")
    ]
    blend = blend_runs(runs, competition, ground.frame)
    assert blend.read("score.json")["pooled"] > 0.9
    report = rehearse(make_bundle(blend, competition, tmp_path), DATA, tmp_path, rows=40)
    written = pd.read_csv(report.submission, dtype=str)
    sample = pd.read_csv(DATA / "sample_submission.csv", dtype=str)
    assert list(written.columns) == list(sample.columns)
    assert set(written["image_id"]) == set(sample["image_id"])
