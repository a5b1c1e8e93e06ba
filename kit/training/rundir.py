"""A run on disk, named by its recipe and a hash of all that shapes its result: the same command goes on with it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kit.offline import answers
from kit.offline.answers import Part, blend_parts, part_of, scored_rows
from kit.offline.contract import Competition
from kit.offline.errors import LockedError, NotFound, RunError, did_you_mean
from kit.offline.files import sha256_of, write_json, write_whole
from kit.offline.golden import version_here
from kit.offline.places import competition_folder, home_folder, list_competitions, load_module
from kit.offline.predictions import Gallery, Predictions, join, load_predictions
from kit.offline.tasks import Learned, settings_of, task_from
from kit.training.code import code_hash, function_hash
from kit.training.recipe import FIELDS, Recipe, plain

SCHEMA = 1
ALL = -1
"""In the place of a fold's number: the fit on all rows."""
PACKAGES = ("torch", "timm", "numpy", "pandas", "scikit-learn", "opencv-python-headless", "pillow", "albumentations")
FEEDING = ("read", "cut", "combine")
"""Members of the adapter that stand between a file and a prediction."""
FORKS = ("model.py", "train.py")
SOURCES = ("adapter.py", "recipes.py", *FORKS)
SHAPING = ("recipe", "functions", "folds", "learned", "code", "pretrained", "pseudo", "labels")
"""What shapes a run's result, and so its name."""


@dataclass(frozen=True)
class Run:
    """A run (or a blend) and its record, `run.json`."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def folds(self) -> list[int]:
        """The folds that are done, sorted; of a blend, those its members share."""
        if self.is_blend:
            return list(self.record["folds_blended"])
        return sorted(int(path.parent.name.removeprefix("fold")) for path in self.folder.glob("fold*/done.json"))

    def fold(self, number: int) -> Path:
        """The folder of one fold, or of the fit on all rows."""
        return self.folder / ("all" if number == ALL else f"fold{number}")

    def is_done(self, number: int) -> bool:
        """Whether a fold, or the fit on all rows, is trained."""
        return (self.fold(number) / "done.json").is_file()

    @property
    def has_begun(self) -> bool:
        """Whether run.json is written."""
        return (self.folder / "run.json").is_file()

    @property
    def is_blend(self) -> bool:
        return "members" in self.record

    def require_whole(self, number: int, only: str | None = None) -> None:
        """Raise RunError where a file of a trained fold, or `only` this one, is not by its hash what training wrote."""
        folder = self.fold(number)
        for name, sha256 in (self.read(f"{folder.name}/done.json") or {}).get("sha256", {}).items():
            if only not in (None, name):
                continue
            if not (folder / name).is_file() or sha256_of(folder / name) != sha256:
                fix = f"restore it, or delete {folder} and train the fold again"
                raise RunError(f"{folder / name} as it was trained", "missing or changed", fix)

    def read(self, file: str) -> Any:
        """A JSON file of the run, or None where it is not there yet."""
        path = self.folder / file
        return json.loads(path.read_text()) if path.is_file() else None


def name_of_fold(number: int) -> str:
    """A fold's number as text, or "all"."""
    return "all" if number == ALL else str(number)


def plan_run(
    competition: Competition,
    name: str,
    recipe: Recipe,
    table: pd.DataFrame,
    folds_sha256: str,
    labels_sha256: str,
    learned: Learned,
    scheme: str | None,
) -> Run:
    """The run of a recipe: found by its hash, or as it would begin. Nothing is written."""
    assert competition.folder is not None, "competitions are loaded from a folder"
    shaping = {**_shaping(competition.folder, recipe, folds_sha256, learned), "labels": labels_sha256}
    digest = _hash_of({**shaping, "recipe": _lasting(shaping["recipe"])})
    folder = competition.folder / "runs" / f"{name}-{digest[:6]}"
    if (folder / "run.json").is_file():
        return _same(read_run(folder), digest)
    record = {
        "schema": SCHEMA,
        "slug": competition.slug,
        "competition": competition.folder.name,
        "recipe_name": name,
        **shaping,
        "code_sha256": digest,
        "folds_of": int(table["fold"].max()) + 1,
        "scheme": scheme,
        "seed": recipe.seed,
        "threads": torch.get_num_threads(),
        "task": settings_of(competition.task),
        "columns": list(competition.task.outputs(learned)),
        "git": git_state(competition.folder),
        "versions": versions(),
        "started": _now(),
    }
    return Run(folder, record)


