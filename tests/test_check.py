"""The contract's checks: silent on a sound adapter, and each fault is caught by the check that is named for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kit import load_competition, scaffold
from kit.check import Result, run_checks
from kit.offline.errors import NotFound
from kit.offline.frames import checked, read_table
from kit.training.folds import make_folds, save_folds
from tests import worlds


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout with a fork of cassava named `leaves` and tiny host files."""
    scaffold.new("leaves", "cassava", home=tmp_path)
    worlds.cassava(tmp_path / "competitions/leaves/data")
    return tmp_path


def plant(home: Path, body: str, name: str = "leaves") -> None:
    """Put an adapter with `body` over the fork's own, so that no test hangs on how the template is written."""
    path = home / "competitions" / name / "adapter.py"
    lines = "\n".join(f"    {line}" if line else "" for line in body.splitlines())
    path.write_text(f"{path.read_text()}\n\nSound = Adapter\n\n\nclass Adapter(Sound):\n{lines}\n")


def put_before(home: Path, line: str, name: str = "leaves") -> None:
    """Put a line before the imports of the adapter."""
    path = home / "competitions" / name / "adapter.py"
    path.write_text(f"{line}\n{path.read_text()}")


def results(home: Path, name: str = "leaves") -> dict[str, Result]:
    return {result.name: result for result in run_checks(name, home=home)}


def failed(home: Path, name: str = "leaves") -> dict[str, str]:
    return {result.name: result.message for result in results(home, name).values() if not result.ok}


def test_a_sound_adapter_passes_every_check(home: Path) -> None:
    """No false alarm; and only checks that cannot be asked of labels are skipped."""
    found = results(home)
    assert failed(home) == {}
    assert [name for name, result in found.items() if result.skipped] == ["the_writer_keeps_distinct_answers"]


FAULTS: dict[str, tuple[str, str]] = {
    """def submission(self, answers, units):
    return pd.DataFrame({"image_id": sorted(units.index), "label": answers["label"].to_numpy()})
""": ("pairs sorted ids with unsorted answers", "row_order_does_not_change_the_submission"),
    """def submission(self, answers, units):
    return pd.DataFrame({"image_id": units.index, "label": answers["label"].to_numpy()})
""": ("pairs answers with units by position", "row_order_does_not_change_the_submission"),
    """def score(self, solution, submission):
    return float((solution["label"].to_numpy() == submission["label"].to_numpy()).mean())
""": ("scores by position", "row_order_does_not_change_the_score"),
    "greater_is_better = False": ("has the sign of the metric wrong", "greater_is_better_is_right"),
    """def submission(self, answers, units):
    return pd.DataFrame({"image_id": answers.index, "label": "4"})
""": ("writes no answers", "truth_beats_shuffled_truth"),
    "def score(self, solution, submission):\n    return 0.5": ("scores alike", "truth_beats_shuffled_truth"),
    "def score(self, solution, submission):\n    return float('nan')": ("scores NaN", "truth_beats_shuffled_truth"),
    """def submission(self, answers, units):
    return super().submission(answers, units).replace("2", None)
""": ("leaves rows without an answer", "truth_beats_shuffled_truth"),
    """def test_frame(self, data):
    read_table(data / "train.csv")
    return super().test_frame(data)
""": ("reads the training table at test time", "a_hidden_test_of_any_size_works"),
    """def test_frame(self, data):
    ids = read_table(Path(self.folder) / "data/sample_submission.csv")["image_id"]
    return pd.DataFrame({"sample_id": ids, "path": "test_images/" + ids})
""": ("knows only the public test ids", "a_hidden_test_of_any_size_works"),
    """def train_frame(self, data):
    return super().train_frame(data).assign(sample_id=lambda rows: range(len(rows)))
""": ("numbers its rows", "training_ids_are_unique_text"),
    """def test_frame(self, data):
    return super().test_frame(data).assign(sample_id=lambda rows: range(len(rows)))
""": ("numbers its test rows", "test_ids_are_unique_text"),
    """def train_frame(self, data):
    return super().train_frame(data).assign(path=lambda rows: "train/" + rows["sample_id"])
""": ("names files that are not there", "files_are_there"),
    "import albumentations": ("imports what does not travel", "imports_travel"),
    "from kit import training": ("imports training code", "imports_travel"),
    """def read(self, row, data, how):
    import numpy
    return numpy.random.default_rng().integers(0, 255, (8, 8, 3)).astype("uint8")
""": ("reads with chance", "read_is_deterministic"),
    """def read(self, row, data, how):
    return super().read(row, data, how).astype("float64")
""": ("reads float64", "a_sample_of_files_can_be_read"),
    "folds = 5": ("does not say how folds are made", "facts_are_declared"),
    'metric = ""': ("does not name the metric", "facts_are_declared"),
}


@pytest.mark.parametrize("body", FAULTS, ids=[fault for fault, _ in FAULTS.values()])
def test_each_planted_fault_is_caught_by_its_check(home: Path, body: str) -> None:
    """An adapter with one fault fails the check that is named for it, with expected, found and what to do."""
    if body.startswith(("import", "from")):
        put_before(home, body)
    else:
        plant(home, body)
    message = failed(home)[FAULTS[body][1]]
    assert all(part in message for part in ("expected:", "found:", "to do:"))


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


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """A checkout with a fork of aerial_cactus named `tiles` and tiny host files."""
    scaffold.new("tiles", "aerial_cactus", home=tmp_path)
    worlds.aerial_cactus(tmp_path / "competitions/tiles/data")
    return tmp_path


