"""kit/offline/metrics.py"""

from __future__ import annotations

import inspect
import math

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import directed_hausdorff
from sklearn import metrics as sk

from kit.offline import metrics, rle
from kit.offline.errors import SubmissionError
from kit.offline.metrics import accuracy, match, roc_auc

IDS = ["z9", "007", "a", "ü"]


def host(values, ids=IDS):
    return pd.DataFrame({"id": ids, "y": values})


def test_accuracy_is_the_share_of_right_rows():
    """Three of four right is 0.75, also where one table holds numbers and the other text."""
    assert accuracy(host([1, 0, 1, 1]), host(["1", "0", "1", "0"]), "id", "y") == 0.75


@pytest.mark.parametrize(
    ("said", "area"),
    [([0.9, 0.1, 0.8, 0.2], 1.0), ([0.1, 0.9, 0.2, 0.8], 0.0), ([5, 5, 5, 5], 0.5), ([3, 2, 1, 0], 0.75)],
)
def test_roc_auc_counts_pairs_in_order(said, area):
    """Closed form: the share of (positive, negative) pairs in the right order, ties a half."""
    assert roc_auc(host([1, 0, 1, 0]), host(said), "id", "y") == area


def test_roc_auc_of_one_class_is_nan():
    """Without both classes the area is undefined, not an error and not a number."""
    assert math.isnan(roc_auc(host([1, 1, 1, 1]), host([1, 2, 3, 4]), "id", "y"))


@pytest.mark.parametrize("metric", [accuracy, roc_auc])
def test_the_order_of_rows_does_not_matter(metric):
    """Shuffled rows on either side give the same score, since rows are matched by id."""
    truth, said = host([1, 0, 1, 0]), host([1, 0, 0, 1])
    want = metric(truth, said, "id", "y")
    for seed in range(5):
        assert metric(truth.sample(frac=1, random_state=seed), said, "id", "y") == want
        assert metric(truth, said.sample(frac=1, random_state=seed), "id", "y") == want


def test_match_gives_both_tables_in_the_order_of_the_solution():
    """Rows of the submission follow the solution's, and only the columns asked for are left."""
    truth, said = match(host([1, 2, 3, 4]), host([4, 3, 2, 1], IDS[::-1]).assign(other="x"), "id", ["y"])
    assert truth.index.tolist() == said.index.tolist() == IDS
    assert said["y"].tolist() == [1, 2, 3, 4]
    assert list(said.columns) == ["y"]


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (host([1, 1, 1], IDS[:3]), ["missing: 'ü'", "extra: none"]),
        (host([1] * 5, [*IDS, "new"]), ["missing: none", "extra: 'new'"]),
        (host([1] * 4, [*IDS[:3], "7"]), ["missing: 'ü'", "extra: '7'"]),
        (host([1] * 5, [*IDS, "007"]), ["repeated: '007'"]),
        (host([1, None, 1, None]), ["'007'", "'ü'"]),
        (host([1, 1, 1, 1], [*IDS[:3], None]), ["none for"]),
        (pd.DataFrame({"id": IDS, "z": 1}), ["['id', 'z']"]),
    ],
)
def test_bad_tables_are_refused_by_name(said, names):
    """Missing, extra and repeated ids, empty cells, empty ids and missing columns are refused, naming them."""
    with pytest.raises(SubmissionError) as caught:
        accuracy(host([1, 0, 1, 0]), said, "id", "y")
    assert all(name in caught.value.found for name in names), caught.value.found


def test_ids_that_are_the_same_text_are_repeats():
    """The number 1 and the text "1" are one id."""
    with pytest.raises(SubmissionError, match="repeated: '1'"):
        accuracy(host([1, 0], ["1", "2"]), host([1, 0], [1, "1"]), "id", "y")


def test_an_empty_text_is_a_value():
    """An empty run-length or no words at all is an answer; only NaN is missing."""
    truth, said = match(host(["", "1 1", "a", ""]), host([""] * 4), "id", ["y"])
    assert truth["y"].tolist() == ["", "1 1", "a", ""]
    assert said["y"].tolist() == [""] * 4


