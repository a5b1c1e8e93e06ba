"""kit/offline/tasks.py"""

from __future__ import annotations

import json
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from kit.offline.errors import DataError
from kit.offline.predictions import Predictions
from kit.offline.tasks import (
    Binary,
    Multiclass,
    Multilabel,
    Ordinal,
    Regression,
    Task,
    fit_threshold,
    settings_of,
    task_from,
    trained_task,
    weighted_mean,
)

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
        Multilabel(("a", "b"), exclusive=True),
        Multilabel("label", answer="words", classes=("b", "a"), none="healthy"),
        Regression("y", low=0, criterion="l1"),
        Regression(["y", "z"], bins=7),
        Ordinal("label", classes=("low", "high"), output="regression"),
        Binary("label").with_aux(site=(Multiclass("site"), 0.3), age=(Regression("age", bins=5), 0.1)),
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


# Several labels


def rows_of_columns(table, ids=IDS):
    return pd.DataFrame({"sample_id": ids, "unit_id": ids, **table})


def by_unit(frame):
    return frame.set_index("unit_id", drop=False).rename_axis(None)


MARKS = {"a": ["1", "0", "1", "0"], "b": ["0", "0.25", "1", "1.0"]}
WORDS = ["rust", "scab rust", "scab", "rust scab"]


def test_columns_of_marks_and_fractions_are_their_own_targets():
    """0, 1 and soft targets between them, as text, become float32; the answers are one probability a column."""
    task, rows = Multilabel(["a", "b"]), rows_of_columns(MARKS)
    assert task.learn(rows) == {}
    assert not task.decides
    assert task.targets(rows, {}).tolist() == [[1, 0], [0, 0.25], [1, 1], [0, 1]]
    assert task.targets(rows, {}).dtype == np.float32
    said = task.decode(Predictions(IDS, task.targets(rows, {}), ("a", "b")), by_unit(rows), {})
    assert said.to_dict() == task.truth(by_unit(rows), {}).to_dict()


@pytest.mark.parametrize("bad", ["2", "-0.5", "", "x", np.nan, "inf"])
def test_marks_outside_zero_and_one_are_named(bad):
    """A mark that is no share of one is refused with its row."""
    rows = rows_of_columns({"a": ["1", bad, "0", "1"]})
    with pytest.raises(DataError, match="007"):
        Multilabel("a").learn(rows)
    with pytest.raises(DataError, match="007"):
        Multilabel("a").targets(rows, {})


def test_exclusive_columns_are_one_distribution():
    """Votes sum to one, are learned by cross-entropy and predicted by a softmax; other sums are refused."""
    task = Multilabel(["a", "b"], exclusive=True)
    votes = rows_of_columns({"a": ["0.25", "1", "0.5", "0"], "b": ["0.75", "0", "0.5", "1"]})
    task.learn(votes)
    outputs, targets = torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert task.loss(outputs, targets, torch.ones(2)).item() == pytest.approx(np.log(2) / 2)
    assert task.activate(outputs).sum(dim=1).tolist() == pytest.approx([1, 1])
    with pytest.raises(DataError, match="'ü'"):
        task.learn(rows_of_columns({"a": ["0.25", "1", "0.5", "0"], "b": ["0.75", "0", "0.5", "0.5"]}))


def test_words_are_learned_and_marked():
    """Classes in natural order from the words; each row is marked for its words, in any order and repetition."""
    task, rows = Multilabel("label", answer="words"), frame(["b 10", "9", "b b", "10 9"])
    learned = task.learn(rows)
    assert learned == {"classes": ["9", "10", "b"], "thresholds": [0.5] * 3}
    assert task.outputs(learned) == ("9", "10", "b")
    assert task.targets(rows, learned).tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]]
    assert task.truth(units(["b 10", "9", "b b", "10 9"]), learned)["label"].tolist() == ["10 b", "9", "b", "9 10"]


