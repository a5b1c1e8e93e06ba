"""What single templates promise beyond the contract: which rows are kept, grouped and scored, and what is shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kit
from kit.offline.answers import validate
from kit.offline.contract import Competition, Row
from kit.offline.frames import checked, read_table, units_of
from kit.shipping.staging import stage_hidden
from kit.training.folds import make_folds
from tests.worlds import WORLDS

CHECKOUT = Path(kit.__file__).parents[1]


def settled(name: str, data: Path) -> tuple[Competition, pd.DataFrame]:
    """The adapter and its checked training frame on its fake world."""
    WORLDS[name](data)
    adapter = kit.load_competition(name, CHECKOUT)
    return adapter, checked(adapter.train_frame(data), name, adapter.task.columns)


def row_of(frame: pd.DataFrame, at: int = 0) -> Row:
    return Row({str(name): value for name, value in frame.iloc[at].items()})


# hotel_id


def test_hotel_uploads_stay_together_and_can_be_found(tmp_path: Path) -> None:
    """No upload spans folds, and every scored photograph's hotel has another upload that trains with it held out."""
    adapter, frame = settled("hotel_id", tmp_path)
    table = make_folds(adapter, frame).set_index("sample_id").loc[frame["sample_id"]]
    fold = table["fold"].to_numpy()
    assert frame.assign(fold=fold).groupby("upload")["fold"].nunique().max() == 1
    single = frame.groupby("hotel_id")["upload"].transform("nunique") == 1
    assert single.any() and (frame["scored"] == ~single).all()
    assert (fold[single] == -1).all()
    for number in set(fold) - {-1}:
        assert set(frame["hotel_id"][fold == number]) <= set(frame["hotel_id"][fold != number])


def test_a_hotel_image_listed_twice_is_left_out(tmp_path: Path) -> None:
    """The host lists one image twice; both rows go, since one id can have one answer."""
    _, frame = settled("hotel_id", tmp_path)
    listed = read_table(tmp_path / "train.csv")["image"]
    assert listed.duplicated().sum() == 1
    assert set(listed) - set(frame["sample_id"]) == set(listed[listed.duplicated()])


# whale_categorization


def test_a_whale_met_once_is_new_to_the_fold_that_holds_it_out(tmp_path: Path) -> None:
    """Its truth is "new_whale" against that fold's gallery; rows of new_whale are in no class."""
    adapter, frame = settled("whale_categorization", tmp_path)
    frame = frame.assign(fold=frame["sample_id"].map(make_folds(adapter, frame).set_index("sample_id")["fold"]))
    learned, task = adapter.task.learn(frame), adapter.task
    assert "new_whale" not in learned["labels"]
    once = frame.groupby("Id")["Id"].transform("size") == 1
    row = frame[once].iloc[:1]
    gallery = kit.Gallery(tuple(frame["Id"][frame["fold"] != row["fold"].iloc[0]]), np.empty((0, 0)))
    assert task.truth(units_of(row), learned, gallery)["Id"].tolist() == ["new_whale"]


def test_copies_of_a_fluke_share_a_fold(tmp_path: Path) -> None:
    """Files equal to the byte are one group in the honest scheme; the host's lets them part."""
    adapter, frame = settled("whale_categorization", tmp_path)
    copies = frame.groupby("copy_of")["sample_id"].transform("size") > 1
    assert copies.sum() == 3
    assert make_folds(adapter, frame).set_index("sample_id")["fold"][frame["sample_id"][copies]].nunique() == 1
    assert adapter.scheme("host").group is None


# right_whale


def test_right_whale_reads_names(tmp_path: Path) -> None:
    """Day and label come from the file's name, and no day spans folds."""
    adapter, frame = settled("right_whale", tmp_path)
    for row in frame.itertuples():
        assert row.sample_id.startswith(row.day) and row.sample_id.endswith(f"_{row.label}.aif")
    fold = make_folds(adapter, frame).set_index("sample_id")["fold"]
    assert frame["day"].nunique() == 4
    assert frame.assign(fold=frame["sample_id"].map(fold)).groupby("day")["fold"].nunique().max() == 1


