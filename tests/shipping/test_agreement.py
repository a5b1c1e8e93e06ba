"""Two submissions agree where rounding of another device is all that tells them apart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from kit.offline.errors import SubmissionError
from kit.shipping.agreement import require_agreement

IDS = [f"{at * 7919 % 1000:04d}" for at in range(200)]


def compared(tmp_path: Path, ours: dict[str, list[object]], theirs: dict[str, list[object]]) -> str:
    for name, columns in (("ours.csv", ours), ("theirs.csv", theirs)):
        pd.DataFrame(columns).to_csv(tmp_path / name, index=False)
    return require_agreement(tmp_path / "ours.csv", tmp_path / "theirs.csv")


def test_equal_bytes_are_said_to_be_equal(tmp_path: Path) -> None:
    """The plainest case is told apart from the near ones."""
    columns = {"id": IDS, "label": ["a"] * 200}
    assert compared(tmp_path, columns, columns) == "equal, byte for byte"


def test_rounding_and_order_do_not_matter(tmp_path: Path) -> None:
    """Half precision moves the last digits; rows are matched by id."""
    values = [at / 200 for at in range(200)]
    moved = [value + 0.003 * (-1) ** at for at, value in enumerate(values)]
    ours, theirs = {"id": IDS, "p": values}, {"id": IDS[::-1], "p": moved[::-1]}
    assert compared(tmp_path, ours, theirs) == "equal but for rounding"


def test_a_few_tipped_decisions_are_told(tmp_path: Path) -> None:
    """Two labels of two hundred differ."""
    theirs = {"id": IDS, "label": ["b", "b", *["a"] * 198]}
    assert compared(tmp_path, {"id": IDS, "label": ["a"] * 200}, theirs) == "2 of 200 rows differ by more than rounding"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"label": ["a"] * 200}, {"label": ["a"] * 190 + ["b"] * 10}),
        ({"grade": [0, 1, 2, 3] * 50}, {"grade": [1, 2, 3, 0] * 50}),
        ({"p": [at / 200 for at in range(200)]}, {"p": [at / 200 for at in reversed(range(200))]}),
        ({"p": [0.5] * 200}, {"p": [float("nan")] * 200}),
        ({"rle": ["1 100"] * 200}, {"rle": ["51 100"] * 200}),
        ({"rle": ["1 100"] * 200}, {"rle": [""] * 200}),
    ],
    ids=["words", "grades", "numbers", "nan", "masks", "no masks"],
)
def test_other_answers_are_refused(
    tmp_path: Path, ours: dict[str, list[object]], theirs: dict[str, list[object]]
) -> None:
    """Labels, grades, probabilities and masks that say something else."""
    with pytest.raises(SubmissionError, match="answer as kit predict does"):
        compared(tmp_path, {"id": IDS, **ours}, {"id": IDS, **theirs})


def test_whole_numbers_are_compared_exactly(tmp_path: Path) -> None:
    """A class beside another class is another one, however many there are; however it is written, it is the same. Where
    one side has fractions the other's whole numbers are magnitudes."""
    classes = [at * 5 for at in range(200)]
    with pytest.raises(SubmissionError, match="200 of 200 rows differ"):
        compared(tmp_path, {"id": IDS, "class": classes}, {"id": IDS, "class": [one + 1 for one in classes]})
    huge = [2**60 + one for one in classes]
    with pytest.raises(SubmissionError, match="200 of 200 rows differ"):
        compared(tmp_path, {"id": IDS, "class": huge}, {"id": IDS, "class": [one + 1 for one in huge]})
    written = [f"{one}.0" for one in classes]
    assert compared(tmp_path, {"id": IDS, "class": classes}, {"id": IDS, "class": written}) == "equal but for rounding"
    tipped = [1, 1, *classes[2:]]
    assert compared(tmp_path, {"id": IDS, "class": classes}, {"id": IDS, "class": tipped}).startswith("2 of 200 rows")
    ages = [one + 0.25 for one in classes]
    assert compared(tmp_path, {"id": IDS, "age": classes}, {"id": IDS, "age": ages}) == "equal but for rounding"


def test_masks_that_overlap_agree(tmp_path: Path) -> None:
    """A few pixels of an edge, or the same pixels in other runs."""
    ours, theirs = ["1 100", "5 50 200 50", "7 3"] * 60, ["1 97", "5 45 200 48", "7 1 8 2"] * 60
    assert (
        compared(tmp_path, {"id": IDS[:180], "rle": ours}, {"id": IDS[:180], "rle": theirs}) == "equal but for rounding"
    )


def test_other_rows_or_columns_are_refused(tmp_path: Path) -> None:
    """A test set that is not the one at home, a table of another shape."""
    ours = {"id": IDS, "label": ["a"] * 200}
    with pytest.raises(SubmissionError, match=r"missing: '0000'; extra: 'new'"):
        compared(tmp_path, ours, {"id": ["new", *IDS[1:]], "label": ["a"] * 200})
    with pytest.raises(SubmissionError, match="201 rows for 200"):
        compared(tmp_path, ours, {"id": [*IDS, IDS[0]], "label": ["a"] * 201})
    with pytest.raises(SubmissionError, match="columns"):
        compared(tmp_path, ours, {"id": IDS, "class": ["a"] * 200})


def test_empty_tables_agree(tmp_path: Path) -> None:
    """A header alone, with and without a line's end."""
    (tmp_path / "a.csv").write_text("id,label\n")
    (tmp_path / "b.csv").write_text("id,label")
    assert require_agreement(tmp_path / "a.csv", tmp_path / "b.csv") == "equal but for rounding"