@pytest.mark.parametrize(
    ("none", "labels", "fine"),
    [
        (None, ["a", "b", "a b", "b"], True),
        (None, ["a", "", "a b", "b"], False),
        ("", ["a", "", "a b", " "], True),
        ("healthy", ["a", "healthy", "a b", ""], True),
        ("healthy", ["a", "a healthy", "b", "b"], False),
        ("healthy", ["a", "scab", "b", "b"], False),
        ("healthy", ["a", np.nan, "b", "b"], False),
    ],
)
def test_a_row_without_labels_is_legal_where_the_task_says_so(none, labels, fine):
    """Blank rows need a `none`, its word stands alone, and words beside the classes are named with their row."""
    task = Multilabel("label", answer="words", classes=["a", "b"], none=none)
    if fine:
        learned = task.learn(frame(labels))
        assert task.targets(frame(labels), learned).shape == (4, 2)
        return
    with pytest.raises(DataError, match="007"):
        task.learn(frame(labels))


@pytest.mark.parametrize(("none", "lonely"), [(None, "b"), ("", ""), ("healthy", "healthy")])
def test_where_no_label_passes_the_answer_is_none_or_the_likeliest(none, lonely):
    """Thresholds decide label by label; a unit that passes none gets the word for it, or its likeliest label."""
    task = Multilabel("label", answer="words", none=none)
    learned = {"classes": ["a", "b"], "thresholds": [0.5, 0.2]}
    said = Predictions(IDS, [[0.6, 0.3], [0.4, 0.2], [0.1, 0.15], [0.9, 0.0]], ("a", "b"))
    assert task.decode(said, units(["a"] * 4), learned)["label"].tolist() == ["a b", "b", lonely, "a"]


@pytest.mark.parametrize(
    "task", [Multilabel("label", answer="words"), Multilabel("label", answer="words", none="scab")]
)
def test_words_decode_to_their_truth(task):
    """Targets taken as predictions decode to the true words, in any order of rows."""
    labels = ["rust", "rust", "scab", "rust"] if task.none else WORDS
    learned = task.learn(frame(labels))
    perfect = Predictions(IDS, task.targets(frame(labels), learned), task.outputs(learned)).align(IDS[::-1])
    assert task.decode(perfect, units(labels), learned).to_dict() == task.truth(units(labels), learned).to_dict()


def f1(task, said, of):
    """Micro F1 of the words as a function of what is learned."""

    def score(learned):
        pairs = zip(task.truth(of, learned)["label"], task.decode(said, of, learned)["label"], strict=True)
        sets = [(set(a.split()), set(b.split())) for a, b in pairs]
        return 2 * sum(len(a & b) for a, b in sets) / max(sum(len(a) + len(b) for a, b in sets), 1)

    return score


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_each_label_gets_a_threshold_of_its_own(scale):
    """Separable scores at a different level each, one label as rare as 3 in 600, are all found; 0.5 finds few."""
    rng = np.random.default_rng(0)
    rates, levels = [0.5, 0.05, 0.005], [0.7, 0.3, 0.05]
    marks = np.stack([rng.permutation(600) < rate * 600 for rate in rates], axis=1)
    values = scale * (np.asarray(levels) * 0.9 * rng.random((600, 3)) + marks * np.asarray(levels))
    labels = [" ".join(np.asarray(["a", "b", "c"])[row]) for row in marks]
    ids = [f"r{n}" for n in range(600)]
    task, of = Multilabel("label", answer="words", none=""), units(labels, ids)
    learned, said = task.learn(of), Predictions(ids, values, ("a", "b", "c"))
    score = f1(task, said, of)
    tuned = task.tune(said, of, score, learned)
    assert score(tuned) == 1.0
    assert score(learned) < 0.9
    assert learned["thresholds"] == [0.5] * 3, "what was learned before is left as it was"
    assert json.loads(json.dumps(tuned)) == tuned


def test_thresholds_of_many_labels_are_one():
    """Beyond 64 labels one threshold for all is fitted, in a number of scores that does not grow with the labels."""
    names = [f"w{n:03d}" for n in range(100)]
    task, ids = Multilabel("label", answer="words", none=""), [f"r{n}" for n in range(50)]
    rng = np.random.default_rng(0)
    marks = rng.random((50, 100)) < 0.1
    of = units([" ".join(np.asarray(names)[row]) for row in marks], ids)
    said, learned = Predictions(ids, 0.2 * marks + 0.1 * rng.random((50, 100)), tuple(names)), task.learn(of)
    scores = []
    score = lambda known: scores.append(f1(task, said, of)(known)) or scores[-1]  # noqa: E731
    tuned = task.tune(said, of, score, learned)
    assert len(set(tuned["thresholds"])) == 1
    assert max(scores) == f1(task, said, of)(tuned) == 1.0
    assert len(scores) < 100


