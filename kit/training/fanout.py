"""Cross-validation: the folds of a recipe, one after another, each started only if it is not done."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kit.offline.contract import Competition
from kit.offline.errors import DataError, Diverged, FoldError, RunError, examples
from kit.offline.files import sweep
from kit.offline.frames import checked
from kit.offline.models import require_weights
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
from kit.training.optim import require_optimizer
from kit.training.pseudo import SoftLabels, require_fit, with_soft
from kit.training.recipe import Recipe
from kit.training.rundir import (
    ALL,
    FORKS,
    Run,
    begin_run,
    labels_hash,
    list_runs,
    locked,
    name_of_fold,
    plan_run,
    shaping_hashes,
    summarise,
)
from kit.training.track import tracking

SMOKE_ROWS = 64


@dataclass(frozen=True)
class Ground:
    """What every run of a competition stands on.

    frame: the checked training frame with fold numbers. folds: the file of the frozen table. folds_sha256: its hash.
    """

    competition: Competition
    frame: pd.DataFrame
    folds: Path
    folds_sha256: str
    data: Path
    scheme: str | None = None

    @property
    def table(self) -> pd.DataFrame:
        """The frozen table, read anew: kept, its texts would take 500 bytes a row."""
        return load_folds(self.folds)


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
    count, declared = int(table["fold"].max()) + 1, competition.scheme(scheme).n
    if count != declared:
        say(f"{path} holds {count} folds, the adapter now says {declared}: the frozen ones count until it is deleted")
    return Ground(competition, frame, path, fold_hash(table), data, scheme)


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


def planned(ground: Ground, name: str, recipe: Recipe) -> Run:
    """The run that a recipe trains: found, or as it would begin. Nothing is written."""
    competition = ground.competition.with_task(recipe.task)
    assert competition.folder is not None, "competitions are loaded from a folder"
    if recipe.task is not None:  # told now: scores and bundles build it from its settings once the folds are trained
        task_from(settings_of(recipe.task), load_module(competition.folder, "adapter"))
    learned = competition.task.learn(ground.frame)
    labels = labels_hash(competition, ground.frame, ground.data)
    return plan_run(competition, name, recipe, ground.table, ground.folds_sha256, labels, learned, ground.scheme)


def folds_to_train(run: Run, folds: Sequence[int] | None) -> list[int]:
    """Fold numbers in order, the fit on all rows last; every fold for None. Raises FoldError for one that is not."""
    count = run.record["folds_of"]
    wanted = sorted(range(count) if folds is None else set(folds), key=lambda number: (number == ALL, number))
    if set(wanted) - {ALL, *range(count)}:
        raise FoldError(f"folds 0 to {count - 1}, or all", str(wanted), "name folds of the frozen table")
    return wanted


def train_run(
    ground: Ground,
    name: str,
    recipe: Recipe,
    folds: Sequence[int] | None = None,
    home: Path = Path(),
    say: Callable[[str], None] = print,
    track: str | None = None,
) -> Run:
    """Train the folds of a recipe that are not done yet and score the run.

    folds: None for every fold; ALL among them is a fit on all rows, which needs every fold done: for as many epochs as
    the recipe has, or as the folds kept at the median where they chose. A fold that diverges does not stop the others.
    track: a name of track.TRACKERS, which is told each epoch.
    """
    competition = ground.competition.with_task(recipe.task)
    assert competition.folder is not None, "competitions are loaded from a folder"
    run = planned(ground, name, recipe)
    learned, wanted = run.record["learned"], folds_to_train(run, folds)
    if not run.has_begun and not any(has_module(competition.folder, Path(fork).stem) for fork in FORKS):
        require_weights(recipe.backbone, recipe.pretrained, home)  # a fork may know other networks
    if not run.has_begun:
        require_optimizer(recipe.optimizer)  # a misspelt one would leave a run that nothing finishes
        tell_unfinished(run, say)
    begin_run(run, competition, ground.table)
    soft = SoftLabels.load(home / recipe.pseudo) if recipe.pseudo else None
    if soft is not None:
        require_fit(soft, competition, ground.frame, ground.folds_sha256, competition.task.outputs(learned))
    train = _trainer(competition.folder)
    failed: list[Diverged] = []
    with locked(run):
        sweep(run.folder)
        done = [number for number in wanted if run.is_done(number)]
        for number in done:
            say(f"fold {name_of_fold(number)} of {run.name} is done: skipped")
            checkpoint.clear(run.fold(number))  # a kill may have left its state
        if done:  # the adapter's formats and score may have been mended since
            summarise(run, ground.competition, ground.frame)
        for number in wanted:
            if number in done:
                continue
            everything = number == ALL
            rows, held = (ground.frame, ground.frame.head(0)) if everything else split(ground.frame, number)
            fold = Fold(
                competition=competition,
                recipe=replace(recipe, keep="last", patience=None) if everything else recipe,
                learned=learned,
                number=number,
                train=rows if soft is None else with_soft(rows, soft),
                held=held,
                every=ground.frame if soft is None else with_soft(ground.frame, soft),
                data=ground.data,
                folder=run.fold(number),
                cache=competition.folder / "cache",
                home=home,
                say=say,
                soft=None if soft is None else soft.of(number),
                epochs=justified_epochs(run) if everything else None,
            )
            try:
                with tracking(track, fold.folder, run.name, run.record["recipe"]) as told:
                    train(replace(fold, track=told))
            except Diverged as error:
                failed.append(error)
                say(f"fold {fold.name} stopped\n{error}")
                continue
            if not everything:
                summarise(run, ground.competition, ground.frame)
    if failed:
        raise failed[0]
    return run


def train_seeds(
    ground: Ground,
    name: str,
    recipes: Sequence[Recipe],
    folds: Sequence[int] | None = None,
    home: Path = Path(),
    say: Callable[[str], None] = print,
    track: str | None = None,
) -> list[Run]:
    """`train_run` of each of `recipes`, which differ in their seed; one that diverges does not stop the others."""
    runs, failed = [], []
    for recipe in recipes:
        try:
            runs.append(train_run(ground, name, recipe, folds, home, say, track))
        except Diverged as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return runs


def tell_unfinished(run: Run, say: Callable[[str], None]) -> None:
    """Say of a run that is to begin by what it differs from runs of the same recipe's name that are unfinished."""
    ours = shaping_hashes(run)
    for other in list_runs(run.folder.parent.parent):
        if other.is_blend or other.record["recipe_name"] != run.record["recipe_name"]:
            continue
        if len(other.folds) < other.record["folds_of"]:
            differing = [part for part, digest in shaping_hashes(other).items() if digest != ours[part]]
            theirs, now = other.record["recipe"], run.record["recipe"]
            fields = [name for name in now if name != "workers" and theirs.get(name) != now[name]]
            told = ", ".join(f"recipe ({', '.join(fields)})" if part == "recipe" else part for part in differing)
            say(f"{run.name} begins anew; {other.name}, which is unfinished, had other {told}")


