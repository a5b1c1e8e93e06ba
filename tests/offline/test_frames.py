"""kit/offline/frames.py"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kit.offline.errors import DataError, NotFound
from kit.offline.frames import checked, copies, files_frame, list_files, numbers, read_table, units_of


def table(tmp_path, content: str | bytes):
    path = tmp_path / "train.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_cells_stay_the_text_they_are(tmp_path):
    """Leading zeros, the labels NA and None, blanks, spaces and quoted commas and line breaks are kept."""
    path = table(tmp_path, 'id,label,note\n007,NA,\n1e5,None,"a, b"\n-0, nan ,"two\nlines"\n')
    frame = read_table(path, ["id", "label"])
    assert frame["id"].tolist() == ["007", "1e5", "-0"]
    assert frame["label"].tolist() == ["NA", "None", " nan "]
    assert frame["note"].tolist() == ["", "a, b", "two\nlines"]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfid,label\nx,1\n", b"id,label\r\nx,1\r\n", b"id,label\nx,1\n\n\n"])
def test_marks_line_ends_and_blank_lines_do_not_matter(tmp_path, content):
    """A byte order mark, Windows line ends and trailing blank lines give the same table."""
    frame = read_table(table(tmp_path, content))
    assert list(frame.columns) == ["id", "label"]
    assert frame.to_numpy().tolist() == [["x", "1"]]


def test_a_ragged_line_is_named_by_its_number(tmp_path):
    """Rows wider or narrower than the header are refused with their line, counted over quoted line breaks."""
    with pytest.raises(DataError) as caught:
        read_table(table(tmp_path, 'id,label\na,"x\ny"\nb\nc,1,2\n'))
    assert caught.value.found == "line 4 has 1, line 5 has 3"
    assert caught.value.expected.startswith("2 fields")


def test_an_open_quote_does_not_swallow_the_rest(tmp_path):
    """A stray quote in the last column would make one cell of all lines below; it is refused."""
    with pytest.raises(DataError, match="line 4"):
        read_table(table(tmp_path, 'id,label\na,1\nb,"2\nc,3\n'))


def test_a_file_that_is_not_utf8_names_the_line(tmp_path):
    """Latin-1 letters are refused with the line that holds them, however far into the file it is."""
    with pytest.raises(DataError, match="line 20002 is not"):
        read_table(table(tmp_path, b"id,label\n" + b"a,b\n" * 20_000 + b"M\xfcller,1\n"))


def test_a_missing_column_gets_the_nearest_name(tmp_path):
    """The error names the column, the file's columns and the nearest of them."""
    with pytest.raises(DataError, match="did you mean 'label'") as caught:
        read_table(table(tmp_path, "id,label\n1,2\n"), ["lable"])
    assert "'lable'" in caught.value.expected
    assert "['id', 'label']" in caught.value.found


def test_a_table_of_semicolons_is_recognised(tmp_path):
    """A table with ';' between its fields says so instead of a bare missing column."""
    with pytest.raises(DataError, match="';' table"):
        read_table(table(tmp_path, "id;label\n1;2\n"), ["id"])


def test_a_repeated_column_is_refused(tmp_path):
    """The same header twice would make lookups ambiguous."""
    with pytest.raises(DataError, match="once"):
        read_table(table(tmp_path, "id,id\n1,2\n"))


def test_a_table_of_a_header_alone_has_columns_and_no_rows(tmp_path):
    """Placeholder tables are tables: text columns, zero rows, and they can be checked."""
    frame = read_table(table(tmp_path, "sample_id,label\n"), ["sample_id", "label"])
    assert len(frame) == 0
    assert list(checked(frame, "it").columns) == ["sample_id", "label", "unit_id"]


def test_an_empty_file_is_not_a_table(tmp_path):
    """Zero bytes lack every column, and the error asks whether the file is empty."""
    with pytest.raises(DataError, match="empty"):
        read_table(table(tmp_path, ""), ["id"])


def test_a_missing_file_is_not_found(tmp_path):
    """A missing table is named with its path."""
    with pytest.raises(NotFound, match=r"nowhere\.csv"):
        read_table(tmp_path / "nowhere.csv")