@pytest.mark.parametrize("positives", [1, 7, 40, 5000, 9990, 9999])
def test_a_threshold_is_found_however_rare_a_class_is(positives):
    """Among 10000 distinct scores the one cut that separates is found, with far fewer tries than there are cuts."""
    rng = np.random.default_rng(positives)
    marks = rng.permutation(10000) < positives
    values = rng.random(10000) ** 8 * 0.5 + marks * 0.5
    tries = []

    def score(learned):
        said = values >= learned["threshold"]
        tries.append(learned)
        return 2 * (said & marks).sum() / (said.sum() + marks.sum())

    tuned = fit_threshold(values, lambda cut: {"threshold": cut}, score, {"threshold": 2.0})
    assert score(tuned) == 1.0
    assert len(tries) < 150


def test_a_threshold_may_answer_all_or_nothing():
    """The cuts include one below every value and one above, and constant predictions have both."""
    at = lambda cut: {"threshold": cut}  # noqa: E731
    for wanted in (0, 1, 3):
        count = lambda learned, wanted=wanted: -abs((np.asarray([1.0, 2, 2]) >= learned["threshold"]).sum() - wanted)  # noqa: E731
        assert count(fit_threshold(np.asarray([1.0, 2, 2]), at, count, {"threshold": 1.5})) == -(wanted == 1)
    nothing = fit_threshold(np.full(3, 0.5), at, lambda learned: -(learned["threshold"] <= 0.5), {"threshold": 0.1})
    assert nothing["threshold"] > 0.5


# Numbers


@pytest.mark.parametrize("task", [Regression("y"), Regression("y", bins=5), Regression("y", low=-10, high=10)])
def test_numbers_decode_to_their_truth(task):
    """Targets taken as predictions give the true numbers back, at the bounds and between bins too."""
    rows = rows_of_columns({"y": ["-3", "0.5", "7", "2.25"]})
    learned = task.learn(rows)
    perfect = Predictions(IDS, task.targets(rows, learned), task.outputs(learned)).align(IDS[::-1])
    said = task.decode(perfect, by_unit(rows), learned)
    assert list(said.index) == IDS
    assert said["y"].tolist() == pytest.approx([-3, 0.5, 7, 2.25], abs=1e-5)
    assert task.truth(by_unit(rows), learned)["y"].tolist() == [-3, 0.5, 7, 2.25]


def test_bounds_are_each_columns_own_or_given():
    """Learned bounds are the smallest and largest value of each column; a given one replaces its side for all."""
    rows = rows_of_columns({"y": ["1", "3", "2", "5"], "z": ["-1", "0", "1", "0"]})
    assert Regression(["y", "z"]).learn(rows) == {"low": [1.0, -1.0], "high": [5.0, 1.0]}
    assert Regression(["y", "z"], high=9).learn(rows) == {"low": [1.0, -1.0], "high": [9.0, 9.0]}
    targets = Regression(["y", "z"]).targets(rows, {"low": [1.0, -1.0], "high": [5.0, 1.0]})
    assert targets.tolist() == [[0, 0], [0.5, 0.5], [0.25, 1], [1, 0.5]]


@pytest.mark.parametrize("bad", ["11", "-1", "", "nan", "many"])
def test_numbers_outside_the_bounds_are_named(bad):
    """Values beyond given bounds and cells that are no numbers are refused with their row."""
    with pytest.raises(DataError, match="007"):
        Regression("y", low=0, high=10).learn(rows_of_columns({"y": ["1", bad, "0", "10"]}))


def test_a_column_of_one_value_needs_bounds():
    """Nothing can be learned between equal bounds; given bounds help."""
    rows = rows_of_columns({"y": ["4"] * 4})
    with pytest.raises(DataError, match="'y'"):
        Regression("y").learn(rows)
    assert Regression("y", low=0, high=8).targets(rows, {"low": [0.0], "high": [8.0]}).tolist() == [[0.5]] * 4