# mlsp_birds


def test_ragged_labels_become_words(tmp_path: Path) -> None:
    """Rows of one, several or no species are read as the host wrote them; the host's fold 1 is the test set."""
    adapter, frame = settled("mlsp_birds", tmp_path)
    lines = (tmp_path / "essential_data" / "rec_labels_test_hidden.txt").read_text().splitlines()[1:]
    told = {rec_id: found for rec_id, *found in (line.split(",") for line in lines)}
    assert {len(found) for found in told.values()} >= {0, 1, 2}
    assert {row.sample_id: row.species.split() for row in frame.itertuples()} == {
        rec_id: found for rec_id, found in told.items() if found != ["?"]
    }
    assert set(adapter.test_frame(tmp_path)["sample_id"]) == {rec for rec, found in told.items() if found == ["?"]}


def test_birds_are_answered_cell_by_cell(tmp_path: Path) -> None:
    """Id is recording x 100 + species, and the probability is the one of that cell."""
    adapter, frame = settled("mlsp_birds", tmp_path)
    learned, units = adapter.task.learn(frame), units_of(frame)
    table = adapter.submission(adapter.task.truth(units, learned), units).set_index("Id")["Probability"]
    assert len(table) == 19 * len(units)
    for row in frame.itertuples():
        for species in range(19):
            assert table[int(row.rec_id) * 100 + species] == (str(species) in row.species.split())


# birdclef


def test_birds_heard_beside_count_if_they_are_classes(tmp_path: Path) -> None:
    """Secondary labels join the primary one, those of species that no recording is of are dropped."""
    adapter, frame = settled("birdclef", tmp_path)
    assert frame["secondary_labels"].str.contains("notamong").any()
    assert adapter.task.learn(frame)["classes"] == sorted(set(frame["primary_label"]))
    more = frame[frame["secondary_labels"] != "[]"]
    assert len(more) and (more["birds"].str.split().map(len) == 2).all()
    assert all(first in birds.split() for first, birds in zip(frame["primary_label"], frame["birds"], strict=True))


def test_soundscapes_are_cut_into_windows_of_five_seconds(tmp_path: Path) -> None:
    """Every window of a mounted recording has the host's row id, shows its own five seconds, and shares one read."""
    adapter, _ = settled("birdclef", tmp_path)
    test = adapter.test_frame(tmp_path)
    assert set(test["sample_id"]) == set(read_table(tmp_path / "sample_submission.csv")["row_id"])
    assert test["source"].nunique() == 2
    row = row_of(test, 1)
    sound = adapter.read(row, tmp_path, {"keep": 1.0})
    assert len(sound) == 15 * 32000, "keep is for training recordings"
    assert row.sample_id.endswith("_10")
    alone = row_of(test.assign(start=0.0), 1)
    shown = adapter.cut(sound, row, {}, None)
    assert np.array_equal(shown, adapter.cut(sound[5 * 32000 : 10 * 32000], alone, {}, None))


def test_training_hears_any_five_seconds(tmp_path: Path) -> None:
    """A training window moves over what is kept of a recording; evaluation takes the first."""
    adapter, frame = settled("birdclef", tmp_path)
    row = row_of(frame)
    sound = np.random.RandomState(0).randint(-999, 999, 15 * 32000).astype(np.int16)
    still = adapter.cut(sound, row, {}, None)
    moved = [adapter.cut(sound, row, {}, np.random.default_rng(seed)) for seed in range(3)]
    assert not any(np.array_equal(still, one) for one in moved)
    assert np.array_equal(still, adapter.cut(sound[: 5 * 32000], row, {}, None))


