"""Ensembles of runs: weights fitted on OOF, their worth told by cross-fitting, the result kept as a run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from kit.offline.answers import Part, blend_parts, cross_fitted, score_of, tuned
from kit.offline.contract import Competition
from kit.offline.errors import RunError, did_you_mean
from kit.offline.files import write_json
from kit.offline.predictions import Predictions, join
from kit.offline.tasks import Learned
from kit.training.rundir import SCHEMA, Run, number_or_none, parts_of, ranked, write_score

METHODS = ("mean", "rank", "climb", "convex")
FITTING = ("climb", "convex")
ROUNDS = 50
"""Members that hill climbing draws at most, with replacement (Caruana et al. 2004)."""
PATIENCE = 5
"""Rounds without a gain after which it stops."""

UNDEFINED = -1e30
"""Stands for a score without number where differences are taken."""

Member = dict[int, Part]
Score = Callable[[Sequence[float], Sequence[int]], float]
"""(weights, folds) -> score of that blend on those folds, greater is better."""


def fit_weights(method: str, score: Score, members: int, folds: Sequence[int]) -> list[float]:
    """Weights that sum to one, fitted on the given folds.

    mean and rank fit nothing; climb picks members with replacement; convex searches the simplex.
    """
    if method not in FITTING or members == 1:
        return [1 / members] * members
    return _climb(score, members, folds) if method == "climb" else _convex(score, members, folds)


def _climb(score: Score, members: int, folds: Sequence[int]) -> list[float]:
    counts = np.zeros(members)
    best, kept, since = -np.inf, np.ones(members), 0
    for _ in range(ROUNDS):
        trials = [counts + one for one in np.eye(members)]
        scores = [score((trial / trial.sum()).tolist(), folds) for trial in trials]
        counts, since = trials[int(np.argmax(scores))], since + 1
        if max(scores) > best:
            best, kept, since = max(scores), counts, 0
        if since == PATIENCE:
            break
    return (kept / kept.sum()).tolist()


def _convex(score: Score, members: int, folds: Sequence[int]) -> list[float]:
    def weights(free: np.ndarray) -> list[float]:
        raised = np.exp(np.append(free, 0.0) - max(free.max(), 0.0))
        return (raised / raised.sum()).tolist()

    # Scores are step functions of the weights, so a search without derivatives, from steps that change them.
    found = minimize(
        lambda free: -max(score(weights(free), folds), UNDEFINED),
        np.zeros(members - 1),
        method="Nelder-Mead",
        options={
            "initial_simplex": np.vstack([np.zeros(members - 1), 2 * np.eye(members - 1)]),
            "maxfev": 30 * members,
            "xatol": 0.02,
            "fatol": 1e-6,
        },
    )
    candidates = [[1 / members] * members, weights(found.x), *np.eye(members).tolist()]
    return max(candidates, key=lambda candidate: score(candidate, folds))


def blend_runs(runs: Sequence[Run], competition: Competition, frame: pd.DataFrame, method: str = "climb") -> Run:
    """Blend runs over the folds they share, and keep the result as `runs/blend-<hash>/`.

    Every method's cross-fitted score goes into its record (of maps, that of the mean and of the chosen one): weights
    and decisions fitted on the other folds, scored on each. Raises RunError where runs stand on other folds, share none
    or predict other columns.
    """
    assert competition.folder is not None, "competitions are loaded from a folder"
    if method not in METHODS:
        raise RunError(f"a method out of {', '.join(METHODS)}", repr(method), did_you_mean(method, METHODS))
    _require_fit(runs, competition)
    folds = _shared_folds(runs)
    plain = [parts_of(run, competition, frame, folds) for run in runs]
    quantiles = _quantiles(plain)
    members = {name: plain for name in METHODS if name != "rank"}
    if quantiles is not None:
        members["rank"] = [ranked(parts, reference) for parts, reference in zip(plain, quantiles, strict=True)]
    if method not in members:
        raise RunError("rank averaging of vectors", "predictions of another kind", "use mean, climb or convex")
    learned = competition.task.learn(frame)
    # A score of maps reads every mask of every member: there the chosen method is compared with the mean alone.
    compared = dict.fromkeys(("mean", method)) if competition.task.dense else members
    honest = {name: _honest_score(name, members[name], competition, frame, learned, folds) for name in compared}
    weights = fit_weights(method, _score(members[method], competition, frame, learned), len(runs), folds)
    record = {
        **_shared_record(runs[0]),
        "learned": learned,
        "columns": list(competition.task.outputs(learned)),
        "folds_blended": folds,
        "members": [{"run": run.name, "weight": weight} for run, weight in zip(runs, weights, strict=True)],
        "method": method,
        "cross_fitted_by_method": honest,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if method == "rank" and quantiles is not None:
        for member, reference in zip(record["members"], quantiles, strict=True):
            member["quantiles"] = reference.tolist()
    return _keep(record, competition, frame)


def _require_fit(runs: Sequence[Run], competition: Competition) -> None:
    """Raise RunError unless the runs are several trainings on one fold table that predict the same columns."""
    if len({run.name for run in runs}) < len(runs) or not runs:
        raise RunError("different runs to blend", ", ".join(run.name for run in runs) or "none", "name each run once")
    first = runs[0]
    for run in runs:
        if run.is_blend:
            raise RunError("runs to blend", f"{run.name} is a blend", "name the runs it is made of")
        if run.record["folds"] != first.record["folds"]:
            raise RunError(
                f"runs on the same folds as {first.name} (fold hash {first.record['folds'][:12]})",
                f"{run.name} stands on folds {run.record['folds'][:12]}",
                "train both on one fold table: their OOF rows were held out differently",
            )
        # Embeddings may differ: they are blended as similarities to labels.
        if run.record["columns"] != first.record["columns"] and not competition.task.retrieval:
            raise RunError(
                f"runs that predict {first.record['columns']}, as {first.name} does",
                f"{run.name} predicts {run.record['columns']}",
                "blend runs whose tasks have the same outputs",
            )


def _shared_folds(runs: Sequence[Run]) -> list[int]:
    shared = sorted(set.intersection(*(set(run.folds) for run in runs)))
    if not shared:
        done = "; ".join(f"{run.name}: {run.folds}" for run in runs)
        raise RunError("a fold that all runs have done", done, "train a common fold")
    return shared


def _shared_record(run: Run) -> dict[str, Any]:
    names = ("slug", "competition", "folds", "folds_of", "scheme", "versions")
    return {"schema": SCHEMA, **{name: run.record[name] for name in names}}


def _quantiles(members: Sequence[Member]) -> list[np.ndarray] | None:
    """Each member's OOF quantiles, the reference of its ranks; None for maps and galleries."""
    found = []
    for member in members:
        tables = [part.predictions for part in member.values() if part.gallery is None]
        if len(tables) < len(member) or not all(isinstance(table, Predictions) for table in tables):
            return None
        found.append(join(tables).quantiles_of())  # type: ignore[union-attr]
    return found


