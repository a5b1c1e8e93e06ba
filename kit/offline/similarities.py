"""Similarities to labels: what retrieval predicts of a row, kept sparse so that thousands of labels fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from kit.offline.errors import DataError, examples
from kit.offline.predictions import Gallery, Predictions, _require_same_ids, _require_unique

KEPT = 100
"""Labels a row keeps. Of 20,000 rows and 7,700 labels that is 16 MB; all of them would be 620 MB, and as much again for
each copy that a blend or a search makes."""
CELLS = 4_000_000
"""Cells of the dense block that is worked on at a time (16 MB)."""


@dataclass(frozen=True)
class Similarities(Predictions):
    """A table of N ids by L labels of which each row keeps its KEPT greatest values, falling.

    values: N x m float32. codes: N x m, the number of each value's label in `columns`. A label that a row leaves out is
    no more similar than the last one it keeps, and is taken to be as similar as that one where rows are averaged: with
    up to KEPT labels everything is exact, with more the first places are, unless they come from beyond the KEPT best.
    """

    codes: np.ndarray

    def __post_init__(self) -> None:
        _require_unique(self.ids)
        for name, array in (("values", self.values), ("codes", self.codes)):
            if array.ndim != 2 or array.shape != (len(self.ids), min(KEPT, len(self.columns))):
                expected = (len(self.ids), min(KEPT, len(self.columns)))
                raise DataError(f"{name} of shape {expected}", str(array.shape), "make them with `nearest`")

    def frame(self) -> pd.DataFrame:
        """All labels as a dense DataFrame indexed by id, with the last kept value in place of what was left out."""
        dense = self._dense(slice(None), self.columns)
        return pd.DataFrame(dense, index=pd.Index(self.ids, dtype=object), columns=list(self.columns))

    def labels(self, first: int) -> np.ndarray:
        """N x `first` labels, the most similar first."""
        return np.asarray(self.columns, dtype=object)[self.codes[:, :first]]

    def align(self, ids: Iterable[str]) -> Self:
        """The rows of `ids`, in that order. Raises DataError naming ids that are not there."""
        wanted = np.asarray(list(ids), dtype=str)
        at = pd.Index(self.ids).get_indexer(pd.Index(wanted))
        if (at < 0).any():
            raise DataError(
                "a prediction for every id", f"none for {examples(wanted[at < 0].tolist())}", "predict those ids first"
            )
        return type(self)(wanted, self.values[at], self.columns, self.codes[at])

    def only(self, ids: Iterable[str]) -> Self:
        """The rows whose id is among `ids`, in this table's order."""
        return self.align(self.ids[np.isin(self.ids, np.asarray(list(ids), dtype=str))])

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One table of several over the labels of all. Refuses an id in two parts."""
        columns = _union(parts)
        ids = np.concatenate([part.ids for part in parts])
        _require_unique(ids)
        blocks = (part._dense(rows, columns) for part in parts for rows in _blocks(len(part), len(columns)))
        return cls._of(ids, columns, blocks)

    @classmethod
    def blend(cls, parts: Sequence[Self], weights: Sequence[float]) -> Self:
        """The weighted mean of tables over the same ids, label by label; a label by those tables that know it."""
        _require_same_ids(parts, weights)
        if len(parts) == 1:
            return parts[0]
        columns, ids = _union(parts), parts[0].ids
        aligned = [part.align(ids) for part in parts]

        def block(rows: slice) -> np.ndarray:
            total, mass = np.zeros(()), np.zeros(())
            for part, weight in zip(aligned, weights, strict=True):
                values = part._dense(rows, columns)
                there = ~np.isnan(values)
                total = total + np.where(there, values, 0.0) * weight
                mass = mass + there * weight
            with np.errstate(invalid="ignore"):
                return np.asarray(total / mass, np.float32)

        return cls._of(ids, columns, map(block, _blocks(len(ids), len(columns))))

    def mean_by(self, unit: Mapping[str, str]) -> Self:
        """Rows averaged by `unit[id]`, units in order of appearance. A unit of one row keeps its values exactly."""
        return self._by(unit, lambda dense, starts: np.add.reduceat(dense, starts) / _lengths(starts, len(dense)))

    def max_by(self, unit: Mapping[str, str]) -> Self:
        """The greatest similarity to each label by `unit[id]`, units in order of appearance."""
        return self._by(unit, np.maximum.reduceat)

    def _by(self, unit: Mapping[str, str], reduce: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Self:
        names = np.asarray([unit[i] for i in self.ids], dtype=str)
        codes, units = pd.factorize(names)
        if len(units) == len(names):
            return type(self)(names, self.values, self.columns, self.codes)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(units) + 1))
        each = max(1, CELLS // (len(self.columns) * int(np.diff(starts).max())))

        def block(first: int) -> np.ndarray:
            bounds = starts[first : first + each + 1]
            return reduce(self._dense(order[bounds[0] : bounds[-1]], self.columns), bounds[:-1] - bounds[0])

        return self._of(units, self.columns, map(block, range(0, len(units), each)))

    def _dense(self, rows: slice | np.ndarray, columns: Sequence[str]) -> np.ndarray:
        """Rows by `columns`, float32: NaN for labels that this table does not know."""
        values, place = self.values[rows], pd.Index(list(columns)).get_indexer(pd.Index(list(self.columns)))
        dense = np.full((len(values), len(columns)), np.nan, np.float32)
        dense[:, place] = np.nextafter(values[:, -1:], np.float32(-2))  # just below, so that what is kept comes first
        np.put_along_axis(dense, place[self.codes[rows]], values, axis=1)
        return dense

    @classmethod
    def _of(cls, ids: np.ndarray, columns: Sequence[str], blocks: Iterable[np.ndarray]) -> Self:
        """The greatest values of dense blocks of rows; a label unknown to a row (NaN) comes last."""
        count = min(KEPT, len(columns))
        kept = [_greatest(np.nan_to_num(block, copy=False, nan=-2.0), count) for block in blocks]
        values = [np.empty((0, count), np.float32), *(values for values, _ in kept)]
        codes = [np.empty((0, count), np.int32), *(codes for _, codes in kept)]
        return cls(np.asarray(ids, dtype=str), np.concatenate(values), tuple(columns), np.concatenate(codes))


def nearest(predictions: Predictions, gallery: Gallery, leave_out: str | None = None) -> Similarities:
    """Each row's greatest cosine to the gallery's embeddings of every label, but those labelled `leave_out`.

    Raises DataError for a gallery without labels.
    """
    labels = np.asarray(gallery.labels, dtype=object)
    keep = np.flatnonzero(labels != leave_out)
    if not len(keep):
        raise DataError("labelled rows in the gallery", "none", "train on rows with labels")
    names, codes = np.unique(labels[keep].astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    known, starts = _unit(gallery.values[keep[order]]), np.searchsorted(codes[order], np.arange(len(names)))

    def block(rows: slice) -> np.ndarray:
        return np.maximum.reduceat(_unit(predictions.values[rows]) @ known.T, starts, axis=1)

    return Similarities._of(predictions.ids, tuple(names), map(block, _blocks(len(predictions), len(known))))


def _unit(values: np.ndarray) -> np.ndarray:
    """Rows of length one: the mean of several views is shorter."""
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _greatest(dense: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(values, columns) of each row's greatest, falling; of equal ones the first column first."""
    if count < dense.shape[1]:
        some = np.sort(np.argpartition(-dense, count - 1, axis=1)[:, :count], axis=1)
    else:
        some = np.broadcast_to(np.arange(dense.shape[1]), dense.shape)
    values = np.take_along_axis(dense, some, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    codes = np.take_along_axis(some, order, axis=1).astype(np.int32)
    return np.take_along_axis(values, order, axis=1).astype(np.float32), codes


def _blocks(rows: int, cells: int) -> Iterator[slice]:
    each = max(1, CELLS // max(1, cells))
    return (slice(first, min(first + each, rows)) for first in range(0, rows, each))


def _lengths(starts: np.ndarray, end: int) -> np.ndarray:
    return np.diff(np.append(starts, end))[:, None]


def _union(parts: Sequence[Similarities]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for part in parts for column in part.columns))
