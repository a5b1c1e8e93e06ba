"""Fold tables: no leak, whatever the order of the rows; frozen for good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit import Competition, Folds, Multiclass
from kit.offline.errors import DataError, FoldError
from kit.offline.frames import checked
from kit.training.folds import (
    absences,
    balance,
    extend_folds,
    fold_file,
    fold_hash,
    load_folds,
    make_folds,
    require_no_leak,
    save_folds,
    split,
    with_folds,
)

SEEDS = range(12)
RULES = {
    "plain": Folds(4, group=None),
    "stratified": Folds(4, "label", group=None),
    "grouped": Folds(4, group="patient"),
    "both": Folds(4, ["label", "site"], group="patient"),
}
KINDS = pytest.mark.parametrize("kind", RULES)


class Clinic(Competition):
    """Patients with several studies of several images."""

    slug = "clinic"
    task = Multiclass("label")
    folds = RULES["both"]
    greater_is_better = True


class Odd(Clinic):
    """Folds as the frame's column says."""

    def assign_folds(self, frame: pd.DataFrame) -> pd.Series:
        return frame["wanted"]


def clinic(rule: Folds | dict[str, Folds]) -> Clinic:
    adapter = Clinic()
    adapter.folds = rule
    return adapter


def patients(seed: int, count: int = 30, unscored: float = 0.0) -> pd.DataFrame:
    """1 to 4 studies a patient, 1 to 3 images a study, labels by study, rows unsorted; a share of unscored studies."""
    draw = np.random.RandomState(seed)
    rows = [
        {"sample_id": f"{draw.bytes(6).hex()}", "unit_id": f"p{p}-s{s}", "patient": f"p{p}", "site": str(p % 2)}
        | {"label": str((p + s) % 3)}
        for p in range(count)
        for s in range(draw.randint(1, 5))
        for _ in range(draw.randint(1, 4))
    ]
    frame = pd.DataFrame(rows)
    off = draw.rand(frame["unit_id"].nunique()) < unscored
    frame["scored"] = ~frame["unit_id"].map(dict(zip(frame["unit_id"].unique(), off, strict=True))).astype(bool)
    return checked(frame.sample(frac=1, random_state=seed), "frame")


@KINDS
def test_the_order_of_rows_does_not_matter(kind: str) -> None:
    """The same rows in any order make the same table, to the byte."""
    adapter, frame = clinic(RULES[kind]), patients(0, unscored=0.2)
    tables = [make_folds(adapter, frame.sample(frac=1, random_state=seed)) for seed in SEEDS]
    assert all(table.equals(tables[0]) for table in tables)


def test_a_label_that_differs_within_a_unit_does_not_bring_the_order_back() -> None:
    """The unit is stratified by its first row by id, not by its first row in the frame."""
    frame = patients(0)
    frame["label"] = [str(row % 3) for row in range(len(frame))]
    adapter = clinic(Folds(4, "label", group=None))
    tables = [make_folds(adapter, frame.sample(frac=1, random_state=seed)) for seed in SEEDS]
    assert all(table.equals(tables[0]) for table in tables)


@KINDS
@pytest.mark.parametrize("seed", SEEDS)
def test_no_unit_and_no_group_leaks(kind: str, seed: int) -> None:
    """Neither studies nor, where they are the group, patients stand in two folds; every scored row is held out once."""
    frame = patients(seed, unscored=0.3)
    table = make_folds(clinic(RULES[kind]), frame).merge(frame[["sample_id", "patient"]], on="sample_id")
    assert table.groupby("unit_id")["fold"].nunique().max() == 1
    if RULES[kind].group:
        assert table.groupby("patient")["fold"].nunique().max() == 1
    assert set(table["fold"][table["scored"]]) == set(range(4))


@pytest.mark.parametrize("seed", SEEDS)
def test_unscored_rows_go_with_their_group_or_always_train(seed: int) -> None:
    """Fold -1 stands exactly where no scored row shares the group; elsewhere an unscored row is out with its group."""
    table = make_folds(clinic(RULES["grouped"]), patients(seed, unscored=0.6))
    has_scored = table.groupby("group")["scored"].transform("any")
    assert ((table["fold"] == -1) == ~has_scored).all()
    assert (table["fold"] == -1).any()


