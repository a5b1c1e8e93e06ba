"""Host tables: read strictly as text, checked by id."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kit.offline.errors import DataError, NotFound, did_you_mean, examples


def read_table(path: Path | str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a host's table as text: ids keep their leading zeros, the class "NA" stays "NA", a blank is "".

    A CSV, or Parquet (which needs pyarrow) by the name's end. `columns` are the ones the caller needs. Raises NotFound
    for a missing file and DataError for a file that is not UTF-8, has unclosed quotes, rows of another width than its
    header or a column twice, or lacks a column. Line numbers count from 1, header included.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(
            f"a table at {path}", "no such file", "put the host's files into the data folder, or pass --data DIR"
        )
    if path.suffix == ".parquet":
        return _read_parquet(path, columns)
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} in UTF-8", f"line {line} is not", "save the file as UTF-8") from None
    csv.field_size_limit(2**31 - 1)  # run-lengths of large masks exceed the default of 131072 characters
    lines = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""), strict=True)
    header: list[str] = []
    cells: list[list[str]] = []
    known: dict[str, str] = {}
    wrong = []
    try:
        for row in filter(None, lines):
            if not header:
                header, cells = row, [[] for _ in row]
            elif len(row) != len(header):
                wrong.append(f"line {lines.line_num} has {len(row)}")
            else:  # equal cells are one text: ids often stand in several columns
                for column, cell in zip(cells, row, strict=True):
                    column.append(known.setdefault(cell, cell))
    except csv.Error as error:
        raise DataError(f"whole CSV fields in {path}", f"line {lines.line_num}: {error}", "mend its quotes") from None
    if wrong:
        raise DataError(
            f"{len(header)} fields on every line of {path}",
            examples(wrong).replace("'", ""),
            "quote fields that hold commas, or mend those lines",
        )
    if len(set(header)) != len(header):
        raise DataError(f"every column of {path} once", f"header {header}", "rename the repeated column")
    frame = pd.DataFrame(dict(zip(header, cells, strict=True)), columns=header, dtype=object).astype(str)
    require_columns(frame, columns, path)
    return frame


def _read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise DataError(f"a package that reads {path}", "none is installed", "pip install pyarrow") from None
    frame = frame.astype(object).where(frame.notna(), "").astype(str)
    require_columns(frame, columns, path)
    return frame


def require_columns(frame: pd.DataFrame, columns: Iterable[str], where: object) -> None:
    """Raise DataError where `frame`, read from `where`, lacks one of `columns`."""
    for column in columns:
        if column not in frame.columns:
            hint = " (it looks like a ';' table)" if len(frame.columns) == 1 and ";" in str(frame.columns[0]) else ""
            raise DataError(
                f"a column {column!r} in {where}",
                f"columns {list(map(str, frame.columns))}{hint}",
                did_you_mean(column, map(str, frame.columns)) if len(frame.columns) else "is the file empty?",
            )


def numbers(frame: pd.DataFrame, column: str, where: object = "the frame") -> pd.Series:
    """A text column as float64. Raises DataError naming the ids of the rows that hold no finite number."""
    values = pd.to_numeric(frame[column], errors="coerce").astype("float64")
    bad = ~np.isfinite(values)
    if bad.any():
        names = frame["sample_id"] if "sample_id" in frame.columns else frame.index.to_series()
        rows = [f"{name}={value!r}" for name, value in zip(names[bad], frame[column][bad], strict=True)]
        raise DataError(
            f"a finite number in every row of column {column!r} of {where}",
            f"{len(rows)} rows without: {examples(rows)}",
            "mend or drop those rows",
        )
    return values


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files in `folder` (not below it) whose suffix is one of `suffixes`, case aside, sorted by name."""
    if not folder.is_dir():
        raise NotFound(
            f"a folder {folder}", "no such folder", "put the host's files into the data folder, or pass --data DIR"
        )
    wanted = {suffix.lower() for suffix in suffixes}
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in wanted)


def files_frame(data: Path, folder: str, suffixes: Sequence[str]) -> pd.DataFrame:
    """A row per file in `data/folder`, sorted by name: sample_id (the name without its suffix) and path."""
    names = [path.name for path in list_files(data / folder, suffixes)]
    table = {"sample_id": [Path(name).stem for name in names], "path": [f"{folder}/{name}" for name in names]}
    return pd.DataFrame(table, dtype=object)


def checked(frame: pd.DataFrame, where: str, columns: Iterable[str] = ()) -> pd.DataFrame:
    """The frame as the kit uses it: unique text `sample_id`, a text `unit_id` (default: the sample), a fresh index.

    Raises DataError for ids that are missing, not text, blank or repeated, for a missing column, for a `source` that is
    no text, a `scored` that is not True or False and a `weight` that is no number.
    """
    require_columns(frame, ["sample_id", *columns], where)
    frame = frame.reset_index(drop=True)
    for column in ("sample_id", "unit_id", "source"):
        if column in frame.columns:
            _require_text_ids(frame[column], column, where)
    repeated = frame["sample_id"][frame["sample_id"].duplicated(keep=False)]
    if len(repeated):
        rows = [f"{value} (rows {', '.join(map(str, group.index + 1))})" for value, group in repeated.groupby(repeated)]
        raise DataError(
            f"every sample_id of {where} once",
            f"repeated: {examples(rows)}".replace("'", ""),
            "drop or rename the repeats",
        )
    if "scored" in frame.columns and len(frame) and frame["scored"].dtype != bool:
        found = f"{frame['scored'].dtype}, such as {frame['scored'].iloc[0]!r}"
        raise DataError(f"True or False in column 'scored' of {where}", found, 'compare: table["split"] == "test"')
    if "weight" in frame.columns:
        frame = frame.assign(weight=numbers(frame, "weight", where))
    if "unit_id" not in frame.columns:
        frame = frame.assign(unit_id=frame["sample_id"])
    return frame


def _require_text_ids(ids: pd.Series, column: str, where: str) -> None:
    bad = ids.map(lambda value: not isinstance(value, str) or not value.strip())
    if bad.any():
        found = [f"row {row}: {value!r}" for row, (value, wrong) in enumerate(zip(ids, bad, strict=True), 1) if wrong]
        raise DataError(
            f"text in {column} of every row of {where}",
            examples(found).replace('"', ""),
            "read tables with read_table, which keeps ids as text (007 stays 007), and drop rows without an id",
        )


def units_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The first row of each unit, indexed by `unit_id`, in order of appearance."""
    return frame.drop_duplicates("unit_id").set_index("unit_id", drop=False).rename_axis(None)


def copies(data: Path, paths: Iterable[str]) -> list[str]:
    """For each file below `data` the first name, in order of text, of those in `paths` that hold the same bytes.

    A group for folds to keep together. Only files of one size are read. Near-copies (resized, saved again) stay apart;
    a missing file is its own first.
    """
    names = list(paths)
    sizes = {name: (data / name).stat().st_size if (data / name).is_file() else -1 for name in names}
    often = Counter(sizes.values())
    seen: dict[bytes, str] = {}
    first = {name: name for name in names}
    for name in sorted(name for name, size in sizes.items() if size >= 0 and often[size] > 1):
        first[name] = seen.setdefault(hashlib.sha256((data / name).read_bytes()).digest(), name)
    return [first[name] for name in names]