def test_before_the_rerun_no_soundscape_is_a_legal_test_set(tmp_path: Path) -> None:
    """The public download mounts none: the draft run writes a header without rows, and that is no error."""
    adapter, _ = settled("birdclef", tmp_path)
    shutil.rmtree(tmp_path / "test_soundscapes")
    (tmp_path / "test_soundscapes").mkdir()
    (tmp_path / "test_soundscapes" / "readme.txt").write_text("populated in the rerun")
    frame = checked(adapter.test_frame(tmp_path), "test_frame")
    table = adapter.constant_submission(units_of(frame), tmp_path)
    validate(adapter, frame, tmp_path, table)
    assert len(table) == 0
    sample = read_table(tmp_path / "sample_submission.csv")
    assert list(table.columns) == list(sample.columns)


def test_the_rerun_has_two_hours_and_no_gpu() -> None:
    """What notebook, rehearsal and push read."""
    rules = kit.load_competition("birdclef", CHECKOUT).rules
    assert (rules.kind, rules.minutes, rules.accelerator) == ("notebook", 120, None)


@pytest.mark.parametrize("name", ["right_whale", "mlsp_birds", "birdclef"])
def test_a_recipe_changes_the_picture_and_not_the_answer(name: str, tmp_path: Path) -> None:
    """Settings in `read` reach the picture by name."""
    adapter, frame = settled(name, tmp_path)
    row = row_of(frame)
    sound = adapter.read(row, tmp_path, {})
    assert sound.ndim == 1 and sound.dtype == np.int16
    assert adapter.cut(sound, row, {"bands": 24}, None).shape[0] == 24
    assert adapter.cut(sound, row, {}, None).shape[0] > 24


# uw_madison


def test_organs_can_be_rehearsed_from_the_public_download(tmp_path: Path) -> None:
    """The host shows no test slice before the rerun: slices of train are staged all the same, and found in order."""
    adapter, frame = settled("uw_madison", tmp_path / "host")
    shutil.rmtree(tmp_path / "host" / "test")
    sample = tmp_path / "host" / "sample_submission.csv"
    sample.write_text(sample.read_text().splitlines()[0] + "\n")
    assert not len(adapter.test_frame(tmp_path / "host"))
    chosen = stage_hidden(adapter, frame, tmp_path / "host", tmp_path / "hidden", rows=9)
    staged = checked(adapter.test_frame(tmp_path / "hidden"), "test_frame")
    assert list(staged["sample_id"]) == list(chosen["sample_id"])
    assert set(staged["height"]) == set(chosen["height"])


def test_organs_are_submitted_in_the_order_of_the_sample(tmp_path: Path) -> None:
    """One grader of this competition compares rows by position."""
    adapter, _ = settled("uw_madison", tmp_path)
    sample = read_table(tmp_path / "sample_submission.csv").iloc[::-1]
    sample.to_csv(tmp_path / "sample_submission.csv", index=False)
    wanted = list(sample["id"].unique())
    assert list(adapter.test_frame(tmp_path)["sample_id"]) == wanted != sorted(wanted)


def test_slices_see_their_neighbours_by_number(tmp_path: Path) -> None:
    """Two before and two after in the same scan, or the slice itself at the ends and where one is missing."""
    adapter, frame = settled("uw_madison", tmp_path)
    scan = frame[frame["day"] == frame["day"].iloc[0]]
    slices = scan[["path", "before", "after"]].apply(lambda paths: paths.str.extract(r"slice_(\d+)_")[0].astype(int))
    numbers = slices.to_dict("list")
    assert numbers == {"path": [1, 2, 3, 4, 5, 6], "before": [1, 2, 1, 2, 3, 4], "after": [3, 4, 5, 6, 5, 6]}
    (tmp_path / scan["path"].iloc[2]).unlink()
    left = adapter.train_frame.__globals__["slices"](tmp_path, "train").set_index("sample_id")
    fifth = left.loc[scan["sample_id"].iloc[4]]
    assert fifth["before"] == fifth["path"]
