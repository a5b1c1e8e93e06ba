"""kit/training/losses.py"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel

from kit import Binary, Multiclass, Multilabel, Ordinal, Regression, Segmentation
from kit.offline.errors import RecipeError
from kit.offline.tasks import trained_task
from kit.training import loop
from kit.training.folds import split
from kit.training.losses import with_loss
from kit.training.recipe import Recipe

ROWS = 12
CLASS = ["b", "a", "b", "c", "b", "b", "a", "b", "b", "c", "b", "b"]
FRAME = pd.DataFrame(
    {
        "sample_id": [f"{at * 7 % 13:02d}" for at in range(ROWS)],
        "class": CLASS,
        "yes": [str(int(one == "b")) for one in CLASS],
        "x": [str(at % 2) for at in range(ROWS)],
        "y": [str(int(at == 4)) for at in range(ROWS)],
        "grade": [str(at % 4) for at in range(ROWS)],
    }
)
MULTICLASS, MULTILABEL = Multiclass("class"), Multilabel(["x", "y"])
COUNTS = {"class": torch.tensor([2.0, 8.0, 2.0]), "x": torch.tensor([6.0, 1.0])}


def loss_of(task, frame=FRAME, **changes):
    """The loss of the task under a recipe."""
    return with_loss(Recipe(**changes), task, frame, task.learn(frame)).loss


def batch(columns=3, soft=True, rows=6):
    """Logits and targets in 0..1 that sum to one, of which some are mixed, and unequal weights, one of them 0."""
    torch.manual_seed(columns)
    targets = F.one_hot(torch.arange(rows) % columns, columns).float()
    targets = 0.7 * targets + 0.3 * targets.flip(0) if soft else targets
    return 2 * torch.randn(rows, columns), targets, torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 3.0])


def mean(losses, weight):
    return (losses * weight).sum() / weight.sum()


def binary(outputs, targets, **more):
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none", **more)


@pytest.mark.parametrize("kind", [None, "inv_freq", "effective_num"])
def test_cross_entropy_is_torchs(kind):
    """On soft targets, row weights and class weights included, whose mean over the classes is one."""
    outputs, targets, weight = batch()
    of = None
    if kind:
        counts = COUNTS["class"]
        of = 1 / counts if kind == "inv_freq" else 1 / (1 - 0.999**counts)
        of = of / of.mean()
    expected = mean(F.cross_entropy(outputs, targets, weight=of, reduction="none"), weight)
    for name in ("ce", None) if kind else ("ce",):
        torch.testing.assert_close(
            loss_of(MULTICLASS, loss=name, class_weights=kind)(outputs, targets, weight), expected
        )


def test_binary_cross_entropy_takes_a_threshold_and_class_weights():
    """Soft targets count as they are, or as 0 and 1 by the threshold; neg_pos weighs the positive side alone."""
    outputs, targets, weight = batch()
    plain = loss_of(MULTICLASS, loss="bce")(outputs, targets, weight)
    torch.testing.assert_close(plain, mean(binary(outputs, targets).mean(1), weight))
    cut = loss_of(MULTICLASS, loss="bce", loss_arguments={"target_threshold": 0.2})(outputs, targets, weight)
    torch.testing.assert_close(cut, mean(binary(outputs, (targets > 0.2).float()).mean(1), weight))
    assert not torch.isclose(plain, cut)
    counts = COUNTS["class"]
    weighed = loss_of(MULTICLASS, loss="bce", class_weights="neg_pos")(outputs, targets, weight)
    positive = (ROWS - counts) / counts
    torch.testing.assert_close(weighed, mean(binary(outputs, targets, pos_weight=positive).mean(1), weight))


@pytest.mark.parametrize("task", [MULTILABEL, Binary("yes"), Ordinal("grade")])
def test_tasks_without_exclusive_classes_take_the_binary_losses(task):
    """bce is the task's own there, and focal without gamma is bce."""
    outputs, targets, weight = batch(len(task.outputs(task.learn(FRAME))))
    own = task.loss(outputs, targets, weight)
    torch.testing.assert_close(loss_of(task, loss="bce")(outputs, targets, weight), own)
    torch.testing.assert_close(loss_of(task, loss="focal", loss_arguments={"gamma": 0})(outputs, targets, weight), own)


