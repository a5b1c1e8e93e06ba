"""Tasks: what is predicted, how a network learns it, how answers are read off. Decisions live here, fitted on OOF."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

import kit
from kit.offline.errors import DataError, examples
from kit.offline.frames import numbers, require_columns
from kit.offline.predictions import Gallery, Maps, Predictions
from kit.offline.similarities import Similarities, nearest

Learned = dict[str, Any]
"""What a task learned from data (classes, thresholds): plain JSON values, saved beside the settings."""


class Task:
    """The base of every family. Constructors store their arguments under the same names; see `Learned` for the rest.

    columns: target columns of the frame. head: the kind of head the network needs. dense: targets and outputs are maps,
    C x h x w, and predictions are Maps. retrieval: outputs are embeddings, and each fold keeps a Gallery of the rows it
    trained on. aux: further heads by name with their weight in the loss; trained, never decoded. wheels: packages that
    its networks need and Kaggle's image lacks.
    """

    columns: tuple[str, ...] = ()
    head = "linear"
    wheels: tuple[str, ...] = ()
    dense = False
    retrieval = False
    aux: Mapping[str, tuple[Task, float]] = {}

    def with_aux(self, **aux: tuple[Task, float]) -> Self:
        """This task with further heads: name=(task over other columns of the training frame, weight in the loss)."""
        other = copy.copy(self)
        other.aux = aux
        return other

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that training looks at: the task's and those of its further heads."""
        return (*self.columns, *(column for task, _ in self.aux.values() for column in task.columns))

    def learn(self, frame: pd.DataFrame) -> Learned:
        """What must be known before training, from the training frame alone. Raises DataError for unfit labels."""
        return {}

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        """The names of the network's output columns or channels; their count is the size of the head."""
        return self.columns

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        """N x C float32 targets of the rows, soft ones welcome. Dense ones come from `Competition.read_target`."""
        return frame[list(self.columns)].to_numpy(np.float32)

    def read_target(self, row: Mapping[str, Any]) -> np.ndarray:
        """The target of a dense task at native size, H x W x C, from the row's columns."""
        raise DataError(
            "a method read_target(row, data, how) for a dense task", type(self).__name__, "write it in the adapter"
        )

    def constant(self, first: pd.DataFrame, units: pd.DataFrame, learned: Learned) -> pd.DataFrame:
        """One legal answer for all `units`: that of the training unit `first` (a frame of one row)."""
        answers = self.truth(first, learned)
        return answers.iloc[np.zeros(len(units), int)].set_index(units.index)

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        """Targets with label smoothing."""
        return targets * (1 - amount) + amount / targets.shape[1]

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """Scalar loss of raw outputs (N x C, or N x C x h x w), float targets of that shape, and row weights (N)."""
        raise DataError("a method loss(outputs, targets, weight)", type(self).__name__, "write it in the task")

    def activate(self, outputs: Tensor) -> Tensor:
        """Raw outputs in the space where views, folds and members are averaged."""
        return outputs

    def compare(self, predictions: Predictions, gallery: Gallery | None) -> Predictions:
        """Sample predictions in a space that members share: similarities per label for retrieval, else as they are."""
        return predictions

    @property
    def decides(self) -> bool:
        """Whether `tune` fits anything."""
        return type(self).tune is not Task.tune

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        """True answers of the units, indexed like them, in the form that `decode` gives.

        With a gallery, labels outside it are unknown.
        """
        return units[list(self.columns)]

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        """Answers from unit predictions, indexed by unit_id."""
        raise DataError("a method decode(predictions, units, learned)", type(self).__name__, "write it in the task")

    def tune(
        self, predictions: Predictions | Maps, units: pd.DataFrame, score: Callable[[Learned], float], learned: Learned
    ) -> Learned:
        """`learned` with decisions fitted on OOF, if the task `decides`.

        `score(learned)` decodes, formats and scores; greater is better.
        """
        return learned


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """The mean of per-row losses under row weights."""
    return (losses * weight).sum() / weight.sum().clamp_min(1e-12)


