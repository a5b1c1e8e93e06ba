"""Half precision for the weights of a bundle, where re-predicting a whole fold shows that it changes nothing.

On Kaggle the weights fill a network of full precision, so what is halved is the upload, and nothing but rounding is at
stake. A member is rounded where that moves its fold's score by at most a tenth of what another seed would, and at most
a thousandth of the answers.

What another seed would move it by: the spread over the runs of the same recipe with other seeds (`kit train --seeds`),
fold by fold, where there are any; else the spread of the run's own folds, which holds both the seed's chance and the
rows'. A run of one fold and one seed has neither, and stays whole.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load, save
from torch import Tensor

from kit.offline.answers import Part, part_of, score_of, scored_rows
from kit.offline.contract import Competition
from kit.offline.dense import Segmentation
from kit.offline.errors import KitError
from kit.offline.frames import units_of
from kit.offline.predictions import Gallery, load_predictions
from kit.offline.rle import runs
from kit.offline.tasks import Task
from kit.training.fanout import training_frame
from kit.training.repredict import predict_rows
from kit.training.rundir import ALL, Run, competition_of, list_runs, parts_of

SHARE_OF_SPREAD = 0.1
"""How much of the spread over seeds the score may move by."""
MOST_CHANGED = 0.001
"""The share of answers that may change."""


@dataclass(frozen=True)
class Verdict:
    """Whether a member is stored in half precision, and the numbers or the reason, in words."""

    half: bool
    why: str


@dataclass(frozen=True)
class Rows:
    """What folds are re-predicted on: the checked training frame and the host's files; or why there is no frame."""

    frame: pd.DataFrame | None
    data: Path
    lacking: str = ""


def open_rows(competition: Competition, data: Path) -> Rows:
    """The training rows in `data`. What is wrong with them is no fault here: it only leaves weights whole."""
    try:
        return Rows(training_frame(competition, data), data)
    except KitError as error:
        return Rows(None, data, _publishable(f"{error.expected}: {error.found}", data))
    except OSError as error:  # an adapter that opens a table which is not there
        return Rows(None, data, _publishable(str(error), data))


def _publishable(text: str, data: Path) -> str:
    """A text for PROVENANCE.md, where files are told by their names: folders are this machine's own."""
    for folder in (data.resolve(), data):
        text = text.replace(str(folder), "the data folder")
    return re.sub(r"(?<!\w)/[^\s:,'\")]+", lambda path: Path(path[0]).name, text)


def rounded_files(fold: Path) -> dict[str, bytes]:
    """The weights, and the gallery where there is one, of a trained fold in half precision: name -> content."""
    files = {"weights.safetensors": halved((fold / "weights.safetensors").read_bytes())}
    if (fold / "gallery.safetensors").is_file():
        files["gallery.safetensors"] = Gallery.load(fold / "gallery.safetensors").to_bytes(np.float16)
    return files


def halved(weights: bytes) -> bytes:
    """Safetensors with the floating-point tensors of two axes and more in half precision, the same bytes each time.

    Vectors (norms, their running statistics, biases) and integers stay as they are: they weigh next to nothing, and a
    small variance would lose its digits.
    """
    tensors = load(weights)
    return save({name: value.half() if _rounds(value) else value for name, value in sorted(tensors.items())})


def _rounds(value: Tensor) -> bool:
    return value.is_floating_point() and value.ndim > 1 and value.element_size() > 2


def judged(run: Run, number: int, competition: Competition, rows: Rows, files: Mapping[str, bytes]) -> Verdict:
    """Whether one fold of a run may be stored as `files`, its own in half precision.

    Its OOF rows are predicted by them and compared with the stored OOF; where they differ by more than they may, with
    what the fold's own files say on this machine, which may compute otherwise than the one that trained.
    """
    if number == ALL:
        return Verdict(False, "full precision: the fit on all rows has no rows of its own to re-predict")
    if rows.frame is None:
        return Verdict(False, f"full precision: nothing to re-predict its fold with ({rows.lacking})")
    spread, of = seed_spread(run)
    if spread is None:
        return Verdict(False, f"full precision: {of}")
    own = competition_of(run, competition)
    stored = parts_of(run, competition, rows.frame, [number])[number]
    with tempfile.TemporaryDirectory(prefix="kit-fold-") as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        try:
            rounded = _repredicted(run, number, own, rows, Path(folder), Path(folder) / "maps")
            moved, changed = difference(run, own, rows.frame, stored, rounded)
            if not _harmless(moved, changed, spread):
                here = _repredicted(run, number, own, rows, run.fold(number), Path(folder) / "maps-here")
                moved, changed = difference(run, own, rows.frame, here, rounded)
        except KitError as error:  # infinite outputs of rounded weights, or rows that can no longer be read
            return Verdict(
                False, f"full precision: re-predicting its fold failed ({_publishable(error.found, rows.data)})"
            )
    numbers = (
        f"the score of its fold moves by {moved:.2g} (at most {SHARE_OF_SPREAD * spread:.2g}, a tenth of {of}) "
        f"and {100 * changed:.2g} % of its answers (at most {100 * MOST_CHANGED:g} %)"
    )
    half = _harmless(moved, changed, spread)
    return Verdict(half, f"half precision: {numbers}" if half else f"full precision: in half, {numbers}")


