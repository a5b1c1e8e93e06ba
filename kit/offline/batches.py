"""From frame rows to batches for evaluation: read or cached, cut without chance, fitted to the input size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kit.offline.contract import Competition, Row
from kit.offline.pixels import Preparation

Sources = Callable[[Row], np.ndarray]
"""Gives the stored form of a row's source."""


class RowsOf:
    """From position to Row, over arrays of a frame's columns (a pandas row costs far more)."""

    def __init__(self, frame: pd.DataFrame):
        self.columns = {str(name): frame[name].to_numpy() for name in frame.columns}

    def __call__(self, at: int) -> Row:
        return Row({name: values[at] for name, values in self.columns.items()})


def source_of(row: Row) -> str:
    """The name under which a row's source is read once: its `source`, else its `sample_id`."""
    return str(row.get("source", row["sample_id"]))


class FileSources:
    """Sources read from the host's files; the last one is kept, so that tiles in a row read their file once."""

    def __init__(self, competition: Competition, data: Path, preparation: Preparation):
        self.competition, self.data, self.preparation = competition, data, preparation
        self._last: tuple[str, np.ndarray] | None = None

    def __call__(self, row: Row) -> np.ndarray:
        name = source_of(row)
        if self._last is None or self._last[0] != name:
            array = self.competition.read(row, self.data, self.preparation.how)
            self._last = (name, self.preparation.store(array))
        return self._last[1]


class EvaluationSamples(Dataset[tuple[int, Tensor, int, int]]):
    """Position in the frame -> (position, H x W x C image of the input size, native height and width of the cut)."""

    def __init__(self, competition: Competition, frame: pd.DataFrame, sources: Sources, preparation: Preparation):
        self.competition, self.sources, self.preparation = competition, sources, preparation
        self.length, self.row = len(frame), RowsOf(frame)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, at: int) -> tuple[int, Tensor, int, int]:
        row = self.row(at)
        image = self.competition.cut(self.sources(row), row, self.preparation.how, None)
        height, width = image.shape[-3:-1] if image.ndim > 2 else image.shape
        return at, tensor_of(self.preparation.fit_size(image)), height, width


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor of its own memory where the array is a view into a read-only cache."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def evaluation_batches(samples: EvaluationSamples, batch_size: int, workers: int | None = None) -> DataLoader:
    """Every sample once, in order, as (positions, N x H x W x C, heights, widths)."""
    count = default_workers() if workers is None else workers
    count = min(count, len(samples) // batch_size)
    return DataLoader(
        samples,
        batch_size=batch_size,
        num_workers=count,
        worker_init_fn=quiet_worker,
        timeout=300 if count else 0,
        pin_memory=torch.cuda.is_available(),
    )


def default_workers() -> int:
    """Loader processes: none on up to two cores, which the network needs itself, else all cores but two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(cores - 2, 12)


def quiet_worker(worker: int) -> None:
    """One thread per loader process: OpenCV's own pool fights with the others and can deadlock after a fork."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
