"""Folds: made once with scikit-learn's splitters, frozen in a file, never moved again."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from kit.offline.answers import scored_rows
from kit.offline.contract import Competition, Folds
from kit.offline.errors import DataError, FoldError, examples
from kit.offline.files import write_whole
from kit.offline.frames import read_table, require_columns

MANY_LABELS = 500
"""Labels above which groups are dealt out, not balanced by scikit-learn."""
COLUMNS = ["sample_id", "unit_id", "group", "fold", "scored"]


def fold_file(folder: Path, scheme: str | None = None) -> Path:
    """Where the fold table of a competition lies."""
    return folder / (f"folds-{scheme}.csv" if scheme else "folds.csv")


def make_folds(competition: Competition, frame: pd.DataFrame, scheme: str | None = None) -> pd.DataFrame:
    """A fold table for a checked training frame: sample_id, unit_id, group, fold, scored; rows in order of sample_id.

    Units are split, not samples, and the result does not depend on the order of the rows. Unscored rows go with the
    scored rows of their group, else to fold -1, which always trains. Raises FoldError where there are more folds than
    groups.
    """
    rule = competition.scheme(scheme)
    frame = frame.sort_values("sample_id", kind="stable").reset_index(drop=True)
    table = _table(competition, frame, rule)
    units = table[table["scored"]].drop_duplicates("unit_id")
    given = competition.assign_folds(frame)
    if given is not None:
        of_unit = _assigned(frame, given, rule.n)
    else:
        labels = _labels(frame, rule).reindex(units["unit_id"])
        of_unit = dict(zip(units["unit_id"], _split(rule, units, labels), strict=True))
    of_group = {group: of_unit[unit] for group, unit in zip(units["group"], units["unit_id"], strict=True)}
    fold = table["unit_id"].map(of_unit).fillna(table["group"].map(of_group)).fillna(-1).astype(int)
    table = table.assign(fold=fold)[COLUMNS].reset_index(drop=True)
    require_no_leak(table)
    return table


def _assigned(frame: pd.DataFrame, given: pd.Series, count: int) -> dict[str, int]:
    """The adapter's fold of each unit. Raises FoldError for rows without one and for units with several."""
    numbers = given.reindex(frame.index) if isinstance(given, pd.Series) else pd.Series(given, index=frame.index)
    wrong = ~numbers.isin(range(count))
    if wrong.any():
        rows = [f"{name}: {fold}" for name, fold in zip(frame["sample_id"][wrong], numbers[wrong], strict=True)]
        expected = f"a fold of 0 to {count - 1} for each row, by the index of the frame"
        raise FoldError(expected, examples(rows), "mend assign_folds")
    folds = pd.DataFrame({"unit": frame["unit_id"], "fold": numbers.astype(int)})
    split_units = folds.groupby("unit")["fold"].nunique().loc[lambda count: count > 1].index.tolist()
    if split_units:
        raise FoldError("one fold for all rows of a unit", f"several: {examples(split_units)}", "mend assign_folds")
    return dict(zip(folds["unit"], folds["fold"], strict=True))


def _table(competition: Competition, frame: pd.DataFrame, rule: Folds) -> pd.DataFrame:
    group = frame["unit_id"]
    if rule.group is not None:
        require_columns(frame, [rule.group], "the training frame, named as the folds' group")
        group = frame[rule.group]
        blank = group.isna() | (group.astype(str).str.strip() == "")
        if blank.any():
            raise FoldError(
                f"a group in column {rule.group!r} of every row",
                f"none for {examples(frame['sample_id'][blank].tolist())}",
                "give each such row a group of its own",
            )
    scored = frame["scored"].astype(bool) if "scored" in frame.columns else True
    return frame[["sample_id", "unit_id"]].assign(group=group.astype(str), scored=scored)


def _labels(frame: pd.DataFrame, rule: Folds) -> pd.Series:
    """One text per unit to stratify by; combinations of several columns that fewer units have than folds are one."""
    table = strata(frame, rule)
    if not len(table.columns):
        return pd.Series("", index=table.index)
    labels = table.agg("|".join, axis=1)
    rare = labels.map(labels.value_counts()) < rule.n
    return labels.mask(rare, "rare") if len(table.columns) > 1 else labels


