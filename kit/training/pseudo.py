"""Pseudo-labels: soft labels for rows without truth, of which each fold trains on those of its own teacher alone.

A teacher saw every row but its fold's. A student of fold k that learned from any other teacher would have been told
about the rows that score it; so labels are kept fold by fold, with the hash of the fold table that both must share.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit.offline.contract import Competition
from kit.offline.errors import DataError, FoldError, NotFound, RecipeError, examples
from kit.offline.files import write_whole
from kit.offline.frames import checked, read_table
from kit.offline.places import missing_files
from kit.offline.predictions import Predictions
from kit.training.repredict import predict_rows
from kit.training.rundir import Run, competition_of

COLUMN = "frame/"
"""Before the name of each column of the frame, in the file."""


@dataclass(frozen=True)
class SoftLabels:
    """What the teachers say of each row of a frame.

    frame: N rows, as `checked` makes them. columns: C output names. said: by fold, N x C float32 in the space of the
    task's targets. folds: hash of the teachers' fold table.
    """

    frame: pd.DataFrame
    columns: tuple[str, ...]
    said: dict[int, np.ndarray]
    folds: str

    def save(self, path: Path) -> None:
        """Write one `.npz` at once; loaded without pickle. Raises DataError for a column of anything but text and
        numbers."""
        content: dict[str, Any] = {f"fold{number}": values for number, values in self.said.items()}
        for name in self.frame.columns:
            values = self.frame[name].to_numpy()
            if values.dtype.kind not in "biuf":
                if not all(isinstance(value, str) for value in values):
                    found = f"others in {name!r}"
                    raise DataError("text or numbers in every column of the frame", found, "drop or convert the column")
                values = values.astype(str)
            content[COLUMN + str(name)] = values
        buffer = io.BytesIO()
        np.savez_compressed(buffer, columns=np.asarray(self.columns, str), folds=np.asarray(self.folds), **content)
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> SoftLabels:
        """Read what `save` wrote. Raises NotFound, or DataError for another file."""
        remedy = f"kit predict RUN --frame test --out {path}"
        if not path.is_file():
            raise NotFound(f"soft labels in {path}", "no such file", remedy)
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            frame = pd.DataFrame(
                {
                    name.removeprefix(COLUMN): values.astype(object) if values.dtype.kind == "U" else values
                    for name, values in columns.items()
                    if name.startswith(COLUMN)
                }
            )
            said = {int(name[4:]): values for name, values in columns.items() if re.fullmatch(r"fold\d+", name)}
            return cls(frame, tuple(columns["columns"].tolist()), said, str(columns["folds"]))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"soft labels in {path}", f"{type(error).__name__}: {error}", remedy) from None

    def of(self, fold: int) -> np.ndarray:
        """N x C soft labels for the student of a fold: its own teacher's; for one that trains on all rows, their mean.

        Raises FoldError where that teacher is not trained.
        """
        if fold < 0:
            return np.mean(list(self.said.values()), axis=0).astype(np.float32)
        if fold not in self.said:
            fix = "train the teacher's other folds, and predict again"
            raise FoldError(f"soft labels of the teacher of fold {fold}", f"of folds {sorted(self.said)}", fix)
        return self.said[fold]


def frame_to_label(name: str, competition: Competition, data: Path) -> pd.DataFrame:
    """The frame that `--frame` names: "test" is the adapter's test frame, else a CSV table of text with `sample_id`.

    Raises DataError where listed files are missing.
    """
    frame = checked(competition.test_frame(data) if name == "test" else read_table(Path(name)), f"--frame {name}")
    gone = sorted(missing_files(data, frame["path"])) if "path" in frame.columns else []
    if gone:
        raise DataError(f"the {len(frame)} files that {name} lists in {data}", f"missing: {examples(gone)}", "mend it")
    return frame


def label(
    run: Run, competition: Competition, frame: pd.DataFrame, data: Path, say: Callable[[str], None] = print
) -> SoftLabels:
    """What each trained fold of a run says of the rows of `frame`, with the recipe's views; files below `data`.

    Raises RecipeError for blends and for tasks whose predictions are no targets.
    """
    if run.is_blend:
        raise RecipeError("a run whose recipe trains", f"the blend {run.name}", "label with one of its members")
    own = competition_of(run, competition)
    require_vectors(own)
    said = {}
    for number in run.folds:
        predictions = predict_rows(run, number, own, frame, data, data)
        assert isinstance(predictions, Predictions)
        said[number] = predictions.align(frame["sample_id"]).values
        say(f"fold {number} of {run.name}: {len(frame)} rows labelled")
    if not said:
        raise NotFound(f"trained folds of {run.name}", "none", "train them first")
    return SoftLabels(frame, tuple(run.record["columns"]), said, run.record["folds"])


def require_vectors(competition: Competition) -> None:
    """Raise RecipeError where predictions are not what training takes as targets."""
    task = competition.task
    if task.dense or task.retrieval or task.aux:
        found = f"{type(task).__name__}{' with aux heads' if task.aux else ''}"
        fix = "add rows with labels of your own in train_frame, scored=False"
        raise RecipeError("a task of vectors, without aux heads, for soft labels", found, fix)


def require_fit(
    labels: SoftLabels, competition: Competition, frame: pd.DataFrame, folds: str, columns: tuple[str, ...]
) -> None:
    """Raise FoldError for labels of teachers on other folds or of rows in training, RecipeError for other outputs."""
    require_vectors(competition)
    if labels.folds != folds:
        fix = "predict again with a run on this fold table: another's teachers saw rows that score"
        raise FoldError(f"soft labels of teachers on the fold table {folds[:12]}", labels.folds[:12], fix)
    if labels.columns != columns:
        raise RecipeError(f"soft labels for {columns}", str(labels.columns), "label with a run of the same task")
    for name in ("sample_id", "unit_id"):
        both = sorted(set(labels.frame[name]) & set(frame[name]))
        if both:
            raise FoldError("soft labels of rows that are not in train_frame", examples(both), "drop them from --frame")


def with_soft(rows: pd.DataFrame, labels: SoftLabels) -> pd.DataFrame:
    """The rows that train with the labelled ones after them, of weight 1 unless they bring their own."""
    both = pd.concat([rows, labels.frame], ignore_index=True)
    return both.assign(weight=both["weight"].fillna(1.0)) if "weight" in both.columns else both