@pytest.mark.parametrize("kind", [None, "inv_freq"])
@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
def test_focal_without_gamma_is_cross_entropy(task, kind):
    """Class weights included, softmax for exclusive classes and a sigmoid each elsewhere."""
    outputs, targets, weight = batch(len(task.outputs(task.learn(FRAME))))
    plain = loss_of(task, loss="ce" if task is MULTICLASS else "bce", class_weights=kind)
    focal = loss_of(task, loss="focal", loss_arguments={"gamma": 0}, class_weights=kind)
    torch.testing.assert_close(focal(outputs, targets, weight), plain(outputs, targets, weight))


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_weighs_what_is_known_less(task, gamma):
    """A row's loss is its cross-entropy times (1 - p)^gamma, and the gradient is a number even where p is 1."""
    columns = len(task.outputs(task.learn(FRAME)))
    focal = loss_of(task, loss="focal", loss_arguments={"gamma": gamma})
    known = torch.tensor([[4.0] + [-4.0] * (columns - 1), [-1.0] + [1.0] * (columns - 1)])
    targets = F.one_hot(torch.zeros(2, dtype=torch.long), columns).float()
    for row, weight in enumerate((torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))):
        if task is MULTICLASS:
            p = known[row].softmax(0)[0]
            expected = -((1 - p) ** gamma) * p.log()
        else:
            p = torch.where(targets[row] == 1, known[row].sigmoid(), 1 - known[row].sigmoid())
            expected = (-((1 - p) ** gamma) * p.log()).mean()
        torch.testing.assert_close(focal(known, targets, weight), expected, rtol=1e-4, atol=1e-9)
    sure = torch.tensor([[200.0] + [-200.0] * (columns - 1)], requires_grad=True)
    focal(sure, targets[:1], torch.ones(1)).backward()
    assert torch.isfinite(sure.grad).all()


def test_asymmetric_is_timms():
    """Its defaults and its arguments, summed over the classes, then the weighted mean of rows."""
    outputs, targets, weight = batch(2, soft=False)
    for arguments in ({}, {"gamma_neg": 2, "gamma_pos": 0, "clip": 0.1}):
        asl = loss_of(MULTILABEL, loss="asl", loss_arguments=arguments)
        rows = [AsymmetricLossMultiLabel(**arguments)(outputs[[at]], targets[[at]]) for at in range(len(outputs))]
        torch.testing.assert_close(asl(outputs, targets, weight), mean(torch.stack(rows), weight))
    weighed = loss_of(MULTILABEL, loss="asl", class_weights="neg_pos")(outputs, targets, weight)
    positive = (ROWS - COUNTS["x"]) / COUNTS["x"]
    rows = AsymmetricLossMultiLabel(pos_weight=positive, reduction="none")(outputs, targets).sum(1)
    torch.testing.assert_close(weighed, mean(rows, weight))


@pytest.mark.parametrize("loss", ["ce", "bce", "focal", "asl"])
def test_a_row_of_weight_0_changes_nothing(loss):
    """Neither the loss nor any gradient: it is as if the row were not in the batch."""
    outputs, targets, weight = batch()
    function = loss_of(MULTICLASS, loss=loss)
    there = (weight > 0).nonzero().ravel()
    others = outputs.clone()
    others[1] = 77.0
    found = []
    for given, rows in ((outputs, slice(None)), (others, slice(None)), (outputs, there)):
        logits = given[rows].clone().requires_grad_()
        value = function(logits, targets[rows], weight[rows])
        value.backward()
        found.append((value.detach(), logits.grad[weight[rows] > 0]))
    for value, gradient in found[1:]:
        torch.testing.assert_close(value, found[0][0])
        torch.testing.assert_close(gradient, found[0][1])


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        ("ce", {"gamma": 2}),
        ("bce", {"sum_classes": True}),
        ("bce", {"reduction": "mean"}),
        ("focal", {"alpha": 0.2}),
        ("focal", {"gamma": "2"}),
        ("asl", {"gamma": 2}),
    ],
)
def test_arguments_that_a_loss_does_not_take_are_named(loss, arguments):
    """An unknown argument, timm's inner ones among them, or one that is no number is told with those there are."""
    with pytest.raises(RecipeError, match=f"loss='{loss}'") as caught:
        loss_of(MULTICLASS, loss=loss, loss_arguments=arguments)
    assert next(iter(arguments)) in caught.value.found


