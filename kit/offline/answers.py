"""The one road from predictions, and from truth, to host tables and a score: OOF, blends, home and notebook take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kit.offline.contract import Competition
from kit.offline.errors import DataError, NotFound, SubmissionError, examples
from kit.offline.frames import read_table, units_of
from kit.offline.predictions import Gallery, Maps, Predictions, blend, join
from kit.offline.tasks import Learned


@dataclass(frozen=True)
class Part:
    """Unit predictions of one fold's model (or a blend), with the gallery that labels are known from, if any."""

    predictions: Predictions | Maps
    gallery: Gallery | None = None


def part_of(
    competition: Competition, frame: pd.DataFrame, predictions: Predictions | Maps, gallery: Gallery | None = None
) -> Part:
    """Sample predictions brought to units: compared with the gallery, combined by the adapter.

    Samples that `frame` lacks are left out; a unit whose rows are predicted only in part is refused.
    Maps are combined as they are read.
    """
    rows = frame[frame["sample_id"].isin(predictions.ids)]
    rows = frame[frame["unit_id"].isin(rows["unit_id"])]
    if isinstance(predictions, Maps):
        return Part(_lazily_combined(competition, rows, predictions), gallery)
    aligned = competition.task.compare(predictions.align(rows["sample_id"]), gallery)
    units = competition.combine(rows, aligned) if len(rows) else aligned
    return Part(units.align(units_of(rows).index), gallery)


def _lazily_combined(competition: Competition, rows: pd.DataFrame, predictions: Maps) -> Maps:
    def loader(name: str, of: pd.DataFrame):  # type: ignore[no-untyped-def]
        return lambda: competition.combine(of, predictions.align(of["sample_id"])).read(name)  # type: ignore[union-attr]

    return Maps(
        {str(name): loader(str(name), of) for name, of in rows.groupby("unit_id", sort=False)}, predictions.columns
    )


def blend_parts(members: Sequence[Sequence[Part]], weights: Sequence[float]) -> list[Part]:
    """Members over the same folds blended fold by fold. members[m][k]: what member m says of fold k."""
    return [
        Part(blend([part.predictions for part in fold], weights), _known_to_any(fold))
        for fold in zip(*members, strict=True)
    ]


def _known_to_any(fold: Sequence[Part]) -> Gallery | None:
    """The gallery of members of one fold; of members of several folds, all their labels without embeddings."""
    first = fold[0].gallery
    labels = tuple(dict.fromkeys(label for part in fold if part.gallery for label in part.gallery.labels))
    if first is None or set(labels) == set(first.labels):
        return first
    return Gallery(labels, np.empty((len(labels), 0), np.float32))


def submission_of(competition: Competition, frame: pd.DataFrame, part: Part, learned: Learned) -> pd.DataFrame:
    """The host's table for the units of `frame`, in their order."""
    units = units_of(frame)
    answers = competition.task.decode(part.predictions.align(units.index), units, learned, part.gallery)
    return _formatted(competition, answers, units)


