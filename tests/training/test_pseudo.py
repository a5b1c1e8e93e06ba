"""kit/training/pseudo.py, and the fit on all rows of kit/training/fanout.py"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kit.offline.errors import DataError, Diverged, FoldError, NotFound, RecipeError, RunError
from kit.offline.places import load_competition
from kit.shipping.bundle import make_bundle
from kit.shipping.predict import predict_at_home
from kit.training import fanout, loop, pseudo
from kit.training.pseudo import SoftLabels
from kit.training.recipe import Recipe
from kit.training.rundir import ALL, list_runs, summarise

QUICK = {"epochs": 1, "batch_size": 16}


def more_images(world, count=5, seed=11):
    """Unlabelled images beside the world's, their frame as the adapter's test_frame gives it from then on."""
    draw = np.random.RandomState(seed)
    names = [f"new_{number}.png" for number in draw.permutation(count)]
    for name in names:
        Image.fromarray(draw.randint(0, 255, (24, 20, 3), np.uint8)).save(world.data / "images" / name)
    pd.DataFrame({"sample_id": names}).to_csv(world.data / "test.csv", index=False)
    world.edit("greater_is_better = True", "greater_is_better = True\n    sample = None")
    world.edit(
        'return read_table(data / "train.csv")[["sample_id"]].head(0)',
        'table = read_table(data / "test.csv")\n        return table.assign(path="images/" + table["sample_id"])',
    )
    return names


def labelled(world, folds=None):
    """Soft labels of the new images by a run of one short epoch, saved where a recipe finds them."""
    teacher = world.train(folds, name="teacher", **QUICK)
    competition = load_competition("colours", world.home)
    frame = pseudo.frame_to_label("test", competition, world.data)
    labels = pseudo.label(teacher, competition, frame, world.data, say=lambda line: None)
    labels.save(world.home / "soft.npz")
    return labels


def test_a_student_learns_from_its_own_teacher_alone(world, monkeypatch):
    """Each fold trains on the new rows with the labels that the model of the same fold gave, after its own rows; they
    are never scored, and the rows that score it are still held out."""
    names = more_images(world)
    labels = labelled(world)
    assert sorted(labels.said) == [0, 1, 2]
    assert not np.allclose(labels.said[0], labels.said[1]), "teachers differ, or the test shows nothing"
    seen = []
    monkeypatch.setattr(fanout, "_trainer", lambda folder: lambda fold: seen.append(fold) or loop.train_fold(fold))
    world.train([0, 2], name="student", pseudo="soft.npz", **QUICK)
    assert [fold.number for fold in seen] == [0, 2]
    for fold in seen:
        assert fold.train["sample_id"].tolist()[-len(names) :] == labels.frame["sample_id"].tolist()
        assert not set(fold.held["sample_id"]) & {*names, *fold.train["sample_id"]}
        targets = loop.Targets(fold.competition.task, fold.train, fold.learned, fold.soft)
        last = targets[torch.arange(len(fold.train) - len(names), len(fold.train))]
        assert np.array_equal(last.numpy(), labels.said[fold.number])


def test_soft_labels_come_back_whole(world):
    """Ids, text and numbers of the frame, columns and every fold's values survive the file, in their order."""
    names = more_images(world)
    labels = labelled(world)
    odd = replace(labels, frame=labels.frame.assign(depth=np.linspace(0, 1, len(names)), note="007"))
    odd.save(world.home / "odd.npz")
    back = SoftLabels.load(world.home / "odd.npz")
    assert back.frame.to_dict("list") == odd.frame.to_dict("list")
    assert (back.columns, back.folds) == (labels.columns, labels.folds)
    assert all(np.array_equal(back.said[number], labels.said[number]) for number in (0, 1, 2))
    with pytest.raises(DataError, match="text or numbers"):
        replace(labels, frame=labels.frame.assign(shape=[(1, 2)] * len(names))).save(world.home / "odd.npz")


