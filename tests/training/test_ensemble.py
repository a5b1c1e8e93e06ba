"""kit/training/ensemble.py"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kit.offline.answers import score_of
from kit.offline.errors import NotFound, RunError
from kit.offline.files import write_json
from kit.offline.predictions import Predictions
from kit.offline.tasks import settings_of
from kit.training import ensemble
from kit.training.ensemble import METHODS, blend_runs, fit_weights
from kit.training.rundir import competition_of, find_run, list_runs, parts_of, read_run, summarise

CLASSES = ("blue", "green", "red")


def write_run(world, name, noise, seed, folds=(0, 1, 2), shown=np.asarray, **record):
    """A run whose OOF is the truth under noise, so that members of known worth need no training; `shown` changes it."""
    ground = world.ground()
    folder = world.folder / "runs" / f"{name}-{seed:06x}"
    draw = np.random.RandomState(seed)
    for number in folds:
        rows = ground.frame[(ground.frame["fold"] == number) & ground.frame["scored"]]
        truth = (rows["colour"].to_numpy()[:, None] == np.array(CLASSES)[None]).astype(float)
        outputs = np.exp(truth + draw.normal(0, noise, truth.shape))
        (folder / f"fold{number}").mkdir(parents=True)
        values = shown(outputs / outputs.sum(1, keepdims=True))
        Predictions(rows["sample_id"], values, record.get("columns", CLASSES)).save(
            folder / f"fold{number}" / "oof.npz"
        )
        write_json(folder / f"fold{number}" / "done.json", {"seconds": 1.0})
    standard = {
        "schema": 1,
        "slug": ground.competition.slug,
        "competition": "colours",
        "folds": ground.folds_sha256,
        "folds_of": 3,
        "scheme": None,
        "columns": list(CLASSES),
        "learned": {"classes": list(CLASSES)},
        "task": settings_of(ground.competition.task),
        "recipe": {"keep": "last", "epochs": 1},
        "versions": {},
        "started": f"2026-01-{seed:02d}",
    }
    write_json(folder / "run.json", standard | record)
    run = read_run(folder)
    summarise(run, ground.competition, ground.frame)
    return run


@pytest.fixture(scope="module")
def members(tmp_path_factory, make_world):
    """A larger world and three members of falling worth; blends are added to it, members never change."""
    world = make_world(tmp_path_factory.mktemp("blends"), units=180)
    runs = [
        write_run(world, name, noise, seed, folds=(0, 2))
        for seed, (name, noise) in enumerate([("good", 0.9), ("fair", 1.1), ("poor", 3.0)], 1)
    ]
    return world, runs


def blended(world, runs, method="climb"):
    ground = world.ground()
    return blend_runs(runs, ground.competition, ground.frame, method)


def pooled(run):
    return run.read("score.json")["pooled"]


@pytest.fixture(scope="module")
def blends(members):
    """The members blended by each method."""
    return {method: blended(*members, method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_blend_is_a_run(members, blends, method):
    """Each method gives weights that sum to one, every method's cross-fitted score, and scores over all units."""
    world, runs = members
    run = blends[method]
    again = find_run(world.folder, run.name)
    assert again.record == run.record
    assert run in [read_run(one.folder) for one in list_runs(world.folder)]
    weights = [member["weight"] for member in run.record["members"]]
    assert sum(weights) == pytest.approx(1.0)
    assert min(weights) >= 0
    assert set(run.record["cross_fitted_by_method"]) == set(METHODS)
    assert all(0 <= score <= 1 for score in run.record["cross_fitted_by_method"].values())
    score = run.read("score.json")
    assert score["units"] == runs[0].read("score.json")["units"]
    assert score["cross_fitted"] == run.record["cross_fitted_by_method"][method]
    assert score["fitted_on_scored_rows"] == (["weights"] if method in ("climb", "convex") else [])
    assert pooled(run) > pooled(runs[2])
    assert ("quantiles" in run.record["members"][0]) == (method == "rank")
    assert run.folds == [0, 2]