def begin_run(run: Run, competition: Competition, table: pd.DataFrame) -> None:
    """Write a planned run's run.json and source/; nothing where it has begun."""
    assert competition.folder is not None, "competitions are loaded from a folder"
    if not run.has_begun:
        _keep_source(competition.folder, run.folder / "source", table)
        write_json(run.folder / "run.json", run.record)


def shaping_hashes(run: Run) -> dict[str, str]:
    """A hash of each thing that shapes a run's result: where two runs differ, they tell by what."""
    return {part: _hash_of(_lasting(run.record[part]) if part == "recipe" else run.record[part]) for part in SHAPING}


def _lasting(recipe: dict[str, Any]) -> dict[str, Any]:
    """A plain recipe less its loader processes: a fold may go on with others, they change no sample."""
    return {**recipe, "workers": None}


def _hash_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str | None]:
    """Of Python and the packages that train; None for one that is not installed (Kaggle has several OpenCVs)."""
    return {name: version_here(name) for name in ("python", *PACKAGES)}


def _shaping(folder: Path, recipe: Recipe, folds_sha256: str, learned: Learned) -> dict[str, Any]:
    """All that shapes a run's result, and so its name. Formatting and scoring do not: they are done anew each time."""
    code = {"adapter.py": code_hash(folder / "adapter.py", without=("submission", "score", "unit_scores"))}
    code |= {file: code_hash(folder / file) for file in FORKS if (folder / file).is_file()}
    return {
        "recipe": plain(recipe),
        "functions": {name: function_hash(getattr(recipe, name)) for name in FIELDS if callable(getattr(recipe, name))},
        "folds": folds_sha256,
        "learned": learned,
        "code": code,
        "pretrained": _weights_hash(recipe, folder),
        "pseudo": _pseudo_hash(recipe, folder),
    }


def labels_hash(competition: Competition, frame: pd.DataFrame, data: Path) -> str:
    """SHA-256 of what rows say beside their pixels, whatever their order: labels, numbers beside the image, weights.

    Cells that name a file of `data` count by its place there, wherever that is.
    """
    columns = ["sample_id", *competition.task.label_columns, *competition.table, "weight"]
    table = frame.sort_values("sample_id").reindex(columns=list(dict.fromkeys(columns)))
    text = table.to_csv(index=False, lineterminator="\n")
    for place in (data.resolve(), data.absolute()):  # which differ where the folder is a link
        text = text.replace(str(place), "")
    return hashlib.sha256(text.encode()).hexdigest()


def require_same_code(run: Run, folder: Path) -> None:
    """Raise RunError where what feeds a run's networks is no longer what they were trained with.

    That is `read`, `cut` and `combine` of the adapter with all they mention, and model.py. The rest may be mended after
    training: a test frame, formats, scores.
    """
    then = run.folder / "source"
    adapters = [place / "adapter.py" for place in (folder, then)]
    changed = [name for name in FEEDING if len({code_hash(path, only=name) for path in adapters}) > 1]
    networks = [place / "model.py" for place in (folder, then)]
    if len({code_hash(path) if path.is_file() else "" for path in networks}) > 1:
        changed.append("model.py")
    if changed:
        raise RunError(
            f"{', '.join(changed)} in {folder} as {run.name} was trained with them",
            "other code (comments aside)",
            f"put back what {then} keeps, or train again",
        )


def _same(run: Run, digest: str) -> Run:
    """The run, if it is the one of that hash: six digits of it may meet by chance."""
    if run.record["code_sha256"] != digest:
        raise RunError(
            f"the run of hash {digest[:12]} in {run.folder}",
            f"one of hash {run.record['code_sha256'][:12]}",
            "rename the recipe, or delete that run",
        )
    return run


def _keep_source(folder: Path, to: Path, table: pd.DataFrame) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for file in SOURCES:
        if (folder / file).is_file():
            write_whole(to / file, (folder / file).read_bytes())
    write_whole(to / "folds.csv", table.to_csv(index=False, lineterminator="\n").encode())


def _weights_hash(recipe: Recipe, folder: Path) -> str:
    """Hash of the pretrained file, so that other weights at the same path (they have the same size) are another run."""
    path = folder.parent.parent / str(recipe.pretrained)
    file = path / "model.safetensors" if path.is_dir() else path
    return sha256_of(file) if isinstance(recipe.pretrained, str) and file.is_file() else str(recipe.pretrained)


def _pseudo_hash(recipe: Recipe, folder: Path) -> str | None:
    """Hash of the soft labels, so that others at the same path are another run."""
    file = folder.parent.parent / str(recipe.pseudo)
    return sha256_of(file) if recipe.pseudo and file.is_file() else recipe.pseudo


