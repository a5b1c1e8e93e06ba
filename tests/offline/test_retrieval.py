"""The retrieval task and its head: margins as defined, answers in their order, the unknown where OOF puts it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from kit import Gallery, Predictions, Retrieval
from kit.offline.answers import Part
from kit.offline.errors import DataError, RecipeError
from kit.offline.frames import units_of
from kit.offline.metrics import map_at_k
from kit.offline.models import Embedder, ModelSpec
from kit.offline.similarities import Similarities
from kit.offline.tasks import settings_of, task_from, with_margin

TASK = Retrieval("name", answers=3, unknown="new", size=8)


def rows(*names: str) -> pd.DataFrame:
    ids = [f"{7 * at % 10:03d}" for at in range(len(names))]
    return pd.DataFrame({"sample_id": ids, "unit_id": ids, "name": list(names)})


def said(values: list[list[float]], labels: str = "abcd") -> Similarities:
    """Similarities of rows 000, 007, 004 ... to labels."""
    table = np.asarray(values, np.float32)
    order = np.argsort(-table, axis=1, kind="stable").astype(np.int32)
    ids = np.array([f"{7 * at % 10:03d}" for at in range(len(table))])
    return Similarities(ids, np.take_along_axis(table, order, axis=1), tuple(labels), order)


# Learning


def test_the_unknown_is_no_class():
    """Labels are learned in natural order without the unknown; rows of the unknown have no target and teach nothing."""
    frame = rows("10", "9", "new", "b", "9")
    learned = TASK.learn(frame)
    assert learned["labels"] == ["9", "10", "b"]
    targets = TASK.targets(frame, learned)
    assert targets.dtype == np.float32 and targets.tolist() == [[0, 1, 0], [1, 0, 0], [0] * 3, [0, 0, 1], [1, 0, 0]]
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).tanh()
    known = [0, 1, 3, 4]
    whole = TASK.loss(outputs, torch.from_numpy(targets), torch.ones(5))
    part = TASK.loss(outputs[known], torch.from_numpy(targets[known]), torch.ones(4))
    assert whole.item() == pytest.approx(part.item(), rel=1e-6)


@pytest.mark.parametrize("bad", ["", "two words", " a", np.nan, 7])
def test_labels_that_would_break_the_answer_are_named(bad):
    """Answers join labels by blanks, so a label holds none, and is text."""
    frame = rows("a", "b").assign(name=["a", bad])
    with pytest.raises(DataError, match="007"):
        TASK.learn(frame)


def test_the_margin_is_added_to_the_angle():
    """cos(angle + margin) for the target, the cosine as it is elsewhere."""
    angles = torch.tensor([[0.3, 1.2, 2.0], [1.0, 0.1, 2.8]])
    margins = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.3]])
    assert torch.allclose(with_margin(angles.cos(), margins), (angles + margins).cos(), atol=1e-5)


def test_the_margin_never_helps():
    """A target's cosine with margin falls with its angle over the whole half circle, and lies below the plain one."""
    cosines = torch.linspace(-1, 1, 2001)
    moved = with_margin(cosines, torch.full_like(cosines, 0.5))
    assert (moved.diff() > 0).all()
    assert (moved < cosines + 1e-3).all()


@pytest.mark.parametrize("cosine", [-1.0, -0.9, 0.0, 1.0])
def test_gradients_are_finite_at_the_poles(cosine):
    """An embedding that lies on a centre, or opposite to it, gives a number to go on with."""
    outputs = torch.full((2, 3), cosine, requires_grad=True)
    TASK.loss(outputs, torch.eye(3)[:2], torch.ones(2)).backward()
    assert torch.isfinite(outputs.grad).all()


