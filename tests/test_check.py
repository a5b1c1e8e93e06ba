"""The contract's checks: silent on a sound adapter, and each fault is caught by the check that is named for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import worlds

from kit import scaffold
from kit.check import Result, run_checks
from kit.offline.errors import NotFound
from kit.offline.frames import read_table
from kit.training.folds import make_folds, save_folds

PAIRS_BY_ID = 'return answers.rename_axis("image_id").reset_index()'
SCORES_BY_ID = 'return metrics.accuracy(solution, submission, by="image_id", column="label")'
TEST_FROM_FILES = "names = [path.name"
EARLY_IMPORT = "import pandas as pd"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout with a fork of cassava named `leaves` and tiny host files."""
    scaffold.new("leaves", "cassava", home=tmp_path)
    worlds.cassava(tmp_path / "competitions/leaves/data")
    return tmp_path


def plant(home: Path, old: str, new: str, file: str = "adapter.py", name: str = "leaves") -> None:
    """Replace a passage of the fork; the passage must be there."""
    path = home / "competitions" / name / file
    text = path.read_text()
    assert text.count(old) >= 1, f"{old!r} is no longer in {file}"
    path.write_text(text.replace(old, new, 1))


def results(home: Path, name: str = "leaves") -> dict[str, Result]:
    return {result.name: result for result in run_checks(name, home=home)}


def failed(home: Path, name: str = "leaves") -> dict[str, str]:
    return {result.name: result.message for result in results(home, name).values() if not result.ok}


def test_a_sound_adapter_passes_every_check(home: Path) -> None:
    """No false alarm; and only checks that cannot be asked of labels are skipped."""
    found = results(home)
    assert failed(home) == {}
    assert [name for name, result in found.items() if result.skipped] == ["the_writer_keeps_distinct_answers"]