def test_run_lengths_of_large_masks_fit(tmp_path):
    """A cell of a megabyte, as masks of whole slides have, is read whole."""
    cell = "1 2 " * 250_000
    assert read_table(table(tmp_path, f"id,rle\nx,{cell}\n"))["rle"].tolist() == [cell]


def test_numbers_are_float64_and_name_rows_without():
    """Text becomes numbers; blanks, words and infinities are refused with their sample."""
    frame = pd.DataFrame({"sample_id": ["z", "a", "07", "k"], "age": ["1", "2.5", "-3e2", "0"]})
    assert numbers(frame, "age").tolist() == [1.0, 2.5, -300.0, 0.0]
    with pytest.raises(DataError) as caught:
        numbers(frame.assign(age=["1", "", "inf", "old"]), "age")
    assert "3 rows" in caught.value.found
    assert all(part in caught.value.found for part in ("a=''", "07='inf'", "k='old'"))


def test_files_are_listed_by_name_and_suffix(tmp_path):
    """Suffixes match in any case, names are sorted, other files stay out; a missing folder is an error."""
    for name in ("b.PNG", "a.png", "c.txt", "d"):
        (tmp_path / name).touch()
    assert [path.name for path in list_files(tmp_path, [".png"])] == ["a.png", "b.PNG"]
    with pytest.raises(NotFound):
        list_files(tmp_path / "no", [".png"])


def test_checked_gives_units_and_a_fresh_index():
    """A frame without units gets its samples as units; order and an odd index do not matter."""
    frame = checked(pd.DataFrame({"sample_id": ["z", "007", "ä b"]}, index=[5, 5, 1]), "train_frame")
    assert frame["unit_id"].tolist() == ["z", "007", "ä b"]
    assert frame.index.tolist() == [0, 1, 2]


def test_checked_refuses_repeats_and_names_their_rows():
    """Repeated samples are refused with the rows that hold them; repeated units are how samples share one."""
    with pytest.raises(DataError, match=r"b \(rows 1, 3\)"):
        checked(pd.DataFrame({"sample_id": ["b", "a", "b"]}), "train_frame")
    assert len(checked(pd.DataFrame({"sample_id": ["b", "a"], "unit_id": ["u", "u"]}), "train_frame")) == 2


@pytest.mark.parametrize("column", ["sample_id", "unit_id"])
@pytest.mark.parametrize("bad", [7, 7.0, np.nan, None, "", "  ", b"x"])
def test_checked_refuses_ids_that_are_not_text(column, bad):
    """Numbers, NaN, None and blanks are refused with the row, for samples and for units."""
    frame = pd.DataFrame({"sample_id": ["a", "b"], "unit_id": ["a", "b"]}, dtype=object)
    frame[column] = pd.Series(["a", bad], dtype=object)
    with pytest.raises(DataError, match="row 2: ") as caught:
        checked(frame, "train_frame")
    assert column in caught.value.expected


def test_checked_refuses_whole_numbers_as_ids():
    """A frame read with pandas' defaults has lost the leading zeros; it is refused."""
    with pytest.raises(DataError, match="read_table"):
        checked(pd.DataFrame({"sample_id": [7, 8]}), "train_frame")


def test_checked_requires_the_columns_asked_for():
    """A target column that the frame lacks is named."""
    with pytest.raises(DataError, match="'label'"):
        checked(pd.DataFrame({"sample_id": ["a"]}), "train_frame", ["label"])


def test_units_are_the_first_rows_in_order_of_appearance():
    """One row per unit, the first, indexed by unit, units in the order they appear."""
    frame = pd.DataFrame({"sample_id": ["3", "1", "2"], "unit_id": ["z", "a", "z"], "age": [5, 6, 7]})
    units = units_of(frame)
    assert units.index.tolist() == ["z", "a"]
    assert units["age"].tolist() == [5, 6]


