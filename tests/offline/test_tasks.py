"""kit/offline/tasks.py"""

from __future__ import annotations

import json
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from kit.offline.errors import DataError
from kit.offline.predictions import Predictions
from kit.offline.tasks import Binary, Multiclass, Task, settings_of, task_from, weighted_mean

IDS = ["z9", "007", "a", "ü"]


def frame(labels, ids=IDS):
    return pd.DataFrame({"sample_id": ids, "unit_id": ids, "label": labels})


def units(labels, ids=IDS):
    return frame(labels, ids).set_index("unit_id", drop=False).rename_axis(None)


def test_classes_are_in_natural_order():
    """Numbers by value ("10" after "9", "-1" first), then texts; odd digits are texts, not crashes."""
    labels = ["b", "10", "9", "-1", "a", "2.5", "²", "--5", "9"]
    learned = Multiclass("label").learn(frame(labels, [f"r{n}" for n in range(9)]))
    assert learned["classes"] == ["-1", "2.5", "9", "10", "--5", "a", "b", "²"]


def test_classes_do_not_depend_on_the_order_of_rows():
    """Shuffled rows learn the same classes, else two runs could not be blended."""
    rows = frame(["b", "10", "9", "b"])
    shuffled = rows.sample(frac=1, random_state=1)
    assert Multiclass("label").learn(shuffled) == Multiclass("label").learn(rows)


def test_multiclass_targets_are_one_hot_in_the_order_of_the_outputs():
    """Each row has a one under its own label and zeros elsewhere."""
    task = Multiclass("label")
    rows = frame(["10", "9", "10", "x"])
    learned = task.learn(rows)
    assert task.outputs(learned) == ("9", "10", "x")
    assert task.targets(rows, learned).tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("task", [Multiclass("label", ["yes", "no"]), Binary("label", positive="yes", negative="no")])
@pytest.mark.parametrize("bad", ["maybe", "", np.nan, 1])
def test_a_label_outside_the_classes_is_named_with_its_row(task, bad):
    """Learning and targets both refuse a label that is no class, naming the sample."""
    with pytest.raises(DataError, match="007"):
        task.learn(frame(["yes", bad, "no", "yes"]))
    learned = task.learn(frame(["yes", "no", "no", "yes"]))
    with pytest.raises(DataError, match="007"):
        task.targets(frame(["yes", bad, "no", "yes"]), learned)


@pytest.mark.parametrize("bad", ["", " ", np.nan, 3])
def test_labels_that_are_no_text_are_no_classes(bad):
    """Blanks, NaN and numbers do not become a class by themselves."""
    with pytest.raises(DataError, match="007"):
        Multiclass("label").learn(frame(["yes", bad, "no", "yes"]))


def test_a_missing_label_column_is_named():
    """A frame without the label column says which one is missing."""
    for task in (Multiclass("lable"), Binary("lable")):
        with pytest.raises(DataError, match="did you mean 'label'"):
            task.learn(frame(["1", "0", "1", "0"]))


