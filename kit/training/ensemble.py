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

from kit.offline.answers import Part, blend_parts, score_of
from kit.offline.contract import Competition
from kit.offline.errors import RunError
from kit.offline.files import write_json
from kit.offline.predictions import Maps, Predictions, join
from kit.offline.tasks import Learned
from kit.training.rundir import Run, parts_of, write_score

METHODS = ("mean", "rank", "climb", "convex")
ROUNDS = 50
"""Members that hill climbing draws, with replacement (Caruana et al. 2004)."""

Member = dict[int, Part]
Score = Callable[[Sequence[float], Sequence[int]], float]
"""(weights, folds) -> score of that blend on those folds, greater is better."""


def fit_weights(method: str, score: Score, members: int, folds: Sequence[int]) -> list[float]:
    """Weights that sum to one, fitted on the given folds. mean and rank fit nothing; climb picks with replacement; convex searches the simplex."""
    if method in ("mean", "rank") or members == 1:
        return [1 / members] * members
    return _climb(score, members, folds) if method == "climb" else _convex(score, members, folds)


def _climb(score: Score, members: int, folds: Sequence[int]) -> list[float]:
    counts = np.zeros(members)
    best, kept = -np.inf, counts
    for _ in range(ROUNDS):
        trials = [counts + one for one in np.eye(members)]
        scores = [score(trial / trial.sum(), folds) for trial in trials]
        counts = trials[int(np.argmax(scores))]
        if max(scores) > best:
            best, kept = max(scores), counts
    return (kept / kept.sum()).tolist()


def _convex(score: Score, members: int, folds: Sequence[int]) -> list[float]:
    def weights(free: np.ndarray) -> np.ndarray:
        return np.exp(free - free.max()) / np.exp(free - free.max()).sum()

    # Scores are step functions of the weights, so a search without derivatives.
    found = minimize(
        lambda free: -score(weights(free), folds),
        np.zeros(members),
        method="Nelder-Mead",
        options={"maxiter": 60 * members, "initial_simplex": np.vstack([np.zeros(members), 2 * np.eye(members)])},
    )
    fitted = weights(found.x)
    equal = np.full(members, 1 / members)
    return (fitted if score(fitted, folds) > score(equal, folds) else equal).tolist()


def blend_runs(runs: Sequence[Run], competition: Competition, frame: pd.DataFrame, method: str = "climb") -> Run:
    """Blend runs over the folds they share, and keep the result as `runs/blend-<hash>/`.

    Every method's cross-fitted score goes into its record: weights fitted on the other folds, scored on each. Raises RunError where
    runs stand on other folds or share none.
    """
    assert competition.folder is not None, "competitions are loaded from a folder"
    folds = _shared_folds(runs)
    members = [parts_of(run, competition, frame, folds) for run in runs]
    learned = runs[0].record["learned"]
    ranked, quantiles = _ranked(members)
    honest = {
        name: _honest_score(name, ranked if name == "rank" else members, competition, frame, learned, folds)
        for name in METHODS
        if not (name == "rank" and ranked is None)
    }
    if method not in honest:
        raise RunError("rank averaging of vectors", "predictions of a dense task", "use --method mean, climb or convex")
    chosen = ranked if method == "rank" else members
    assert chosen is not None
    weights = fit_weights(method, _score(chosen, competition, frame, learned), len(runs), folds)
    parts = _blended(chosen, weights, folds)
    record = _record(runs, weights, method, honest, quantiles if method == "rank" else None, competition)
    digest = hashlib.sha256(json.dumps([record["members"], method], sort_keys=True).encode()).hexdigest()
    run = Run(competition.folder / "runs" / f"blend-{digest[:6]}", record)
    run.folder.mkdir(parents=True, exist_ok=True)
    for number, part in parts.items():
        if part.gallery is None and isinstance(part.predictions, Predictions):
            part.predictions.save(run.folder / f"oof{number}.npz")
    if all(isinstance(part.predictions, Predictions) and part.gallery is None for part in parts.values()):
        joined = join([part.predictions for part in parts.values()])
        assert not isinstance(joined, Maps)
        joined.save(run.folder / "oof.npz")
    write_score(
        run, competition, frame, parts, learned, ["weights"] if method in ("climb", "convex") and len(runs) > 1 else []
    )
    write_json(run.folder / "run.json", record)
    return run


def _shared_folds(runs: Sequence[Run]) -> list[int]:
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
    shared = sorted(set.intersection(*(set(run.folds) for run in runs)))
    if not shared:
        raise RunError(
            "a fold that all runs have done",
            "; ".join(f"{run.name}: {run.folds}" for run in runs),
            "train a common fold",
        )
    return shared


def _ranked(members: Sequence[Member]) -> tuple[list[Member] | None, list[list[list[float]]]]:
    """Members with values as ranks against their own OOF, and those OOF quantiles; None for maps and galleries."""
    ranked, quantiles = [], []
    for member in members:
        if not all(isinstance(part.predictions, Predictions) and part.gallery is None for part in member.values()):
            return None, []
        reference = Predictions.join([part.predictions for part in member.values()]).quantiles_of()  # type: ignore[misc]
        ranked.append({number: Part(part.predictions.ranked(reference)) for number, part in member.items()})  # type: ignore[union-attr]
        quantiles.append(reference.tolist())
    return ranked, quantiles


def _blended(members: Sequence[Member], weights: Sequence[float], folds: Sequence[int]) -> Member:
    parts = blend_parts([[member[number] for number in folds] for member in members], weights)
    return dict(zip(folds, parts, strict=True))


def _score(members: Sequence[Member], competition: Competition, frame: pd.DataFrame, learned: Learned) -> Score:
    sign = 1.0 if competition.greater_is_better else -1.0

    def score(weights: Sequence[float], folds: Sequence[int]) -> float:
        value = sign * score_of(competition, frame, list(_blended(members, list(weights), folds).values()), learned)
        return value if np.isfinite(value) else -np.inf

    return score


def _honest_score(
    method: str,
    members: Sequence[Member] | None,
    competition: Competition,
    frame: pd.DataFrame,
    learned: Learned,
    folds: Sequence[int],
) -> float | None:
    """The pooled score when each fold's weights are fitted on the others; None with a single fold that needs fitting."""
    assert members is not None
    if method in ("climb", "convex") and len(members) > 1 and len(folds) < 2:
        return None
    score = _score(members, competition, frame, learned)
    parts = []
    for number in folds:
        weights = fit_weights(method, score, len(members), [other for other in folds if other != number])
        parts.append(_blended(members, weights, [number])[number])
    value = score_of(competition, frame, parts, learned)
    return value if np.isfinite(value) else None


def _record(
    runs: Sequence[Run],
    weights: Sequence[float],
    method: str,
    honest: dict[str, float | None],
    quantiles: list[list[list[float]]] | None,
    competition: Competition,
) -> dict[str, Any]:
    members = [{"run": run.name, "weight": weight} for run, weight in zip(runs, weights, strict=True)]
    for member, reference in zip(members, quantiles or [], strict=False):
        member["quantiles"] = reference  # type: ignore[assignment]
    shared = {
        name: runs[0].record[name]
        for name in ("schema", "slug", "competition", "folds", "folds_of", "scheme", "learned", "columns", "versions")
    }
    return {
        **shared,
        "members": members,
        "method": method,
        "cross_fitted_by_method": honest,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
