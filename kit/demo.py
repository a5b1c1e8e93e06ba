"""`kit demo`: the whole road on the embedded competition."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from kit import scaffold
from kit.check import run_checks
from kit.offline.errors import DataError
from kit.offline.frames import read_table
from kit.offline.places import load_competition
from kit.shipping.bundle import make_bundle
from kit.shipping.notebook import render_notebook
from kit.shipping.rehearse import rehearse
from kit.training.ensemble import blend_runs
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import Run

RECIPES = ("small", "byob")
HELD_BACK = "held-back-labels.csv"
"""The test labels, outside the data folder; where they lie, a walk was begun."""


def walk(home: Path | None = None) -> Path:
    """Fork the digits, train two recipes, blend, bundle, rehearse, score the held-back labels.

    Returns the path of submission.csv, which is also the last line printed.

    home: where to walk; None makes a scratch folder, which stays, so that its files can be looked at.
    """
    home = Path(tempfile.mkdtemp(prefix="kit-demo-")) if home is None else home.resolve()
    seconds: dict[str, float] = {}
    with _timed("host files", seconds):
        folder = _fork(home)
        data, answers = folder / "data", home / HELD_BACK
        write_digits(data, answers)
        competition = load_competition("digits", home)
    with _timed("check", seconds):
        results = run_checks(competition, data)
        bad = [f"{one.name}: {one.message}" for one in results if not one.ok]
        if bad:
            raise DataError("every check of the digits to pass", "; ".join(bad), "mend competitions/digits/adapter.py")
    with _timed("folds", seconds):
        ground = open_ground(competition, data)
    runs = []
    for name in RECIPES:
        with _timed(f"train {name}", seconds):
            runs.append(train_run(ground, name, find_recipe(folder, name), home=home))
    with _timed("blend", seconds):
        blend = blend_runs(runs, competition, ground.frame)
    with _timed("bundle and notebook", seconds):
        bundle = make_bundle(blend, competition, home)
        render_notebook(bundle)
    submission = home / "submission.csv"
    with _timed("rehearse", seconds):
        report = rehearse(bundle, data, home).require()  # which compares the notebook's file with that of kit predict
        shutil.copyfile(report.submission, submission)
    held_back = competition.score(read_table(answers), read_table(submission))
    _tell([*runs, blend], held_back, len(read_table(answers)), seconds)
    print(submission)
    return submission


def _fork(home: Path) -> Path:
    """The digits in `home`: forked from the checkout, or as they are where a walk was begun."""
    folder = home / "competitions" / "digits"
    if (folder / "adapter.py").is_file():
        if not (home / HELD_BACK).is_file():
            fix = "name another folder with --home: the demo writes its own data there"
            raise DataError(f"a folder without a competition of your own in {home}", str(folder), fix)
        shutil.rmtree(folder / "data", ignore_errors=True)
        return folder
    return scaffold.new("digits", "digits", "handwritten-digits", home)


@contextmanager
def _timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"--- {stage}", flush=True)
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start


def _tell(runs: list[Run], held_back: float, units: int, seconds: dict[str, float]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("result", "value", box=box.SIMPLE)
    for run in runs:
        score = run.read("score.json")
        folds = " ".join(f"{value:.4f}" for value in score["folds"].values())
        table.add_row(f"{run.name}: folds", folds)
        table.add_row(f"{run.name}: pooled OOF", f"{score['pooled']:.4f}")
        table.add_row(f"{run.name}: cross-fitted", f"{score['cross_fitted']:.4f}")
    expected = runs[-1].read("score.json")["pooled"]
    error = (expected * (1 - expected) / units) ** 0.5
    promised = f"(OOF promised {expected:.4f} +- {error:.4f}, one standard error)"
    table.add_row("held-back labels", f"{held_back:.4f} {promised}")
    for stage, taken in seconds.items():
        table.add_row(f"seconds: {stage}", f"{taken:.1f}")
    table.add_row("seconds: all", f"{sum(seconds.values()):.1f}")
    Console(width=120, highlight=False).print(table)


def write_digits(data: Path, out_labels: Path | None, shuffle_labels: bool = False, seed: int = 0) -> None:
    """Write scikit-learn's 1,797 digits as a host would: train.csv, train_images/, test_images/, sample_submission.csv.

    Four fifths train. Ids are unsorted hex, some all digits with leading zeros; everything is a function of `seed`. The
    test labels go to the table `out_labels` (image_id, label), which lies outside `data`. `shuffle_labels` permutes the
    training labels: what is learned then must score like chance.
    """
    digits = load_digits()
    draw = np.random.RandomState(seed)
    labels = digits.target.astype(str)
    order = draw.permutation(len(labels))
    ids = _odd_ids(len(labels), seed)
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    for folder, rows in (("train_images", train), ("test_images", test)):
        (data / folder).mkdir(parents=True, exist_ok=True)
        for row in rows:
            pixels = (digits.images[row] * 255 / 16).round().astype(np.uint8)
            Image.fromarray(pixels).save(data / folder / f"{ids[row]}.png")
    seen = draw.permutation(labels[train]) if shuffle_labels else labels[train]
    _write_labels(data / "train.csv", ids[train], seen)
    _write_labels(data / "sample_submission.csv", ids[test], np.full(len(test), "0"))
    if out_labels is not None:
        out_labels.parent.mkdir(parents=True, exist_ok=True)
        _write_labels(out_labels, ids[test], labels[test])


def _odd_ids(count: int, seed: int) -> np.ndarray:
    """Ids of ten hex digits; each eighth looks like a number with leading zeros, which only text keeps."""
    digests = [hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(count)]
    return np.array([f"{int(of[:7], 16):010d}" if at % 8 == 0 else of[:10] for at, of in enumerate(digests)])


def _write_labels(path: Path, ids: np.ndarray, labels: np.ndarray) -> None:
    pd.DataFrame({"image_id": ids, "label": labels}).to_csv(path, index=False)