def read_run(folder: Path) -> Run:
    """The run in a folder."""
    return Run(folder, json.loads((folder / "run.json").read_text()))


def list_runs(competition_folder: Path) -> list[Run]:
    """Runs and blends of a competition, oldest first."""
    found = [read_run(path.parent) for path in (competition_folder / "runs").glob("*/run.json")]
    return sorted(found, key=lambda run: (run.record["started"], run.name))


def find_run(competition_folder: Path, name: str) -> Run:
    """The run of that name, or the only one whose name begins so. Raises NotFound with the nearest name."""
    runs = {run.name: run for run in list_runs(competition_folder)}
    matching = [run for run in runs.values() if run.name.startswith(name)]
    if name in runs or len(matching) == 1:
        return runs.get(name) or matching[0]
    wanted = f"a run {name!r} in {competition_folder / 'runs'}"
    if matching:
        found = f"{len(matching)} begin so: {', '.join(run.name for run in matching)}"
        raise NotFound(wanted, found, "write the name of one of them out; kit runs shows them")
    raise NotFound(wanted, f"runs: {', '.join(runs) or 'none'}", did_you_mean(name, runs))


def find_run_anywhere(name: str, home: Path | None = None) -> Run:
    """The run of that name in any competition; names end in a hash, so they hardly meet. Raises NotFound."""
    folders = [competition_folder(each, home) for each in list_competitions(home)]
    found = {run.name: run for folder in folders for run in list_runs(folder)}
    if name not in found:
        fix = did_you_mean(name, found)
        raise NotFound(f"a run {name!r} below {home_folder(home) / 'competitions'}", f"{len(found)} others", fix)
    return found[name]


def competition_of(run: Run, competition: Competition) -> Competition:
    """The competition with the task that the run trained; a blend is decoded by the competition's own."""
    if run.is_blend:
        return competition
    assert competition.folder is not None, "competitions are loaded from a folder"
    return competition.with_task(task_from(run.record["task"], load_module(competition.folder, "adapter")))


def parts_of(
    run: Run, competition: Competition, frame: pd.DataFrame, folds: list[int] | None = None
) -> dict[int, Part]:
    """OOF by fold, at the level of units. A blend's is made from its members' each time: nothing can drift apart."""
    wanted = run.folds if folds is None else folds
    if run.is_blend:
        return _parts_of_blend(run, competition, frame, wanted)
    own, scored, parts = competition_of(run, competition), scored_rows(frame), {}
    for number in wanted:
        path = run.fold(number)
        run.require_whole(number, only="gallery.safetensors")
        gallery = Gallery.load(path / "gallery.safetensors") if (path / "gallery.safetensors").is_file() else None
        parts[number] = part_of(own, scored, load_predictions(path / "oof"), gallery)
    return parts


def _parts_of_blend(blend: Run, competition: Competition, frame: pd.DataFrame, folds: list[int]) -> dict[int, Part]:
    members = []
    for member in blend.record["members"]:
        parts = parts_of(find_run(blend.folder.parent.parent, member["run"]), competition, frame, folds)
        parts = ranked(parts, np.asarray(member["quantiles"])) if "quantiles" in member else parts
        members.append(list(parts.values()))
    weights = [member["weight"] for member in blend.record["members"]]
    return dict(zip(folds, blend_parts(members, weights), strict=True))


def ranked(parts: dict[int, Part], quantiles: np.ndarray) -> dict[int, Part]:
    """Vector predictions as their places among a run's OOF quantiles (C x Q)."""
    return {
        number: Part(part.predictions.ranked(quantiles), part.gallery)
        for number, part in parts.items()
        if isinstance(part.predictions, Predictions)
    }


def summarise(run: Run, competition: Competition, frame: pd.DataFrame) -> dict[str, Any]:
    """Join the folds' OOF, fit the task's decisions on it and score it: oof.npz, learned.json and, last, score.json."""
    own = competition_of(run, competition)
    stored = [load_predictions(run.fold(number) / "oof") for number in run.folds]
    if not own.task.retrieval and all(isinstance(one, Predictions) for one in stored):
        join(stored).save(run.folder / "oof.npz")
    recipe = run.record["recipe"]
    chosen = recipe["keep"] == "best" or recipe.get("patience")  # runs of before the field have none
    fitted = ["epoch"] if chosen and recipe["epochs"] > 1 else []
    parts = parts_of(run, competition, frame)
    flattery = optimism(run, own.greater_is_better) if fitted else None
    return write_score(run, own, frame, parts, run.record["learned"], fitted, flattery)