def _blended(members: Sequence[Member], weights: Sequence[float], folds: Sequence[int]) -> list[Part]:
    return blend_parts([[member[number] for number in folds] for member in members], weights)


def _score(members: Sequence[Member], competition: Competition, frame: pd.DataFrame, learned: Learned) -> Score:
    """The score of a blend before its decisions are fitted: they are, once, when the weights stand."""
    sign = 1.0 if competition.greater_is_better else -1.0

    def score(weights: Sequence[float], folds: Sequence[int]) -> float:
        value = sign * score_of(competition, frame, _blended(members, weights, folds), learned)
        return value if np.isfinite(value) else -np.inf

    return score


def _honest_score(
    method: str,
    members: Sequence[Member],
    competition: Competition,
    frame: pd.DataFrame,
    learned: Learned,
    folds: Sequence[int],
) -> float | None:
    """The pooled score with each fold's weights and decisions fitted on the others; None where there are no others."""
    if len(folds) < 2:
        fits = method in FITTING and len(members) > 1
        parts = _blended(members, [1 / len(members)] * len(members), folds)
        return None if fits else number_or_none(cross_fitted(competition, frame, parts, learned))
    score = _score(members, competition, frame, learned)
    parts, known = [], []
    for number in folds:
        others = [other for other in folds if other != number]
        weights = fit_weights(method, score, len(members), others)
        parts += _blended(members, weights, [number])
        known.append(tuned(competition, frame, _blended(members, weights, others), learned))
    return number_or_none(score_of(competition, frame, parts, known))


def _keep(record: dict[str, Any], competition: Competition, frame: pd.DataFrame) -> Run:
    """Write a blend: oof.npz (units, for vectors), learned.json, score.json and, last, run.json."""
    assert competition.folder is not None, "competitions are loaded from a folder"
    named = [record["members"], record["method"], record["folds_blended"]]
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    run = Run(competition.folder / "runs" / f"blend-{digest[:6]}", record)
    run.folder.mkdir(parents=True, exist_ok=True)
    parts = parts_of(run, competition, frame)
    tables = [part.predictions for part in parts.values() if part.gallery is None]
    if len(tables) == len(parts) and all(isinstance(table, Predictions) for table in tables):
        join(tables).save(run.folder / "oof.npz")
    fitted = ["weights"] if record["method"] in FITTING and len(record["members"]) > 1 else []
    write_score(run, competition, frame, parts, record["learned"], fitted)
    write_json(run.folder / "run.json", record)
    return run
