"""Real recordings, end to end; skipped where the maintainers' data are missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from kit.check import run_checks
from kit.offline.places import load_competition
from kit.shipping.bundle import make_bundle
from kit.shipping.rehearse import rehearse
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import find_recipe
from tests.spoken import DATA, by_speaker, fork_spoken

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}; set KIT_REAL_DATA"),
]


def test_spoken_digits_from_fork_to_rehearsal(tmp_path: Path) -> None:
    """Five edits of right_whale make folds of unheard speakers, far better than chance in few epochs, and a legal
    submission; a random split of the same rows promises far more than unheard speakers keep."""
    folder = fork_spoken(tmp_path)
    competition = load_competition("spoken", tmp_path)
    assert [one for one in run_checks(competition, DATA) if not one.ok] == []
    recipe = dataclasses.replace(find_recipe(folder, "resnet"), epochs=4)  # type: ignore[type-var]
    told = {}
    for scheme in ("speakers", "random"):
        ground = open_ground(competition, DATA, scheme)
        run = train_run(ground, "resnet", recipe, [0, 1], tmp_path)
        told[scheme] = by_speaker(run, ground.frame)
        if scheme == "speakers":
            assert ground.frame.groupby("speaker")["fold"].nunique().max() == 1
            assert told[scheme].loc["all", "accuracy"] > 0.6
            shipped = run
    assert told["speakers"].loc["all", "log loss"] > 2 * told["random"].loc["all", "log loss"]
    report = rehearse(make_bundle(shipped, competition, tmp_path), DATA, tmp_path, rows=40)
    written, sample = (pd.read_csv(path, dtype=str) for path in (report.submission, DATA / "sample_submission.csv"))
    assert list(written.columns) == list(sample.columns)
    assert set(written["filename"]) == set(sample["filename"])