def strata(frame: pd.DataFrame, rule: Folds) -> pd.DataFrame:
    """The columns to stratify by as texts, a row per unit, indexed by it; numbers as quantiles where `bins` is set."""
    columns = (
        [] if rule.stratify is None else [rule.stratify] if isinstance(rule.stratify, str) else list(rule.stratify)
    )
    require_columns(frame, columns, "the training frame, named to stratify folds by")
    first = frame.drop_duplicates("unit_id").set_index("unit_id")
    return pd.DataFrame({name: _binned(first[name], rule.bins) for name in columns}, index=first.index)


def _binned(cells: pd.Series, bins: int | None) -> pd.Series:
    values = pd.to_numeric(cells, errors="coerce")
    if bins is None or values.nunique() <= bins or values.isna().any():
        return cells.astype(str)
    return pd.qcut(values.astype(float), bins, duplicates="drop").astype(str)


def balance(competition: Competition, frame: pd.DataFrame, scheme: str | None = None) -> dict[str, pd.DataFrame]:
    """Scored units by label and fold, a table for each column to stratify by; `frame` has fold numbers."""
    scored = scored_rows(frame)
    units = strata(scored, competition.scheme(scheme))
    folds = scored.drop_duplicates("unit_id")["fold"].to_numpy()
    return {str(name): pd.crosstab(units[name], folds, rownames=[name], colnames=["fold"]) for name in units.columns}


def absences(table: pd.DataFrame) -> list[str]:
    """What a table of `balance` says of labels that some fold lacks, and of those that one fold has alone."""
    told = []
    for label, row in table[(table == 0).any(axis=1)].iterrows():
        there = row.index[row > 0].tolist()
        if len(there) == 1:
            told.append(f"{label}: only in fold {there[0]}, whose model never sees it")
        else:
            told.append(f"{label}: absent from fold {', '.join(map(str, row.index[row == 0]))}")
    return told


def _dealt(labels: np.ndarray, groups: np.ndarray, rule: Folds) -> np.ndarray:
    """Groups dealt out like cards, label by label in any order, so that the groups of a label spread over the folds.

    For thousands of labels: StratifiedGroupKFold takes four times as long for twice as many (9 s for 1,600).
    """
    first = pd.DataFrame({"group": groups, "label": labels}).drop_duplicates("group")
    chance = np.random.RandomState(rule.seed)
    first = first.iloc[chance.permutation(len(first))].sort_values("label", kind="stable")
    turn = dict(zip(first["group"], np.arange(len(first)) % rule.n, strict=True))
    return np.asarray([turn[group] for group in groups])


def _split(rule: Folds, units: pd.DataFrame, labels: pd.Series) -> np.ndarray:
    groups = units["group"].to_numpy()
    count = len(set(groups))
    if rule.n < 2 or count < rule.n:
        raise FoldError(
            f"2 to {count} folds: as many as there are groups at most",
            f"{rule.n} folds",
            "lower n in the adapter's Folds",
        )
    grouped, stratified = count < len(units), bool(rule.stratify)
    if grouped and stratified and labels.nunique() > MANY_LABELS:
        return _dealt(labels.to_numpy(), groups, rule)
    shuffled = {"shuffle": True, "random_state": rule.seed}
    splitter = {
        (False, False): KFold,
        (False, True): StratifiedKFold,
        (True, False): GroupKFold,
        (True, True): StratifiedGroupKFold,
    }[grouped, stratified](rule.n, **shuffled)
    fold = np.empty(len(units), int)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # see rare_labels
            parts = list(splitter.split(np.zeros(len(units)), labels, groups if grouped else None))
    except ValueError as error:
        raise FoldError(
            f"labels that {rule.n} folds can share", str(error), "lower n, or stratify by fewer columns"
        ) from None
    for number, (_, held) in enumerate(parts):
        fold[held] = number
    return fold


def rare_labels(competition: Competition, frame: pd.DataFrame, scheme: str | None = None) -> dict[str, int]:
    """Labels that folds are stratified by and that fewer units have than there are folds, with their counts."""
    rule = competition.scheme(scheme)
    counts = _labels(frame, rule).value_counts()
    return {str(label): int(count) for label, count in counts.items() if count < rule.n}


