"""Tasks: what is predicted, how a network learns it, how answers are read off. Decisions live here, fitted on OOF."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kit.offline.errors import DataError, examples
from kit.offline.frames import require_columns
from kit.offline.predictions import Gallery, Maps, Predictions
from kit.offline.similarities import Similarities, nearest

Learned = dict[str, Any]
"""What a task learned from data (classes, thresholds): plain JSON values, saved beside the settings."""


class Task:
    """The base of every family. Constructors store their arguments under the same names; see `Learned` for the rest.

    columns: target columns of the frame. head: the kind of head the network needs. dense: targets and outputs are maps,
    C x h x w, and predictions are Maps. retrieval: outputs are embeddings, and each fold keeps a Gallery of the rows it
    trained on. aux: further heads by name with their weight in the loss; trained, never decoded.
    """

    columns: tuple[str, ...] = ()
    head = "linear"
    dense = False
    retrieval = False

    def learn(self, frame: pd.DataFrame) -> Learned:
        """What must be known before training, from the training frame alone. Raises DataError for unfit labels."""
        return {}

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        """The names of the network's output columns or channels; their count is the size of the head."""
        return self.columns

    def targets(self, frame: pd.DataFrame, learned: Learned) -> np.ndarray:
        """N x C float32 targets of the rows, soft ones welcome. Dense ones come from `Competition.read_target`."""
        return frame[list(self.columns)].to_numpy(np.float32)

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
    return {"kind": type(task).__name__, **{name: getattr(task, name) for name in names}}


def task_from(settings: Mapping[str, Any], adapter: ModuleType | None = None) -> Task:
    """The inverse of `settings_of`; the class is looked up in the adapter's module, then among the kit's tasks."""
    arguments = dict(settings)
    kind = arguments.pop("kind")
    cls = getattr(adapter, kind, None) or globals().get(kind)
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise DataError(f"a task class {kind!r} in the adapter or in kit", "none", "define it in adapter.py")
    return cls(**arguments)


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
        return weighted_mean(
            F.binary_cross_entropy_with_logits(outputs.float(), targets, reduction="none").mean(dim=1), weight
        )

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
        values = np.unique(_table(predictions, units, self.columns))
        candidates = np.unique(np.quantile(values, np.linspace(0.0, 1.0, 101))).tolist()
        return max([learned, *({**learned, "threshold": value} for value in candidates)], key=score)


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
