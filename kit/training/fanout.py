"""Cross-validation: the folds of a recipe, one after another, each started only if it is not done."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from kit.offline.contract import Competition
from kit.offline.errors import DataError, FoldError, examples
from kit.offline.frames import checked
from kit.offline.places import has_module, load_module, missing_files
from kit.offline.tasks import settings_of, task_from
from kit.training import checkpoint
from kit.training.folds import (
    fold_file,
    fold_hash,
    load_folds,
    make_folds,
    rare_labels,
    require_declared_group,
    save_folds,
    split,
    with_folds,
)
from kit.training.loop import Fold, train_fold
from kit.training.recipe import Recipe
from kit.training.rundir import Run, labels_hash, locked, open_run, summarise

SMOKE_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Ground:
    """What every run of a competition stands on: the checked training frame with fold numbers, and the frozen table."""

    competition: Competition
    frame: pd.DataFrame
    table: pd.DataFrame
    folds_sha256: str
    data: Path
    scheme: str | None = None


def open_ground(
    competition: Competition, data: Path, scheme: str | None = None, say: Callable[[str], None] = print
) -> Ground:
    """Read and check the training frame, and freeze its folds if that was not done yet."""
    assert competition.folder is not None, "competitions are loaded from a folder"
    frame = training_frame(competition, data)
    scheme = competition.scheme_key(scheme)
    path = fold_file(competition.folder, scheme)
    if not path.is_file():
        save_folds(make_folds(competition, frame, scheme), path)
        say(f"folds frozen in {path}")
        if rare := rare_labels(competition, frame, scheme):
            say(f"labels with fewer units than folds, absent from some: {examples(rare)}")
    table = load_folds(path)
    frame = with_folds(frame, table, path)
    require_declared_group(competition, frame, scheme)
    return Ground(competition, frame, table, fold_hash(table), data, scheme)


def training_frame(competition: Competition, data: Path) -> pd.DataFrame:
    """The adapter's training frame, checked: text ids, labels' columns, listed files. Raises DataError."""
    if not data.is_dir():
        raise DataError(f"the host's files in {data}", "no such folder", "put them there, or pass --data DIR")
    frame = checked(competition.train_frame(data), "train_frame", competition.task.columns)
    competition.task.learn(frame)  # a label in no class is told before folds are frozen with it
    if "path" in frame.columns:
        gone = sorted(missing_files(data, frame["path"]))
        if gone:
            raise DataError(
                f"the {len(frame)} files that train_frame lists in {data}",
                f"missing: {examples(gone)}",
                "download them again, or drop their rows in the adapter",
            )
    return frame


def train_run(
    ground: Ground,
    name: str,
    recipe: Recipe,
    folds: Sequence[int] | None = None,
    home: Path = Path(),
    say: Callable[[str], None] = print,
) -> Run:
    """Train the folds of a recipe that are not done yet and score the run. folds: None for all."""
    competition = ground.competition.with_task(recipe.task)
    assert competition.folder is not None, "competitions are loaded from a folder"
    if recipe.task is not None:  # told now: scores and bundles build it from its settings once the folds are trained
        task_from(settings_of(recipe.task), load_module(competition.folder, "adapter"))
    learned = competition.task.learn(ground.frame)
    labels = labels_hash(competition, ground.frame, ground.data)
    run = open_run(competition, name, recipe, ground.table, ground.folds_sha256, labels, learned, ground.scheme)
    count = run.record["folds_of"]
    wanted = list(range(count)) if folds is None else list(folds)
    if set(wanted) - set(range(count)):
        raise FoldError(f"folds 0 to {count - 1}", str(wanted), "name folds of the frozen table")
    train = _trainer(competition.folder)
    with locked(run):
        done = [number for number in wanted if number in run.folds]
        for number in done:
            say(f"fold {number} of {run.name} is done: skipped")
            checkpoint.clear(run.fold(number))  # a kill may have left its state
        if done:  # the adapter's formats and score may have been mended since
            summarise(run, ground.competition, ground.frame)
        for number in wanted:
            if number in done:
                continue
            rows, held = split(ground.frame, number)
            train(
                Fold(
                    competition=competition,
                    recipe=recipe,
                    learned=learned,
                    number=number,
                    train=rows,
                    held=held,
                    every=ground.frame,
                    data=ground.data,
                    folder=run.fold(number),
                    cache=competition.folder / "cache",
                    home=home,
                    say=say,
                )
            )
            summarise(run, ground.competition, ground.frame)
    return run


def _trainer(folder: Path) -> Callable[[Fold], None]:
    """The competition's own train_fold, if it has a train.py, else the kit's."""
    return load_module(folder, "train").train_fold if has_module(folder, "train") else train_fold


def smoke(ground: Ground, recipe: Recipe, home: Path = Path(), say: Callable[[str], None] = print) -> None:
    """One short epoch on few rows of fold 0 in a scratch folder: does it all hang together? Nothing is kept."""
    competition = ground.competition.with_task(recipe.task)
    assert competition.folder is not None, "competitions are loaded from a folder"
    rows, held = (part.head(SMOKE_ROWS) for part in split(ground.frame, 0))
    batch = min(recipe.batch_size, 16)
    few = dataclasses.replace(recipe, epochs=1, batch_size=batch, freeze_epochs=0, mix_off_epochs=0)  # type: ignore[type-var]
    with tempfile.TemporaryDirectory() as scratch:
        _trainer(competition.folder)(
            Fold(
                competition=competition,
                recipe=few,
                learned=competition.task.learn(ground.frame),
                number=0,
                train=rows,
                held=held,
                every=pd.concat([rows, held]),
                data=ground.data,
                folder=Path(scratch) / "fold0",
                cache=Path(scratch) / "cache",
                home=home,
                say=say,
            )
        )
