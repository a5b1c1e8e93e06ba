"""Whether a table made on Kaggle says what the table made at home says, rounding of another device aside."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from kit.offline.errors import SubmissionError, examples
from kit.offline.frames import read_table
from kit.shipping.predict import predict_at_home

NEAR = 0.02
"""Two numbers agree within this part of their column's range at home: half precision on a GPU against the CPU."""
OVERLAP = 0.9
"""Two masks agree where this part of the pixels of either is in both."""
OTHERWISE = 0.01
"""The part of the rows that may differ: decisions that rounding tips."""
WHOLE = re.compile(r"-?\d+(\.0+)?")
RUNS = re.compile(r"\d{1,15} \d{1,15}( \d{1,15} \d{1,15})*")


def require_agreement(at_home: Path, there: Path) -> str:
    """Compare two submissions row by row, by the ids of their first column; returns how far they agree, in words.

    Raises SubmissionError where columns or ids differ, or more than OTHERWISE of the rows.
    """
    if at_home.read_bytes() == there.read_bytes():
        return "equal, byte for byte"
    ours, theirs = read_table(at_home), read_table(there)
    if list(ours.columns) != list(theirs.columns):
        raise SubmissionError(f"columns {list(ours.columns)}, as at home", f"{list(theirs.columns)} in {there}", SAME)
    ids = ours.columns[0]
    ours, theirs = (table.sort_values(ids, kind="stable", ignore_index=True) for table in (ours, theirs))
    if list(ours[ids]) != list(theirs[ids]):
        lacking, more = sorted(set(ours[ids]) - set(theirs[ids])), sorted(set(theirs[ids]) - set(ours[ids]))
        found = f"missing: {examples(lacking)}; extra: {examples(more)}; {len(theirs)} rows for {len(ours)}"
        raise SubmissionError(f"the rows of the test set at home in {there}", found, SAME)
    agree = np.ones(len(ours), bool)
    for column in ours.columns[1:]:
        agree &= _agree(ours[column], theirs[column])
    different = [str(name) for name in ours[ids][~agree]]
    told = f"{len(different)} of {len(ours)} rows differ"
    if len(different) > OTHERWISE * len(ours):
        raise SubmissionError("the notebook to answer as kit predict does", f"{told}: {examples(different)}", SAME)
    return f"{told} by more than rounding" if different else "equal but for rounding"


def compare_with_home(bundle: Path, data: Path, table: Path, python: Path | None = None) -> str:
    """`require_agreement` of a table with what `kit predict` makes of the test set in `data`; see `predict_at_home`."""
    with tempfile.TemporaryDirectory(prefix="kit-home-") as folder:
        at_home = Path(folder) / "submission.csv"
        predict_at_home(bundle, data, at_home, python)
        return require_agreement(at_home, table)


SAME = (
    "is the test set at home the one on Kaggle? Else kit rehearse, and look into log.txt beside the table; "
    "--data with a folder that is not there leaves the comparison out"
)


def _agree(ours: pd.Series, theirs: pd.Series) -> np.ndarray:
    """Which cells of a column agree, as bool: the same text, the same whole numbers (classes, counts) where both sides
    have no others, else numbers or masks close to each other."""
    same = (ours == theirs).to_numpy(copy=True)
    if ours.str.fullmatch(WHOLE).all() and theirs.str.fullmatch(WHOLE).all():
        return np.array([_whole(one) == _whole(other) for one, other in zip(ours, theirs, strict=True)], bool)
    left, right = (pd.to_numeric(cells, errors="coerce").to_numpy(float) for cells in (ours, theirs))
    if len(left) and np.isfinite(left).all() and np.isfinite(right).all():
        return same | (np.abs(left - right) <= NEAR * max(np.ptp(left), np.abs(left).max()))
    for at in np.flatnonzero(~same):
        same[at] = _overlap(ours[at], theirs[at]) >= OVERLAP
    return same


def _whole(text: str) -> int:
    return int(text.partition(".")[0])


def _overlap(one: str, other: str) -> float:
    """Intersection over union of two masks as run-lengths, 0 for other texts."""
    if not (RUNS.fullmatch(one) and RUNS.fullmatch(other)):
        return 0.0
    left, right = (np.array(text.split(), dtype=np.int64).reshape(-1, 2) for text in (one, other))
    both = _pixels(left) + _pixels(right) - _pixels(np.concatenate([left, right]))
    return both / max(_pixels(left) + _pixels(right) - both, 1)


def _pixels(runs: np.ndarray) -> int:
    """How many pixels runs (R x 2: start, length) cover, each counted once."""
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    ends = np.maximum.accumulate(runs.sum(axis=1))
    begins = np.maximum(runs[:, 0], np.concatenate([[0], ends[:-1]]))
    return int(np.maximum(ends - begins, 0).sum())