FAULTS: dict[str, tuple[str, str, str]] = {
    "pairs sorted ids with unsorted answers": (
        PAIRS_BY_ID,
        'return pd.DataFrame({"image_id": sorted(units.index), "label": answers["label"].to_numpy()})',
        "row_order_does_not_change_the_submission",
    ),
    "pairs answers with units by position": (
        PAIRS_BY_ID,
        'return pd.DataFrame({"image_id": units.index, "label": answers["label"].to_numpy()})',
        "row_order_does_not_change_the_submission",
    ),
    "scores by position": (
        SCORES_BY_ID,
        'return float((solution["label"].to_numpy() == submission["label"].to_numpy()).mean())',
        "row_order_does_not_change_the_score",
    ),
    "has the sign of the metric wrong": (
        "greater_is_better = True",
        "greater_is_better = False",
        "greater_is_better_is_right",
    ),
    "writes no answers": (PAIRS_BY_ID, 'return units[["label"]].rename_axis("image_id").reset_index()', "truth_beats"),
    "scores everything alike": (SCORES_BY_ID, "return 0.5", "truth_beats_shuffled_truth"),
    "reads the training table at test time": (
        TEST_FROM_FILES,
        'read_table(data / "train.csv")\n        names = [path.name',
        "a_hidden_test_of_any_size_works",
    ),
    "takes the test ids from a table that knows only the public ones": (
        TEST_FROM_FILES,
        'return self.train_frame(data).drop(columns="label").head(9)\n        names = [path.name',
        "a_hidden_test_of_any_size_works",
    ),
    "numbers its rows": ('"sample_id": table["image_id"]', '"sample_id": range(len(table))', "training_ids_are"),
    "names files that are not there": ('"train_images/" + table', '"train/" + table', "files_are_there"),
    "imports what does not travel": (EARLY_IMPORT, "import albumentations\n" + EARLY_IMPORT, "imports_travel"),
    "imports training code": (EARLY_IMPORT, "from kit import training\n" + EARLY_IMPORT, "imports_travel"),
    "reads with chance": (
        "    def submission(",
        "    def read(self, row, data, how):\n"
        "        import numpy as np\n"
        '        return np.random.default_rng().integers(0, 255, (8, 8, 3)).astype("uint8")\n\n'
        "    def submission(",
        "read_is_deterministic",
    ),
    "reads float64": (
        "    def submission(",
        '    def read(self, row, data, how):\n        return super().read(row, data, how).astype("float64")\n\n'
        "    def submission(",
        "a_sample_of_files_can_be_read",
    ),
    "leaves a label without an answer": (PAIRS_BY_ID, PAIRS_BY_ID + '.replace("2", None)', "truth_beats"),
    "forgets to say how folds are made": (
        'folds = Folds(5, stratify="label", group=None)',
        "folds = 5",
        "facts_are_declared",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_caught_by_its_check(home: Path, fault: str) -> None:
    """An adapter with one fault fails the check that is named for it, with expected, found and what to do."""
    old, new, check = FAULTS[fault]
    plant(home, old, new)
    messages = [message for name, message in failed(home).items() if name.startswith(check)]
    assert messages and all(part in messages[0] for part in ("expected:", "found:", "to do:"))


def _repeat_a_row(data: Path) -> None:
    table = (data / "train.csv").read_text()
    (data / "train.csv").write_text(table + table.splitlines()[1] + "\n")


def _remove_a_file(data: Path) -> None:
    sorted((data / "train_images").iterdir())[7].unlink()


def _cut_a_file(data: Path) -> None:
    path = sorted((data / "test_images").iterdir())[2]
    path.write_bytes(path.read_bytes()[:400])


def _rename_a_sample_column(data: Path) -> None:
    path = data / "sample_submission.csv"
    path.write_text(path.read_text().replace("image_id,label", "image_id,labels"))


def _drop_a_test_file(data: Path) -> None:
    sorted((data / "test_images").iterdir())[0].unlink()


def _blank_a_label(data: Path) -> None:
    table = read_table(data / "train.csv")
    table.loc[3, "label"] = ""
    table.to_csv(data / "train.csv", index=False)


DAMAGE: dict[Callable[[Path], None], str] = {
    _repeat_a_row: "training_ids_are_unique_text",
    _remove_a_file: "files_are_there",
    _cut_a_file: "a_sample_of_files_can_be_read",
    _rename_a_sample_column: "columns_equal_the_sample_submission",
    _drop_a_test_file: "test_ids_match_the_sample_submission",
    _blank_a_label: "labels_can_be_learned",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_host_files_are_caught_by_their_check(home: Path, damage: Callable[[Path], None]) -> None:
    """Repeated ids, missing and cut files, other columns, other ids and blank labels each fail their own check."""
    damage(home / "competitions/leaves/data")
    assert DAMAGE[damage] in failed(home)


def test_a_missing_file_is_told_with_examples_and_a_count(home: Path) -> None:
    """Of many missing files three are named, and all are counted."""
    for path in sorted((home / "competitions/leaves/data/train_images").iterdir())[:5]:
        path.unlink()
    assert "(5 in all)" in failed(home)["files_are_there"]


@pytest.mark.parametrize("writer", ["answers.round()", "answers.round(1)", "answers.ge(0.5).astype(float)"])
def test_a_threshold_in_the_writer_is_caught(tmp_path: Path, writer: str) -> None:
    """A `submission` that rounds or decides by itself makes distinct probabilities equal cells."""
    scaffold.new("tiles", "aerial_cactus", home=tmp_path)
    worlds.aerial_cactus(tmp_path / "competitions/tiles/data")
    plant(tmp_path, "return answers.rename_axis", f"return {writer}.rename_axis", name="tiles")
    assert list(failed(tmp_path, "tiles")) == ["the_writer_keeps_distinct_answers"]


FIXED = """class Fixed(Binary):
    def tune(self, predictions, units, score, learned):
        return learned


"""


@pytest.mark.parametrize(("task", "sound"), [("Binary", True), ("Fixed", False)])
def test_a_task_that_decides_must_fit_its_threshold(tmp_path: Path, task: str, sound: bool) -> None:
    """Binary wins back what a rescaling hides; a task with the threshold of 0.5 written in does not."""
    scaffold.new("tiles", "aerial_cactus", home=tmp_path)
    worlds.aerial_cactus(tmp_path / "competitions/tiles/data")
    plant(tmp_path, 'Binary("has_cactus")', f'{task}("has_cactus", answer="label")', name="tiles")
    plant(tmp_path, "class Adapter", FIXED + "class Adapter", name="tiles")
    assert list(failed(tmp_path, "tiles")) == ([] if sound else ["decisions_survive_rescaling"])


SPLIT_PATIENTS = """    def assign_folds(self, frame):
        return pd.Series(range(len(frame)), index=frame.index) % 5

    def submission("""


def _with_patients(home: Path) -> None:
    plant(home, "group=None", 'group="patient"')
    plant(home, '"label": table["label"]}', '"label": table["label"], "patient": table["image_id"].str[-6:-5]}')


def test_folds_that_split_a_group_are_caught(home: Path) -> None:
    """assign_folds may not put one patient into two folds."""
    _with_patients(home)
    assert "folds_split_no_group" not in failed(home)
    plant(home, "    def submission(", SPLIT_PATIENTS)
    assert "every group in one fold" in failed(home)["folds_split_no_group"]


def test_a_frozen_table_is_held_against_the_groups_of_today(home: Path) -> None:
    """A table frozen before the group was declared splits groups, and the check says so; so does a stale one."""
    from kit import load_competition

    folder = home / "competitions/leaves"
    leaves = load_competition("leaves", home)
    frame = leaves.train_frame(folder / "data").assign(unit_id=lambda rows: rows["sample_id"])
    save_folds(make_folds(leaves, frame), folder / "folds.csv")
    assert results(home)["folds_split_no_group"].message.startswith("1 frozen")
    _with_patients(home)
    assert "every group in one fold" in failed(home)["folds_split_no_group"]
    save_folds(make_folds(leaves, frame.iloc[1:]), folder / "folds.csv")
    assert "1 not in the file" in failed(home)["folds_split_no_group"]


def test_an_exception_of_the_adapter_is_a_failed_check_with_its_line(home: Path) -> None:
    """No traceback: the exception's type, message and the adapter's line stand in the message, and it is told once."""
    plant(home, 'table = read_table(data / "train.csv", ["image_id", "label"])', 'table = {}["train"]')
    found = failed(home)
    assert list(found) == ["training_ids_are_unique_text"]
    assert "KeyError: 'train'" in found["training_ids_are_unique_text"]
    assert 'adapter.py, line 25, in train_frame: table = {}["train"]' in found["training_ids_are_unique_text"]


def test_checks_do_not_hinder_each_other(home: Path) -> None:
    """Where train_frame fails, test ids, imports and recipes are still checked, and what needs the frame is skipped."""
    plant(home, 'table = read_table(data / "train.csv", ["image_id", "label"])', 'table = {}["train"]')
    found = results(home)
    asked = {name for name, result in found.items() if result.ok and not result.skipped}
    assert {"test_ids_are_unique_text", "imports_travel", "recipes_load_quietly"} <= asked
    assert found["labels_can_be_learned"].skipped


def test_an_adapter_that_does_not_load_is_a_failed_check(home: Path) -> None:
    """A syntax error is told with its line."""
    plant(home, "class Adapter(Competition):", "class Adapter(Competition:")
    (result,) = run_checks("leaves", home=home)
    assert (result.name, result.ok) == ("adapter_loads", False)
    assert "SyntaxError" in result.message and "adapter.py, line" in result.message


def test_an_unknown_competition_is_an_error_with_the_nearest_name(home: Path) -> None:
    """A misspelt name is a user's mistake, not a failed check."""
    with pytest.raises(NotFound, match="did you mean 'leaves'"):
        run_checks("leafs", home=home)


@pytest.mark.parametrize(
    "line", ['open("/dev/null").close()', 'Path("x").read_text()', 'list(Path("/tmp").iterdir())', 'Path("x").mkdir()']
)
def test_recipes_that_touch_files_on_import_are_caught(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Reading, listing and making files while recipes.py is imported fails the check."""
    monkeypatch.chdir(tmp_path)
    touching = f"\nfrom pathlib import Path\n\ntry:\n    {line}\nexcept OSError:\n    pass\n"
    path = home / "competitions/leaves/recipes.py"
    path.write_text(path.read_text() + touching)
    assert "touches no file" in failed(home)["recipes_load_quietly"]


def test_a_misspelt_recipe_field_names_the_nearest(home: Path) -> None:
    """recipes_load_quietly passes the recipe's own error on."""
    plant(home, "epochs=10", "epoch=10", file="recipes.py")
    assert "did you mean 'epochs'?" in failed(home)["recipes_load_quietly"]