def test_without_margin_the_loss_is_scaled_cross_entropy():
    """Row weights count; soft targets bring a part of the margin."""
    cosines = torch.tensor([[0.5, 0.1, -0.3], [0.2, 0.9, 0.0]])
    plain = Retrieval("name", margin=0.0, scale=10.0)
    wanted = F.cross_entropy(cosines * 10, torch.tensor([0, 2]), reduction="none")
    found = plain.loss(cosines, torch.eye(3)[[0, 2]], torch.tensor([1.0, 3.0]))
    assert found.item() == pytest.approx(((wanted[0] + 3 * wanted[1]) / 4).item(), rel=1e-6)
    soft = torch.tensor([[0.6, 0.4, 0.0]])
    shown = with_margin(cosines[:1], soft * 0.5)
    assert torch.allclose(shown, (cosines[:1].acos() + soft * 0.5).cos(), atol=1e-5)


def test_smoothing_leaves_the_unknown_without_target():
    """A smoothed row sums to one, an empty one to nothing."""
    smooth = TASK.smooth(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]), 0.2)
    assert torch.allclose(smooth.sum(dim=1), torch.tensor([1.0, 0.0]))


def test_settings_travel():
    """A bundle rebuilds the very task."""
    again = task_from(settings_of(TASK))
    assert isinstance(again, Retrieval) and settings_of(again) == settings_of(TASK)


# Answers


@pytest.mark.parametrize(
    ("threshold", "answer"),
    [(0.95, "new c a"), (0.85, "c new a"), (0.6, "c a new"), (0.3, "c a b"), (-1.0, "c a b")],
)
def test_the_unknown_takes_its_place_by_the_threshold(threshold, answer):
    """It comes after the labels that are more similar than the threshold, and drops out behind the last answer."""
    task, units = TASK, units_of(rows("a"))
    answers = task.decode(said([[0.7, 0.5, 0.9, 0.1]]), units, {"labels": list("abcd"), "threshold": threshold})
    assert answers["name"].tolist() == [answer]


def test_answers_go_by_id_and_are_legal():
    """One blank between labels, no label twice, as many as asked for or as there are."""
    frame = rows("a", "b", "c")
    values = [[0.1, 0.2, 0.3, 0.4], [0.9, 0.2, 0.3, 0.4], [0.5, 0.8, 0.3, 0.4]]
    learned = {"labels": list("abcd"), "threshold": 0.35}
    mixed = units_of(frame.iloc[[2, 0, 1]])
    answers = TASK.decode(said(values), mixed, learned)
    assert answers.index.tolist() == frame["unit_id"].iloc[[2, 0, 1]].tolist()
    assert answers["name"].tolist() == ["b a d", "d new c", "a d new"]
    plain = Retrieval("name", answers=9)
    assert plain.decode(said(values[:1]), units_of(frame.head(1)), {"labels": []})["name"].tolist() == ["d c b a"]


def test_truth_is_what_the_fold_could_know():
    """A label outside the fold's gallery is the unknown; without an unknown it stays, and counts as missed."""
    units, learned = units_of(rows("a", "z", "new")), {"labels": ["a", "z"], "threshold": 0.5}
    gallery = Gallery(("a", "new", "b"), np.zeros((3, 8)))
    assert TASK.truth(units, learned, gallery)["name"].tolist() == ["a", "new", "new"]
    assert TASK.truth(units, learned)["name"].tolist() == ["a", "z", "new"]
    assert Retrieval("name").truth(units, learned, gallery)["name"].tolist() == ["a", "z", "new"]


def test_the_threshold_is_fitted_by_the_host_score():
    """Known rows are near to a label, unknown ones to none: the threshold found parts them without a mistake."""
    draw = np.random.RandomState(0)
    names = ["abcd"[at % 4] if at % 3 else "new" for at in range(10)]
    frame = rows(*names)
    values = draw.uniform(0.0, 0.4, (10, 4))
    for row, name in enumerate(names):
        if name != "new":
            values[row, "abcd".index(name)] = draw.uniform(0.6, 0.9)
    predictions, units = said(values.tolist()), units_of(frame)
    learned = TASK.learn(frame)

    def score(candidate):
        tables = [
            table.rename_axis("id").reset_index()
            for table in (TASK.truth(units, candidate), TASK.decode(predictions, units, candidate))
        ]
        return map_at_k(*tables, by="id", column="name", k=3)

    far = {**learned, "threshold": -1.0}
    assert score(far) < 1
    fitted = TASK.tune(predictions, units, score, far)
    assert score(fitted) == 1 and 0.3 < fitted["threshold"] <= 0.6
    assert TASK.decides and not Retrieval("name").decides
    assert Retrieval("name").tune(predictions, units, score, learned) is learned