@pytest.mark.parametrize("method", ["climb", "convex"])
def test_fitted_weights_are_no_worse_than_any_member(members, blends, method):
    """In sample, fitting never ends below the best single member, nor below the equal blend where it looks at that."""
    _, runs = members
    run = blends[method]
    assert pooled(run) >= max(pooled(one) for one in runs)
    weights = {member["run"]: member["weight"] for member in run.record["members"]}
    assert weights[runs[2].name] < max(weights.values())
    if method == "convex":
        assert pooled(run) >= pooled(blends["mean"])


def test_parts_of_a_blend_are_its_members_blended(members, blends):
    """OOF of a blend by fold is the weighted mean of its members' and gives its score; oof.npz holds the same."""
    world, runs = members
    ground = world.ground()
    for run in (blends["climb"], blends["rank"]):
        parts = parts_of(run, ground.competition, ground.frame)
        assert list(parts) == [0, 2]
        joined = Predictions.join([part.predictions for part in parts.values()])
        stored = Predictions.load(run.folder / "oof.npz")
        np.testing.assert_array_equal(joined.align(stored.ids).values, stored.values)
        score = score_of(ground.competition, ground.frame, list(parts.values()), run.read("learned.json"))
        assert score == pytest.approx(pooled(run))
    mean = blends["mean"]
    first, *others = (parts_of(run, ground.competition, ground.frame)[2].predictions for run in runs)
    every = parts_of(mean, ground.competition, ground.frame, [2])[2].predictions
    values = [first.values, *(other.align(first.ids).values for other in others)]
    np.testing.assert_allclose(every.values, np.mean(values, axis=0), rtol=1e-5)
    assert competition_of(mean, ground.competition) is ground.competition


def test_rows_are_matched_by_id(world):
    """Writing a member's rows in another order changes no weight and no score."""
    runs = [write_run(world, "good", 0.9, 1), write_run(world, "fair", 1.1, 2)]
    before = blended(world, runs, "mean")
    score, oof = before.read("score.json"), Predictions.load(before.folder / "oof.npz")
    for number in (0, 1, 2):
        path = runs[1].fold(number) / "oof.npz"
        table = Predictions.load(path)
        table.align(np.random.RandomState(0).permutation(table.ids)).save(path)
    after = blended(world, runs, "mean")
    assert after.read("score.json") == score
    np.testing.assert_allclose(Predictions.load(after.folder / "oof.npz").align(oof.ids).values, oof.values)


def test_cross_fitting_does_not_look(world):
    """Of two members, each right on one fold and wrong on the other, fitting on the other fold takes the wrong one.

    Weights that had seen the fold they are scored on would do at least as well as either member.
    """
    runs = []
    for seed, wrong in enumerate((0, 1), 1):
        run = write_run(world, f"wrong_on_{wrong}", 0.01, seed, folds=(0, 1))
        path = run.fold(wrong) / "oof.npz"
        table = Predictions.load(path)
        Predictions(table.ids, table.values[:, [1, 2, 0]], CLASSES).save(path)
        runs.append(run)
    run = blended(world, runs, "climb")
    assert pooled(run) >= 0.4
    assert run.record["cross_fitted_by_method"]["climb"] == 0.0
    assert run.read("score.json")["cross_fitted"] == 0.0


def test_only_shared_folds_are_blended(world):
    """A run of two folds and one of three blend over those two, and the blend says so in folds and units."""
    runs = [write_run(world, "some", 0.9, 1, folds=(0, 2)), write_run(world, "all", 1.1, 2)]
    run = blended(world, runs)
    assert run.folds == [0, 2]
    assert list(run.read("score.json")["folds"]) == ["0", "2"]
    assert run.read("score.json")["units"] == runs[0].read("score.json")["units"] < runs[1].read("score.json")["units"]
    lonely = write_run(world, "lonely", 0.9, 3, folds=(1,))
    with pytest.raises(RunError, match=r"some-000001: \[0, 2\]; lonely-000003: \[1\]"):
        blended(world, [runs[0], lonely])


def test_one_fold_cannot_be_cross_fitted(world):
    """With one shared fold fitted weights have no honest score; plain means have one."""
    runs = [write_run(world, "one", 0.9, 1, folds=(1,)), write_run(world, "two", 1.1, 2)]
    run = blended(world, runs)
    honest = run.record["cross_fitted_by_method"]
    assert honest["climb"] is honest["convex"] is None
    assert honest["mean"] is not None
    assert run.read("score.json")["cross_fitted"] is None


