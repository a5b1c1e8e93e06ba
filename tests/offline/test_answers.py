"""kit/offline/answers.py"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from kit.offline import metrics
from kit.offline.answers import (
    Part,
    blend_parts,
    cross_fitted,
    host_tables,
    part_of,
    read_sample,
    score_of,
    submission_of,
    tuned,
    validate,
)
from kit.offline.contract import Competition, Folds
from kit.offline.errors import DataError, NotFound, SubmissionError
from kit.offline.frames import checked, units_of
from kit.offline.predictions import Map, Maps, Predictions
from kit.offline.tasks import Binary, Multiclass

IDS = [f"{n * 7919 % 1000:03d}{'x' * (n % 3)}" for n in range(40)]


class Host(Competition):
    """A host that wants `image, answer` and counts right rows; ids carry a suffix."""

    slug = "host"
    task = Multiclass("label")
    folds = Folds(2, group=None)
    greater_is_better = True
    sample = "sample_submission.csv"

    def submission(self, answers, units):
        return pd.DataFrame({"image": units.index + ".jpg", "answer": answers["label"].to_numpy()})

    def score(self, solution, submission):
        return metrics.accuracy(solution, submission, "image", "answer")


class Ranked(Host):
    """The same with probabilities and the area under the curve."""

    task = Binary("label")

    def score(self, solution, submission):
        return metrics.roc_auc(solution, submission, "image", "answer")


def made(task_labels=("0", "1"), seed=0):
    labels = np.random.default_rng(seed).choice(task_labels, len(IDS))
    return checked(pd.DataFrame({"sample_id": IDS, "label": labels}), "train_frame")


def perfect(competition, frame):
    learned = competition.task.learn(frame)
    values = competition.task.targets(frame, learned)
    return Predictions(frame["sample_id"], values, competition.task.outputs(learned)), learned


def folded(competition, frame, predictions):
    """Two parts, odd and even rows, each in a shuffled order."""
    rng = np.random.default_rng(1)
    return [
        part_of(competition, frame, predictions.only(rng.permutation(frame["sample_id"].to_numpy()[k::2])))
        for k in range(2)
    ]


@pytest.mark.parametrize("competition", [Host(), Ranked(), Host().with_task(Binary("label", answer="label"))])
def test_truth_through_the_road_scores_perfectly(competition):
    """Targets taken as predictions give the host's best score, fold by fold and whole."""
    frame = made()
    predictions, learned = perfect(competition, frame)
    for parts in ([part_of(competition, frame, predictions)], folded(competition, frame, predictions)):
        assert score_of(competition, frame, parts, learned) == 1.0


@pytest.mark.parametrize("competition", [Host(), Ranked()])
def test_shuffled_rows_do_not_change_the_score(competition):
    """Rows of the frame and of the predictions in any order give one score, and it is not the perfect one."""
    frame = made()
    target, learned = perfect(competition, frame)
    values = np.random.default_rng(2).random(target.values.shape, dtype=np.float32) + target.values * 0.3
    said = Predictions(target.ids, values, target.columns)
    want = score_of(competition, frame, [part_of(competition, frame, said)], learned)
    assert 0.5 < want < 1
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(IDS))
        other = Predictions(said.ids[order], said.values[order], said.columns)
        rows = frame.sample(frac=1, random_state=seed).reset_index(drop=True)
        assert score_of(competition, frame, folded(competition, frame, other), learned) == pytest.approx(want)
        assert score_of(competition, rows, [part_of(competition, rows, other)], learned) == pytest.approx(want)


def test_a_submission_follows_the_order_of_the_frame():
    """Each unit gets its own answer, in the order of test_frame, whatever the order of the predictions."""
    competition, frame = Host(), made(("a", "b", "c"))
    predictions, learned = perfect(competition, frame)
    part = part_of(competition, frame, predictions.align(IDS[::-1]))
    table = submission_of(competition, frame.drop(columns="label"), part, learned)
    assert table["image"].tolist() == [f"{name}.jpg" for name in IDS]
    assert table["answer"].tolist() == frame["label"].tolist()
    assert table.index.tolist() == list(range(len(IDS)))


def test_units_of_several_samples_are_averaged():
    """Samples of a unit, scattered over the frame, are averaged after the network; the unit is scored once."""
    frame = checked(
        pd.DataFrame(
            {"sample_id": ["s3", "s1", "s2", "s0"], "unit_id": ["u", "v", "u", "v"], "label": ["a", "b", "a", "b"]}
        ),
        "train_frame",
    )
    said = Predictions(["s0", "s1", "s2", "s3"], [[0.9, 0.1], [0, 1], [0.3, 0.7], [0.8, 0.2]], ("a", "b"))
    competition = Host()
    part = part_of(competition, frame, said)
    assert part.predictions.ids.tolist() == ["u", "v"]
    np.testing.assert_allclose(part.predictions.values, [[0.55, 0.45], [0.45, 0.55]], rtol=1e-6)
    solution, submission = host_tables(competition, frame, [part], competition.task.learn(frame))
    assert solution["image"].tolist() == ["u.jpg", "v.jpg"]
    assert submission["answer"].tolist() == ["a", "b"]