def test_splitting_keeps_unscored_rows_of_a_held_out_group_from_training() -> None:
    """A fold trains on no row of its patients and is scored on scored rows alone; rows of fold -1 always train."""
    frame = patients(3, unscored=0.5)
    table = make_folds(clinic(RULES["grouped"]), frame)
    joined = with_folds(frame, table, Path("folds.csv"))
    held_out = []
    for fold in range(4):
        train, held = split(joined, fold)
        assert not set(train["patient"]) & set(held["patient"])
        assert held["scored"].all()
        assert set(joined["sample_id"][joined["fold"] == -1]) <= set(train["sample_id"])
        held_out += held["sample_id"].tolist()
    assert sorted(held_out) == sorted(frame["sample_id"][frame["scored"]])


def test_strata_are_shared_evenly() -> None:
    """Each label's share differs by at most one unit between folds."""
    frame = checked(pd.DataFrame({"sample_id": [f"{n:03x}" for n in range(97)], "label": list("aab" * 32 + "b")}), "")
    table = make_folds(clinic(Folds(5, "label", group=None)), frame).merge(frame[["sample_id", "label"]])
    assert np.ptp(pd.crosstab(table["fold"], table["label"]).to_numpy(), axis=0).max() <= 1


def test_the_seed_of_the_rule_makes_other_folds() -> None:
    """A second opinion on the noise of a split is a change of seed."""
    frame = patients(0)
    one, two = (make_folds(clinic(Folds(4, group="patient", seed=seed)), frame) for seed in (0, 1))
    assert not one["fold"].equals(two["fold"])


@pytest.mark.parametrize(("rule", "count"), [(Folds(31, group="patient"), 30), (Folds(1, group=None), 30)])
def test_more_folds_than_groups_are_refused(rule: Folds, count: int) -> None:
    """31 folds of 30 patients cannot be, nor can one."""
    with pytest.raises(FoldError, match="as many as there are groups"):
        make_folds(clinic(rule), patients(0, count))


@pytest.mark.parametrize("blank", ["", " ", None])
def test_a_row_without_a_group_is_refused(blank: str | None) -> None:
    """Blank groups would be one big group by accident; the rows are named."""
    frame = patients(0)
    frame.loc[4, "patient"] = blank
    with pytest.raises(FoldError, match=frame["sample_id"][4]):
        make_folds(clinic(RULES["grouped"]), frame)


def test_a_misspelt_group_names_the_nearest_column() -> None:
    """The group is a column of the frame."""
    with pytest.raises(DataError, match="did you mean 'patient'"):
        make_folds(clinic(Folds(4, group="pateint")), patients(0))


def test_schemes_are_chosen_by_name_and_the_first_is_the_default() -> None:
    """The honest scheme comes first."""
    adapter, frame = clinic({"honest": RULES["grouped"], "host": RULES["plain"]}), patients(0)
    assert make_folds(adapter, frame).equals(make_folds(adapter, frame, "honest"))
    assert not make_folds(adapter, frame)["fold"].equals(make_folds(adapter, frame, "host")["fold"])
    assert [fold_file(Path(), scheme).name for scheme in (None, "host")] == ["folds.csv", "folds-host.csv"]


def odd(folds: list[int]) -> tuple[Odd, pd.DataFrame]:
    """Four images of units u0, u0, u1, u2 of patients p, p, p, q, with given folds."""
    units, who = ["u0", "u0", "u1", "u2"], ["p", "p", "p", "q"]
    frame = pd.DataFrame({"sample_id": list("dcba"), "unit_id": units, "patient": who, "label": "x", "wanted": folds})
    adapter = Odd()
    adapter.folds = Folds(2, group="patient")
    return adapter, checked(frame, "frame")


def test_assigned_folds_are_taken_as_they_are() -> None:
    """assign_folds has the word where the adapter writes it, in any order of rows."""
    adapter, frame = odd([1, 1, 1, 0])
    table = make_folds(adapter, frame)
    assert dict(zip(table["sample_id"], table["fold"], strict=True)) == {"a": 0, "b": 1, "c": 1, "d": 1}


@pytest.mark.parametrize(("folds", "said"), [([0, 1, 1, 0], "all rows of a unit"), ([0, 0, 1, 1], "every group")])
def test_assigned_folds_that_leak_are_refused(folds: list[int], said: str) -> None:
    """A unit in two folds, a group in two folds."""
    with pytest.raises(FoldError, match=said):
        make_folds(*odd(folds))


