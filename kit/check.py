"""The contract as named, runnable checks, after scikit-learn's: each is small, and its docstring is the property.

A check takes a Context and returns None or a remark; it raises CheckFailed (or another KitError) where the property
does not hold, and Skipped where it cannot be asked. `run_checks` runs all of them, none hindered by another's failure.
"""

from __future__ import annotations

import ast
import builtins
import io
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import pandas as pd
from PIL import Image

import kit
from kit.offline.answers import (
    Part,
    host_tables,
    part_of,
    read_sample,
    score_of,
    scored_rows,
    submission_of,
    tuned,
    validate,
)
from kit.offline.columns import learn_columns, table_of, table_width
from kit.offline.contract import Competition, Folds, Row, Rules
from kit.offline.errors import KitError, examples
from kit.offline.frames import checked, units_of
from kit.offline.pixels import PILLOW_ERRORS
from kit.offline.places import competition_folder, load_adapter, missing_files
from kit.offline.predictions import Gallery, Maps, Predictions
from kit.offline.tasks import Learned, Task, trained_task
from kit.training.folds import fold_file, load_folds, make_folds, require_declared_group, with_folds
from kit.training.recipe import Recipe, load_recipes

TRAVELLING = ("torch", "timm", "numpy", "pandas", "scipy", "sklearn", "cv2", "PIL", "safetensors")
"""What adapter.py and model.py may import at module level, beside the standard library, kit and kit.offline."""
DTYPES = ("uint8", "uint16", "int16", "float16", "float32")
"""What the cache and the network's input know."""
HIDDEN_UNITS = 20
"""Units of a staged test set; twice as many when it is doubled."""
T = TypeVar("T")


class CheckFailed(KitError):
    """The contract does not hold."""


class Skipped(Exception):
    """A check that cannot be asked here, and why."""


@dataclass(frozen=True)
class Result:
    """The outcome of one check: `message` is the fault, the reason for skipping, or a remark. Skipped ones are ok."""

    name: str
    ok: bool
    message: str = ""
    skipped: bool = False