def test_rows_of_several_id_columns_are_matched_by_all_of_them():
    """Slices that occur once per class are told apart; a repeat of both columns is refused."""
    long = pd.DataFrame({"id": ["s1", "s1", "s2"], "class": ["a", "b", "a"], "y": [1, 2, 3]})
    truth, said = match(long, long.iloc[::-1], ["id", "class"], ["y"])
    assert truth["y"].tolist() == said["y"].tolist() == [1, 2, 3]
    with pytest.raises(SubmissionError, match="repeated: 's1 a'"):
        match(long, long.assign(**{"class": "a"}), ["id", "class"], ["y"])


def test_columns_known_to_the_host_alone_come_from_the_solution():
    """Heights stand in the solution; the submission needs none, and none is taken from it."""
    truth, said = match(host([1, 2, 3, 4]).assign(height=5), host([1, 2, 3, 4]), "id", ["y"], ["height"])
    assert list(truth.columns) == ["y", "height"]
    assert list(said.columns) == ["y"]


NUMERIC = [
    lambda a, b: roc_auc(a, b, "id", "y"),
    lambda a, b: metrics.mean_roc_auc(a, b, "id", ["y"]),
    lambda a, b: metrics.log_loss(a, b, "id", "y"),
    lambda a, b: metrics.multiclass_log_loss(a.assign(n=1 - a["y"]), b.assign(n=0.5), "id", ["y", "n"]),
    lambda a, b: metrics.quadratic_kappa(a, b, "id", "y"),
    lambda a, b: metrics.rmse(a, b, "id", "y"),
    lambda a, b: metrics.mean_absolute_error(a, b, "id", "y"),
    lambda a, b: metrics.pf1(a, b, "id", "y"),
    lambda a, b: metrics.lwlrap(a.assign(n=1), b.assign(n=0), "id", ["y", "n"]),
]


@pytest.mark.parametrize("metric", NUMERIC)
@pytest.mark.parametrize("bad", ["", "high", float("inf"), "nan"])
def test_cells_that_are_no_finite_number_are_named(metric, bad):
    """A blank, a word or an infinity among numbers is refused with its row, not scored and not a crash."""
    said = pd.DataFrame({"id": IDS, "y": np.array([1, bad, 0, 1], dtype=object)})
    with pytest.raises(SubmissionError, match="'007'"):
        metric(host([1, 0, 0, 1]), said)


@pytest.mark.parametrize("metric", NUMERIC)
def test_numbers_as_text_are_numbers_and_rows_match_by_id(metric):
    """Tables as read_table gives them score as tables of numbers do, in any order of rows."""
    truth, said = host([1, 0, 0, 1]), host([1, 1, 0, 0])
    want = metric(truth, said)
    assert metric(truth, host(["1", "1.0", "0", "0"]).iloc[::-1]) == pytest.approx(want)


def test_units_agree_with_their_score():
    """Every metric that has a sibling *_units is the mean of it, and both take the same arguments."""
    tables = {
        "accuracy": (host([1, 0, 1, 1]), host([1, 1, 1, 0]), "y"),
        "log_loss": (host([1, 0, 1, 1]), host([0.2, 0.1, 0.9, 1]), "y"),
        "mean_absolute_error": (host([1, 0, 1, 1]), host([0.2, 0.1, 7, 1]), "y"),
        "mean_f1": (host(["a b", "", "c", "a"]), host(["a", "", "b", "a b c"]), "y"),
        "map_at_k": (host(["a", "b", "c", "d"]), host(["a b", "c b", "x", "d"]), "y"),
        "dice_per_image": (masks(["1 2", "", "3 4", ""]), host(["2 2", "", "", "1 1"]), "y"),
        "iou_sweep": (masks(["1 4", "", "3 4", ""]), host(["1 3", "", "", "1 1"]), "y"),
    }
    with_units = {name.removesuffix("_units") for name in vars(metrics) if name.endswith("_units")}
    assert with_units == {*tables, "multiclass_log_loss"}
    for name, (truth, said, column) in tables.items():
        score, units = getattr(metrics, name), getattr(metrics, f"{name}_units")
        assert inspect.signature(score).parameters == inspect.signature(units).parameters
        more = {"k": 2} if name == "map_at_k" else {}
        parts = units(truth, said, "id", column, **more)
        assert parts.index.tolist() == IDS
        assert parts.mean() == pytest.approx(score(truth, said, "id", column, **more))