def test_what_does_not_blend_is_refused(world):
    """Other fold tables (both hashes shown), blends, a run twice, other columns and unknown methods are errors."""
    good, fair = write_run(world, "good", 0.9, 1), write_run(world, "fair", 1.1, 2)
    other = read_run(fair.folder)
    other.record["columns"] = ["blue", "green"]
    with pytest.raises(RunError, match="fair-000002 predicts"):
        blended(world, [good, other])
    moved = read_run(fair.folder)
    moved.record["folds"] = "f" * 64
    with pytest.raises(RunError) as caught:
        blended(world, [good, moved])
    assert good.record["folds"][:12] in caught.value.expected
    assert "f" * 12 in caught.value.found
    with pytest.raises(RunError, match="is a blend"):
        blended(world, [good, blended(world, [good, fair], "mean")])
    with pytest.raises(RunError, match="each run once"):
        blended(world, [good, good])
    with pytest.raises(RunError, match="did you mean 'climb'"):
        blended(world, [good, fair], "clim")


def test_a_blend_whose_member_is_gone_names_it(world):
    """OOF of a blend needs its members: a deleted one is an error with its name, not another result."""
    runs = [write_run(world, "good", 0.9, 1), write_run(world, "fair", 1.1, 2)]
    run = blended(world, runs, "mean")
    runs[1].folder.rename(world.home / "elsewhere")
    ground = world.ground()
    with pytest.raises(NotFound, match="fair-000002"):
        parts_of(run, ground.competition, ground.frame)


def test_weights_find_a_known_best():
    """Both searches come near the best weights of a smooth score, and give one to a single member."""
    best = np.array([0.7, 0.3, 0.0])

    def score(weights, folds):
        return -float(np.abs(np.asarray(weights) - best).sum())

    for method in ("climb", "convex"):
        weights = fit_weights(method, score, 3, [0])
        np.testing.assert_allclose(weights, best, atol=0.08)
    assert fit_weights("mean", score, 3, [0]) == [1 / 3] * 3
    assert fit_weights("climb", score, 1, [0]) == [1.0]


def test_an_undefined_score_gives_equal_weights():
    """Where no blend has a score (an AUC of one class) the weights are equal, not NaN."""
    for method in ("climb", "convex"):
        assert fit_weights(method, lambda weights, folds: -np.inf, 2, [0]) == [0.5, 0.5]


def test_fitting_ends_early(monkeypatch):
    """A search that gains nothing stops: some dozens of scorings for two members, not thousands."""
    for method, most in (("climb", 20), ("convex", 80)):
        calls = []
        fit_weights(method, lambda weights, folds: calls.append(weights) or 0.5, 2, [0])  # noqa: B023
        assert len(calls) <= most
    assert ensemble.ROUNDS >= 20


def test_decisions_are_fitted_anew(world, monkeypatch):
    """A blend of labels decided by a threshold refits it, and cross-fits weights and threshold together."""
    world.edit(
        'task = Multiclass("colour")', 'task = Binary("colour", answer="label", positive="red", negative="blue")'
    )
    world.edit("Multiclass, metrics", "Binary, metrics")
    table = pd.read_csv(world.data / "train.csv", dtype=str)
    table.replace({"colour": {"green": "blue"}}).to_csv(world.data / "train.csv", index=False)
    named = {"columns": ["colour"], "learned": {"threshold": 0.5}}

    def shrunk(values):
        """Of red alone, so small that a threshold of 0.5 calls every thing blue."""
        return values[:, [2]] * 0.1

    monkeypatch.setattr(ensemble, "METHODS", ("climb",))
    runs = [
        write_run(world, name, 0.7, seed, folds=(0, 1), shown=shrunk, **named)
        for seed, name in enumerate(("good", "fair"), 1)
    ]
    run = blended(world, runs)
    assert 0 < run.read("learned.json")["threshold"] < 0.1
    assert pooled(run) > 0.7
    assert run.read("score.json")["cross_fitted"] > 0.6
