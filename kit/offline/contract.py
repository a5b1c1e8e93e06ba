"""The contract of a competition: what the samples are, what the answer is, what the host reads and how it scores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from kit.offline import pixels
from kit.offline.errors import DataError
from kit.offline.frames import checked, read_table, units_of
from kit.offline.predictions import Maps, Predictions
from kit.offline.tasks import Task, settings_of, task_from


@dataclass(frozen=True)
class Folds:
    """How rows are split. `group` must be written, even as None: forgetting it is how leaks begin.

    n: number of folds. stratify: label column(s) whose shares the folds keep. group: column whose values never span two
    folds. bins: columns of numbers with more values than that are stratified by so many quantiles of them.
    """

    n: int
    stratify: str | Sequence[str] | None = None
    _: KW_ONLY
    group: str | None
    seed: int = 0
    bins: int | None = None


@dataclass(frozen=True)
class Rules:
    """What the host enforces.

    minutes: the notebook's limit. file: what the host reads. test_rows: size of the hidden test set; where it is not
    known, a server has no clock. server: of kind "server", the class in the host's files that calls the notebook, as
    "kaggle_evaluation.<module>.<Class>".
    """

    kind: Literal["notebook", "csv", "server"] = "notebook"
    minutes: int = 540
    accelerator: str | None = "NvidiaTeslaT4"
    file: str = "submission.csv"
    test_rows: int | None = None
    server: str | None = None


class Row(dict[str, Any]):
    """One frame row: `row.path` and `row["path"]` are the same."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the frame has no column {name!r}, only {sorted(self)}") from None