def test_predictions_stay_between_the_bounds():
    """However far the outputs go, the answers stay legal."""
    for task in (Regression("y", low=1, high=100), Regression("y", low=1, high=100, bins=4)):
        learned = {"low": [1.0], "high": [100.0]}
        width = len(task.outputs(learned))
        values = task.activate(torch.tensor([[-1e4] * width, [1e4] * width])).numpy()
        said = task.decode(
            Predictions(["a", "b"], values, task.outputs(learned)), units(["x"] * 2, ["a", "b"]), learned
        )
        assert said["y"].between(1, 100).all()


@pytest.mark.parametrize(
    ("criterion", "want"),
    [("bce", np.log(2)), ("mse", 0.25), ("l1", 0.5), ("huber", 0.1 * (0.5 - 0.05))],
)
def test_criteria_closed_form(criterion, want):
    """Output 0 is a half, against a target of 1; another row's weight says how much it counts."""
    task = Regression("y", criterion=criterion)
    outputs, targets = torch.tensor([[0.0], [50.0]]), torch.ones(2, 1)
    for weight, share in (([1, 1], 0.5), ([3, 1], 0.75), ([0, 1], 0.0)):
        assert task.loss(outputs, targets, torch.tensor(weight).float()).item() == pytest.approx(share * want, abs=1e-6)
    assert Ordinal("y", criterion=criterion).loss(outputs, targets, torch.ones(2)).item() == pytest.approx(want / 2)


def test_an_unknown_criterion_is_named():
    """A misspelt criterion is an error at the first loss."""
    with pytest.raises(DataError, match="mae"):
        Regression("y", criterion="mae").loss(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1))


def test_bins_share_a_number_between_neighbours():
    """Five points from 0 to 8: 3 is a quarter of 2 and three quarters of 4; each column has bins of its own."""
    rows = rows_of_columns({"y": ["0", "3", "8", "4"], "z": ["8", "0", "7", "0"]})
    task = Regression(["y", "z"], bins=5)
    learned = task.learn(rows)
    targets = task.targets(rows, learned)
    assert targets.shape == (4, 10)
    assert task.outputs(learned)[4:6] == ("y_4", "z_0")
    np.testing.assert_allclose(targets[1], [0, 0.5, 0.5, 0, 0, 1, 0, 0, 0, 0], atol=1e-6)
    said = task.activate(torch.zeros(1, 10))
    assert said.tolist() == [pytest.approx([0.2] * 10)]
    even = task.loss(torch.zeros(4, 10), torch.from_numpy(targets), torch.ones(4))
    assert even.item() == pytest.approx(np.log(5))
    assert task.smooth(torch.tensor([[1.0, 0, 0, 0, 0] * 2]), 0.5).tolist() == [pytest.approx([0.6, *[0.1] * 4] * 2)]


# Grades


GRADES = ["2", "0", "10", "1"]


@pytest.mark.parametrize("output", ["cumulative", "regression"])
def test_grades_decode_to_their_truth(output):
    """Grades in the order of their numbers; targets taken as predictions decode to them, as text."""
    task = Ordinal("label", output=output)
    learned = task.learn(frame(GRADES))
    assert learned == {"classes": ["0", "1", "2", "10"], "thresholds": [0.5, 1.5, 2.5]}
    perfect = Predictions(IDS, task.targets(frame(GRADES), learned), task.outputs(learned)).align(IDS[::-1])
    said = task.decode(perfect, units(GRADES), learned)
    assert (
        said.to_dict() == task.truth(units(GRADES), learned).to_dict() == {"label": dict(zip(IDS, GRADES, strict=True))}
    )


def test_grades_are_targets_by_their_place():
    """Cumulative: one mark for each higher grade that is reached; regression: the place as a share."""
    classes = ["mild", "severe", "lethal"]
    rows = frame(["severe", "mild", "lethal", "mild"])
    learned = Ordinal("label", classes).learn(rows)
    assert Ordinal("label", classes).targets(rows, learned).tolist() == [[1, 0], [0, 0], [1, 1], [0, 0]]
    assert Ordinal("label", output="regression").targets(rows, learned).tolist() == [[0.5], [0], [1], [0]]
    assert Ordinal("label", classes).outputs(learned) == ("label_from_severe", "label_from_lethal")