def columns(values, names="abc", ids=IDS):
    return pd.DataFrame(values, columns=list(names)).assign(id=ids)


def test_mean_roc_auc_is_the_mean_over_columns():
    """Closed form: columns of area 1, 0.5 and 0 average to 0.5; the area is taken column by column, not pooled."""
    truth = columns([[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
    said = columns([[0.9, 0.5, 0.1], [0.8, 0.5, 0.2], [0.2, 0.5, 0.8], [0.1, 0.5, 0.9]])
    assert metrics.mean_roc_auc(truth, said, "id", list("abc")) == pytest.approx(0.5)
    assert metrics.mean_roc_auc(truth, said[["c", "b", "a", "id"]], "id", ["a"]) == 1.0


def test_a_column_of_one_class_makes_the_mean_area_nan_unless_absent_ones_are_skipped():
    """No positive: NaN, or left out on demand; no negative: NaN either way; no column left: NaN."""
    truth = columns([[1, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 1]])
    said = columns([[0.9, 0.5, 0.1], [0.8, 0.5, 0.2], [0.2, 0.5, 0.8], [0.1, 0.5, 0.9]])
    score = metrics.mean_roc_auc
    assert math.isnan(score(truth, said, "id", ["a", "b"]))
    assert score(truth, said, "id", ["a", "b"], skip_absent=True) == 1.0
    assert math.isnan(score(truth, said, "id", ["a", "c"], skip_absent=True))
    assert math.isnan(score(truth, said, "id", ["b"], skip_absent=True))


def test_log_loss_closed_form():
    """Even odds cost ln 2; a certain wrong answer costs what the clip says: 34.54 on Kaggle, 36.04 in the benchmark."""
    assert metrics.log_loss(host([1, 0, 1, 0]), host([0.5] * 4), "id", "y") == pytest.approx(math.log(2))
    assert metrics.log_loss(host([1, 0, 1, 0]), host([1, 0, 1, 0]), "id", "y") == pytest.approx(0, abs=1e-14)
    wrong = metrics.log_loss_units(host([1, 0, 1, 0]), host([0, 1, 1, 0]), "id", "y")
    assert wrong["z9"] == pytest.approx(34.539, abs=1e-3)
    assert wrong["007"] == pytest.approx(34.539, abs=0.01)
    said = metrics.log_loss(host([1, 1, 1, 1]), host([0] * 4), "id", "y", clip=np.finfo(float).eps)
    assert said == pytest.approx(36.04, abs=1e-2)


def test_log_losses_agree_with_scikit_learn_inside_the_clip():
    """On probabilities away from 0 and 1 both log losses are scikit-learn's."""
    rng = np.random.default_rng(0)
    truth, p = rng.integers(0, 2, 50), rng.uniform(0.01, 0.99, 50)
    ids = [f"r{n}" for n in range(50)]
    assert metrics.log_loss(host(truth, ids), host(p, ids), "id", "y") == pytest.approx(sk.log_loss(truth, p))
    rows, labels = rng.dirichlet([1, 1, 1], 50), rng.integers(0, 3, 50)
    said = metrics.multiclass_log_loss(columns(np.eye(3)[labels], ids=ids), columns(rows, ids=ids), "id", list("abc"))
    assert said == pytest.approx(sk.log_loss(labels, rows, labels=[0, 1, 2]))


@pytest.mark.parametrize("bad", [-0.1, 1.5])
def test_log_losses_refuse_what_is_no_probability(bad):
    """A value outside [0, 1] is refused by its row in both log losses."""
    with pytest.raises(SubmissionError, match="'007'"):
        metrics.log_loss(host([1, 0, 1, 0]), host([0.5, bad, 0.5, 0.5]), "id", "y")
    truth = columns([[1, 0], [0, 1], [1, 0], [1, 0]], "ab")
    with pytest.raises(SubmissionError, match="'007'"):
        metrics.multiclass_log_loss(truth, columns([[1, 0], [0.5, bad], [1, 0], [1, 0]], "ab"), "id", ["a", "b"])


def test_rows_are_rescaled_as_kaggle_does_or_refused():
    """A row of (1, 1) counts as (0.5, 0.5); without rescaling it is refused by name, while a sum of 1 + 1e-6 passes."""
    truth = columns([[1, 0], [0, 1], [1, 0], [1, 0]], "ab")
    said = columns([[1, 0], [1, 1], [0.2, 0.2], [1, 0]], "ab")
    assert metrics.multiclass_log_loss(truth, said, "id", ["a", "b"]) == pytest.approx(2 * math.log(2) / 4)
    with pytest.raises(SubmissionError, match="'007', 'a'"):
        metrics.multiclass_log_loss(truth, said, "id", ["a", "b"], rescale=False)
    near = columns([[0.5, 0.5 + 1e-6]] * 4, "ab")
    got = metrics.multiclass_log_loss(truth, near, "id", ["a", "b"], rescale=False)
    assert got == pytest.approx(math.log(2), abs=1e-5)
    with pytest.raises(SubmissionError, match="'z9'"):
        metrics.multiclass_log_loss(truth, columns([[0, 0], *[[1, 0]] * 3], "ab"), "id", ["a", "b"])


def test_absent_classes_do_no_harm_to_the_log_loss():
    """Classes that no row has, and one class throughout, are scored like any."""
    truth = columns([[1, 0, 0]] * 4)
    assert metrics.multiclass_log_loss(truth, columns([[0.5, 0.25, 0.25]] * 4), "id", list("abc")) == pytest.approx(
        math.log(2)
    )
    assert metrics.log_loss(host([1] * 4), host([0.5] * 4), "id", "y") == pytest.approx(math.log(2))


def kappa(truth, said, size):
    """The host's formula with N x N matrices."""
    observed, weights = np.zeros((size, size)), np.subtract.outer(np.arange(size), np.arange(size)) ** 2.0
    np.add.at(observed, (truth, said), 1)
    expected = np.outer(observed.sum(1), observed.sum(0)) / observed.sum()
    return 1 - (weights * observed).sum() / (weights * expected).sum()


def test_kappa_with_fixed_classes_is_the_hosts_formula():
    """Where class 3 is in neither table the fixed classes and the ranks of the union differ; both are checked."""
    rng = np.random.default_rng(0)
    ids = [f"r{n}" for n in range(60)]
    truth, said = rng.choice([0, 1, 2, 4], 60), rng.choice([0, 1, 2, 4], 60)
    got = [metrics.quadratic_kappa(host(truth, ids), host(said, ids), "id", "y", c) for c in (range(5), None)]
    rank = {0: 0, 1: 1, 2: 2, 4: 3}
    assert got[0] == pytest.approx(kappa(truth, said, 5))
    assert got[1] == pytest.approx(kappa([rank[t] for t in truth], [rank[s] for s in said], 4))
    assert got[0] != pytest.approx(got[1])


@pytest.mark.parametrize("classes", [None, range(5)])
def test_kappa_of_constants(classes):
    """Perfect is 1, reversed below 0, a constant 0, the same constant on both sides NaN."""
    score = lambda a, b: metrics.quadratic_kappa(host(a), host(b), "id", "y", classes)  # noqa: E731
    assert score([0, 1, 2, 3], [0, 1, 2, 3]) == 1.0
    assert score([0, 1, 2, 3], [3, 2, 1, 0]) == pytest.approx(-1.0)
    assert score([0, 1, 2, 3], ["2", "2.0", 2, 2]) == pytest.approx(0.0)
    assert score([1, 1, 1, 1], [2, 2, 2, 2]) == pytest.approx(0.0)
    assert math.isnan(score([2, 2, 2, 2], [2, 2, 2, 2]))


def test_kappa_refuses_labels_that_are_none():
    """Fractions are named; with fixed classes so is a label outside them, which scikit-learn would drop silently."""
    with pytest.raises(SubmissionError, match="'007'"):
        metrics.quadratic_kappa(host([0, 1, 2, 3]), host([0, 1.5, 2, 3]), "id", "y")
    with pytest.raises(SubmissionError, match="'ü'"):
        metrics.quadratic_kappa(host([0, 1, 2, 3]), host([0, 1, 2, 7]), "id", "y", range(5))


def test_errors_of_regression_closed_form():
    """Errors 0, 0, 3 and -4: root mean square 2.5, mean absolute 1.75."""
    truth, said = host([1, 2, 3, 4]), host([1, 2, 6, 0])
    assert metrics.rmse(truth, said, "id", "y") == pytest.approx(2.5)
    assert metrics.mean_absolute_error(truth, said, "id", "y") == pytest.approx(1.75)


def test_micro_f1_counts_words_over_all_rows():
    """TP 2, FP 2 (one a word that no answer has), FN 1: 4/7. Repeats count once, order does not matter."""
    truth, said = host(["a b", "c", "", ""]), host(["b x a a", "", "c", ""])
    assert metrics.micro_f1(truth, said, "id", "y") == pytest.approx(4 / 7)
    assert metrics.micro_f1(host(["a b"] * 4), host(["b a"] * 4), "id", "y") == 1.0
    assert metrics.micro_f1(host(["a"] * 4), host([""] * 4), "id", "y") == 0.0
    assert math.isnan(metrics.micro_f1(host([""] * 4), host([""] * 4), "id", "y"))


def test_mean_f1_is_the_mean_over_rows():
    """Rows of F1 2/3, 0, 1 and, empty on both sides, 1."""
    units = metrics.mean_f1_units(host(["a b", "c", "d", ""]), host(["a", "", "d", ""]), "id", "y")
    assert units.tolist() == pytest.approx([2 / 3, 0, 1, 1])


def test_map_at_k_is_the_reciprocal_rank_of_the_true_label():
    """A repeat keeps its place and counts once, two blanks waste a rank, what follows the k-th is not read."""
    truth = host(["w", "w", "w", "w"])
    units = lambda said: metrics.map_at_k_units(truth, host(said), "id", "y", 3).tolist()  # noqa: E731
    assert units(["w a b", "a w w", "a b w", "a b c w"]) == pytest.approx([1, 1 / 2, 1 / 3, 0])
    assert units(["a  w", "", "a a w", "ww w"]) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 2])
    assert metrics.map_at_k(truth, host(["w", "a w", "x", "x"]), "id", "y", 5) == pytest.approx(1.5 / 4)


def test_pf1_closed_form():
    """P = 1.2/1.6 and R = 1.2/2 give 2/3; values are clipped, all zero is 0, no positives are NaN."""
    assert metrics.pf1(host([1, 1, 0, 0]), host([1.0, 0.2, 0.4, 0]), "id", "y") == pytest.approx(2 / 3)
    assert metrics.pf1(host([1, 1, 0, 0]), host([7, 0.2, 0.4, -3]), "id", "y") == pytest.approx(2 / 3)
    assert metrics.pf1(host([1, 1, 0, 0]), host([1, 1, 0, 0]), "id", "y") == 1.0
    assert metrics.pf1(host([1, 1, 0, 0]), host([0] * 4), "id", "y") == 0.0
    assert math.isnan(metrics.pf1(host([0] * 4), host([0.5] * 4), "id", "y"))


def test_lwlrap_weighs_labels_alike():
    """Row 1: two labels at ranks 1 and 3 (1 + 2/3); row 2: rank 2 (1/2); row 3: none, skipped; row 4: all, 1 each."""
    truth = columns([[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    said = columns([[0.9, 0.5, 0.1], [0.5, 0.9, 0.1], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3]])
    want = (1 + 2 / 3 + 1 / 2 + 3) / 6
    assert metrics.lwlrap(truth, said, "id", list("abc")) == pytest.approx(want)
    assert metrics.lwlrap(truth, said[["c", "id", "a", "b"]], "id", list("cab")) == pytest.approx(want)
    ties = columns([[0.5] * 3] * 4)
    assert metrics.lwlrap(columns([[1, 0, 0]] * 4), ties, "id", list("abc")) == pytest.approx(1 / 3)
    assert math.isnan(metrics.lwlrap(columns([[0, 0, 0]] * 4), said, "id", list("abc")))


def masks(values, ids=IDS, height=3, width=4):
    return host(values, ids).assign(height=str(height), width=str(width))


def test_dice_of_masks_closed_form():
    """Half overlapping runs 1/2, both empty 1, one empty 0, equal 1; the global one counts pixels of all rows."""
    truth, said = masks(["1 2", "", "5 3", "1 12"]), host(["2 2", "", "", "7 6 1 6"])
    units = metrics.dice_per_image_units(truth, said, "id", "y")
    assert units.tolist() == pytest.approx([0.5, 1, 0, 1])
    assert metrics.global_dice(truth, said, "id", "y") == pytest.approx(2 * 13 / (17 + 14))
    assert math.isnan(metrics.global_dice(masks([""] * 4), host([""] * 4), "id", "y"))


def test_an_empty_mask_may_have_a_sign_of_its_own():
    """Where the host writes "-" for empty, a blank cell is refused by name."""
    truth = masks(["1 2", "-", "5 3", "-"])
    assert metrics.global_dice(truth, host(["1 2", "-", "-", "-"]), "id", "y", empty="-") == pytest.approx(4 / 7)
    with pytest.raises(SubmissionError, match="'007'"):
        metrics.global_dice(truth, host(["1 2", "", "-", "-"]), "id", "y", empty="-")


@pytest.mark.parametrize(
    "bad", ["1", "0 2", "12 2", "1 0", "1 3 2 2", "-1 2", "a b", "1 99999999999999999999", "-", " "]
)
def test_run_lengths_that_are_none_are_named(bad):
    """Odd counts, runs outside the image, of no length or overlapping, and words are refused, not cut off."""
    for metric in (metrics.dice_per_image, metrics.global_dice, metrics.iou_sweep):
        with pytest.raises(SubmissionError, match="'007'"):
            metric(masks(["1 2"] * 4), host(["1 2", bad, "1 2", "1 2"]), "id", "y")


def test_masks_agree_with_their_pixels():
    """Overlaps counted from run-lengths are those of the painted masks, for random masks of all densities."""
    rng = np.random.default_rng(0)
    ids = [f"r{n}" for n in range(60)]
    one, two = ([rng.random((7, 9)) < rng.random() ** 2 for _ in ids] for _ in range(2))
    truth = masks([rle.encode(mask) for mask in one], ids, 7, 9)
    said = host([rle.encode(mask) for mask in two], ids).sample(frac=1, random_state=0)
    union = [(a | b).sum() for a, b in zip(one, two, strict=True)]
    both = [(a & b).sum() for a, b in zip(one, two, strict=True)]
    dice = [2 * b / (u + b) if u else 1.0 for b, u in zip(both, union, strict=True)]
    assert metrics.dice_per_image_units(truth, said, "id", "y").tolist() == pytest.approx(dice)
    sweep = [
        np.mean([b / u > t / 100 for t in range(50, 100, 5)]) if u else 1.0 for b, u in zip(both, union, strict=True)
    ]
    assert metrics.iou_sweep_units(truth, said, "id", "y").tolist() == pytest.approx(sweep)


def test_gigapixel_masks_are_not_painted():
    """Two masks of 10^12 pixels are compared by their runs."""
    truth = masks(["1 999999999999"] * 4, height=10**6, width=10**6)
    said = host(["2 999999999999", "1 1", "", "1 999999999999"])
    assert metrics.dice_per_image_units(truth, said, "id", "y").tolist() == pytest.approx([1, 0, 0, 1], abs=1e-11)


@pytest.mark.parametrize(
    ("truth", "said", "want"),
    [("", "", 1), ("", "1 1", 0), ("1 12", "", 0), ("1 1", "5 1", 0), ("1 4", "1 2", 0), ("1 5", "1 3", 0.2)],
)
def test_iou_sweep_edges(truth, said, want):
    """Both empty 1; one empty 0, also on a full tile, where MLE-bench gives 1; IoU 0.5 passes nothing, 0.6 two."""
    got = metrics.iou_sweep(masks([truth] * 4), host([said] * 4), "id", "y")
    assert got == pytest.approx(want)


def test_iou_sweep_ties_are_failures():
    """An IoU that equals a threshold does not pass it: 13 of 20 pixels (0.65) pass 0.5, 0.55 and 0.6."""
    got = metrics.iou_sweep(masks(["1 20"] * 4, height=5, width=5), host(["1 13"] * 4), "id", "y")
    assert got == pytest.approx(0.3)


def volumes(seed, density=0.15):
    """Two tables of random masks: two cases of two and one days, three slices, three classes, and the masks."""
    rng = np.random.default_rng(seed)
    days = ["case9_day0", "case10_day20", "case10_day3"]
    rows = [(f"{day}_slice_{n:04d}", organ) for day in days for n in (1, 2, 3) for organ in ("l_b", "s_b", "st")]
    one, two = ([rng.random((7, 9)) < density for _ in rows] for _ in range(2))
    table = pd.DataFrame(rows, columns=["id", "class"])
    truth = table.assign(predicted=[rle.encode(mask) for mask in one], height="7", width="9")
    return days, rows, one, two, truth, table.assign(predicted=[rle.encode(mask) for mask in two])


@pytest.mark.parametrize("seed", range(3))
def test_dice_hausdorff_is_the_definition(seed):
    """On random volumes it equals 0.4 Dice + 0.6 (1 - H), H by scipy's directed distances; rows in any order."""
    days, rows, one, two, truth, said = volumes(seed)
    dice = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(one, two, strict=True) if (a | b).any()])
    distances = []
    for day in days:
        slices = sorted({name for name, _ in rows if name.startswith(f"{day}_")})
        places = []
        for side in (one, two):
            volume = np.stack([np.any([m for (r, _), m in zip(rows, side, strict=True) if r == s], 0) for s in slices])
            places.append(np.argwhere(volume) / volume.shape)
        distances.append(max(directed_hausdorff(*places)[0], directed_hausdorff(*places[::-1])[0]) / 3**0.5)
    want = 0.4 * dice + 0.6 * (1 - np.mean(distances))
    assert metrics.dice_hausdorff(truth, said) == pytest.approx(want)
    shuffled = truth.sample(frac=1, random_state=seed)
    assert metrics.dice_hausdorff(shuffled, said.sample(frac=1, random_state=seed)) == pytest.approx(want)


def test_dice_hausdorff_edges():
    """Equal 1; nothing said 0; a volume empty on both sides is skipped; more than tenfold is farthest."""
    *_, truth, said = volumes(0)
    score = lambda a, b: metrics.dice_hausdorff(truth.assign(predicted=a), said.assign(predicted=b))  # noqa: E731
    assert score(truth["predicted"], truth["predicted"]) == pytest.approx(1.0)
    assert score(truth["predicted"], "") == pytest.approx(0.0)
    assert math.isnan(score("", ""))
    first = np.where(np.arange(len(truth)) == 0, "1 1", "")
    assert score(first, first) == pytest.approx(1.0)
    assert score(first, np.where(first == "", "", "1 11")) == pytest.approx(0.4 * 2 / 12)
    assert score(first, np.where(first == "", "", "1 10")) == pytest.approx(0.4 * 2 / 11 + 0.6 * (1 - 6 / 7 / 3**0.5))