def _harmless(moved: float, changed: float, spread: float) -> bool:
    return moved <= SHARE_OF_SPREAD * spread and changed <= MOST_CHANGED


def _repredicted(run: Run, number: int, own: Competition, rows: Rows, files: Path, maps: Path) -> Part:
    """What a fold says of its OOF rows by the weights and gallery in `files`. maps: a folder for dense predictions."""
    assert rows.frame is not None
    held = rows.frame[rows.frame["sample_id"].isin(load_predictions(run.fold(number) / "oof").ids)]
    known = files / "gallery.safetensors"
    predictions = predict_rows(run, number, own, held, rows.data, maps, files / "weights.safetensors")
    return part_of(own, scored_rows(rows.frame), predictions, Gallery.load(known) if known.is_file() else None)


def difference(run: Run, own: Competition, frame: pd.DataFrame, before: Part, after: Part) -> tuple[float, float]:
    """How far two predictions of one fold are apart: by their score, and by the share of answers that differ."""
    parts, learned = (before, after), run.read("learned.json")
    scores = [score_of(own, frame, [part], learned) for part in parts]
    units = units_of(scored_rows(frame)).loc[lambda table: table.index.isin(before.predictions.ids)]
    said = [own.task.decode(part.predictions.align(units.index), units, learned, part.gallery) for part in parts]
    return abs(scores[1] - scores[0]), share_changed(own.task, *said)


def seed_spread(run: Run) -> tuple[float | None, str]:
    """How much the score of a fold moves by chance, and what that is taken from; None where nothing tells."""
    scores = [_scores(other) for other in _seeds_of(run)]
    shared = sorted(set.intersection(*map(set, scores)))
    if len(scores) > 1 and shared:
        table = np.array([[of[fold] for fold in shared] for of in scores])
        return float(np.sqrt(table.var(axis=0, ddof=1).mean())), f"the spread over {len(scores)} seeds"
    own = list(_scores(run).values())
    if len(own) > 1:
        return float(np.std(own, ddof=1)), f"the spread over its {len(own)} folds"
    return None, "one seed and one fold tell no spread to compare with; train another"


def _scores(run: Run) -> dict[str, float]:
    """The scores of a run's folds that have one."""
    score = run.read("score.json") or {"folds": {}}
    return {fold: value for fold, value in score["folds"].items() if value is not None}


def _seeds_of(run: Run) -> list[Run]:
    """The run and those that differ from it by their seed alone, where they are scored."""
    others = [other for other in list_runs(run.folder.parent.parent) if not other.is_blend and _scores(other)]
    return [run, *(other for other in others if other.name != run.name and _unseeded(other) == _unseeded(run))]


def _unseeded(run: Run) -> dict[str, Any]:
    """All that shapes a run but its seed."""
    shaping = ("functions", "folds", "learned", "code", "pretrained", "pseudo", "labels")
    recipe = {name: value for name, value in run.record["recipe"].items() if name not in ("seed", "workers")}
    return {"recipe": recipe, **{name: run.record.get(name) for name in shaping}}


def share_changed(task: Task, before: pd.DataFrame, after: pd.DataFrame) -> float:
    """Which share of the answers to the same units changed, by the column of answers that changed most.

    Of texts, the share of units with another one; of ranked labels, the share of places with another label; of masks,
    the share of pixels that one of both has and the other has not. Of numbers and images, the mean change as a share of
    the range of the answers.
    """
    return max(_changed(task, before[name], after[name]) for name in before.columns)


def _changed(task: Task, before: pd.Series, after: pd.Series) -> float:
    if pd.api.types.is_numeric_dtype(before):
        return _moved(before.to_numpy(float), after.to_numpy(float))
    if len(before) and isinstance(before.iloc[0], np.ndarray):
        return _moved(*(np.concatenate([image.ravel() for image in images]) for images in (before, after)))
    if isinstance(task, Segmentation):
        return _pixels_changed(*(texts.replace(task.empty, "") for texts in (before, after)))
    if task.retrieval:
        places = [
            pair for one, two in zip(before, after, strict=True) for pair in zip_longest(one.split(), two.split())
        ]
        return sum(one != two for one, two in places) / max(len(places), 1)
    return float((before != after).mean())


def _moved(before: np.ndarray, after: np.ndarray) -> float:
    """The mean change as a share of the range of `before`."""
    change = float(np.abs(after - before).mean())
    return change / max(float(np.ptp(before)), 1e-12)


def _pixels_changed(before: Iterable[str], after: Iterable[str]) -> float:
    """Of the pixels in either of two masks, the share in one alone, over all pairs of run-lengths."""
    either = alone = 0
    for pair in zip(before, after, strict=True):
        masks = [np.cumsum(runs(text, 2**62), axis=1) for text in pair]  # starts and ends
        edges = np.unique(np.concatenate([mask.ravel() for mask in masks]))
        inside = [
            np.searchsorted(np.sort(mask[:, 0]), edges[:-1], "right")
            > np.searchsorted(np.sort(mask[:, 1]), edges[:-1], "right")
            for mask in masks
        ]
        sizes = np.diff(edges)
        either += int(sizes[inside[0] | inside[1]].sum())
        alone += int(sizes[inside[0] ^ inside[1]].sum())
    return alone / either if either else 0.0