def test_copies_are_files_of_the_same_bytes(tmp_path):
    """Copies share the first name whatever the order of rows; files of one size and missing ones stay apart."""
    for name, content in {"b.png": b"one", "a.png": b"one", "c.png": b"two", "d.png": b"longer"}.items():
        (tmp_path / name).write_bytes(content)
    names = ["c.png", "b.png", "gone.png", "d.png", "a.png"]
    assert copies(tmp_path, names) == ["c.png", "a.png", "gone.png", "d.png", "a.png"]
    assert copies(tmp_path, names[::-1]) == copies(tmp_path, names)[::-1]


def test_files_are_rows_by_name_without_suffix(tmp_path):
    """Ids keep their dots and zeros; other suffixes are left out; an empty folder gives an empty frame of text."""
    (tmp_path / "test").mkdir()
    assert files_frame(tmp_path, "test", [".jpg"]).dtypes.tolist() == [object, object]
    for name in ("007.JPG", "1.2.840.jpg", "notes.txt"):
        (tmp_path / "test" / name).touch()
    frame = files_frame(tmp_path, "test", [".jpg"])
    assert frame.to_dict("list") == {"sample_id": ["007", "1.2.840"], "path": ["test/007.JPG", "test/1.2.840.jpg"]}


@pytest.mark.parametrize(
    "cell", ["007", "1e5", "True", "18446744073709551617", "-0", "1.10", "NA", "None", "null", "nan", " x ", "ä"]
)
def test_cells_go_into_a_table_as_they_came_out(tmp_path, cell):
    """Ids and labels that look like numbers, truth values or nothing come back byte for byte, beside a blank cell."""
    content = f"id,label\n{cell},{cell}\nother,\n".encode()
    assert read_table(table(tmp_path, content)).to_csv(index=False, lineterminator="\n").encode() == content


def test_old_line_ends_and_wide_letters(tmp_path):
    """Lone carriage returns end lines; UTF-16 is refused, as what it is not."""
    assert read_table(table(tmp_path, b"id,label\rx,1\ry,2\r"))["label"].tolist() == ["1", "2"]
    with pytest.raises(DataError, match="UTF-8"):
        read_table(table(tmp_path, "id,label\nx,1\n".encode("utf-16")))


@pytest.mark.parametrize("header", ["id,Label", "id, label", "id,label "])
def test_a_column_is_its_exact_name(tmp_path, header):
    """Another case or a blank is another column; the error lists what there is."""
    with pytest.raises(DataError) as caught:
        read_table(table(tmp_path, f"{header}\nx,1\n"), ["label"])
    assert repr(header.split(",")[1]) in str(caught.value)


def test_a_trailing_comma_shifts_nothing(tmp_path):
    """A comma too many is refused with its line: pandas would take the ids for an index."""
    with pytest.raises(DataError, match="line 2 has 3"):
        read_table(table(tmp_path, "id,label\nx,1,\n"))


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        ("source", ["s", None, " "], "text in source"),
        ("scored", ["True", "False", "True"], "True or False in column 'scored'"),
        ("weight", ["1", "", "2"], "finite number in every row of column 'weight'"),
    ],
)
def test_checked_refuses_cells_that_would_be_misread(column, cells, said):
    """Rows without a source would share one; the text "False" is true; a weight of nothing makes the loss NaN."""
    with pytest.raises(DataError, match=said):
        checked(pd.DataFrame({"sample_id": ["b", "a", "c"], column: cells}), "train_frame")


def test_parquet_is_read_as_text_too(tmp_path, monkeypatch):
    """As a CSV would be: numbers as they are written, nothing for what is missing; without pyarrow it is told."""
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    table = pd.DataFrame({"id": ["007", "8"], "score": [0.5, float("nan")]})
    monkeypatch.setattr(pd, "read_parquet", lambda path: table)
    read = read_table(tmp_path / "t.parquet", ["id"])
    assert read.to_dict("list") == {"id": ["007", "8"], "score": ["0.5", ""]}
    with pytest.raises(DataError, match="label"):
        read_table(tmp_path / "t.parquet", ["label"])

    def lacking(path):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", lacking)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "t.parquet")
    assert caught.value.fix == "pip install pyarrow"