def test_a_saved_table_comes_back_as_it_was(tmp_path: Path) -> None:
    """Ids keep their zeros, truth values their truth, and the hash is the same."""
    table = make_folds(clinic(RULES["both"]), patients(1, unscored=0.3))
    save_folds(table, tmp_path / "folds.csv")
    again = load_folds(tmp_path / "folds.csv")
    assert again.astype(object).equals(table.astype(object))
    assert fold_hash(again) == fold_hash(table)


def test_the_hash_is_of_the_rows_whatever_their_order() -> None:
    """Rows in another order hash alike; one moved row does not."""
    table = make_folds(clinic(RULES["both"]), patients(1))
    moved = table.assign(fold=table["fold"].mask(table.index == 5, (table["fold"] + 1) % 4))
    assert fold_hash(table.sample(frac=1, random_state=1)) == fold_hash(table) != fold_hash(moved)


def test_a_table_that_was_edited_into_a_leak_is_refused(tmp_path: Path) -> None:
    """Loading checks what making checked."""
    table = make_folds(clinic(RULES["grouped"]), patients(1))
    table.loc[table.index[table["group"] == "p0"][0], "fold"] += 1
    save_folds(table, tmp_path / "folds.csv")
    with pytest.raises(FoldError, match="in several"):
        load_folds(tmp_path / "folds.csv")


@pytest.mark.parametrize(
    ("column", "text"), [("fold", "first"), ("fold", "1.5"), ("scored", "perhaps"), ("scored", "")]
)
def test_a_table_with_other_texts_is_refused(tmp_path: Path, column: str, text: str) -> None:
    """Folds are whole numbers and `scored` is True or False; nothing is guessed."""
    table = make_folds(clinic(RULES["plain"]), patients(1)).astype(object)
    table.loc[2, column] = text
    table.to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(DataError, match=column):
        load_folds(tmp_path / "folds.csv")


def test_a_stale_table_counts_both_directions() -> None:
    """New rows and rows that are gone are counted apart and named."""
    frame = patients(1)
    table = make_folds(clinic(RULES["plain"]), frame)
    other = frame.iloc[3:].replace({"sample_id": {frame["sample_id"].iloc[5]: "new"}})
    with pytest.raises(FoldError, match=r"1 not in the file \('new'\), 4 only in the file"):
        with_folds(other, table, Path("folds.csv"))


@KINDS
@pytest.mark.parametrize("seed", SEEDS)
def test_extending_never_moves_a_row(kind: str, seed: int) -> None:
    """Old rows keep place and fold, new images of a known group join it, and nothing leaks."""
    adapter, frame = clinic(RULES[kind]), patients(seed)
    table = make_folds(adapter, frame.sample(frac=0.7, random_state=seed))
    extended = extend_folds(adapter, frame, table)
    assert extended.iloc[: len(table)].equals(table)
    assert set(extended["sample_id"]) == set(frame["sample_id"])
    require_no_leak(extended)


def test_new_groups_go_where_there_is_room() -> None:
    """Sizes stay within the size of the largest group."""
    adapter = clinic(Folds(4, group=None))
    ids = checked(pd.DataFrame({"sample_id": [f"{n:03d}" for n in range(100)], "label": "x"}), "")
    table = make_folds(adapter, ids.iloc[:30])
    sizes = extend_folds(adapter, ids, table)["fold"].value_counts()
    assert sizes.tolist() == [25] * 4


def test_extending_by_nothing_changes_nothing() -> None:
    """A second run of the command is free."""
    adapter, frame = clinic(RULES["both"]), patients(2)
    table = make_folds(adapter, frame)
    assert extend_folds(adapter, frame, table).equals(table)


@pytest.mark.parametrize("group", [None, "patient"])
@pytest.mark.parametrize("seed", SEEDS)
def test_binned_numbers_are_shared_evenly(group: str | None, seed: int) -> None:
    """Each fold holds its share of every quantile, and the order of rows does not matter."""
    draw = np.random.RandomState(seed)
    frame = checked(
        pd.DataFrame(
            {
                "sample_id": [f"{n * 7919 % 997:03d}" for n in range(200)],
                "patient": [f"p{n // 2}" if group else str(n) for n in range(200)],
                "label": [str(value) for value in np.exp(draw.normal(size=200)).round(3)],
            }
        ),
        "frame",
    )
    adapter = clinic(Folds(4, "label", group=group, bins=5))
    table = make_folds(adapter, frame)
    assert table.equals(make_folds(adapter, frame.sample(frac=1, random_state=seed)))
    report = balance(adapter, with_folds(frame, table, Path("folds.csv")))["label"]
    assert report.shape == (5, 4)
    assert report.to_numpy().sum() == 200
    assert np.ptp(report.to_numpy(), axis=1).max() <= (1 if group is None else 5)