def test_labels_that_leak_or_do_not_fit_are_refused(world):
    """Another fold table, a row of training, a teacher that is not trained, other outputs, another file: each is told
    before anything is trained."""
    names = more_images(world)
    labels = labelled(world, [0])
    with pytest.raises(FoldError, match="teacher of fold 1"):
        world.train([1], pseudo="soft.npz", **QUICK)
    known = world.ground().frame["sample_id"][: len(names)].to_numpy()
    for broken, error in (
        (replace(labels, folds="0" * 64), FoldError),
        (replace(labels, columns=("blue", "green", "yellow")), RecipeError),
        (replace(labels, frame=labels.frame.assign(sample_id=known)), FoldError),
    ):
        broken.save(world.home / "soft.npz")
        with pytest.raises(error):
            world.train([0], pseudo="soft.npz", **QUICK)
    (world.home / "soft.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="soft labels"):
        world.train([0], pseudo="soft.npz", **QUICK)
    with pytest.raises(NotFound, match="kit predict RUN"):
        world.train([0], pseudo="elsewhere.npz", **QUICK)


def test_other_labels_at_the_same_path_are_another_run(world):
    """The run's name hangs on what the file holds."""
    more_images(world)
    labels = labelled(world)
    first = world.train([0], pseudo="soft.npz", **QUICK)
    replace(labels, said={number: 1 - values for number, values in labels.said.items()}).save(world.home / "soft.npz")
    assert world.train([0], pseudo="soft.npz", **QUICK).name != first.name


def test_balanced_sampling_needs_labels():
    """Rows without labels of their own are in no class."""
    with pytest.raises(RecipeError, match="balanced"):
        Recipe(pseudo="soft.npz", sampling="balanced")


def test_a_fit_on_all_rows_trains_on_each_and_ships(world, monkeypatch):
    """It needs every fold first, trains on all rows for the epochs that the folds kept, scores nothing, leaves the
    run's score as it was, and can be bundled in the folds' place."""
    names = more_images(world)
    real, scores = loop.evaluate, iter([0.1, 0.9, 0.5] * 3)

    def evaluate(*given):
        score = real(*given)
        return next(scores) if given[-1] is None else score

    monkeypatch.setattr(loop, "evaluate", evaluate)
    settings = {"epochs": 3, "batch_size": 16, "keep": "best"}
    with pytest.raises(RunError, match="fit on all rows"):
        world.train([0, ALL], **settings)
    run = world.train([1, 2], **settings)
    monkeypatch.undo()
    before = run.read("score.json")
    assert world.train([ALL], **settings).name == run.name
    done = json.loads((run.folder / "all" / "done.json").read_text())
    assert done["epochs"] == done["kept_epoch"] == 2, "the folds kept their second epoch"
    assert done["score"] is None
    assert done["rows"] == {"train": len(world.ground().frame), "scored": 0}
    assert run.folds == [0, 1, 2]
    assert summarise(run, world.ground().competition, world.ground().frame) == before
    folder = make_bundle(run, load_competition("colours", world.home), world.home, [ALL])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [member["fold"] for member in manifest["members"]] == [ALL]
    assert "fitted on all rows; the score is that of the folds" in manifest["notes"]
    predict_at_home(folder, world.data, world.home / "submission.csv")
    assert sorted(pd.read_csv(world.home / "submission.csv")["thing"]) == sorted(names)


def test_a_seed_that_diverges_does_not_stop_the_others(world, monkeypatch):
    """Of three seeds the first stops: the other two are trained, and the fault is told in the end."""
    real = fanout.train_fold

    def diverging(fold):
        if fold.recipe.seed == 0:
            raise Diverged("a finite loss", "nan", "lower lr")
        real(fold)

    monkeypatch.setattr(fanout, "train_fold", diverging)
    recipes = [world.recipe(epochs=1, seed=seed) for seed in range(3)]
    with pytest.raises(Diverged, match="a finite loss"):
        fanout.train_seeds(world.ground(), "tiny", recipes, [0], world.home, say=lambda line: None)
    assert len(list(world.folder.glob("runs/*/fold0/done.json"))) == 2


def test_outputs_that_are_no_number_stop_that_fold_alone(world, monkeypatch):
    """Weights that diverged in the last update of an epoch show in its evaluation."""
    real = loop.evaluate

    def evaluate(fold, setup, model, *rest):
        if fold.number == 0:
            torch.nn.init.constant_(model.fc.weight, float("nan"))
        return real(fold, setup, model, *rest)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    with pytest.raises(Diverged, match="finite outputs"):
        world.train(epochs=1)
    done = sorted(path.parent.name for path in world.folder.glob("runs/*/fold*/done.json"))
    assert done == ["fold1", "fold2"]


def test_a_fold_that_diverges_does_not_stop_the_others(world, monkeypatch):
    """Its error is raised in the end, when the other folds are done."""
    real = loop.row_weights
    bad = world.ground().frame.query("fold == 0")["sample_id"].iloc[0]
    monkeypatch.setattr(
        loop, "row_weights", lambda frame: np.where(frame["sample_id"] == bad, np.nan, real(frame)).astype(np.float32)
    )
    with pytest.raises(RunError, match="finite loss in fold 1"):
        world.train(**QUICK)
    [run] = list_runs(world.folder)
    assert run.folds == [0], "fold 0 alone holds that row out"