def test_a_part_has_the_units_it_was_given_and_no_others():
    """Predictions of one fold give a part of that fold's units; samples outside the frame are left out."""
    competition, frame = Host(), made()
    predictions, _ = perfect(competition, frame)
    one = part_of(competition, frame.iloc[:30], predictions.only(IDS[20:]))
    assert one.predictions.ids.tolist() == IDS[20:30]


def test_a_unit_predicted_in_part_is_refused():
    """A unit one of whose samples has no prediction is not quietly averaged over the rest."""
    frame = checked(pd.DataFrame({"sample_id": ["a", "b"], "unit_id": ["u", "u"], "label": ["x", "x"]}), "train_frame")
    with pytest.raises(DataError, match="'b'"):
        part_of(Host(), frame, Predictions(["a"], [[1.0]], ("x",)))


def test_rows_that_are_not_scored_are_not_scored():
    """Wrong answers in rows with `scored` False cost nothing, and they are in neither table."""
    competition = Host()
    frame = made().assign(scored=[n % 4 != 0 for n in range(len(IDS))])
    predictions, learned = perfect(competition, frame)
    values = np.where(frame["scored"].to_numpy()[:, None], predictions.values, 1 - predictions.values)
    wrong = Predictions(predictions.ids, values, predictions.columns)
    parts = folded(competition, frame, wrong)
    solution, submission = host_tables(competition, frame, parts, learned)
    assert len(solution) == len(submission) == 30
    assert score_of(competition, frame, parts, learned) == 1.0


def test_solution_columns_are_joined_to_the_truth_alone():
    """Weights of units come to the rows of the solution by id, in the host's order, and never to the submission."""

    class Weighted(Host):
        solution_columns = ("patient", "age")

        def submission(self, answers, units):
            table = super().submission(answers, units)
            return table.assign(image=units.index).sort_values("image", ignore_index=True)

    frame = made().assign(patient=[f"p{name}" for name in IDS], age=range(len(IDS)))
    competition = Weighted()
    predictions, learned = perfect(competition, frame)
    solution, submission = host_tables(competition, frame, folded(competition, frame, predictions), learned)
    assert list(submission.columns) == ["image", "answer"]
    assert solution["image"].tolist() == sorted(IDS)
    assert solution["patient"].tolist() == [f"p{name}" for name in sorted(IDS)]
    assert solution["age"].tolist() == [IDS.index(name) for name in sorted(IDS)]


def test_solution_columns_reach_every_row_of_a_unit():
    """Where the host's ids are not unit ids, and a unit has several rows, each row gets its unit's columns."""

    class Long(Host):
        task = Multiclass("label", answer="probability")
        solution_columns = ("height",)

        def submission(self, answers, units):
            long = answers.rename_axis("unit").reset_index().melt("unit", var_name="class", value_name="answer")
            return pd.DataFrame({"image": long["unit"] + "_" + long["class"], "answer": long["answer"]})

    frame = made(("a", "b", "c")).assign(height=range(len(IDS)))
    competition = Long()
    predictions, learned = perfect(competition, frame)
    solution, submission = host_tables(competition, frame, [part_of(competition, frame, predictions)], learned)
    assert len(solution) == len(submission) == 3 * len(IDS)
    heights = dict(zip(IDS, range(len(IDS)), strict=True))
    assert all(heights[name.split("_")[0]] == height for name, height in zip(solution["image"], solution["height"]))  # noqa: B905


def test_solution_columns_find_ids_that_the_host_writes_as_numbers():
    """A host table of whole numbers still gets the columns of the units with those names."""

    class Numbered(Host):
        solution_columns = ("age",)

        def submission(self, answers, units):
            return pd.DataFrame({"image": units.index.astype(int), "answer": answers["label"].to_numpy()})

    frame = checked(pd.DataFrame({"sample_id": ["12", "7"], "label": ["1", "0"], "age": [3, 4]}), "train_frame")
    competition = Numbered()
    predictions, learned = perfect(competition, frame)
    solution, _ = host_tables(competition, frame, [part_of(competition, frame, predictions)], learned)
    assert solution["age"].tolist() == [3, 4]