def require_no_leak(table: pd.DataFrame) -> None:
    """Raise FoldError where a unit or a group stands in two folds, or where a scored row is in none."""
    for column in ("unit_id", "group"):
        spans = table.groupby(column)["fold"].nunique()
        if (spans > 1).any():
            raise FoldError(
                f"every {column} in one fold",
                f"in several: {examples(spans[spans > 1].index.tolist())}",
                "folds were frozen before the group was declared? delete folds.csv and run kit folds again; "
                "else mend assign_folds",
            )
    lost = table[table["scored"] & (table["fold"] < 0)]
    if len(lost):
        raise FoldError(
            "a fold of 0 or more for every scored row",
            f"-1 for {examples(lost['sample_id'].tolist())}",
            "mend assign_folds",
        )


def extend_folds(
    competition: Competition, frame: pd.DataFrame, table: pd.DataFrame, scheme: str | None = None
) -> pd.DataFrame:
    """The table with rows for the samples it lacks; no row moves.

    New rows join their group's fold, new groups the smallest fold.
    """
    rule = competition.scheme(scheme)
    fresh = _table(competition, frame[~frame["sample_id"].isin(table["sample_id"])].sort_values("sample_id"), rule)
    of_group = dict(zip(table["group"], table["fold"], strict=True))
    sizes = table[table["scored"]]["fold"].value_counts().reindex(range(rule.n), fill_value=0)
    for group, rows in fresh.groupby("group"):
        if group not in of_group:
            of_group[group] = int(sizes.to_numpy().argmin()) if rows["scored"].any() else -1
        if of_group[group] >= 0:
            sizes[of_group[group]] += int(rows["scored"].sum())
    fresh = fresh.assign(fold=fresh["group"].map(of_group)).astype({"fold": int, "scored": bool})
    extended = pd.concat([table, fresh[COLUMNS]], ignore_index=True)
    require_no_leak(extended)
    return extended


def save_folds(table: pd.DataFrame, path: Path) -> None:
    """Freeze a fold table."""
    write_whole(path, _csv(table))


def _csv(table: pd.DataFrame) -> bytes:
    return table[COLUMNS].to_csv(index=False, lineterminator="\n").encode()


def load_folds(path: Path) -> pd.DataFrame:
    """A frozen fold table, checked for leaks."""
    text = read_table(path, COLUMNS)
    try:
        table = text.assign(fold=text["fold"].astype(int), scored=text["scored"] == "True")
    except ValueError as error:
        raise DataError(f"whole numbers in column 'fold' of {path}", str(error), "restore the file from git") from None
    strange = text["scored"][~text["scored"].isin(["True", "False"])]
    if len(strange):
        raise DataError(
            f"True or False in column 'scored' of {path}", examples(strange.tolist()), "restore the file from git"
        )
    require_no_leak(table)
    return table


def fold_hash(table: pd.DataFrame) -> str:
    """SHA-256 of the table's rows, whatever their order."""
    return hashlib.sha256(_csv(table.sort_values("sample_id", kind="stable"))).hexdigest()


def with_folds(frame: pd.DataFrame, table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The frame with its fold numbers, joined by id. Raises FoldError where frame and table hold other ids."""
    known, seen = set(table["sample_id"]), set(frame["sample_id"])
    if known != seen:
        raise FoldError(
            f"{path} to hold the {len(seen)} sample_ids of the training frame",
            f"{len(seen - known)} not in the file ({examples(sorted(seen - known))}), "
            f"{len(known - seen)} only in the file ({examples(sorted(known - seen))})",
            "new rows: kit folds NAME --extend. Rows that are gone: restore the data, "
            "or delete the file and every run made with it",
        )
    return frame.assign(fold=frame["sample_id"].map(dict(zip(table["sample_id"], table["fold"], strict=True))))


def require_declared_group(competition: Competition, frame: pd.DataFrame, scheme: str | None = None) -> None:
    """Raise FoldError where frozen folds split a unit, or a group that the adapter declares now but did not then, and
    DataError where the adapter's folds name a column that `frame` lacks."""
    rule = competition.scheme(scheme)
    strata(frame, rule)
    table = _table(competition, frame, rule)
    require_no_leak(table.assign(fold=frame["fold"]))


def split(frame: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows that train when `fold` is held out, scored rows of that fold) of a frame with fold numbers."""
    held = frame["fold"] == fold
    scored = frame["scored"].astype(bool) if "scored" in frame.columns else pd.Series(True, index=frame.index)
    return frame[~held].reset_index(drop=True), frame[held & scored].reset_index(drop=True)