class Context:
    """What the checks look at, made when first asked for. What failed once skips later checks: a fault is told once."""

    def __init__(self, competition: Competition, data: Path, rows: int = 200):
        self.competition, self.data, self.rows = competition, Path(data), rows
        self._made: dict[str, Any] = {}
        self._broken: set[str] = set()

    def _once(self, what: str, make: Callable[[], T]) -> T:
        if what in self._broken:
            raise Skipped(f"needs {what}, which fails above")
        if what not in self._made:
            self._broken.add(what)
            self._made[what] = make()
            self._broken.remove(what)
        return self._made[what]

    @property
    def folder(self) -> Path:
        """Where the competition's code lies."""
        if self.competition.folder is None:
            raise Skipped("the adapter was not loaded from a folder")
        return Path(self.competition.folder)

    @property
    def train(self) -> pd.DataFrame:
        """The checked training frame."""
        of = self.competition
        return self._once("train_frame", lambda: checked(of.train_frame(self.data), "train_frame", of.task.columns))

    @property
    def test(self) -> pd.DataFrame:
        """The checked test frame of the data folder."""
        return self._once("test_frame", lambda: checked(self.competition.test_frame(self.data), "test_frame"))

    @property
    def units(self) -> pd.DataFrame:
        """The first row of each scored training unit."""
        return units_of(scored_rows(self.train))

    @property
    def learned(self) -> Learned:
        """What the task learns from the training frame."""
        return self._once("task.learn", lambda: self.competition.task.learn(self.train))

    @property
    def truth(self) -> pd.DataFrame:
        """True answers of the units."""
        return self._once("task.truth", lambda: self.competition.task.truth(self.units, self.learned))

    @property
    def perfect(self) -> Predictions:
        """Targets as unit predictions."""
        self.require_vectors()
        task, units = self.competition.task, self.units
        return Predictions(units.index.to_numpy(), task.targets(units, self.learned), task.outputs(self.learned))

    @property
    def sample(self) -> pd.DataFrame:
        """The host's sample submission."""
        table = self._once("the sample submission", lambda: read_sample(self.competition, self.data))
        if table is None:
            raise Skipped("the adapter says that the host gives no sample submission")
        return table

    @property
    def constant(self) -> pd.DataFrame:
        """The host's table with one answer for all test units."""
        of, units, _ = self.competition, units_of(self.test), self.train  # the constant is a training answer
        return self._once("submission", lambda: of.constant_submission(units, self.data))

    @property
    def hows(self) -> list[Mapping[str, Any]]:
        """The distinct `read` settings of the recipes."""
        try:
            recipes: dict[str, Recipe] = self._once("recipes.py", lambda: load_recipes(self.folder))
        except Exception:  # noqa: BLE001 - recipes_load_quietly tells it
            return [{}]
        unlike = {
            json.dumps(dict(recipe.read), sort_keys=True, default=str): recipe.read for recipe in recipes.values()
        }
        return list(unlike.values()) or [{}]

    def require_vectors(self) -> None:
        """Skip for tasks whose targets are not columns of the frame."""
        task = self.competition.task
        if task.dense or task.retrieval:
            raise Skipped(f"predictions of {type(task).__name__} are {'maps' if task.dense else 'embeddings'}")

    def tables(self, answers: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(solution, submission) where `answers` were given for the units."""
        told = self.competition.with_task(Told(self.competition.task, answers))
        part = Part(Predictions(answers.index.to_numpy(), np.zeros((len(answers), 1)), ("told",)))
        return host_tables(told, self.train, [part], self.learned)

    def score(self, answers: pd.DataFrame) -> float:
        """The host's score of given answers."""
        return float(self.competition.score(*self.tables(answers)))

    def shuffled(self) -> pd.DataFrame:
        """True answers given to the wrong units."""
        order = np.random.RandomState(0).permutation(len(self.truth))
        return self.truth.iloc[order].set_axis(self.truth.index)

    def shuffled_score(self) -> float:
        """The score of shuffled truth: the worst there is where masks of another image are refused."""
        try:
            return self.score(self.shuffled())
        except KitError:
            if not self.competition.task.dense:
                raise
            return -np.inf if self.competition.greater_is_better else np.inf


class Told(Task):
    """A task whose answers are given, so that any answers can take the one road to the host's table."""

    def __init__(self, task: Task, answers: pd.DataFrame):
        self.task, self.answers = task, answers

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.task.columns

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        return self.task.truth(units, learned, gallery)

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        return self.answers.loc[units.index]


# Facts and frames


def facts_are_declared(context: Context) -> None:
    """The adapter states slug, task, folds, metric, greater_is_better and rules, each of its type."""
    folds = (Folds, Mapping)
    kinds: dict[str, Any] = {
        "slug": str,
        "task": Task,
        "folds": folds,
        "metric": str,
        "greater_is_better": bool,
        "rules": Rules,
    }
    for name, kind in kinds.items():
        value = getattr(context.competition, name, None)
        if not isinstance(value, kind) or value == "":
            wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise CheckFailed(f"{name}: {wanted} in the adapter", repr(value), "write it; see competitions/cassava")


def training_ids_are_unique_text(context: Context) -> str:
    """Every training row has a text id of its own, and the task's columns are there."""
    rows = context.train
    if not len(rows):
        raise CheckFailed("rows in train_frame", "none", "look at the host's table in the data folder")
    return f"{len(rows)} rows, {rows['unit_id'].nunique()} units"


def test_ids_are_unique_text(context: Context) -> str:
    """Every test row has a text id of its own."""
    return f"{len(context.test)} rows"


def files_are_there(context: Context) -> str:
    """Every `path` of both frames is a file below the data folder; files beside them that no row lists are told."""
    count, listed = 0, set[str]()
    for name, frame in (("train_frame", context.train), ("test_frame", context.test)):
        if "path" not in frame.columns:
            continue
        missing = missing_files(context.data, frame["path"])
        if missing:
            raise CheckFailed(
                f"a file at each of the {len(frame)} paths of {name}, below {context.data}",
                f"missing: {examples(missing)}",
                "download again, or mend `path` in the adapter",
            )
        count += len(frame)
        listed |= set(frame["path"])
    if not count:
        raise Skipped("the frames have no column `path`")
    rowless = files_beside(context.data, listed)
    return f"{count} files" + (f"; {len(rowless)} beside them without a row: {examples(rowless)}" if rowless else "")


def files_beside(data: Path, listed: set[str]) -> list[str]:
    """Files that no row lists, of a listed suffix, in the folders of listed files."""
    suffixes = {Path(path).suffix for path in listed}
    folders = sorted({Path(path).parent for path in listed})
    there = (folder / file.name for folder in folders for file in (data / folder).iterdir() if file.suffix in suffixes)
    return sorted({str(path) for path in there} - listed)


def kinds_of_images_are_told(context: Context) -> str:
    """What the headers of images spread over train and test say: a remark on kinds, and on what is unusual."""
    told = []
    for name, frame in (("train", context.train), ("test", context.test)):
        paths: list[str] = spread(frame, context.rows)["path"].tolist() if "path" in frame.columns else []
        kinds = Counter(kind for path in paths if (kind := kind_of(context.data / path)))
        if kinds:
            told.append(f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return "; ".join(told) or "no images that Pillow knows"


def kind_of(path: Path) -> str:
    """Format and mode from an image's header, with what may surprise; "" for what Pillow does not know."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                frames, form = getattr(image, "n_frames", 1), str(image.format)
                named = Image.registered_extensions().get(path.suffix.lower(), form)
                odd = [f"called {path.suffix}"] if named != form else []
                odd += [f"{frames} frames, of which the first is read"] if frames > 1 else []
                return " ".join([form, image.mode, *([f"({', '.join(odd)})"] if odd else [])])
    except (*PILLOW_ERRORS, Image.DecompressionBombError):
        return ""


def columns_beside_the_image_fit(context: Context) -> str:
    """The columns of the adapter's `table` are in both frames, and test's cells can be told by what train's say."""
    columns = learn_columns(context.train, context.competition.table)
    for frame in (context.train, context.test):
        table_of(frame, columns)
    return f"{table_width(columns)} numbers"


def a_sample_of_files_can_be_read(context: Context) -> str:
    """`read` gives an array of a known dtype for rows spread evenly over train and test."""
    frame = pd.concat([context.train, context.test], ignore_index=True)
    sources = frame["source"].fillna(frame["sample_id"]) if "source" in frame.columns else frame["sample_id"]
    chosen = spread(frame[~sources.duplicated()], context.rows)
    damaged = []
    for row in rows_of(chosen):
        try:
            require_array(context.competition.read(row, context.data, context.hows[0]), row)
        except KitError as error:
            damaged.append((row.sample_id, error))
    if damaged:
        raise CheckFailed(
            f"sources that `read` can read ({len(chosen)} tried, evenly spread)",
            f"{len(damaged)} it cannot: {examples(name for name, _ in damaged)}\n{damaged[0][1]}",
            "download those files again, drop their rows, or mend `read` in the adapter",
        )
    return f"{len(chosen)} read"


def read_is_deterministic(context: Context) -> None:
    """Reading and cutting a row twice for evaluation gives the same pixels; so does its target."""
    of, data = context.competition, context.data

    def look(row: Row, how: Mapping[str, Any]) -> list[np.ndarray]:
        array = of.read(row, data, how)
        target = [of.read_target(row, data, how)] if of.task.dense else []
        return [array, of.cut(array, row, how, None), *target]

    for how in context.hows:
        for row in rows_of(spread(context.train, 3)):
            if not all(np.array_equal(one, two) for one, two in zip(look(row, how), look(row, how), strict=True)):
                raise CheckFailed(
                    "the same pixels on every reading for evaluation",
                    f"others for {row.sample_id!r} (how={dict(how)})",
                    "draw only from `rng`, and not at all where it is None",
                )


def labels_can_be_learned(context: Context) -> str:
    """The task learns from the training frame, what it learns is JSON, and targets are finite and fit its outputs."""
    task, learned = trained_task(context.competition.task, context.train), context.learned
    json.dumps(learned)
    columns = task.outputs(learned)
    if not (task.dense or task.retrieval):
        targets = task.targets(context.train, learned)
        if targets.shape != (len(context.train), len(columns)) or not np.isfinite(targets).all():
            raise CheckFailed(
                f"finite targets of shape {(len(context.train), len(columns))}",
                f"shape {targets.shape}, {int((~np.isfinite(targets)).sum())} not finite",
                "mend `targets` and `outputs` of the task",
            )
    return f"{len(columns)} outputs"


def folds_split_no_group(context: Context) -> str:
    """No unit and no group stands in two folds of any scheme: of its frozen table if there is one, else a new one."""
    of, frame = context.competition, context.train
    schemes = [None] if isinstance(of.folds, Folds) else [None, *list(of.folds)[1:]]
    frozen = 0
    for scheme in schemes:
        path = fold_file(Path(of.folder), scheme) if of.folder else None
        if path is None or not path.is_file():
            make_folds(of, frame, scheme)
            continue
        require_declared_group(of, with_folds(frame, load_folds(path), path), scheme)
        frozen += 1
    return f"{frozen} frozen, {len(schemes) - frozen} made for the check"


# The road to the host's table and its score


def truth_beats_shuffled_truth(context: Context) -> str:
    """Truth through the writer has a finite score, and truth given to the wrong units has another."""
    good, bad = context.score(context.truth), context.shuffled_score()
    if not np.isfinite(good) or np.isclose(good, bad):
        raise CheckFailed(
            "a score that tells the truth from shuffled truth",
            f"{good} and {bad}",
            "see that `submission` writes the answers and `score` reads them",
        )
    return f"truth {good:.6g}, shuffled {bad:.6g}"


def greater_is_better_is_right(context: Context) -> None:
    """The sign of the metric: truth scores better than wrong answers."""
    good, bad = context.score(context.truth), context.shuffled_score()
    if good != bad and (good > bad) != context.competition.greater_is_better:
        raise CheckFailed(
            f"greater_is_better = {good > bad}",
            f"{not good > bad}, while truth scores {good:.6g} and shuffled truth {bad:.6g}",
            "turn it round in the adapter",
        )


def row_order_does_not_change_the_score(context: Context) -> None:
    """Shuffling the rows of the solution and of the submission leaves the score as it is."""
    solution, submission = context.tables(context.truth)
    first = float(context.competition.score(solution, submission))
    second = float(context.competition.score(mixed(solution, 1), mixed(submission, 2)))
    if not np.isclose(first, second, rtol=1e-9, equal_nan=True):
        raise CheckFailed(
            "the same score for the same rows in another order",
            f"{first} and {second}",
            "match rows by id in `score`; see metrics.match",
        )


def row_order_does_not_change_the_submission(context: Context) -> None:
    """Cells belong to ids: another order of frame, predictions or answers changes the order of rows at most."""
    of, truth, units = context.competition, context.truth, context.units
    order = np.random.RandomState(1).permutation(len(units))
    wanted = of.submission(truth, units)
    require_same_rows(wanted, of.submission(truth.iloc[order], units.iloc[order]), "units in another order")
    require_same_rows(wanted, of.submission(truth.iloc[order], units), "answers in another order than units")
    if of.task.dense or of.task.retrieval:
        return
    frame, columns = context.train, of.task.outputs(context.learned)
    # Sixty-fourths add up exactly in any order, so that means of several rows are equal to the last bit.
    values = np.random.RandomState(2).randint(0, 65, (len(frame), len(columns))) / 64
    predictions = Predictions(frame["sample_id"].to_numpy(), values, columns)
    tables = [
        submission_of(of, rows, part_of(of, rows, predictions.align(mixed(rows, 4)["sample_id"])), context.learned)
        for rows in (frame, mixed(frame, 3))
    ]
    require_same_rows(tables[0], tables[1], "frame and predictions in another order")


def a_constant_prediction_is_legal(context: Context) -> None:
    """One and the same prediction for every test unit gives a table that the host would take."""
    of, units = context.competition, units_of(context.test)
    if of.task.dense or of.task.retrieval:
        table = context.constant
    else:
        values = np.repeat(context.perfect.values.mean(axis=0, keepdims=True), len(units), axis=0)
        predictions = Predictions(units.index.to_numpy(), values, of.task.outputs(context.learned))
        table = of.submission(of.task.decode(predictions, units, context.learned), units)
    validate(of, context.test, context.data, table)


def columns_equal_the_sample_submission(context: Context) -> None:
    """`submission` writes the columns of the host's sample, in that order."""
    wanted, found = list(context.sample.columns), list(context.constant.columns)
    if wanted != found:
        raise CheckFailed(
            f"the columns of {context.competition.sample}: {wanted}", str(found), "mend `submission` in the adapter"
        )


def test_ids_match_the_sample_submission(context: Context) -> None:
    """`test_frame` gives the ids of the host's sample submission, no more and no fewer."""
    if not len(context.sample):
        raise Skipped("the sample submission is a placeholder without rows")
    wanted, found = (set(table.iloc[:, 0].astype(str)) for table in (context.sample, context.constant))
    if wanted != found:
        raise CheckFailed(
            f"the {len(wanted)} ids of {context.competition.sample}",
            f"missing: {examples(sorted(wanted - found))}; extra: {examples(sorted(found - wanted))}",
            "mend `test_frame`; set sample = None where the host's sample is a placeholder",
        )


# Decisions belong to the task


def the_writer_keeps_distinct_answers(context: Context) -> None:
    """`submission` formats only: distinct numbers stay distinct cells, neither cut by a threshold nor rounded away."""
    of, learned, targets = context.competition, context.learned, context.perfect.values
    units = spread(context.units, context.rows)
    start, end = targets[0], targets[np.abs(targets - targets[0]).sum(axis=1).argmax()]
    share = np.linspace(0.01, 0.99, len(units))[:, None]
    answers, tables = [], []
    for way in (share, share[::-1]):
        predictions = Predictions(units.index.to_numpy(), start + way * (end - start), of.task.outputs(learned))
        answers.append(of.task.decode(predictions, units, learned))
        tables.append(of.submission(answers[-1], units).astype(str).reset_index(drop=True))
    numbers = answers[0].select_dtypes("number")
    if not len(numbers.columns) or numbers.nunique().max() < len(units):
        raise Skipped("the task answers with decisions, not with numbers")
    cells = max(
        (tables[0][name].nunique() for name in tables[0] if (tables[0][name] != tables[1][name]).any()), default=0
    )
    if cells < len(units):
        raise CheckFailed(
            f"{len(units)} distinct cells for {len(units)} distinct answers",
            f"{cells}: `submission` rounds, or decides by a threshold",
            'decide in the task, which is fitted on OOF: Binary(..., answer="label")',
        )


def decisions_survive_rescaling(context: Context) -> str:
    """A task that decides fits its threshold: perfect predictions at a tenth of their scale still score as perfect."""
    of, learned, perfect = context.competition, context.learned, context.perfect
    units = balanced(context.units, list(of.task.columns), context.rows)
    perfect = perfect.align(units.index)
    if len(of.task.decode(perfect, units, learned).select_dtypes("float").columns):
        raise Skipped("the task answers with numbers and decides nothing; see the_writer_keeps_distinct_answers")
    scaled = Predictions(perfect.ids, perfect.values * 0.1, perfect.columns)
    scores = []
    for predictions in (perfect, scaled):
        parts = [Part(predictions)]
        scores.append(score_of(of, context.train, parts, tuned(of, context.train, parts, learned)))
    if not np.isclose(scores[0], scores[1], rtol=0.02, equal_nan=True):
        raise CheckFailed(
            f"the score of perfect predictions, {scores[0]:.6g}, at a tenth of their scale",
            f"{scores[1]:.6g}",
            "fit the decision in the task's `tune`; no threshold belongs into `submission` or `decode`",
        )
    return f"{scores[0]:.6g} and {scores[1]:.6g}"


# What travels to Kaggle


def a_hidden_test_of_any_size_works(context: Context) -> str:
    """With no training file mounted, the units of an empty, a small and a doubled test set are read and written."""
    if not len(context.test):
        raise Skipped("the data folder holds no test row to learn the layout from")
    names = spread(context.train.drop_duplicates("unit_id"), 2 * HIDDEN_UNITS)["unit_id"]
    half = len(names) // 2
    for count in (0, half, 2 * half):
        rows = context.train[context.train["unit_id"].isin(names[:count])]
        with tempfile.TemporaryDirectory(prefix="kit-check-") as folder:
            _try_hidden_test(context, rows, Path(folder))
    return f"0, {half} and {2 * half} units"


def _try_hidden_test(context: Context, rows: pd.DataFrame, out: Path) -> None:
    of = context.competition
    of.stage_test(rows, context.data, out)
    frame = checked(of.test_frame(out), "test_frame of a staged test set without training files")
    wanted, found = set(rows["unit_id"]), set(frame["unit_id"])
    if wanted != found:
        raise CheckFailed(
            f"the {len(wanted)} units of a staged test set",
            f"missing: {examples(sorted(wanted - found))}; extra: {examples(sorted(found - wanted))}",
            "take the ids of test_frame from what is mounted; override stage_test where the layout is unusual",
        )
    for row in rows_of(spread(frame, 5)):
        array = of.read(row, out, context.hows[0])
        require_array(of.cut(array, row, context.hows[0], None), row)
    table = of.constant_submission(units_of(frame), context.data)
    validate(of, frame, out, table)


def imports_travel(context: Context) -> None:
    """adapter.py and model.py import at module level only what Kaggle's image and the bundle hold."""
    for path in (context.folder / "adapter.py", context.folder / "model.py"):
        if not path.is_file():
            continue
        strange = [
            f"{name} (line {line})" for name, line in module_imports(ast.parse(path.read_text())) if not travels(name)
        ]
        if strange:
            raise CheckFailed(
                f"only the standard library, kit, kit.offline, {', '.join(TRAVELLING)} at the top of {path.name}",
                examples(strange),
                "import inside the function that needs it what Kaggle's image has; training code goes into recipes.py",
            )


def recipes_load_quietly(context: Context) -> str:
    """Importing recipes.py gives valid recipes and neither reads nor writes a file."""
    load_recipes(context.folder)  # once before the watch: libraries may read files of their own when first imported
    with no_files_touched():
        recipes = load_recipes(context.folder)
    if not recipes:
        raise CheckFailed(f"a Recipe in {context.folder / 'recipes.py'}", "none", "write baseline = Recipe(...)")
    return ", ".join(recipes)


CHECKS: tuple[Callable[[Context], str | None], ...] = (
    facts_are_declared,
    training_ids_are_unique_text,
    test_ids_are_unique_text,
    files_are_there,
    kinds_of_images_are_told,
    columns_beside_the_image_fit,
    a_sample_of_files_can_be_read,
    read_is_deterministic,
    labels_can_be_learned,
    folds_split_no_group,
    truth_beats_shuffled_truth,
    greater_is_better_is_right,
    row_order_does_not_change_the_score,
    row_order_does_not_change_the_submission,
    a_constant_prediction_is_legal,
    columns_equal_the_sample_submission,
    test_ids_match_the_sample_submission,
    the_writer_keeps_distinct_answers,
    decisions_survive_rescaling,
    a_hidden_test_of_any_size_works,
    imports_travel,
    recipes_load_quietly,
)


def run_checks(
    competition: str | Competition, data: Path | str | None = None, home: Path | str | None = None, rows: int = 200
) -> list[Result]:
    """All checks of a competition, by name or as an adapter. data: default `data/` in its folder. rows: files to try.

    Raises NotFound for an unknown name; whatever the adapter does wrong becomes a failed result.
    """
    if isinstance(competition, str):
        folder = competition_folder(competition, home)
        try:
            competition = load_adapter(folder)
        except Exception as error:  # noqa: BLE001 - an adapter may raise anything; it is told as a failed check
            return [Result("adapter_loads", False, str(explained(error, folder)))]
    folder = Path(competition.folder) if competition.folder else Path()
    context = Context(competition, Path(data) if data else folder / "data", rows)
    return [Result("adapter_loads", True), *(run_check(check, context) for check in CHECKS)]


def run_check(check: Callable[[Context], str | None], context: Context) -> Result:
    """One check as a result, without a traceback whatever the adapter raises."""
    try:
        return Result(check.__name__, True, check(context) or "")
    except Skipped as reason:
        return Result(check.__name__, True, str(reason), skipped=True)
    except Exception as error:  # noqa: BLE001 - an adapter may raise anything; it is told as a failed check
        return Result(check.__name__, False, str(explained(error, context.competition.folder)))


def explained(error: Exception, folder: Path | None) -> KitError:
    """An exception of adapter code as a KitError that names its type, its message and the adapter's line."""
    if isinstance(error, KitError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if folder and Path(frame.filename).is_relative_to(folder)]
    at = (own or frames)[-1]
    line = f"{Path(at.filename).name}, line {at.lineno}, in {at.name}: {at.line}"
    if isinstance(error, SyntaxError) and error.filename:
        line = f"{Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()}"
    fix = "mend that line" if own or isinstance(error, SyntaxError) else "see what the adapter handed to that line"
    return CheckFailed("code that runs", f"{type(error).__name__}: {error}\n          at {line}", fix)


# Helpers


def spread(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows, evenly spread over the frame."""
    return frame.iloc[np.linspace(0, len(frame) - 1, min(len(frame), most)).round().astype(int)]


def balanced(units: pd.DataFrame, columns: list[str], most: int) -> pd.DataFrame:
    """About `most` rows with each combination of labels as often as can be."""
    groups = units.groupby(columns, sort=False, dropna=False)
    return groups.head(max(2, most // max(1, groups.ngroups)))


def mixed(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows in another order, numbered afresh."""
    return table.iloc[np.random.RandomState(seed).permutation(len(table))].reset_index(drop=True)


def rows_of(frame: pd.DataFrame) -> Iterator[Row]:
    """The rows as `read` gets them."""
    return (Row({str(name): value for name, value in row.items()}) for row in frame.to_dict("records"))


def require_array(array: Any, row: Row) -> None:
    """Refuse what neither cache nor network could take."""
    if not isinstance(array, np.ndarray) or str(array.dtype) not in DTYPES or not array.size:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise CheckFailed(
            f"an array of {', '.join(DTYPES)} for {row.sample_id!r}", found, "convert it in `read` of the adapter"
        )


def require_same_rows(wanted: pd.DataFrame, found: pd.DataFrame, after: str) -> None:
    """Refuse tables whose rows, order aside, are not the same."""
    one, two = (Counter(table.astype(str).itertuples(index=False, name=None)) for table in (wanted, found))
    if one != two:
        raise CheckFailed(
            f"the same rows in the submission after {after}",
            f"changed: {examples(list((two - one).keys()))}",
            "pair cells with ids through the index in `submission`, never by position",
        )


def module_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of each import that runs when the module is imported: those inside functions are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            public = [origin if origin != "kit" or one.name in kit.__all__ else f"kit.{one.name}" for one in node.names]
            yield from ((name, node.lineno) for name in dict.fromkeys(public))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from module_imports(node)


def travels(name: str) -> bool:
    """Whether an imported module is there on Kaggle."""
    if name == "kit" or name.startswith("kit."):
        return name == "kit" or name == "kit.offline" or name.startswith("kit.offline.")
    root = name.split(".")[0]
    return root in TRAVELLING or root in sys.stdlib_module_names


@contextmanager
def no_files_touched() -> Iterator[None]:
    """Refuse to open, list or make files. The import system has ways of its own, which stay open."""

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise CheckFailed(
            "a recipes.py that touches no file when imported", f"{arguments[0]!s}", "move it into a function"
        )

    with ExitStack() as stack:
        for module, name in (
            (builtins, "open"),
            (io, "open"),
            (os, "open"),
            (os, "listdir"),
            (os, "scandir"),
            (os, "mkdir"),
        ):
            stack.enter_context(mock.patch.object(module, name, refuse))
        yield