def test_a_decode_that_loses_units_is_refused():
    """An answer for every unit in order, or an error that names the task's decode."""

    class Lossy(Multiclass):
        def decode(self, predictions, units, learned, gallery=None):
            return super().decode(predictions, units, learned).iloc[::-1]

    competition = Host().with_task(Lossy("label"))
    frame = made()
    predictions, learned = perfect(competition, frame)
    with pytest.raises(DataError, match="decode"):
        submission_of(competition, frame, part_of(competition, frame, predictions), learned)


def squeezed(frame, factors):
    """Perfect probabilities, squeezed by another factor in each fold of `folded`."""
    values = (frame["label"] == "1").to_numpy(np.float32) * 0.8 + 0.1
    values *= np.resize(np.float32(factors), len(frame))
    return Predictions(frame["sample_id"], values[:, None], ("label",))


def test_fitting_wins_back_what_squeezing_lost_and_is_greedy_in_the_right_direction():
    """Decisions are fitted to the score, whether greater or smaller is better."""

    class Error(Host):
        greater_is_better = False

        def score(self, solution, submission):
            return 1 - super().score(solution, submission)

    frame = made()
    for host, best in ((Host(), 1.0), (Error(), 0.0)):
        competition = host.with_task(Binary("label", answer="label"))
        parts = folded(competition, frame, squeezed(frame, [0.1]))
        learned = competition.task.learn(frame)
        assert score_of(competition, frame, parts, learned) != best
        assert score_of(competition, frame, parts, tuned(competition, frame, parts, learned)) == best


def test_cross_fitting_uses_the_other_folds_alone():
    """Folds on two scales: fitted together a threshold scores well, fitted on the other fold it cannot."""
    competition, frame = Host().with_task(Binary("label", answer="label")), made()
    learned = competition.task.learn(frame)
    alike = folded(competition, frame, squeezed(frame, [0.1, 0.1]))
    apart = folded(competition, frame, squeezed(frame, [1.0, 0.1]))
    assert cross_fitted(competition, frame, alike, learned) == 1.0
    fitted = score_of(competition, frame, apart, tuned(competition, frame, apart, learned))
    assert cross_fitted(competition, frame, apart, learned) < fitted


def test_cross_fitting_of_one_fold_is_nan_where_something_is_fitted():
    """One fold has no others; a task that decides nothing is scored as it is."""
    frame = made()
    fitting, plain = Host().with_task(Binary("label", answer="label")), Ranked()
    for competition, want in ((fitting, math.nan), (plain, 1.0)):
        predictions, learned = perfect(competition, frame)
        got = cross_fitted(competition, frame, [part_of(competition, frame, predictions)], learned)
        assert got == pytest.approx(want, nan_ok=True)


def test_a_task_without_decisions_is_left_alone():
    """`tuned` gives the very same object back, for the base's `tune` and for probabilities."""
    learned = {"classes": ["0", "1"]}
    assert tuned(Host(), made(), [], learned) is learned
    assert tuned(Ranked(), made(), [], learned) is learned


def test_blended_parts_stay_fold_by_fold():
    """Member m's fold k meets only fold k of the others, by id."""
    first = [Part(Predictions(["a"], [[0.0]], ("y",))), Part(Predictions(["c", "b"], [[1.0], [0.0]], ("y",)))]
    second = [Part(Predictions(["a"], [[1.0]], ("y",))), Part(Predictions(["b", "c"], [[0.0], [1.0]], ("y",)))]
    blended = blend_parts([first, second], [1, 3])
    assert [part.predictions.frame()["y"].to_dict() for part in blended] == [{"a": 0.75}, {"c": 1.0, "b": 0.0}]


def test_maps_are_combined_unit_by_unit_as_they_are_read():
    """Nothing is loaded until a unit is read, and then only its own samples."""
    loaded = []

    def loader(name):
        def load():
            loaded.append(name)
            return Map(np.full((1, 2, 2), float(name[1]) / 10, np.float32), 4, 4)

        return load

    frame = checked(
        pd.DataFrame({"sample_id": ["s1", "s2", "s3"], "unit_id": ["u", "v", "u"], "label": "x"}), "train_frame"
    )
    part = part_of(Host(), frame, Maps({name: loader(name) for name in ("s3", "s2", "s1")}, ["mask"]))
    assert part.predictions.ids.tolist() == ["u", "v"]
    assert not loaded
    assert part.predictions.read("u").values.mean() == pytest.approx(0.2)
    assert sorted(loaded) == ["s1", "s3"]


# validate -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    (tmp_path / "sample_submission.csv").write_text("image,answer\n007.jpg,0\nz.jpg,0\n10.jpg,0\n")
    return tmp_path