@pytest.mark.parametrize("writer", ["answers.round()", "answers.round(1)", "answers.ge(0.5).astype(float)"])
def test_a_threshold_in_the_writer_is_caught(tiles: Path, writer: str) -> None:
    """A `submission` that rounds or decides by itself makes distinct probabilities equal cells."""
    plant(tiles, f"def submission(self, answers, units):\n    return super().submission({writer}, units)", "tiles")
    assert list(failed(tiles, "tiles")) == ["the_writer_keeps_distinct_answers"]


FIXED = """class Fixed(Binary):
    def tune(self, predictions, units, score, learned):
        return learned

task = Fixed("has_cactus", answer="label")
"""


def test_a_task_that_decides_must_fit_its_threshold(tiles: Path) -> None:
    """Binary wins back what a rescaling hides; a task with the threshold of 0.5 written in does not."""
    plant(tiles, 'task = Binary("has_cactus", answer="label")', "tiles")
    assert failed(tiles, "tiles") == {}
    plant(tiles, FIXED, "tiles")
    assert list(failed(tiles, "tiles")) == ["decisions_survive_rescaling"]


PATIENTS = """folds = Folds(5, "label", group="patient")

def train_frame(self, data):
    return super().train_frame(data).assign(patient=lambda rows: rows["sample_id"].str[-6:-5])
"""
SPLIT_PATIENTS = """
def assign_folds(self, frame):
    return pd.Series(range(len(frame)), index=frame.index) % 5
"""


def test_folds_that_split_a_group_are_caught(home: Path) -> None:
    """assign_folds may not put one patient into two folds."""
    plant(home, PATIENTS)
    assert "folds_split_no_group" not in failed(home)
    plant(home, SPLIT_PATIENTS)
    assert "every group in one fold" in failed(home)["folds_split_no_group"]


def test_a_frozen_table_is_held_against_the_groups_of_today(home: Path) -> None:
    """A table frozen before the group was declared splits groups, and the check says so; so does a stale one."""
    folder = home / "competitions/leaves"
    leaves = load_competition("leaves", home)
    frame = checked(leaves.train_frame(folder / "data"), "train_frame")
    save_folds(make_folds(leaves, frame), folder / "folds.csv")
    assert results(home)["folds_split_no_group"].message.startswith("1 frozen")
    plant(home, PATIENTS)
    assert "every group in one fold" in failed(home)["folds_split_no_group"]
    save_folds(make_folds(leaves, frame.iloc[1:]), folder / "folds.csv")
    assert "1 not in the file" in failed(home)["folds_split_no_group"]


RAISES = 'def train_frame(self, data):\n    return {}["train"]'


def test_an_exception_of_the_adapter_is_a_failed_check_with_its_line(home: Path) -> None:
    """No traceback: the exception's type, message and the adapter's line stand in the message, and it is told once."""
    plant(home, RAISES)
    found = failed(home)
    assert list(found) == ["training_ids_are_unique_text"]
    assert "KeyError: 'train'" in found["training_ids_are_unique_text"]
    line = (home / "competitions/leaves/adapter.py").read_text().count("\n")
    assert f'adapter.py, line {line}, in train_frame: return {{}}["train"]' in found["training_ids_are_unique_text"]


def test_checks_do_not_hinder_each_other(home: Path) -> None:
    """Where train_frame fails, test ids, imports and recipes are still checked, and what needs the frame is skipped."""
    plant(home, RAISES)
    found = results(home)
    asked = {name for name, result in found.items() if result.ok and not result.skipped}
    assert {"test_ids_are_unique_text", "imports_travel", "recipes_load_quietly"} <= asked
    assert found["labels_can_be_learned"].skipped


def test_an_adapter_that_does_not_load_is_a_failed_check(home: Path) -> None:
    """A syntax error is told with its line."""
    put_before(home, "class Broken(Competition:")
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
    (home / "competitions/leaves/recipes.py").write_text("from kit.training import Recipe\na = Recipe(epoch=10)\n")
    assert "did you mean 'epochs'?" in failed(home)["recipes_load_quietly"]


def test_unusual_images_are_told_and_not_failed(home: Path) -> None:
    """Kinds of images by train and test, a wrong extension, several frames, and files that no row lists: remarks."""
    data = home / "competitions/leaves/data"
    first, second, third = sorted((data / "train_images").iterdir())[:3]
    Image.new("L", (9, 9)).save(first, "JPEG")
    Image.new("RGB", (9, 9)).save(second, "PNG")
    Image.new("RGB", (9, 9)).save(third, "GIF", save_all=True, append_images=[Image.new("RGB", (9, 9), "red")])
    (data / "train_images" / "stray.jpg").write_bytes(first.read_bytes())
    found = results(home)
    assert all(result.ok for result in found.values())
    said = found["kinds_of_images_are_told"].message
    assert "train: 57 JPEG RGB" in said and "test: 9 JPEG RGB" in said
    assert "1 JPEG L" in said and "1 PNG RGB (called .jpg)" in said
    assert "(called .jpg, 2 frames, of which the first is read)" in said
    assert "1 beside them without a row: 'train_images/stray.jpg'" in found["files_are_there"].message


@pytest.mark.parametrize(("columns", "words"), [('("agee",)', "did you mean 'age'"), ('("age", "site")', "'site'")])
def test_columns_beside_the_image_must_be_in_both_frames(home: Path, columns: str, words: str) -> None:
    """A misspelt column, and one that only train has, fail before anything is trained."""
    plant(
        home,
        f"""table = {columns}

def train_frame(self, data):
    return super().train_frame(data).assign(age="7", site="arm")

def test_frame(self, data):
    return super().test_frame(data).assign(age="8")
""",
    )
    assert words in failed(home)["columns_beside_the_image_fit"]