def settings_of(task: Task) -> dict[str, Any]:
    """The constructor arguments of a task and its class name, as JSON can hold them."""
    names = (
        [name for name in inspect.signature(type(task).__init__).parameters if name != "self"]
        if type(task).__init__ is not object.__init__
        else []
    )
    settings = {"kind": type(task).__name__, **{name: getattr(task, name) for name in names}}
    aux = {name: [settings_of(head), weight] for name, (head, weight) in task.aux.items()}
    return {**settings, "aux": aux} if aux else settings


def task_from(settings: Mapping[str, Any], adapter: ModuleType | None = None) -> Task:
    """The inverse of `settings_of`; the class is looked up in the adapter's module, then among the kit's tasks."""
    arguments = dict(settings)
    kind, aux = arguments.pop("kind"), arguments.pop("aux", {})
    cls = getattr(adapter, kind, None) or getattr(kit, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise DataError(f"a task class {kind!r} in the adapter or in kit", "none", "define it in adapter.py")
    task = cls(**arguments)
    heads = {name: (task_from(head, adapter), weight) for name, (head, weight) in aux.items()}
    return task.with_aux(**heads) if heads else task


class Heads(Task):
    """A task and its further heads as one, for the loop: their outputs and targets stand side by side, main ones first.

    frame: the rows that train, which the further heads learn from. Their losses are added by their weights.
    """

    def __init__(self, task: Task, frame: pd.DataFrame):
        for head in (task, *(head for head, _ in task.aux.values())):
            if head.dense or head.retrieval:
                raise DataError("vectors from a task with aux, and from its aux", type(head).__name__, "drop the aux")
        self.task = task
        self.heads = [(head, head.learn(frame), weight) for head, weight in task.aux.values()]

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.task.columns

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        more = [f"{name}/{said}" for name, head in zip(self.task.aux, self.heads, strict=True) for said in _said(head)]
        return (*self.task.outputs(learned), *more)

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        beside = [head.targets(frame, known) for head, known, _ in self.heads]
        return np.concatenate([self.task.targets(frame, learned), *beside], axis=1)

    def _split(self, table: Tensor) -> list[Tensor]:
        widths = [len(_said(head)) for head in self.heads]
        return list(table.split([table.shape[1] - sum(widths), *widths], dim=1))

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        tasks = [self.task, *(head for head, _, _ in self.heads)]
        parts = zip(tasks, self._split(targets), strict=True)
        return torch.cat([task.smooth(part, amount) for task, part in parts], dim=1)

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        said, wanted = self._split(outputs), self._split(targets)
        total = self.task.loss(said[0], wanted[0], weight)
        for (head, _, share), some, of in zip(self.heads, said[1:], wanted[1:], strict=True):
            total = total + share * head.loss(some, of, weight)
        return total


def _said(head: tuple[Task, Learned, float]) -> tuple[str, ...]:
    return head[0].outputs(head[1])


def trained_task(task: Task, frame: pd.DataFrame) -> Task:
    """What the loop trains on the rows of `frame`: the task with its further heads, itself where it has none."""
    return Heads(task, frame) if task.aux else task


def _natural(label: str) -> tuple[bool, float, str]:
    """Sort key: numbers by value, then texts."""
    number = re.fullmatch(r"-?\d+(\.\d+)?", label)
    return (False, float(label), label) if number else (True, 0.0, label)


def _require_labels(frame: pd.DataFrame, column: str, allowed: Sequence[str]) -> None:
    labels = frame[column]
    bad = ~labels.isin(list(allowed))
    if bad.any():
        rows = [f"{name}: {label!r}" for name, label in zip(frame["sample_id"][bad], labels[bad], strict=True)]
        raise DataError(
            f"column {column!r} to hold one of {list(allowed)[:12]}{' ...' if len(allowed) > 12 else ''}, as text",
            f"{len(rows)} other rows: {examples(rows)}".replace('"', ""),
            "mend or drop those rows, or widen the classes in the adapter",
        )


def _table(predictions: Predictions | Maps, units: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Float64 predictions of the units, in their order, columns by name."""
    assert isinstance(predictions, Predictions), "this task predicts vectors"
    table = predictions.align(units.index).frame().astype("float64")
    require_columns(table, columns, "the predictions")
    return table[list(columns)]


class Multiclass(Task):
    """One label per unit out of several.

    column: the label column, text. classes: all labels in the order of the outputs; None learns them from the training
    frame (numbers by value, then texts). answer: "label" (the most probable) or "probability" (a column per class).
    """

    def __init__(self, column: str, classes: Sequence[str] | None = None, answer: str = "label"):
        self.column = column
        self.classes = classes
        self.answer = answer

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def learn(self, frame: pd.DataFrame) -> Learned:
        require_columns(frame, self.columns, "the training frame")
        if self.classes is None:
            blank = frame[self.column].map(lambda label: not isinstance(label, str) or not label.strip())
            if blank.any():
                raise DataError(
                    f"a text label in column {self.column!r} of every row",
                    f"none in {examples(frame['sample_id'][blank].tolist())}",
                    "drop rows without a label; labels read with read_table are text",
                )
        classes = list(self.classes) if self.classes is not None else sorted(set(frame[self.column]), key=_natural)
        _require_labels(frame, self.column, classes)
        return {"classes": classes}

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        return tuple(learned["classes"])

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        _require_labels(frame, self.column, learned["classes"])
        return _one_hot(frame[self.column], learned["classes"])

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        return weighted_mean(F.cross_entropy(outputs.float(), targets, reduction="none"), weight)

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(dim=1)

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        if self.answer == "label":
            return units[[self.column]]
        return pd.DataFrame(
            _one_hot(units[self.column], learned["classes"]), index=units.index, columns=learned["classes"]
        )

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        table = _table(predictions, units, learned["classes"])
        if self.answer == "probability":
            return table
        best = np.asarray(learned["classes"], dtype=object)[table.to_numpy(na_value=-np.inf).argmax(axis=1)]
        return pd.DataFrame({self.column: best}, index=units.index)


def _one_hot(labels: pd.Series, classes: Sequence[str]) -> np.ndarray:
    return (labels.to_numpy(object)[:, None] == np.asarray(classes, dtype=object)[None, :]).astype(np.float32)


class Binary(Task):
    """Yes or no per unit.

    column: the label column, text. positive, negative: its two labels. answer: "probability" of the positive label, or
    "label", decided by a threshold that OOF fits.
    """

    def __init__(self, column: str, answer: str = "probability", positive: str = "1", negative: str = "0"):
        self.column = column
        self.answer = answer
        self.positive = positive
        self.negative = negative

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    @property
    def decides(self) -> bool:
        return self.answer == "label"

    def learn(self, frame: pd.DataFrame) -> Learned:
        require_columns(frame, self.columns, "the training frame")
        _require_labels(frame, self.column, [self.negative, self.positive])
        return {"threshold": 0.5} if self.decides else {}

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        _require_labels(frame, self.column, [self.negative, self.positive])
        return (frame[[self.column]] == self.positive).to_numpy(np.float32)

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        return targets * (1 - amount) + amount / 2

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        return weighted_mean(bounded_losses("bce", outputs, targets), weight)

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        return (
            units[[self.column]]
            if self.answer == "label"
            else (units[[self.column]] == self.positive).astype("float64")
        )

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        table = _table(predictions, units, self.columns)
        if self.answer == "probability":
            return table
        labels = np.where(table >= learned["threshold"], self.positive, self.negative)
        return pd.DataFrame(labels.astype(object), index=units.index, columns=list(self.columns))

    def tune(
        self, predictions: Predictions | Maps, units: pd.DataFrame, score: Callable[[Learned], float], learned: Learned
    ) -> Learned:
        if not self.decides:
            return learned
        values = _table(predictions, units, self.columns).to_numpy().ravel()
        return fit_threshold(values, lambda cut: {**learned, "threshold": cut}, score, learned)


class Multilabel(Task):
    """Any number of labels per unit.

    answer: "probability": `columns` are columns of 0 and 1, or of fractions for soft targets, and each is answered by a
    probability. "words": `columns` is one column of labels joined by blanks, answered likewise; each label has a
    threshold that OOF fits. "word_probability": a column of labels too, answered by a probability for each word.
    classes: the words in the order of the outputs; None learns them from the training frame.
    none: the answer without any label ("" leaves it blank), itself no label; None: every unit has a label, and the
    likeliest is answered where none passes. exclusive: the columns of a unit sum to one (votes, soft classes): softmax
    and cross-entropy take the place of a sigmoid each.
    """

    def __init__(
        self,
        columns: str | Sequence[str],
        answer: str = "probability",
        classes: Sequence[str] | None = None,
        none: str | None = None,
        exclusive: bool = False,
    ):
        self.columns = _names(columns)
        self.answer = answer
        self.classes = classes
        self.none = none
        self.exclusive = exclusive

    @property
    def worded(self) -> bool:
        """Whether the labels are words of one column."""
        return self.answer in ("words", "word_probability")

    @property
    def decides(self) -> bool:
        return self.answer == "words"

    def learn(self, frame: pd.DataFrame) -> Learned:
        require_columns(frame, self.columns, "the training frame")
        if not self.worded:
            self._fractions(frame)
            return {}
        words = frame[self.columns[0]].map(lambda cell: cell.split() if isinstance(cell, str) else ["nan"])
        found = {word for row in words for word in row} - {self.none}
        classes = list(self.classes) if self.classes is not None else sorted(found, key=_natural)
        self._marks(frame, classes)
        return {"classes": classes, **({"thresholds": [0.5] * len(classes)} if self.decides else {})}

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        return tuple(learned["classes"]) if self.worded else self.columns

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        if self.worded:
            return self._marks(frame, learned["classes"]).astype(np.float32)
        return self._fractions(frame).to_numpy(np.float32)

    def _fractions(self, frame: pd.DataFrame) -> pd.DataFrame:
        table = pd.DataFrame({column: numbers(frame, column) for column in self.columns}, index=frame.index)
        bad = ((table < 0) | (table > 1)).any(axis=1)
        if self.exclusive:
            bad |= (table.sum(axis=1) - 1).abs() > 1e-3
        if bad.any():
            raise DataError(
                f"0, 1 or a fraction in {', '.join(map(repr, self.columns[:6]))}"
                + (", with a sum of 1 in each row" if self.exclusive else ""),
                f"others in {examples(frame['sample_id'][bad].tolist())}",
                "mend or drop those rows",
            )
        return table

    def _marks(self, frame: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
        """N x K bool: which words each row has. Raises DataError naming rows with other words, or with too few."""
        at = {word: index for index, word in enumerate(classes)}
        marks, bad = np.zeros((len(frame), len(classes)), bool), []
        for row, cell in enumerate(frame[self.columns[0]]):
            words = set(cell.split()) if isinstance(cell, str) else {"nan"}
            known = [at[word] for word in words if word in at]
            blank = not known and words <= {self.none} and self.none is not None
            if (len(known) < len(words) and not blank) or (not words and self.none is None):
                bad.append(f"{frame['sample_id'].iloc[row]}: {cell!r}")
            marks[row, known] = True
        if bad:
            raise DataError(
                f"words among {list(classes)[:12]}{' ...' if len(classes) > 12 else ''} in {self.columns[0]!r}, "
                + ("at least one" if self.none is None else f"or {self.none!r} alone"),
                f"{len(bad)} other rows: {examples(bad)}".replace('"', ""),
                "mend or drop those rows; set `none` in the task where units without a label are legal",
            )
        return marks

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        return super().smooth(targets, amount) if self.exclusive else targets * (1 - amount) + amount / 2

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        if self.exclusive:
            return weighted_mean(F.cross_entropy(outputs.float(), targets, reduction="none"), weight)
        return weighted_mean(bounded_losses("bce", outputs, targets), weight)

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(dim=1) if self.exclusive else outputs.float().sigmoid()

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        if self.decides:
            return self._joined(self._marks(units, learned["classes"]), units, learned)
        if self.worded:
            marks = self._marks(units, learned["classes"]).astype("float64")
            return pd.DataFrame(marks, index=units.index, columns=learned["classes"])
        return self._fractions(units)

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        table = _table(predictions, units, self.outputs(learned))
        if not self.decides:
            return table
        values = table.to_numpy(na_value=-np.inf)
        marks = values >= np.asarray(learned["thresholds"])
        if self.none is None:
            lonely = np.flatnonzero(~marks.any(axis=1))
            marks[lonely, values[lonely].argmax(axis=1)] = True
        return self._joined(marks, units, learned)

    def _joined(self, marks: np.ndarray, units: pd.DataFrame, learned: Learned) -> pd.DataFrame:
        """Words in the order of the classes."""
        words = np.asarray(learned["classes"], dtype=object)
        cells = [" ".join(words[row]) or self.none or "" for row in marks]
        return pd.DataFrame({self.columns[0]: np.asarray(cells, dtype=object)}, index=units.index)

    def tune(
        self, predictions: Predictions | Maps, units: pd.DataFrame, score: Callable[[Learned], float], learned: Learned
    ) -> Learned:
        """One threshold for all labels, then, for up to 64 labels, each in turn, twice."""
        if not self.decides:
            return learned
        values = _table(predictions, units, self.outputs(learned)).to_numpy()
        count = values.shape[1]
        best = fit_threshold(values.ravel(), lambda cut: {**learned, "thresholds": [cut] * count}, score, learned)
        return coordinate_search(values, best, score) if count <= 64 else best


def _names(columns: str | Sequence[str]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def coordinate_search(values: np.ndarray, learned: Learned, score: Callable[[Learned], float]) -> Learned:
    """`learned` with each of its "thresholds" (one a column of the N x K `values`) fitted in turn, at most twice."""
    for _ in range(2):
        before = learned
        for place in range(values.shape[1]):
            known = list(learned["thresholds"])

            def at(cut: float, known: list[float] = known, place: int = place) -> Learned:
                return {**learned, "thresholds": [*known[:place], cut, *known[place + 1 :]]}  # noqa: B023

            learned = fit_threshold(values[:, place], at, score, learned)
        if learned is before:
            break
    return learned


def fit_threshold(
    values: np.ndarray, at: Callable[[float], Learned], score: Callable[[Learned], float], learned: Learned
) -> Learned:
    """The best of `learned` and of `at(cut)` over cuts between neighbouring values, all that decide differently.

    About 30 cuts are tried first: evenly by rank, evenly by value, and ever closer to both ends, where rare classes are
    told apart; then up to 10 at a time between the neighbours of the best, to the last one. `learned` stays on ties.
    """
    known = np.unique(values[np.isfinite(values)])
    if not len(known):
        return learned
    cuts = np.concatenate([known[:1], (known[1:] + known[:-1]) / 2, [np.nextafter(known[-1], np.inf)]])
    last = len(cuts) - 1
    ends = 4 ** np.arange(int(np.log(max(last, 1)) / np.log(4)) + 1)
    by_value = np.searchsorted(cuts, np.linspace(known[0], known[-1], 9))
    tries = np.concatenate([np.linspace(0, last, 9).astype(int), by_value, ends, last - ends])
    best, top, scores = learned, score(learned), dict[int, float]()
    while True:
        for place in np.unique(tries.clip(0, last)).tolist():
            if place not in scores:
                scores[place] = score(at(float(cuts[place])))
        centre = max(sorted(scores), key=scores.__getitem__)
        if scores[centre] > top:
            best, top = at(float(cuts[centre])), scores[centre]
        tried = sorted(scores)
        where = tried.index(centre)
        low, high = tried[max(where - 1, 0)], tried[min(where + 1, len(tried) - 1)]
        tries = np.linspace(low, high, 10).round().astype(int)
        if not set(tries.tolist()) - scores.keys():
            return best


CRITERIA = ("bce", "mse", "l1", "huber")


def bounded_losses(criterion: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Losses of sigmoid(outputs) against targets in 0..1, both N x C: -> N.

    criterion: "bce" (cross-entropy, best at the mean as "mse" is, with gradients that do not vanish at the bounds),
    "mse", "l1" or "huber" (squared up to an error of 0.1, then linear). Raises DataError for another.
    """
    outputs = outputs.float()
    if criterion == "bce":
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    elif criterion == "mse":
        losses = F.mse_loss(outputs.sigmoid(), targets, reduction="none")
    elif criterion == "l1":
        losses = F.l1_loss(outputs.sigmoid(), targets, reduction="none")
    elif criterion == "huber":
        losses = F.huber_loss(outputs.sigmoid(), targets, reduction="none", delta=0.1)
    else:
        raise DataError(f"a criterion among {list(CRITERIA)}", repr(criterion), "mend the task")
    return losses.mean(dim=1)


class Regression(Task):
    """Numbers per unit, between bounds.

    columns: of numbers, fractions welcome. low, high: the bounds of all columns; None takes each column's smallest or
    largest value in training. The network learns and predicts the share of the way from low to high, through a sigmoid.
    criterion: see `bounded_losses`. bins: n learns a distribution over n points evenly spaced from low to high instead,
    by cross-entropy with the two nearest points, and answers with its mean; criterion is not read then.
    """

    def __init__(
        self,
        columns: str | Sequence[str],
        low: float | None = None,
        high: float | None = None,
        criterion: str = "bce",
        bins: int | None = None,
    ):
        self.columns = _names(columns)
        self.low = low
        self.high = high
        self.criterion = criterion
        self.bins = bins

    def learn(self, frame: pd.DataFrame) -> Learned:
        require_columns(frame, self.columns, "the training frame")
        table = self._numbers(frame)
        low = [float(value) for value in table.min()] if self.low is None else [float(self.low)] * len(self.columns)
        high = [float(value) for value in table.max()] if self.high is None else [float(self.high)] * len(self.columns)
        for name, least, most in zip(self.columns, low, high, strict=True):
            if not least < most:
                raise DataError(f"low below high for {name!r}", f"{least} and {most}", "give both bounds in the task")
        learned = {"low": low, "high": high}
        self.targets(frame, learned)
        return learned

    def _numbers(self, frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({name: numbers(frame, name) for name in self.columns}, index=frame.index)

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        if self.bins is None:
            return self.columns
        return tuple(f"{name}_{place}" for name in self.columns for place in range(self.bins))

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        """N x C shares of the way from low to high; with bins N x (C bins), two neighbours sharing each 1."""
        low, high = np.asarray(learned["low"]), np.asarray(learned["high"])
        shares = (self._numbers(frame).to_numpy() - low) / (high - low)
        bad = ((shares < 0) | (shares > 1)).any(axis=1)
        if bad.any():
            raise DataError(
                f"values of {', '.join(map(repr, self.columns))} from {learned['low']} to {learned['high']}",
                f"others in {examples(frame['sample_id'][bad].tolist())}",
                "drop those rows, or widen low and high in the task",
            )
        if self.bins is None:
            return shares.astype(np.float32)
        distance = np.abs(shares[:, :, None] * (self.bins - 1) - np.arange(self.bins))
        return (1 - distance).clip(0).reshape(len(frame), -1).astype(np.float32)

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        """Bins are smoothed as classes are; numbers stay as they are."""
        return targets * (1 - amount) + amount / self.bins if self.bins else targets

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        if not self.bins:
            return weighted_mean(bounded_losses(self.criterion, outputs, targets), weight)
        said = outputs.float().unflatten(1, (len(self.columns), self.bins)).log_softmax(dim=2)
        return weighted_mean(-(said * targets.view_as(said)).sum(dim=2).mean(dim=1), weight)

    def activate(self, outputs: Tensor) -> Tensor:
        if not self.bins:
            return outputs.float().sigmoid()
        return outputs.float().unflatten(1, (len(self.columns), self.bins)).softmax(dim=2).flatten(1)

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        return self._numbers(units)

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        shares = _table(predictions, units, self.outputs(learned)).to_numpy()
        if self.bins:
            shares = shares.reshape(len(units), len(self.columns), self.bins) @ np.linspace(0, 1, self.bins)
        low, high = np.asarray(learned["low"]), np.asarray(learned["high"])
        return pd.DataFrame(low + shares * (high - low), index=units.index, columns=list(self.columns))


class Ordinal(Task):
    """One of several grades per unit, in order; grades are text and answered as such.

    column: the grade's column. classes: the grades from lowest to highest; None learns them, whole numbers by value.
    output: "cumulative" (for each grade but the lowest, the probability of reaching it; Frank and Hall 2001) or
    "regression" (the place among the grades, bounded). criterion: see `bounded_losses`. Either way a unit's place, 0 to
    K - 1, is compared with K - 1 thresholds that OOF fits by the host's score.
    """

    def __init__(
        self,
        column: str,
        classes: Sequence[str] | None = None,
        output: str = "cumulative",
        criterion: str = "bce",
    ):
        self.column = column
        self.classes = classes
        self.output = output
        self.criterion = criterion

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    @property
    def decides(self) -> bool:
        return True

    def learn(self, frame: pd.DataFrame) -> Learned:
        require_columns(frame, self.columns, "the training frame")
        classes = self.classes
        if classes is None:
            whole = [label for label in frame[self.column] if isinstance(label, str) and re.fullmatch(r"-?\d+", label)]
            classes = sorted(set(whole), key=int)
        _require_labels(frame, self.column, classes)
        if len(classes) < 2:
            raise DataError(f"two grades or more in {self.column!r}", str(list(classes)), "give `classes` in the task")
        return {"classes": list(classes), "thresholds": [place + 0.5 for place in range(len(classes) - 1)]}

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        if self.output == "regression":
            return (self.column,)
        return tuple(f"{self.column}_from_{grade}" for grade in learned["classes"][1:])

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        """N x (K - 1) of 0 and 1, whether each higher grade is reached; for regression N x 1, the place from 0 to 1."""
        _require_labels(frame, self.column, learned["classes"])
        places = self._places(frame, learned)[:, None]
        most = len(learned["classes"]) - 1
        return (places / most if self.output == "regression" else places > np.arange(most)).astype(np.float32)

    def _places(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        return pd.Index(learned["classes"]).get_indexer(pd.Index(frame[self.column]))

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        return targets if self.output == "regression" else targets * (1 - amount) + amount / 2

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        return weighted_mean(bounded_losses(self.criterion, outputs, targets), weight)

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        reached = self._said(predictions, units, learned)[:, None] >= np.asarray(learned["thresholds"])
        grades = np.asarray(learned["classes"], dtype=object)[reached.sum(axis=1)]
        return pd.DataFrame({self.column: grades}, index=units.index)

    def _said(self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned) -> np.ndarray:
        """The predicted place of each unit, 0 to K - 1."""
        table = _table(predictions, units, self.outputs(learned)).to_numpy()
        return table.sum(axis=1) * (len(learned["classes"]) - 1 if self.output == "regression" else 1)

    def tune(
        self, predictions: Predictions | Maps, units: pd.DataFrame, score: Callable[[Learned], float], learned: Learned
    ) -> Learned:
        """From the given thresholds, or those that answer each grade as often as it is true, each threshold in turn."""
        said = self._said(predictions, units, learned)
        places = self._places(units, learned)
        shares = [float((places <= place).mean()) for place in range(len(learned["classes"]) - 1)]
        matched = {**learned, "thresholds": np.quantile(said, shares).tolist()}
        best = max([learned, matched], key=score)
        return coordinate_search(np.repeat(said[:, None], len(shares), axis=1), best, score)


class Retrieval(Task):
    """Which of many labels, some of them unseen: embeddings compared with those of a gallery, `answers` labels a unit.

    column: the label column, text without blanks. unknown: the label of what no gallery holds ("new_whale"); OOF fits
    the similarity under which it is answered, and rows that carry it in training are in no gallery. None: every unit
    has a known label. size: numbers in an embedding. margin (radians), scale: of the additive angular margin (ArcFace,
    Deng et al. 2019, arXiv 1801.07698); its sub-centres are the network's (`Recipe.model["centres"]`).

    Labels join with one blank, as map_at_k reads them. In training the network answers with cosines to the classes'
    centres, in evaluation with embeddings; predictions are kept and averaged as Similarities, see there for the memory.
    """

    head = "retrieval"
    retrieval = True

    def __init__(
        self,
        column: str,
        answers: int = 5,
        unknown: str | None = None,
        size: int = 512,
        margin: float = 0.3,
        scale: float = 30.0,
    ):
        self.column = column
        self.answers = answers
        self.unknown = unknown
        self.size = size
        self.margin = margin
        self.scale = scale

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    @property
    def decides(self) -> bool:
        return self.unknown is not None

    def learn(self, frame: pd.DataFrame) -> Learned:
        require_columns(frame, self.columns, "the training frame")
        bad = frame[self.column].map(lambda label: not isinstance(label, str) or label.split() != [label])
        if bad.any():
            raise DataError(
                f"a text without blanks in column {self.column!r} of every row",
                f"others in {examples(frame['sample_id'][bad].tolist())}",
                "drop rows without a label, and replace blanks within labels: answers are joined by blanks",
            )
        learned: Learned = {"labels": sorted(set(frame[self.column]) - {self.unknown}, key=_natural)}
        return {**learned, "threshold": 0.5} if self.decides else learned

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        return tuple(f"e{at}" for at in range(self.size))

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        """N x L, one 1 a row; none in rows of the unknown, which teach nothing."""
        at = pd.Index(learned["labels"]).get_indexer(pd.Index(frame[self.column]))
        targets = np.zeros((len(frame), len(learned["labels"])), np.float32)
        targets[np.flatnonzero(at >= 0), at[at >= 0]] = 1
        return targets

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        return targets * (1 - amount) + targets.sum(dim=1, keepdim=True) * amount / targets.shape[1]

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        logits = with_margin(outputs.float(), targets * self.margin) * self.scale
        losses = F.cross_entropy(logits, targets, reduction="none")
        return (losses * weight).sum() / (targets.sum(dim=1) * weight).sum().clamp_min(1e-12)

    def activate(self, outputs: Tensor) -> Tensor:
        return F.normalize(outputs.float(), dim=1)

    def compare(self, predictions: Predictions, gallery: Gallery | None) -> Predictions:
        if gallery is None:
            raise DataError("the gallery of the model that made the embeddings", "none", "train the fold again")
        return nearest(predictions, gallery, self.unknown)

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        if self.unknown is None:
            return units[[self.column]]
        known = set(gallery.labels if gallery else learned["labels"])
        return units[[self.column]].where(units[[self.column]].isin(known), self.unknown)

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        assert isinstance(predictions, Similarities), "this task predicts similarities"
        said = predictions.align(units.index)
        rows = said.labels(self.answers).tolist()
        if self.unknown is not None:
            # In its place among the similarities: first where none exceeds the threshold, left out where enough do.
            places = (said.values[:, : self.answers] > learned["threshold"]).sum(axis=1).tolist()
            rows = [[*row[:place], self.unknown, *row[place:]] for row, place in zip(rows, places, strict=True)]
        words = [" ".join(row[: self.answers]) for row in rows]
        return pd.DataFrame({self.column: np.asarray(words, dtype=object)}, index=units.index)

    def tune(
        self, predictions: Predictions | Maps, units: pd.DataFrame, score: Callable[[Learned], float], learned: Learned
    ) -> Learned:
        if not self.decides:
            return learned
        assert isinstance(predictions, Similarities), "this task predicts similarities"
        values = predictions.values[:, : self.answers]
        candidates = np.unique(np.quantile(values, np.linspace(0.0, 1.0, 41))).tolist() if values.size else []
        return max([learned, *({**learned, "threshold": value} for value in candidates)], key=score)


def with_margin(cosines: Tensor, margin: Tensor) -> Tensor:
    """cos(angle + margin) of each cosine; margins in radians, of the same shape: soft targets bring a part of one.

    Where angle + margin would pass pi, and the cosine would rise again, it goes on falling as the cosine less
    margin x sin(margin), as in the authors' code.
    """
    sines = (1 - cosines.square()).clamp_min(1e-6).sqrt()  # the slope at a cosine of one would be infinite
    moved = cosines * margin.cos() - sines * margin.sin()
    return torch.where(cosines > -margin.cos(), moved, cosines - margin * margin.sin())