def justified_epochs(run: Run) -> int:
    """Epochs for a fit on all rows, where nothing tells when to stop: the median of what the folds kept.

    Raises RunError where a fold is not done.
    """
    lacking = sorted(set(range(run.record["folds_of"])) - set(run.folds))
    if lacking:
        found = f"folds {lacking} not done"
        raise RunError(f"every fold of {run.name} done before a fit on all rows", found, "train them first")
    return round(float(np.median([run.read(f"fold{number}/done.json")["kept_epoch"] for number in run.folds])))


def _trainer(folder: Path) -> Callable[[Fold], None]:
    """The competition's own train_fold, if it has a train.py, else the kit's."""
    return load_module(folder, "train").train_fold if has_module(folder, "train") else train_fold


def smoke(ground: Ground, recipe: Recipe, home: Path = Path(), say: Callable[[str], None] = print) -> None:
    """One short epoch on few rows of fold 0 in a scratch folder: does it all hang together? Nothing is kept."""
    competition = ground.competition.with_task(recipe.task)
    assert competition.folder is not None, "competitions are loaded from a folder"
    rows, held = (part.head(SMOKE_ROWS) for part in split(ground.frame, 0))
    batch = min(recipe.batch_size, 16)
    few = replace(recipe, epochs=1, batch_size=batch, freeze_epochs=0, mix_off_epochs=0)  # type: ignore[type-var]
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
