"""Weights are stored in half precision only where a whole fold, re-predicted from them, stays as it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load, load_file, save, save_file

from kit import ImageToImage, Multiclass, Multilabel, Regression, Retrieval, Segmentation
from kit.offline.errors import WeightsError
from kit.offline.golden import golden_answers
from kit.offline.manifest import open_bundle
from kit.offline.models import build_model, load_weights
from kit.offline.predictions import Gallery
from kit.shipping import precision
from kit.shipping.bundle import make_bundle
from kit.shipping.precision import Rows, halved, judged, open_rows, rounded_files, seed_spread, share_changed
from kit.training.fanout import train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import ALL, Run
from tests.shipping.conftest import World


@pytest.fixture
def home(world: World, tmp_path: Path) -> World:
    """A copy of the world, whose run may be changed."""
    there = Path(shutil.copytree(world.home, tmp_path / "home", ignore=shutil.ignore_patterns("offline_weights")))
    run = Run(there / world.run.folder.relative_to(world.home), world.run.record)
    return replace(world, home=there, run=run, data=there / "competitions" / "tiles" / "data")


def rows_of(world: World) -> Rows:
    return open_rows(world.competition, world.data)


def test_half_precision_halves_matrices_and_leaves_the_rest() -> None:
    """Norms, running variances and counters keep every digit; half stays half; the same bytes each time."""
    tensors = {
        "conv": torch.randn(4, 3, 3, 3),
        "running_var": torch.tensor([1e-9, 3.0]),
        "batches": torch.tensor(70_000),
        "table": torch.arange(6).reshape(2, 3),
        "already": torch.randn(2, 2).bfloat16(),
    }
    content = halved(save(tensors))
    assert content == halved(save(dict(reversed(tensors.items()))))
    stored = load(content)
    assert {name: value.dtype for name, value in stored.items()} == {
        "conv": torch.float16,
        "running_var": torch.float32,
        "batches": torch.int64,
        "table": torch.int64,
        "already": torch.bfloat16,
    }
    assert torch.equal(stored["running_var"], tensors["running_var"])
    torch.testing.assert_close(stored["conv"].float(), tensors["conv"], rtol=2**-11, atol=1e-7)


def test_five_folds_of_an_efficientnet_weigh_two_bytes_a_parameter() -> None:
    """Within one part in twenty, headers and statistics included."""
    sizes, parameters = 0, 0
    for classes in (5, 5, 5, 5, 5):
        model = timm.create_model("efficientnet_b0", num_classes=classes)
        sizes += len(halved(save(model.state_dict())))
        parameters += sum(value.numel() for value in model.parameters())
    assert 1 <= sizes / (2 * parameters) <= 1.05


def test_rounded_weights_fill_a_network_of_full_precision(world: World, tmp_path: Path) -> None:
    """And as strictly as whole ones: a name too few, another shape, and they are refused."""
    spec = open_bundle(world.bundle).members[0].spec
    tensors = load(halved((world.run.fold(0) / "weights.safetensors").read_bytes()))
    save_file(tensors, tmp_path / "good.safetensors")
    model = load_weights(build_model(spec, world.competition), tmp_path / "good.safetensors")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    name = next(name for name, value in tensors.items() if value.ndim == 4)
    for damage in ({name: tensors[name][:1]}, {"more": torch.zeros(2)}):
        save_file({**tensors, **damage}, tmp_path / "bad.safetensors")
        with pytest.raises(WeightsError):
            load_weights(build_model(spec, world.competition), tmp_path / "bad.safetensors")
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError):
        load_weights(build_model(spec, world.competition), tmp_path / "bad.safetensors")


def test_a_fold_that_stays_as_it_is_is_halved(world: World) -> None:
    """Both members of the bundle are; what they answer to golden inputs is what the rounded weights say."""
    manifest = open_bundle(world.bundle)
    for member in manifest.members:
        whole = (world.run.fold(member.fold) / "weights.safetensors").read_bytes()
        stored = (world.bundle / member.file).read_bytes()
        assert stored == halved(whole) != whole
        said = []
        for content in (stored, whole):
            model = build_model(member.spec, world.competition)
            model.load_state_dict(load(content))
            device, task = torch.device("cpu"), world.competition.task
            said.append(golden_answers(model, member.golden, member.preparation, task, device))
        np.testing.assert_allclose(said[0], np.asarray(member.golden.answers), rtol=0, atol=1e-6)
        assert np.abs(said[1] - said[0]).max() > 1e-6
    assert (world.bundle / "PROVENANCE.md").read_text().count("half precision: the score of its fold moves by") == 2


def damaged(world: World) -> dict[str, bytes]:
    """Fold 0's weights, the head turned round: answers flip."""
    tensors = load_file(world.run.fold(0) / "weights.safetensors")
    name = next(name for name, value in tensors.items() if value.shape[:1] == (3,) and value.ndim == 2)
    return {"weights.safetensors": save({**tensors, name: -tensors[name]})}