def test_multiclass_loss_is_cross_entropy_under_row_weights():
    """Closed form: a certain right row costs 0, an even one log 2, and weights say how they mix."""
    task = Multiclass("label", ["a", "b"])
    outputs = torch.tensor([[100.0, 0.0], [0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for weight, want in (([1, 1], np.log(2) / 2), ([3, 1], np.log(2) / 4), ([1, 0], 0.0)):
        assert task.loss(outputs, targets, torch.tensor(weight).float()).item() == pytest.approx(want)


def test_binary_loss_is_cross_entropy_under_row_weights():
    """Closed form for logits 0 and 100, soft targets included."""
    task = Binary("label")
    outputs, targets = torch.tensor([[0.0], [100.0]]), torch.tensor([[0.3], [1.0]])
    assert task.loss(outputs, targets, torch.tensor([1.0, 1.0])).item() == pytest.approx(np.log(2) / 2)
    assert task.loss(outputs, targets, torch.tensor([0.0, 1.0])).item() == pytest.approx(0.0)


def test_no_weight_at_all_is_no_loss():
    """A batch whose rows all weigh nothing gives 0, not NaN."""
    assert weighted_mean(torch.tensor([1.0, 2.0]), torch.zeros(2)).item() == 0.0


def test_half_precision_outputs_lose_nothing_in_the_loss():
    """Losses and activations compute in float32, so that fp16 outputs of 30000 do not overflow."""
    for task, targets in ((Multiclass("label", ["a", "b"]), [[1.0, 0.0]]), (Binary("label"), [[1.0]])):
        outputs = torch.full((1, len(targets[0])), 30000.0, dtype=torch.float16)
        assert torch.isfinite(task.loss(outputs, torch.tensor(targets), torch.ones(1)))
        assert task.activate(outputs).dtype == torch.float32


def test_activations_are_probabilities():
    """Softmax rows sum to one; the sigmoid of 0 is a half."""
    said = Multiclass("label").activate(torch.tensor([[1.0, 2.0, 3.0]]))
    assert said.sum().item() == pytest.approx(1.0)
    assert Binary("label").activate(torch.zeros(1, 1)).item() == 0.5


def test_smoothing_moves_targets_towards_the_uniform():
    """0.2 of smoothing: one-hot over 4 becomes 0.85 and 0.05, binary 0.9 and 0.1."""
    smooth = Multiclass("label").smooth(torch.tensor([[1.0, 0, 0, 0]]), 0.2)
    torch.testing.assert_close(smooth, torch.tensor([[0.85, 0.05, 0.05, 0.05]]))
    torch.testing.assert_close(Binary("label").smooth(torch.tensor([[1.0], [0.0]]), 0.2), torch.tensor([[0.9], [0.1]]))


@pytest.mark.parametrize("answer", ["label", "probability"])
@pytest.mark.parametrize("task", [Multiclass, Binary])
def test_truth_decodes_to_itself(task, answer):
    """Targets taken as predictions, in any order of rows, decode to the true answers."""
    labels = ["1", "0", "0", "1"]
    task = task("label", answer=answer)
    learned = task.learn(frame(labels))
    perfect = Predictions(IDS, task.targets(frame(labels), learned), task.outputs(learned)).align(IDS[::-1])
    truth = task.truth(units(labels), learned)
    said = task.decode(perfect, units(labels), learned)
    assert list(said.index) == list(truth.index) == IDS
    assert said.to_dict() == truth.to_dict()


def test_decoding_reads_columns_by_name():
    """Predictions whose columns stand in another order than the classes give the same answers."""
    task = Multiclass("label", ["a", "b", "c"])
    learned = task.learn(frame(["a", "b", "c", "a"]))
    said = Predictions(IDS, [[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0, 1, 0], [0, 0, 1]], ("c", "a", "b"))
    assert task.decode(said, units(["a"] * 4), learned)["label"].tolist() == ["b", "c", "a", "b"]
    soft = Multiclass("label", ["a", "b", "c"], answer="probability").decode(said, units(["a"] * 4), learned)
    assert list(soft.columns) == ["a", "b", "c"]
    assert soft.loc["z9"].tolist() == pytest.approx([0.2, 0.7, 0.1])


def test_decoding_without_a_column_is_an_error():
    """Predictions of another task are refused by the column they lack."""
    task = Multiclass("label", ["a", "b"])
    with pytest.raises(DataError, match="'b'"):
        task.decode(Predictions(["z9"], [[1.0]], ("a",)), units(["a"], ["z9"]), {"classes": ["a", "b"]})


def test_a_class_nobody_spoke_of_is_not_the_answer():
    """A NaN column, as joins of parts leave it, never wins."""
    task = Multiclass("label", ["a", "b"])
    said = Predictions(["z9"], [[float("nan"), 0.1]], ("a", "b"))
    assert task.decode(said, units(["a"], ["z9"]), {"classes": ["a", "b"]})["label"].tolist() == ["b"]


def test_probability_answers_of_binary_are_those_of_the_positive_label():
    """The positive label may be any text; its probability is the answer."""
    task = Binary("label", positive="sick", negative="1")
    rows = frame(["sick", "1", "1", "sick"])
    assert task.targets(rows, task.learn(rows)).tolist() == [[1], [0], [0], [1]]
    assert task.truth(units(["sick", "1", "1", "sick"]), {})["label"].tolist() == [1.0, 0.0, 0.0, 1.0]


def tune(task, values, labels):
    ids = [f"r{n}" for n in range(len(labels))]
    said, of = Predictions(ids, np.asarray(values)[:, None], ("label",)), units(labels, ids)
    right = lambda learned: float((task.decode(said, of, learned)["label"] == of["label"]).mean())  # noqa: E731
    learned = task.learn(frame(labels, ids))
    return right(learned), right(task.tune(said, of, right, learned))


@pytest.mark.parametrize("scale", [1.0, 0.01, 1e-7])
@pytest.mark.parametrize("positives", [1, 100, 199])
def test_a_fitted_threshold_wins_a_rescaled_score_back(scale, positives):
    """Perfect predictions, squeezed to any range, with positives as rare as one in 200, score 1 once fitted."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(["1"] * positives + ["0"] * (200 - positives)).tolist()
    values = [scale * (1.0 if label == "1" else 0.1) for label in labels]
    assert tune(Binary("label", answer="label"), values, labels)[1] == 1.0


def test_a_threshold_is_moved_only_for_a_better_score():
    """Where the default already scores best it stays, so that ties do not drift."""
    task = Binary("label", answer="label")
    said = Predictions(["a", "b"], [[0.9], [0.1]], ("label",))
    assert task.tune(said, units(["1", "0"], ["a", "b"]), lambda learned: 1.0, {"threshold": 0.5}) == {"threshold": 0.5}


def test_a_probability_answer_decides_nothing():
    """There is no threshold to learn or to tune, and none is saved."""
    task = Binary("label")
    assert task.learn(frame(["1", "0", "1", "0"])) == {}
    assert task.tune(Predictions(["a"], [[1.0]], ("label",)), units(["1"], ["a"]), lambda learned: 0.0, {}) == {}


@pytest.mark.parametrize(
    "task",
    [
        Multiclass("label"),
        Multiclass("label", classes=("b", "a"), answer="probability"),
        Binary("label", answer="label", positive="x", negative="y"),
        Task(),
    ],
)
def test_settings_make_the_same_task_again(task):
    """Through JSON and back: same class, same settings, same answers."""
    settings = json.loads(json.dumps(settings_of(task)))
    again = task_from(settings)
    assert type(again) is type(task)
    assert json.dumps(settings_of(again)) == json.dumps(settings_of(task))


def test_a_task_of_the_adapter_comes_first():
    """A class in the adapter's module is found, and one of the kit's name there replaces the kit's."""
    adapter = ModuleType("adapter")
    adapter.Binary = type("Binary", (Binary,), {})  # type: ignore[attr-defined]
    assert type(task_from(settings_of(Binary("label")), adapter)) is adapter.Binary
    assert type(task_from(settings_of(Multiclass("label")), adapter)) is Multiclass


@pytest.mark.parametrize("kind", ["Nothing", "Learned", "np"])
def test_names_that_are_no_task_are_refused(kind):
    """A manifest cannot name any other object of the module."""
    with pytest.raises(DataError, match=kind):
        task_from({"kind": kind})