def test_bins_leave_words_and_few_numbers_alone() -> None:
    """Grades of five values stay grades beside a binned score, and words stay words."""
    frame = patients(0)
    frame["score"] = [str(row) for row in range(len(frame))]
    frame["grade"] = [str(row % 3) for row in range(len(frame))]
    adapter = clinic(Folds(3, ["score", "grade", "site"], group=None, bins=4))
    report = balance(adapter, with_folds(frame, make_folds(adapter, frame), Path("folds.csv")))
    assert [len(report[name]) for name in ("score", "grade", "site")] == [4, 3, 2]


def test_rare_combinations_of_columns_are_spread_too() -> None:
    """Combinations that no two units share would stop the splitter; together they are one stratum."""
    frame = checked(pd.DataFrame({"sample_id": [f"{n:02d}" for n in range(40)]}), "frame")
    frame["label"] = ["common"] * 20 + [f"odd {n}" for n in range(20)]
    frame["site"] = ["a"] * 20 + ["b"] * 20
    table = make_folds(clinic(Folds(5, ["label", "site"], group=None)), frame).set_index("sample_id")
    assert table.loc[[f"{n:02d}" for n in range(20, 40)], "fold"].value_counts().tolist() == [4] * 5


def test_the_report_names_absent_labels() -> None:
    """A label of one unit stands in one fold alone, whose model never sees it; one of two is absent from others."""
    frame = checked(pd.DataFrame({"sample_id": [f"{n:02d}" for n in range(33)]}), "frame")
    frame["label"] = ["rare"] + ["few"] * 2 + ["plenty"] * 30
    adapter = clinic(Folds(5, "label", group=None))
    joined = with_folds(frame, make_folds(adapter, frame), Path("folds.csv"))
    report = balance(adapter, joined)["label"]
    assert report.loc["plenty"].tolist() == [6] * 5
    alone = joined["fold"][joined["label"] == "rare"].item()
    without = sorted(set(range(5)) - set(joined["fold"][joined["label"] == "few"]))
    assert set(absences(report)) == {
        f"rare: only in fold {alone}, whose model never sees it",
        f"few: absent from fold {', '.join(map(str, without))}",
    }


def test_thousands_of_labels_are_dealt_out() -> None:
    """With more labels than scikit-learn splits in reasonable time, groups stay whole, a label's groups lie in as many
    folds as can be, folds are of one size, and the order of rows does not matter."""
    draw = np.random.RandomState(0)
    rows = [
        {"sample_id": f"{draw.bytes(6).hex()}", "label": f"h{label}", "patient": f"{label}-{upload}", "site": "a"}
        for label in range(700)
        for upload in range(1 + label % 4)
        for _ in range(draw.randint(1, 4))
    ]
    frame = checked(pd.DataFrame(rows).sample(frac=1, random_state=1), "frame")
    adapter = clinic(Folds(5, "label", group="patient"))
    table = make_folds(adapter, frame)
    require_no_leak(table)
    assert table.equals(make_folds(adapter, frame.sample(frac=1, random_state=2)))
    joined = table.merge(frame[["sample_id", "label"]], on="sample_id")
    spread = joined.groupby("label").agg(groups=("group", "nunique"), folds=("fold", "nunique"))
    assert (spread["folds"] == spread["groups"]).all()
    assert joined.drop_duplicates("group")["fold"].value_counts().agg(np.ptp) <= 1


def test_assigned_folds_go_by_the_index_of_the_frame() -> None:
    """An adapter that sorts by date before it counts gives the same folds: the index says which row is meant."""

    class Sorted(Odd):
        def assign_folds(self, frame: pd.DataFrame) -> pd.Series:
            return frame["wanted"].iloc[::-1]

    adapter, frame = odd([1, 1, 1, 0])
    adapter.__class__ = Sorted
    assert make_folds(adapter, frame).equals(make_folds(*odd([1, 1, 1, 0])))


@pytest.mark.parametrize("folds", [[1, 2, 2, 1], [0, 0, 0, -1]])
def test_assigned_folds_out_of_range_are_refused(folds: list[int]) -> None:
    """Numbers from one would leave fold 0 empty, which only training would notice."""
    with pytest.raises(FoldError, match="a fold of 0 to"):
        make_folds(*odd(folds))