FRAME = checked(pd.DataFrame({"sample_id": ["z", "007", "10"]}), "test_frame")


def said(ids=("z.jpg", "007.jpg", "10.jpg"), answers=None, columns=("image", "answer")):
    return pd.DataFrame(dict(zip(columns, (list(ids), answers or [0.5] * len(ids)), strict=True)))


def test_a_good_submission_passes_in_any_order(data):
    """The host matches rows by id, so their order is free."""
    validate(Host(), FRAME, data, said())


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (said(columns=("image", "Answer")), "Answer"),
        (said()[["answer", "image"]], "mend `submission`"),
        (said(["z.jpg", "10.jpg"]), "missing: '007.jpg'"),
        (said(["z.jpg", "007.jpg", "10.jpg", "11.jpg"]), "extra: '11.jpg'"),
        (said(["z.jpg", "7.jpg", "10.jpg"]), "missing: '007.jpg'; extra: '7.jpg'"),
        (said(["z.jpg", "007.jpg", "10.jpg", "z.jpg"]), "repeated: 'z.jpg'"),
        (said(answers=[0.5, None, 0.5]), "007.jpg"),
        (said(answers=[0.5, 0.5, float("inf")]), "10.jpg"),
        (said(answers=["a", "b", None]), "10.jpg"),
        (said(answers=["0.5", "nan", "0.5"]), "007.jpg=nan"),
        (said(answers=["0.5", "0.5", " "]), "10.jpg= "),
        (said(answers=["-Inf", "1", "1"]), "z.jpg=-Inf"),
        (said([]), "missing"),
    ],
)
def test_what_the_host_would_refuse_is_refused(data, table, word):
    """Wrong columns or their order, missing, extra and repeated ids, empty cells and infinities, each named."""
    with pytest.raises(SubmissionError, match=word.replace(".", r"\.")):
        validate(Host(), FRAME, data, table)


def test_a_blank_is_an_answer_where_the_sample_holds_no_number(data):
    """An empty mask; where the sample holds numbers, other labels than numbers may stand in the column as well."""
    validate(Host(), FRAME, data, said(answers=["0", "3a", "3b"]))
    (data / "sample_submission.csv").write_text("image,answer\n007.jpg,1 1\nz.jpg,1 1\n10.jpg,1 1\n")
    validate(Host(), FRAME, data, said(answers=["1 5", "", "nan"]))


class UnitIds(Host):
    """A host whose ids are the units' own, without a usable sample."""

    sample = None


@pytest.mark.parametrize("placeholder", [True, False])
def test_without_a_sample_the_ids_are_those_of_the_units(data, placeholder):
    """Where the sample is a placeholder or not there, lost and invented units are still noticed."""
    (data / "sample_submission.csv").write_text("image,answer\n")
    competition = Host() if placeholder else UnitIds()
    validate(competition, FRAME, data, said(["z", "007", "10"]))
    validate(competition, FRAME, data, said(["z", "z", "007", "10"]))  # several rows a unit are the host's to allow
    for ids, word in ((["z", "10"], "missing: '007'"), (["z", "007", "10", "q"], "extra: 'q'"), ([], "missing")):
        with pytest.raises(SubmissionError, match=word):
            validate(competition, FRAME, data, said(ids))


def test_without_a_sample_ids_of_the_host_s_own_making_pass(data):
    """Ids like "007.jpg" or "007_left" cannot be compared with units, and are not."""
    validate(UnitIds(), FRAME, data, said(["z_l", "z_r", "007_l"]))


def test_an_empty_test_set_is_an_empty_submission(data):
    """No units, a placeholder sample and no rows agree."""
    (data / "sample_submission.csv").write_text("image,answer\n")
    validate(Host(), FRAME.iloc[:0], data, said([]))


def test_a_missing_sample_is_named(tmp_path):
    """An adapter that names a sample must have it; one that says None needs none."""
    with pytest.raises(NotFound, match="sample_submission"):
        validate(Host(), FRAME, tmp_path, said())
    assert read_sample(UnitIds(), tmp_path) is None


def test_units_of_the_frame_reach_the_adapter_whole():
    """`submission` sees the first row of each unit with all its columns, indexed like the answers."""
    seen = []

    class Looking(Host):
        def submission(self, answers, units):
            seen.append((answers.index.tolist(), units["site"].tolist()))
            return super().submission(answers, units)

    frame = made().assign(site=IDS[::-1])
    predictions, learned = perfect(Looking(), frame)
    submission_of(Looking(), frame, part_of(Looking(), frame, predictions), learned)
    assert seen == [(units_of(frame).index.tolist(), IDS[::-1])]