def optimism(run: Run, greater_is_better: bool) -> float | None:
    """How much the choice of epochs flatters, from log.jsonl (one view): the mean over folds of a fold's score at its
    best epoch, less that at the epoch which is best for the mean of the others.

    None with one fold, without logs (a train.py of the competition's own may keep none), or where a score is undefined
    in the epochs that all folds trained.
    """
    logs = [
        path.read_text().splitlines()
        for path in (run.fold(number) / "log.jsonl" for number in run.folds)
        if path.is_file()
    ]
    scores = [[json.loads(line)["score"] for line in log] for log in logs]
    common = min(map(len, scores), default=0)
    if (
        len(scores) < max(2, len(run.folds))
        or None in (score for fold in scores for score in fold[:common])
        or not common
    ):
        return None
    table = np.array([fold[:common] for fold in scores])
    sign = 1.0 if greater_is_better else -1.0
    others = (sign * (table.sum(axis=0) - table)).argmax(axis=1)
    own, honest = (sign * table).max(axis=1), (sign * table)[np.arange(len(table)), others]
    return float((own - honest).mean())


def write_score(
    run: Run,
    competition: Competition,
    frame: pd.DataFrame,
    parts: dict[int, Part],
    learned: Learned,
    fitted: list[str],
    flattery: float | None = None,
) -> dict[str, Any]:
    """learned.json and score.json of a run or blend from its parts. fitted: what else was chosen on the scored rows.
    flattery: see `optimism`.

    The cross-fitted score fits the task's decisions for each fold on the others; a blend's fits its weights so too.
    """
    every = list(parts.values())
    known = answers.tuned(competition, frame, every, learned)
    if run.is_blend:
        honest = run.record["cross_fitted_by_method"][run.record["method"]]
    else:
        honest = number_or_none(answers.cross_fitted(competition, frame, every, learned))
    per_fold = {number: answers.score_of(competition, frame, [part], known) for number, part in parts.items()}
    finite = [value for value in per_fold.values() if np.isfinite(value)]
    score = {
        "folds": {str(number): number_or_none(value) for number, value in per_fold.items()},
        "pooled": number_or_none(answers.score_of(competition, frame, every, known)),
        "spread": number_or_none(float(np.std(finite, ddof=1)) if len(finite) > 1 else float("nan")),
        "cross_fitted": honest,
        "units": int(sum(len(part.predictions) for part in every)),
        "folds_of": run.record["folds_of"],
        "fitted_on_scored_rows": fitted,
        "optimism_of_epoch": flattery,
        "greater_is_better": competition.greater_is_better,
    }
    write_json(run.folder / "learned.json", known)
    write_json(run.folder / "score.json", score)
    return score


def number_or_none(value: float) -> float | None:
    """A score as JSON holds it: None where it is undefined."""
    return float(value) if np.isfinite(value) else None


def git_state(folder: Path) -> dict[str, Any]:
    """Commit, and whether Python files differ from it; both unknown outside a repository."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    if shutil.which("git") is None or git("rev-parse", "HEAD") is None:
        return {"commit": "unknown", "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", ":(top)*.py"))}


def _now() -> str:
    """For people to read: nothing is decided by a clock."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold the run's lock. Raises LockedError where another process holds it for ten seconds more.

    It goes with the process, however that ends, and loader processes do not inherit it; a killed one may still be busy
    giving back its memory.
    """
    with (run.folder / "run.lock").open("a+") as file:
        for wait in (0.0, 0.5, 1.5, 3.0, 5.0):
            time.sleep(wait)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                continue
        else:
            file.seek(0)
            raise LockedError(
                f"{run.name} to be trained by one process",
                f"another trains it: {file.read().strip()}",
                "wait for it, or stop it",
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {_now()}")
        file.flush()
        yield


def table_of(runs: list[Run]) -> list[dict[str, Any]]:
    """A row per run for `kit runs`: name, folds done, scores, spread, minutes."""
    rows = []
    for run in runs:
        score = run.read("score.json") or {}
        done = [] if run.is_blend else [run.read(f"fold{number}/done.json") for number in run.folds]
        rows.append(
            {
                "run": run.name,
                "folds": f"{len(score.get('folds', {}))}/{run.record['folds_of']}"
                + (" and all" if run.is_done(ALL) else ""),
                "pooled": score.get("pooled"),
                "spread": score.get("spread"),
                "cross_fitted": score.get("cross_fitted"),
                "by_fold": score.get("folds", {}),
                "minutes": round(sum(one["seconds"] for one in done) / 60, 2),
                "fitted": score.get("fitted_on_scored_rows", []),
                "optimism_of_epoch": score.get("optimism_of_epoch"),
                "started": run.record["started"],
            }
        )
    return rows
