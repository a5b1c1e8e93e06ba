"""Real photographs, micrographs and recordings, end to end; skipped where the maintainers' data are missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from kit.check import run_checks
from kit.offline.places import load_competition
from kit.shipping.bundle import make_bundle
from kit.shipping.rehearse import Report, rehearse
from kit.training.ensemble import blend_runs
from kit.training.fanout import Ground, open_ground, train_run
from kit.training.recipe import Recipe, find_recipe
from tests import membrane, signs, spoken

pytestmark = pytest.mark.real


def forked(name: str, home: Path, data: Path, recipe: str, epochs: int) -> tuple[Ground, Recipe]:
    """A checked fork on its first fold scheme, and one of its recipes, cut short."""
    if not data.is_dir():
        pytest.skip(f"no data in {data}; set KIT_REAL_DATA")
    competition = load_competition(name, home)
    assert [one for one in run_checks(competition, data) if not one.ok] == []
    short = dataclasses.replace(find_recipe(competition.folder, recipe), epochs=epochs)  # type: ignore[type-var,arg-type]
    return open_ground(competition, data), short


def assert_legal(report: Report, sample: Path) -> None:
    """The notebook's file has the columns and the ids of the host's sample."""
    written, wanted = pd.read_csv(report.submission, dtype=str), pd.read_csv(sample, dtype=str)
    assert list(written.columns) == list(wanted.columns)
    assert sorted(written.iloc[:, 0]) == sorted(wanted.iloc[:, 0])


def test_sign_digits_from_fork_to_rehearsal(tmp_path: Path) -> None:
    """Three edits of cassava: folds by signer, an accuracy far over chance in few epochs, a legal submission."""
    folder = signs.fork_signs(tmp_path)
    ground, resnet = forked("signs", tmp_path, signs.DATA, "resnet", epochs=6)
    assert ground.frame.groupby("signer")["fold"].nunique().max() == 1
    byob = dataclasses.replace(find_recipe(folder, "byob"), epochs=6)  # type: ignore[type-var]
    runs = [
        train_run(ground, name, recipe, [0, 1], tmp_path) for name, recipe in {"resnet": resnet, "byob": byob}.items()
    ]
    blend = blend_runs(runs, ground.competition, ground.frame)
    assert blend.read("score.json")["pooled"] > 0.9
    report = rehearse(make_bundle(blend, ground.competition, tmp_path), signs.DATA, tmp_path, rows=40).require()
    assert_legal(report, signs.DATA / "sample_submission.csv")


def test_spoken_digits_from_fork_to_rehearsal(tmp_path: Path) -> None:
    """Five edits of right_whale make folds of unheard speakers, far better than chance in few epochs, and a legal
    submission; a random split of the same rows promises far more than unheard speakers keep."""
    spoken.fork_spoken(tmp_path)
    ground, recipe = forked("spoken", tmp_path, spoken.DATA, "resnet", epochs=4)
    assert ground.frame.groupby("speaker")["fold"].nunique().max() == 1
    run = train_run(ground, "resnet", recipe, [0, 1], tmp_path)
    unheard = spoken.by_speaker(run, ground.frame).loc["all"]
    random_ground = open_ground(ground.competition, spoken.DATA, "random")
    random_run = train_run(random_ground, "resnet", recipe, [0, 1], tmp_path)
    flattered = spoken.by_speaker(random_run, random_ground.frame).loc["all"]
    assert unheard["accuracy"] > 0.5
    assert unheard["log loss"] > 2 * flattered["log loss"]
    report = rehearse(make_bundle(run, ground.competition, tmp_path), spoken.DATA, tmp_path, rows=40).require()
    assert_legal(report, spoken.DATA / "sample_submission.csv")


def test_membranes_from_fork_to_rehearsal(tmp_path: Path) -> None:
    """tgs_salt with windows: masks stitched at native size, far over the 0.36 of a mask of ones, legal run-lengths."""
    membrane.fork_membrane(tmp_path)
    ground, unet = forked("membrane", tmp_path, membrane.DATA, "unet", epochs=3)
    run = train_run(ground, "unet", unet, [0, 1], tmp_path)
    found = membrane.what_the_search_adds(run, ground.competition, ground.frame)
    assert found["at 0.5"] > 0.6
    report = rehearse(make_bundle(run, ground.competition, tmp_path), membrane.DATA, tmp_path, rows=4).require()
    assert_legal(report, membrane.DATA / "sample_submission.csv")