@pytest.mark.parametrize(
    ("task", "how", "said"),
    [
        (Regression("x"), {"loss": "bce"}, "Regression"),
        (Segmentation("mask"), {"loss": "focal"}, "Segmentation"),
        (Regression("x"), {"class_weights": "inv_freq"}, "Regression"),
        (MULTILABEL, {"loss": "ce"}, "use loss='bce'"),
        (MULTICLASS, {"class_weights": "neg_pos"}, "inv_freq"),
        (MULTICLASS, {"loss": "focal", "class_weights": "neg_pos"}, "inv_freq"),
    ],
)
def test_losses_and_weights_that_suit_no_task_are_refused(task, how, said):
    """Tasks without classes keep their own loss; softmax needs exclusive classes; neg_pos needs a positive side."""
    learned = {} if task.dense else task.learn(FRAME)
    with pytest.raises(RecipeError, match=said):
        with_loss(Recipe(**how), task, FRAME, learned)


def test_without_a_loss_the_task_is_left_alone():
    """The very object, so that an adapter's own loss is used; with one, the original keeps its own."""
    assert with_loss(Recipe(), MULTICLASS, FRAME, {}) is MULTICLASS
    other = with_loss(Recipe(loss="focal"), MULTICLASS, FRAME, MULTICLASS.learn(FRAME))
    assert other is not MULTICLASS and "loss" not in vars(MULTICLASS)


def test_columns_that_exclude_each_other_are_a_softmax():
    """Votes that sum to one take ce by default with class weights, and focal over the softmax."""
    task = Multilabel(["x", "z"], exclusive=True)
    frame = FRAME.assign(z=[str(1 - int(one)) for one in FRAME["x"]])
    outputs, targets, weight = batch(2)
    weighed = loss_of(task, frame, class_weights="inv_freq")(outputs, targets, weight)
    torch.testing.assert_close(weighed, task.loss(outputs, targets, weight), msg="both classes are equally common here")
    focal = loss_of(task, frame, loss="focal", loss_arguments={"gamma": 0})(outputs, targets, weight)
    torch.testing.assert_close(focal, task.loss(outputs, targets, weight))


def test_further_heads_keep_their_losses():
    """With aux the recipe's loss takes the place of the main task's alone; the other is added by its weight."""
    task = MULTICLASS.with_aux(many=(MULTILABEL, 0.5))
    learned = task.learn(FRAME)
    whole = trained_task(with_loss(Recipe(loss="focal"), task, FRAME, learned), FRAME)
    outputs, targets, weight = batch(3)
    more, wanted, _ = batch(2)
    focal = loss_of(MULTICLASS, loss="focal")(outputs, targets, weight)
    total = whole.loss(torch.cat([outputs, more], 1), torch.cat([targets, wanted], 1), weight)
    torch.testing.assert_close(total, focal + 0.5 * MULTILABEL.loss(more, wanted, weight))


def test_class_weights_come_from_the_rows_that_train(world, monkeypatch):
    """The classes that the loop counts are those of the fold's training rows, held-out and soft rows aside."""
    counted, real = [], loop.with_loss
    monkeypatch.setattr(loop, "with_loss", lambda *given: counted.append(given) or real(*given))
    world.train([0], class_weights="inv_freq", loss="focal", epochs=1)
    assert len(counted) == 1
    recipe, task, frame, learned = counted[0]
    rows, held = split(world.ground().frame, 0)
    assert list(frame["sample_id"]) == list(rows["sample_id"])
    counts = rows["colour"].value_counts()[learned["classes"]].to_numpy()
    assert len(set(counts)) > 1, "classes equally common would show nothing"
    of = torch.from_numpy(1 / counts / np.mean(1 / counts)).float()
    outputs, targets, weight = batch()
    expected = mean(-(targets * of * (1 - outputs.softmax(1)) ** 2 * outputs.log_softmax(1)).sum(1), weight)
    torch.testing.assert_close(real(recipe, task, frame, learned).loss(outputs, targets, weight), expected)
    everything = real(recipe, task, pd.concat([rows, held.head(2)]), learned).loss(outputs, targets, weight)
    assert not torch.isclose(everything, expected, rtol=1e-4)