@pytest.mark.parametrize("bad", ["1.5", "x", "", np.nan, 2])
def test_grades_that_are_no_whole_numbers_are_named(bad):
    """Without given classes grades are whole numbers as text, and others are refused with their row."""
    with pytest.raises(DataError, match="007"):
        Ordinal("label").learn(frame(["1", bad, "0", "1"]))


def test_one_grade_is_none():
    """A column of one grade has no threshold to learn."""
    with pytest.raises(DataError, match="two grades"):
        Ordinal("label").learn(frame(["1"] * 4))


@pytest.mark.parametrize("output", ["cumulative", "regression"])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_grades_get_their_thresholds_from_the_hosts_score(output, scale):
    """Squeezed separable places, the top grade as rare as 4 in 1000, are told apart again by the kappa alone."""
    rng = np.random.default_rng(0)
    places = np.sort(rng.choice(4, 1000, p=[0.6, 0.3, 0.096, 0.004]))
    task, ids = Ordinal("label", output=output), [f"r{n}" for n in rng.permutation(1000)]
    of = units([str(place) for place in places], ids)
    learned = task.learn(of)
    values = scale * (task.targets(of, learned) ** 2 + rng.random((1000, 1)) * 0.04)
    said = Predictions(ids, values, task.outputs(learned))
    numbers = lambda known: task.decode(said, of, known)["label"].astype(int)  # noqa: E731
    score = lambda known: cohen_kappa_score(places, numbers(known), weights="quadratic")  # noqa: E731
    tuned = task.tune(said, of, score, learned)
    assert score(tuned) == 1.0
    assert score(learned) < score(tuned) or (scale, output) == (1.0, "cumulative")
    assert json.loads(json.dumps(tuned)) == tuned


def test_thresholds_follow_the_score_and_not_the_shares():
    """Where the score wants the top grade for all, the thresholds give way."""
    task, ids = Ordinal("label"), [f"r{n}" for n in range(30)]
    of = units([str(n % 3) for n in range(30)], ids)
    learned = task.learn(of)
    said = Predictions(ids, task.targets(of, learned), task.outputs(learned))
    score = lambda known: float((task.decode(said, of, known)["label"] == "2").mean())  # noqa: E731
    assert score(task.tune(said, of, score, learned)) == 1.0


# All of them


LOSSES = [
    (Multilabel(["a", "b", "c"]), 3),
    (Multilabel(["a", "b", "c"], exclusive=True), 3),
    (Regression(["a", "b", "c"]), 3),
    (Regression(["a", "b", "c"], criterion="mse"), 3),
    (Regression(["a", "b", "c"], criterion="l1"), 3),
    (Regression(["a", "b", "c"], criterion="huber"), 3),
    (Regression("a", bins=3), 3),
    (Ordinal("a"), 3),
    (Ordinal("a", output="regression"), 1),
]


