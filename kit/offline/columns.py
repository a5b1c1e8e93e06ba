"""Frame columns that go to the network beside the image: measured on the rows that train, then the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kit.offline.errors import DataError, examples
from kit.offline.frames import numbers, require_columns

MAX_VALUES = 100
"""Values of a column of words at most; more are ids or free text, which say nothing about other rows."""

Column = Mapping[str, Any]
"""One column as JSON: {"column", "median", "mean", "std"} for numbers, {"column", "values"} for words."""


def learn_columns(frame: pd.DataFrame, names: Sequence[str]) -> tuple[Column, ...]:
    """What the rows that train say of the columns: median, mean and standard deviation of numbers, the values of words.

    A column whose cells are all numbers or blank holds numbers, any other holds words. Raises DataError for a column
    that the frame lacks, for infinite numbers, and for words with more than MAX_VALUES values.
    """
    require_columns(frame, names, "the training frame, named in the adapter's table")
    return tuple(_learned(frame, name) for name in names)


def _learned(frame: pd.DataFrame, name: str) -> Column:
    given = frame[~_blank(frame[name])]
    if pd.to_numeric(given[name], errors="coerce").notna().all():
        values = numbers(given, name, "the training frame")
        median = float(values.median()) if len(values) else 0.0
        filled = np.append(values, [median] * (len(frame) - len(values)))
        mean, std = float(filled.mean()), float(filled.std())
        constant = std <= 1e-9 * abs(mean)  # three times 0.1 has a deviation of 1e-17, which would blow up 0.2
        return {"column": name, "median": median, "mean": mean, "std": 1.0 if constant else std}
    words = sorted(set(given[name].astype(str)))
    if len(words) > MAX_VALUES:
        raise DataError(
            f"numbers, or words of at most {MAX_VALUES} values, in column {name!r} of the adapter's table",
            f"{len(words)} values: {examples(words)}",
            "leave the column out, or mend the cells that are no numbers",
        )
    return {"column": name, "values": words}


def table_width(columns: Sequence[Column]) -> int:
    """How many numbers a row brings: one for a column of numbers, one a value for a column of words."""
    return sum(len(column["values"]) if "values" in column else 1 for column in columns)


def table_of(frame: pd.DataFrame, columns: Sequence[Column]) -> np.ndarray:
    """N x T float32 of the rows: numbers standardised, blanks at the median; words as 0 or 1 for each known value.

    A blank word and a word that training did not have are all zeros. Raises DataError for a missing column and for
    cells that are no number in a column of numbers.
    """
    require_columns(frame, [column["column"] for column in columns], "the frame, named in the adapter's table")
    parts = [_encoded(frame, column) for column in columns]
    return np.concatenate([np.zeros((len(frame), 0)), *parts], axis=1).astype(np.float32)


def _encoded(frame: pd.DataFrame, column: Column) -> np.ndarray:
    cells = frame[str(column["column"])]
    if "values" in column:
        return (cells.astype(str).to_numpy(object)[:, None] == np.asarray(column["values"], object)[None]).astype(float)
    there = frame[~_blank(cells)]
    filled = numbers(there, str(column["column"])).reindex(frame.index, fill_value=column["median"])
    return ((filled.to_numpy() - column["mean"]) / column["std"])[:, None]


def _blank(cells: pd.Series) -> pd.Series:
    return cells.isna() | (cells.astype(str).str.strip() == "")