class Competition:
    """What the host decided. Subclass it as `Adapter` in `competitions/<name>/adapter.py`.

    Required: slug, task, folds, metric, greater_is_better, train_frame, test_frame, submission, score.
    """

    slug: str
    task: Task
    folds: Folds | Mapping[str, Folds]
    metric: str
    """The host's metric in a few words, for `kit list`."""
    greater_is_better: bool
    rules: Rules = Rules()
    sample: str | None = "sample_submission.csv"
    """The host's sample submission below the data folder; None where the host gives none."""
    solution_columns: tuple[str, ...] = ()
    """Unit columns joined to the truth table alone (height, patient, weight, usage)."""
    table: tuple[str, ...] = ()
    """Frame columns, of train and test, that the network gets beside a row's image: numbers, or words of few values."""
    pool: Literal["mean", "max"] = "mean"
    """How the default `combine` makes one prediction of a unit's samples; maps are always averaged."""
    wheels: tuple[str, ...] = ()
    """Packages that adapter.py or model.py import inside functions and Kaggle's image lacks; they are bundled."""
    folder: Path | None = None
    """Where the adapter was loaded from; set by the loader."""

    def train_frame(self, data: Path) -> pd.DataFrame:
        """A row per training sample: `sample_id` (unique text) and the task's columns.

        Optional: `unit_id`, `path` (relative to `data`), `source` (rows that share it are read once), `weight` (in the
        loss), `scored` (False: trains, never scored).
        """
        raise DataError(
            "a method train_frame(data) in the adapter", type(self).__name__, "write it; see competitions/cassava"
        )

    def test_frame(self, data: Path) -> pd.DataFrame:
        """The same without targets, from what is mounted: Kaggle's test set differs from the one you downloaded."""
        raise DataError(
            "a method test_frame(data) in the adapter", type(self).__name__, "write it; see competitions/cassava"
        )

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        """Answers and the first frame row of each unit, both indexed by unit_id, as the host's table. Formats only."""
        raise DataError(
            "a method submission(answers, units)", type(self).__name__, "write it; see competitions/cassava"
        )

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        """The host's metric of two host tables, rows matched by id."""
        raise DataError(
            "a method score(solution, submission)", type(self).__name__, "write it; see competitions/cassava"
        )

    def unit_scores(self, solution: pd.DataFrame, submission: pd.DataFrame) -> pd.Series | None:
        """The score of each unit where the score is their mean, else None."""
        return None

    def read(self, row: Row, data: Path, how: Mapping[str, Any]) -> np.ndarray:
        """The source of a row as an array of any shape: slow, deterministic, cached once.

        Default: `row.path` as RGB, H x W x 3 uint8.
        """
        return pixels.read_rgb(data, row.path)

    def cut(self, array: np.ndarray, row: Row, how: Mapping[str, Any], rng: np.random.Generator | None) -> np.ndarray:
        """The part of a source that this draw shows: H x W x C, or N x H x W x C for a bag. `rng` None: evaluation.

        `array` is as the cache keeps it: smaller than what `read` gave where the recipe sets `cache_size`.
        """
        return array

    def read_target(self, row: Row, data: Path, how: Mapping[str, Any]) -> np.ndarray:
        """The mask of a row's source, H x W or H x W x C, in the values the loss wants; cut with the source's `rng`.

        For dense tasks. It has the height and width of what `read` gives, and is cached like it. Default: what the task
        makes of its columns, at native size.
        """
        return self.task.read_target(row)

    def combine(self, frame: pd.DataFrame, predictions: Predictions | Maps) -> Predictions | Maps:
        """Predictions of samples as predictions of units. Default: their mean or maximum, as `pool` says.

        Treat units one by one: it is called with any whole units.
        """
        units = dict(zip(frame["sample_id"], frame["unit_id"], strict=True))
        if self.pool == "max" and isinstance(predictions, Predictions):
            return predictions.max_by(units)
        return predictions.mean_by(units)

    def assign_folds(self, frame: pd.DataFrame) -> pd.Series | None:
        """Fold numbers by row for splits that `folds` cannot say, else None."""
        return None

    def stage_test(self, rows: pd.DataFrame, data: Path, out: Path) -> None:
        """Write train rows as a host-shaped hidden test set into the empty folder `out`.

        Default: each `path` is copied to where `data` keeps test files (train_images/p/1.dcm to test_images/p/1.dcm),
        `test.csv` (if the host has one) gets its columns from `rows`, and the sample submission a constant line per
        unit.
        """
        from kit.offline.places import inside

        host = self.test_frame(data)
        if "path" in host.columns:
            for path, place in _test_places(list(rows["path"]), list(host["path"])).items():
                inside(out, place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(inside(data, path), inside(out, place))
            if len(host):  # an empty test set has its folder too
                (out / os.path.commonpath([Path(path).parent for path in host["path"]])).mkdir(
                    parents=True, exist_ok=True
                )
        if (data / "test.csv").is_file():
            columns = list(read_table(data / "test.csv").columns)
            rows.reindex(columns=columns).to_csv(out / "test.csv", index=False)
        if self.sample:
            self.constant_submission(units_of(rows), data).to_csv(out / self.sample, index=False)

    def serve_frame(self, data: Path, *batch: Any) -> tuple[pd.DataFrame, Path]:
        """Where `rules.kind` is "server": rows like test_frame's for one call of the host's gateway, and the folder
        that their paths start from. batch: what the host hands over."""
        raise DataError(
            "a method serve_frame(data, *batch)", type(self).__name__, "write it; see competitions/README.md"
        )

    def serve_answer(self, table: pd.DataFrame, *batch: Any) -> Any:
        """What the gateway gets for a batch: default the table of `submission`, a row per unit in the batch's order."""
        return table

    def constant_submission(self, units: pd.DataFrame, data: Path) -> pd.DataFrame:
        """The host's table with one answer, the task's `constant`, for each of `units`; none for no units."""
        frame = checked(self.train_frame(data), "train_frame", self.task.columns)
        answers = self.task.constant(units_of(frame).iloc[:1], units, self.task.learn(frame))
        return self.submission(answers, units)

    def scheme(self, name: str | None = None) -> Folds:
        """The fold scheme `name`; the first (the honest one) where no name is given."""
        if isinstance(self.folds, Folds) and name is None:
            return self.folds
        named = {} if isinstance(self.folds, Folds) else self.folds
        if name is not None and name not in named:
            found = f"schemes {list(named)}" if named else "one scheme, without a name"
            raise DataError(f"a fold scheme {name!r}", found, "choose one of them" if named else "leave --scheme away")
        return named[name] if name is not None else next(iter(named.values()))

    def scheme_key(self, name: str | None) -> str | None:
        """The name under which a scheme's folds are kept: None for the first, however it was asked for."""
        self.scheme(name)
        return None if isinstance(self.folds, Folds) or name == next(iter(self.folds)) else name

    def with_task(self, task: Task | None) -> Self:
        """This competition with another task of the same columns; itself where `task` is None."""
        if task is None:
            return self
        if task.columns != self.task.columns:
            raise DataError(
                f"a task over the columns {self.task.columns}",
                str(task.columns),
                "a recipe's task must answer the same columns",
            )
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.task = task
        return other

    def __reduce__(self) -> Any:
        """Pickled as its folder and its task's settings, so that loader workers of any start method can have it."""
        if self.folder is None:
            return super().__reduce__()
        return _reload, (str(self.folder), settings_of(self.task))


def _test_places(train: Sequence[str], test: Sequence[str]) -> dict[str, str]:
    """Where files of training rows lie in a hidden test set, by their path.

    Where both kinds lie equally deep, the first folder in which all of one differ from all of the other is exchanged;
    else all lie in the one folder of the test files.
    """
    trees, wanted = [Path(path).parent.parts for path in train], {Path(path).parent.parts for path in test}
    if not trees:
        return {}
    if len({len(parts) for parts in [*trees, *wanted]}) == 1:
        for at in range(len(trees[0])):
            ours, theirs = {parts[at] for parts in trees}, {parts[at] for parts in wanted}
            if len(ours) == len(theirs) == 1 and ours != theirs:
                return {path: str(Path(*_exchanged(path, at, *theirs))) for path in train}
        return {path: path for path in train}
    if len(wanted) > 1:
        found = f"several: {sorted('/'.join(parts) for parts in wanted)[:3]}"
        raise DataError("one folder of test files", found, "override stage_test in the adapter")
    return {path: str(Path(*parts, Path(path).name)) for path in train for parts in wanted}


def _exchanged(path: str, at: int, folder: str) -> tuple[str, ...]:
    parts = Path(path).parts
    return (*parts[:at], folder, *parts[at + 1 :])


def _reload(folder: str, task: Mapping[str, Any]) -> Competition:
    from kit.offline.places import load_adapter, load_module

    return load_adapter(folder).with_task(task_from(task, load_module(folder, "adapter")))