def test_a_fold_that_changes_is_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where either the score moves or answers flip, with the numbers."""
    rows = rows_of(world)
    assert judged(world.run, 0, world.competition, rows, rounded_files(world.run.fold(0))).half
    verdict = judged(world.run, 0, world.competition, rows, damaged(world))
    assert not verdict.half and "full precision: in half, the score of its fold moves by" in verdict.why
    monkeypatch.setattr(precision, "seed_spread", lambda run: (1e9, "everything"))
    assert not judged(world.run, 0, world.competition, rows, damaged(world)).half
    monkeypatch.setattr(precision, "seed_spread", lambda run: (0.0, "nothing"))
    monkeypatch.setattr(precision, "MOST_CHANGED", 1.0)
    assert not judged(world.run, 0, world.competition, rows, damaged(world)).half


def test_a_fold_trained_elsewhere_is_compared_with_what_it_says_here(
    home: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other machines compute otherwise: what their OOF differs by is not held against half precision."""
    predicted: list[Path] = []
    real = precision._repredicted
    monkeypatch.setattr(precision, "_repredicted", lambda *given: (predicted.append(given[4]), real(*given))[1])
    with np.load(home.run.fold(0) / "oof.npz") as stored:
        content = dict(stored)
    np.savez(home.run.fold(0) / "oof.npz", **{**content, "values": content["values"][:, ::-1]})
    assert judged(home.run, 0, home.competition, rows_of(home), rounded_files(home.run.fold(0))).half
    assert len(predicted) == 2 and predicted[1] == home.run.fold(0)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no data", "nothing to re-predict its fold with"),
        ("no pictures", "nothing to re-predict its fold with"),
        ("a picture cut short", "re-predicting its fold failed"),
        ("infinite", "re-predicting its fold failed"),
        ("one fold", "one seed and one fold tell no spread"),
        ("asked", "as asked for"),
    ],
)
def test_where_it_cannot_be_known_weights_stay_whole_and_it_is_said(
    home: World, case: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never in half on trust: aloud, and in PROVENANCE.md, which names no folder of this machine."""
    monkeypatch.setenv("HOME", str(home.home.parent))
    competition, folds, lines = home.competition, [0], list[str]()
    if case == "no data":
        shutil.rmtree(home.data)
    elif case == "no pictures":
        shutil.rmtree(home.data / "train")
    elif case == "a picture cut short":
        for path in (home.data / "train").iterdir():
            path.write_bytes(path.read_bytes()[:100])
    elif case == "infinite":
        weights = home.run.fold(0) / "weights.safetensors"
        tensors = load_file(weights)
        name = next(name for name, value in tensors.items() if value.ndim == 4)
        weights.write_bytes(save({**tensors, name: tensors[name] * 1e6}))
        verdict = judged(home.run, 0, competition, rows_of(home), rounded_files(home.run.fold(0)))
        assert not verdict.half and reason in verdict.why
        return
    elif case == "one fold":
        score = home.run.read("score.json")
        shutil.rmtree(home.run.fold(1))
        (home.run.folder / "score.json").write_text(json.dumps({**score, "folds": {"0": score["folds"]["0"]}}))
    bundle = make_bundle(home.run, competition, home.home, folds, home.data, full=case == "asked", say=lines.append)
    (member,) = open_bundle(bundle).members
    assert (bundle / member.file).read_bytes() == (home.run.fold(0) / "weights.safetensors").read_bytes()
    [line] = [line for line in lines if line.startswith(member.file)]
    assert reason in line and line.startswith(f"{member.file}: full precision")
    assert reason in (bundle / "PROVENANCE.md").read_text()


def test_the_fit_on_all_rows_stays_whole(world: World) -> None:
    """It has no rows of its own that it was not trained on."""
    verdict = judged(world.run, ALL, world.competition, rows_of(world), {})
    assert not verdict.half and "no rows of its own" in verdict.why


def test_the_spread_over_seeds_is_that_of_the_same_recipe(world: World) -> None:
    """Other recipes are no seeds; without seeds it is the spread of the folds."""
    folder = world.home / "competitions" / "tiles"
    recipe = find_recipe(folder, "small")
    own = world.run.read("score.json")["folds"]
    spread, of = seed_spread(world.run)
    assert of == "the spread over its 2 folds" and spread == pytest.approx(np.std(list(own.values()), ddof=1))
    more = [
        train_run(world.ground, "small", replace(recipe, **change), home=world.home, say=lambda _: None)  # type: ignore[type-var]
        for change in ({"seed": 7}, {"lr": 1e-3})
    ]
    try:
        other = more[0].read("score.json")["folds"]
        spread, of = seed_spread(world.run)
        variances = [np.var([own[fold], other[fold]], ddof=1) for fold in own]
        assert of == "the spread over 2 seeds" and spread == pytest.approx(np.sqrt(np.mean(variances)))
    finally:
        for run in more:
            shutil.rmtree(run.folder)


def changed(task: object, before: list[object], after: list[object], column: str = "x") -> float:
    frames = (
        pd.DataFrame({column: pd.Series(cells, index=[f"u{at}" for at in range(len(cells))])})
        for cells in (before, after)
    )
    return share_changed(task, *frames)  # type: ignore[arg-type]


def test_what_counts_as_a_changed_answer() -> None:
    """Labels by unit, ranked labels by place, numbers and images by their range, masks by pixel, the worst column."""
    assert changed(Multiclass("x"), ["a", "b", "a", "a"], ["a", "b", "b", "a"]) == 0.25
    assert changed(Multilabel("x", "words"), ["a b", "b"], ["a c", "b"]) == 0.5
    assert changed(Retrieval("x"), ["a b c d e"] * 2, ["a b c e d", "a b c d e"]) == pytest.approx(0.2)
    assert changed(Regression("x"), [0.0, 10.0, 5.0], [0.0, 10.0, 5.3]) == pytest.approx(0.01)
    assert changed(Regression("x"), [3.0, 3.0], [3.0, 3.0]) == 0 and changed(Regression("x"), [3.0], [3.1]) > 1
    images = [np.zeros((2, 2)), np.ones((1, 4))]
    assert changed(ImageToImage("x"), images, [images[0] + 0.5, images[1]]) == pytest.approx(0.25)
    masks = Segmentation(["x"], empty="-1")
    assert changed(masks, ["1 4 11 2", "-1"], ["2 3 11 3", "-1"]) == pytest.approx(2 / 7)
    assert changed(masks, ["-1", "5 5"], ["1 5", "5 5"]) == pytest.approx(0.5)
    assert changed(masks, ["-1"], ["-1"]) == 0
    both = [pd.DataFrame({"x": ["a", "a"], "y": ["b", other]}) for other in "bc"]
    assert share_changed(Multiclass("x"), *both) == 0.5


def test_a_gallery_is_rounded_and_read_in_full_precision(tmp_path: Path) -> None:
    """Labels and their order stay; embeddings come back as float32."""
    gallery = Gallery(("w_2", "w_1"), np.random.RandomState(2).normal(size=(2, 8)).astype(np.float32))
    gallery.save(tmp_path / "gallery.safetensors")
    (tmp_path / "weights.safetensors").write_bytes(save({"w": torch.randn(3, 3)}))
    files = rounded_files(tmp_path)
    assert len(files["gallery.safetensors"]) < (tmp_path / "gallery.safetensors").stat().st_size
    (tmp_path / "half.safetensors").write_bytes(files["gallery.safetensors"])
    read = Gallery.load(tmp_path / "half.safetensors")
    assert read.labels == gallery.labels and read.values.dtype == np.float32
    np.testing.assert_allclose(read.values, gallery.values, rtol=1e-3)