def _formatted(competition: Competition, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    if list(answers.index) != list(units.index):
        raise DataError(
            "an answer per unit, indexed by unit_id",
            f"{len(answers)} answers for {len(units)} units",
            "mend the task's decode",
        )
    return competition.submission(answers, units).reset_index(drop=True)


def host_tables(
    competition: Competition, frame: pd.DataFrame, parts: Sequence[Part], learned: Learned | Sequence[Learned]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(solution, submission) of the scored units that `parts` cover. `learned`: one for all parts, or one a part."""
    scored = scored_rows(frame)
    task = competition.task
    truth, said, units = [], [], []
    for part, known in zip(parts, learned if isinstance(learned, Sequence) else [learned] * len(parts), strict=True):
        of_part = units_of(scored[scored["unit_id"].isin(part.predictions.ids)])
        truth.append(task.truth(of_part, known, part.gallery))
        said.append(task.decode(part.predictions.align(of_part.index), of_part, known, part.gallery))
        units.append(of_part)
    every = pd.concat(units)
    solution = _formatted(competition, pd.concat(truth), every)
    return _with_solution_columns(competition, solution, pd.concat(truth), every), _formatted(
        competition, pd.concat(said), every
    )


def solution_of(
    competition: Competition, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
) -> pd.DataFrame:
    """The truth of `units` as a host table with `solution_columns`: what a submission of them is scored against."""
    truth = competition.task.truth(units, learned, gallery)
    return _with_solution_columns(competition, _formatted(competition, truth, units), truth, units)


def _with_solution_columns(
    competition: Competition, solution: pd.DataFrame, truth: pd.DataFrame, units: pd.DataFrame
) -> pd.DataFrame:
    """The truth table with `solution_columns`: by the column of unit ids if there is one, else unit by unit."""
    columns = list(competition.solution_columns)
    if not columns:
        return solution
    for name in solution.columns:
        if set(solution[name].astype(str)) == set(units.index):
            ids = solution[name].astype(str)
            return solution.assign(**{column: ids.map(units[column]) for column in columns})
    tables = [
        competition.submission(truth.loc[[unit]], units.loc[[unit]]).assign(**units.loc[unit, columns].to_dict())
        for unit in units.index
    ]
    return pd.concat(tables, ignore_index=True)


def scored_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows the host would score: all, unless the frame's `scored` column says False."""
    return frame[frame["scored"].astype(bool)] if "scored" in frame.columns else frame


def score_of(
    competition: Competition, frame: pd.DataFrame, parts: Sequence[Part], learned: Learned | Sequence[Learned]
) -> float:
    """The host's score of OOF parts; NaN where the metric is undefined on those rows."""
    return float(competition.score(*host_tables(competition, frame, parts, learned)))


def tuned(competition: Competition, frame: pd.DataFrame, parts: Sequence[Part], learned: Learned) -> Learned:
    """`learned` with the task's decisions fitted on these OOF parts; the same object where the task decides nothing."""
    if not competition.task.decides:
        return learned
    sign = 1.0 if competition.greater_is_better else -1.0

    def score(candidate: Learned) -> float:
        value = sign * score_of(competition, frame, parts, candidate)
        return value if np.isfinite(value) else -np.inf

    predictions = join([part.predictions for part in parts])
    units = units_of(scored_rows(frame)).loc[lambda all_units: all_units.index.isin(predictions.ids)]
    return competition.task.tune(predictions.align(units.index), units, score, learned)


def cross_fitted(competition: Competition, frame: pd.DataFrame, parts: Sequence[Part], learned: Learned) -> float:
    """The pooled score when each fold's decisions are fitted on the others; NaN with one fold that needs fitting."""
    if not competition.task.decides:
        return score_of(competition, frame, parts, learned)
    if len(parts) < 2:
        return float("nan")
    per_fold = [tuned(competition, frame, [*parts[:k], *parts[k + 1 :]], learned) for k in range(len(parts))]
    return score_of(competition, frame, parts, per_fold)


def validate(competition: Competition, frame: pd.DataFrame, data: Path, submission: pd.DataFrame) -> None:
    """Refuse what the host would refuse: wrong columns, ids that are missing, extra or repeated, cells without a value.

    The ids are those of the sample submission. Where that is a placeholder without rows, or `Competition.sample` is
    None, they are those of the units, if the host's ids are unit ids at all. Raises SubmissionError.
    """
    if submission.isna().any(axis=None):
        bad = submission[submission.isna().any(axis=1)].iloc[:, 0]
        raise SubmissionError(
            "a value in every cell of the submission",
            f"none in the rows of {examples(bad.tolist())}",
            "look at those units",
        )
    numbers = submission.select_dtypes("number").to_numpy(float)
    if not np.isfinite(numbers).all():
        bad = submission[~np.isfinite(numbers).all(axis=1)].iloc[:, 0]
        raise SubmissionError(
            "finite numbers in the submission", f"others in the rows of {examples(bad.tolist())}", "look at those units"
        )
    sample = read_sample(competition, data)
    if sample is not None and list(sample.columns) != list(submission.columns):
        raise SubmissionError(
            f"the columns of {competition.sample}: {list(sample.columns)}",
            str(list(submission.columns)),
            "mend `submission` in the adapter",
        )
    if sample is not None:
        for column in sample.columns[1:]:
            _require_numbers(submission, column, sample[column])
    ids = submission.iloc[:, 0].astype(str)
    if sample is not None and len(sample):
        _require_ids(ids, sample.iloc[:, 0].astype(str), competition.sample)
    elif ids.isin(frame["unit_id"]).any() or not len(ids):
        _require_ids(ids.drop_duplicates(), frame["unit_id"].drop_duplicates(), "test_frame")


NO_NUMBER = ("", "nan", "inf", "-inf", "infinity", "-infinity")
"""How a number that is none looks in a table that was written."""


def _require_numbers(submission: pd.DataFrame, column: str, sample: pd.Series) -> None:
    """Where the sample's column holds numbers alone, so that a blank is no empty mask, no cell may be NO_NUMBER."""
    if not len(sample) or not np.isfinite(pd.to_numeric(sample, errors="coerce")).all():
        return
    bad = submission[column].astype(str).str.strip().str.lower().isin(NO_NUMBER)
    if bad.any():
        named = zip(submission.iloc[:, 0][bad].astype(str), submission[column][bad], strict=True)
        found = examples([f"{name}={cell}" for name, cell in named])
        raise SubmissionError(
            f"a number in every cell of {column!r}, as in the sample submission", found, "look at those rows"
        )


def _require_ids(ids: pd.Series, wanted: pd.Series, source: str | None) -> None:
    if ids.duplicated().any() and not wanted.duplicated().any():
        raise SubmissionError(
            f"every {ids.name} once", f"repeated: {examples(ids[ids.duplicated()].tolist())}", "write one row per id"
        )
    missing, extra = sorted(set(wanted) - set(ids)), sorted(set(ids) - set(wanted))
    if missing or extra:
        raise SubmissionError(
            f"the {wanted.nunique()} ids of {source}",
            f"missing: {examples(missing)}; extra: {examples(extra)}",
            "test_frame must give the units of the mounted test set, and `submission` a row for each; "
            "set sample = None where the host's sample is a placeholder",
        )


def read_sample(competition: Competition, data: Path) -> pd.DataFrame | None:
    """The host's sample submission as text, or None where the adapter says there is none."""
    if competition.sample is None:
        return None
    path = Path(data) / competition.sample
    if not path.is_file():
        raise NotFound(
            f"the sample submission {path}", "no such file", "name the host's file in `sample`, or set sample = None"
        )
    return read_table(path)