def test_embeddings_need_their_gallery():
    """Embeddings say nothing without the rows they are compared with; compared, a part holds similarities."""
    asked = Predictions(np.array(["q"]), np.eye(8)[:1], TASK.outputs({}))
    with pytest.raises(DataError, match="gallery"):
        TASK.compare(asked, None)
    part = Part(TASK.compare(asked, Gallery(("a", "new", "b"), np.eye(8)[[1, 0, 0]].astype(np.float32))))
    assert isinstance(part.predictions, Similarities)
    assert part.predictions.labels(2).tolist() == [["b", "a"]]


# The head


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("centres", [1, 3])
def test_the_head_answers_with_cosines_or_embeddings(backbone, centres):
    """Training: N x labels in -1..1, gradients to backbone and centres. Evaluation: N x size. Any kind of features."""
    torch.manual_seed(0)
    spec = ModelSpec(backbone, 8, (32, 32), 1, "retrieval", arguments={"centres": centres}, targets=5)
    model, images = Embedder(spec), torch.randn(4, 1, 32, 32)
    cosines = model(images)
    assert cosines.shape == (4, 5) and cosines.abs().max() <= 1 + 1e-5
    TASK.loss(cosines, torch.eye(5)[:4], torch.ones(4)).backward()
    assert model.centres.weight.grad.abs().sum() > 0
    assert sum(float(p.grad.abs().sum()) for p in model.backbone.parameters() if p.grad is not None) > 0
    assert model.eval()(images).shape == (4, 8)


def test_the_nearest_sub_centre_counts():
    """With three centres a label, its cosine is that of the nearest one; centres of a label stand together."""
    torch.manual_seed(1)
    spec = ModelSpec("test_resnet", 8, (32, 32), 3, "retrieval", arguments={"centres": 3}, targets=5)
    model, images = Embedder(spec), torch.randn(4, 3, 32, 32)
    seen: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    cosines = model(images)
    each = F.normalize(seen[0]) @ F.normalize(model.centres.weight).T
    assert torch.allclose(cosines, each.reshape(4, 5, 3).amax(dim=2), atol=1e-6)


def test_gem_lies_between_mean_and_maximum():
    """At a power of one it is the mean, at a large one nearly the maximum."""
    features = torch.rand(2, 3, 4, 5) + 0.1
    pool = Embedder(ModelSpec("test_resnet", 8, (32, 32), 3, "retrieval", targets=2)).pool
    with torch.no_grad():
        pool.power.fill_(1.0)
        assert torch.allclose(pool(features), features.mean(dim=(2, 3)), atol=1e-5)
        pool.power.fill_(60.0)
        assert torch.allclose(pool(features), features.amax(dim=(2, 3)), rtol=0.06)


def test_bags_are_refused():
    """One image a row, until a model.py says otherwise."""
    with pytest.raises(RecipeError, match=r"model\.py"):
        Embedder(ModelSpec("test_resnet", 8, (32, 32), 3, "retrieval", arguments={"bag": "mean"}, targets=2))


def test_arcface_separates_what_it_trains_on():
    """A few steps on four classes of points bring each to its centre: the loss falls, the nearest centre is right."""
    torch.manual_seed(2)
    points = F.normalize(torch.randn(4, 8)).repeat(6, 1) + 0.1 * torch.randn(24, 8)
    labels = torch.arange(4).repeat(6)
    centres = torch.randn(4, 8, requires_grad=True)
    optimizer, losses = torch.optim.Adam([centres], lr=0.1), []
    for _ in range(60):
        cosines = F.normalize(points) @ F.normalize(centres).T
        loss = TASK.loss(cosines, torch.eye(4)[labels], torch.ones(24))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0] and math.isfinite(losses[-1])
    assert (cosines.argmax(dim=1) == labels).all()
