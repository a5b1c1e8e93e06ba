"""Every template walks from its host's files to a legal submission: check, folds, two tiny folds, bundle, prediction.

The first recipe of each template walks, with a tiny backbone at 32 pixels and one epoch; what else it sets (mixing,
views, losses, reading) stays. The score says nothing here; that it is defined, and that the road holds, does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import kit
from kit.check import run_checks
from kit.offline.answers import validate
from kit.offline.contract import Competition
from kit.offline.frames import checked, read_table
from kit.scaffold import FILES
from kit.shipping.bundle import make_bundle
from kit.shipping.predict import predict_at_home
from kit.shipping.rehearse import rehearse
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import Recipe, load_recipes
from tests.worlds import OVERRIDES, WORLDS

CHECKOUT = Path(kit.__file__).parents[1]
REHEARSED = (
    *("aerial_cactus", "aptos", "cassava", "denoising_dirty_documents"),
    *("pawpularity", "plant_pathology_2021", "tgs_salt", "whale_categorization"),
)
"""One template of each family."""


WAITING = """
import json, os, runpy, sys
import cv2, pandas, scipy, sklearn.metrics, timm, torch
for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        os.dup2(os.open(job["errors"], os.O_WRONLY | os.O_CREAT), 2)
        os.environ.update(job["env"])
        sys.path[:0], sys.argv = job["env"]["PYTHONPATH"].split(os.pathsep), job["argv"]
        sys.stdin, sys.stdout = open(os.devnull), sys.stderr
        runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported what Kaggle's image holds, and nothing of ours, forks for each prediction: four seconds
less a template."""


@pytest.fixture(scope="module")
def waiting() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`subprocess.run` for `python -P -m MODULE ARGUMENTS...`, in a fork of the process that waits."""
    quiet = {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", WAITING],
        env={**{name: text for name, text in os.environ.items() if name != "PYTHONPATH"}, **quiet},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),
    )

    def run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        with tempfile.NamedTemporaryFile("r") as errors:
            job = {"module": command[3], "argv": command[3:], "env": env, "errors": errors.name}
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            return subprocess.CompletedProcess(command, code, "", errors.read())

    with process:
        yield run
        process.stdin.close()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny batches wait for threads longer than they compute."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settle(name: str, home: Path) -> Competition:
    """The template's code and a tiny copy of its host's files in a home of its own."""
    folder = home / "competitions" / name
    folder.mkdir(parents=True)
    for file in FILES:
        if (CHECKOUT / "competitions" / name / file).is_file():
            shutil.copyfile(CHECKOUT / "competitions" / name / file, folder / file)
    WORLDS[name](folder / "data")
    return kit.load_competition(name, home)


def walking(name: str, folder: Path) -> tuple[str, Recipe]:
    """The template's first recipe, made tiny."""
    first, recipe = next(iter(load_recipes(folder).items()))
    tiny = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "layer_decay": None, "workers": 0}
    short = {"epochs": 1, "warmup_epochs": 0, "batch_size": 8, "accumulate": 1}
    return first, dataclasses.replace(recipe, **{**tiny, **short, **OVERRIDES.get(name, {})})  # type: ignore[type-var]


def walk(name: str, home: Path) -> tuple[Competition, Path]:
    """The competition and a bundle of two folds; asserts that every stage held."""
    competition = settle(name, home)
    data = competition.folder / "data"
    assert [result for result in run_checks(competition, data) if not result.ok] == []
    ground = open_ground(competition, data, say=lambda line: None)
    first, recipe = walking(name, competition.folder)
    run = train_run(ground, first, recipe, folds=[0, 1], home=home, say=lambda line: None)
    score = json.loads((run.folder / "score.json").read_text())
    assert list(score["folds"]) == ["0", "1"] and score["units"] > 0
    # A score that tiny folds leave undefined is written as null, never as a number that means nothing.
    assert score["pooled"] is None or np.isfinite(score["pooled"])
    return competition, make_bundle(run, competition, home)


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_every_template_walks_to_a_legal_submission(
    name: str, tmp_path: Path, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tiny folds become a bundle, and the bundle alone predicts a table that the host would take."""
    competition, bundle = walk(name, tmp_path)
    data = competition.folder / "data"
    monkeypatch.setattr("kit.shipping.predict.subprocess", SimpleNamespace(run=waiting))
    predict_at_home(bundle, data, tmp_path / "submission.csv")
    frame = checked(competition.test_frame(data), "test_frame")
    validate(competition, frame, data, read_table(tmp_path / "submission.csv"))


def family(name: str) -> str:
    return type(kit.load_competition(name, CHECKOUT).task).__name__


def test_every_family_is_rehearsed() -> None:
    """Each family of tasks that a template shows has one whose notebook is executed."""
    assert sorted({family(name) for name in WORLDS}) == sorted(map(family, REHEARSED))


@pytest.mark.full
@pytest.mark.parametrize("name", REHEARSED)
def test_one_template_of_each_family_rehearses(name: str, tmp_path: Path) -> None:
    """The rendered notebook, executed behind walls on the given and on a staged test set, equals `kit predict`."""
    competition, bundle = walk(name, tmp_path)
    report = rehearse(bundle, competition.folder / "data", tmp_path, rows=12, say=lambda line: None)
    assert report.require().ok and len(report.cases) == 4
