"""Host metrics of two tables matched by id. scikit-learn scores; here rows are matched and bad tables refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, roc_auc_score

from kit.offline.errors import SubmissionError, examples


def match(
    solution: pd.DataFrame, submission: pd.DataFrame, by: str, columns: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables reduced to `columns`, the submission's rows in the solution's order of the id column `by`.

    Raises SubmissionError for ids that are missing, extra or repeated and for cells that are missing, naming them.
    """
    tables = []
    for name, table in (("solution", solution), ("submission", submission)):
        for column in (by, *columns):
            if column not in table.columns:
                raise SubmissionError(
                    f"a column {column!r} in the {name}", f"columns {list(table.columns)}", "write the host's columns"
                )
        ids = table[by].astype(str)
        empty = table[[by, *columns]].isna().any(axis=1)
        if empty.any():
            raise SubmissionError(
                f"a value in every row of the {name}", f"none for {examples(ids[empty].tolist())}", "fill those rows"
            )
        if ids.duplicated().any():
            raise SubmissionError(
                f"every {by} of the {name} once",
                f"repeated: {examples(ids[ids.duplicated()].tolist())}",
                "write one row per id",
            )
        tables.append(table[list(columns)].set_axis(pd.Index(ids), axis=0))
    truth, said = tables
    missing, extra = truth.index.difference(said.index), said.index.difference(truth.index)
    if len(missing) or len(extra):
        raise SubmissionError(
            f"the {len(truth)} ids of the solution",
            f"missing: {examples(missing.tolist())}; extra: {examples(extra.tolist())}",
            "predict the ids of test_frame, no more and no fewer",
        )
    return truth, said.loc[truth.index]


def accuracy(solution: pd.DataFrame, submission: pd.DataFrame, by: str, column: str) -> float:
    """Share of rows whose label is right; labels are compared as text. Source: scikit-learn `accuracy_score`."""
    truth, said = match(solution, submission, by, [column])
    return float(accuracy_score(truth[column].astype(str), said[column].astype(str)))


def roc_auc(solution: pd.DataFrame, submission: pd.DataFrame, by: str, column: str) -> float:
    """Area under one column's ROC curve; NaN where the truth has one class. Source: scikit-learn `roc_auc_score`."""
    truth, said = match(solution, submission, by, [column])
    labels = truth[column].astype(float)
    return float(roc_auc_score(labels, said[column].astype(float))) if labels.nunique() == 2 else float(np.nan)