@pytest.mark.parametrize(("task", "width"), LOSSES)
def test_going_down_the_gradient_goes_to_the_target(task, width):
    """Gradient descent on the outputs alone brings the activated outputs to soft targets; a weightless row stays."""
    targets = torch.tensor([[0.2, 0.5, 0.3][:width], [0.7, 0.1, 0.2][:width], [1.0, 0.0, 0.0][:width]])
    outputs = torch.zeros(3, width, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    for _ in range(120):
        optimizer.zero_grad()
        task.loss(outputs, targets, torch.tensor([1.0, 2.0, 0.0])).backward()
        optimizer.step()
    said = task.activate(outputs.detach())
    torch.testing.assert_close(said[:2], targets[:2], atol=0.03, rtol=0)
    assert outputs[2].abs().max() == 0


@pytest.mark.parametrize(("task", "width"), LOSSES)
def test_new_losses_compute_in_full_precision(task, width):
    """Outputs of 30000 in fp16 give a finite loss and float32 activations."""
    outputs = torch.full((1, width), 30000.0, dtype=torch.float16)
    assert torch.isfinite(task.loss(outputs, torch.zeros(1, width), torch.ones(1)))
    assert task.activate(outputs).dtype == torch.float32


@pytest.mark.parametrize(("task", "width"), LOSSES)
def test_smoothing_keeps_targets_in_their_range(task, width):
    """Smoothed targets stay in 0..1, and distributions keep their sum."""
    targets = torch.eye(3)[:, :width]
    smooth = task.smooth(targets, 0.2)
    assert smooth.min() >= 0
    assert smooth.max() <= 1
    if getattr(task, "exclusive", False) or getattr(task, "bins", None):
        torch.testing.assert_close(smooth.sum(dim=1), torch.ones(3))


# Further heads


AIDED = Binary("label").with_aux(site=(Multiclass("site"), 0.5), age=(Regression("age"), 2.0))
AIDED_ROWS = frame(["1", "0", "0", "1"]).assign(site=["x", "y", "x", "z"], age=["10", "20", "30", "20"])


def test_further_heads_stand_beside_the_task():
    """Outputs and targets follow the task's own, head by head; what is predicted and answered is the task's alone."""
    heads = trained_task(AIDED, AIDED_ROWS)
    assert heads.outputs({}) == ("label", "site/x", "site/y", "site/z", "age/age")
    assert heads.targets(AIDED_ROWS, {}).tolist() == [
        [1, 1, 0, 0, 0], [0, 0, 1, 0, 0.5], [0, 1, 0, 0, 1], [1, 0, 0, 1, 0.5]
    ]  # fmt: skip
    assert AIDED.outputs(AIDED.learn(AIDED_ROWS)) == AIDED.columns == ("label",)
    assert AIDED.label_columns == ("label", "site", "age")


def test_the_losses_of_further_heads_are_added_by_their_weight():
    """The whole is the sum of each head's own loss times its weight, under the same row weights."""
    heads = trained_task(AIDED, AIDED_ROWS)
    targets, weight = torch.from_numpy(heads.targets(AIDED_ROWS, {})), torch.tensor([1.0, 2.0, 0.0, 1.0])
    outputs = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 5))).float().requires_grad_()
    parts = [
        (Binary("label"), slice(0, 1), 1.0),
        (Multiclass("site"), slice(1, 4), 0.5),
        (Regression("age"), slice(4, 5), 2.0),
    ]
    want = sum(share * task.loss(outputs[:, at], targets[:, at], weight) for task, at, share in parts)
    got = heads.loss(outputs, targets, weight)
    torch.testing.assert_close(got, want)
    got.backward()
    assert (outputs.grad[[0, 1, 3]].abs() > 0).all()
    assert outputs.grad[2].abs().max() == 0


def test_further_heads_are_smoothed_each_in_its_own_way():
    """Marks, classes and numbers of one row: 0.9, 0.8 + 0.2/3, and the number as it was."""
    heads = trained_task(AIDED, AIDED_ROWS)
    smooth = heads.smooth(torch.from_numpy(heads.targets(AIDED_ROWS, {})), 0.2)
    assert smooth[1].tolist() == pytest.approx([0.1, 0.2 / 3, 0.8 + 0.2 / 3, 0.2 / 3, 0.5])


def test_a_task_without_further_heads_is_trained_as_it_is():
    """Nothing stands between the loop and a plain task, and adding heads leaves the task that was given alone."""
    task = Binary("label")
    assert trained_task(task, AIDED_ROWS) is task
    task.with_aux(site=(Multiclass("site"), 0.5))
    assert not task.aux
    assert "aux" not in settings_of(task)


def test_a_further_head_with_unfit_labels_is_told():
    """A blank label of a further head is named with its row before training."""
    with pytest.raises(DataError, match="007"):
        trained_task(AIDED, AIDED_ROWS.assign(site=["x", "", "x", "z"]))


def test_maps_and_embeddings_have_no_further_heads():
    """Tasks that predict no vectors say so instead of mixing shapes."""
    dense = type("Dense", (Task,), {"dense": True})()
    for task in (dense.with_aux(site=(Multiclass("site"), 1.0)), Binary("label").with_aux(map=(dense, 1.0))):
        with pytest.raises(DataError, match="Dense"):
            trained_task(task, AIDED_ROWS)
