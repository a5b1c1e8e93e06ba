"""From frame rows to batches for evaluation: read or cached, cut without chance, fitted to the input size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, default_collate

from kit.offline.contract import Competition, Row
from kit.offline.errors import DataError
from kit.offline.loading import load
from kit.offline.pixels import Preparation

Sources = Callable[[Row], np.ndarray]
"""Gives the stored form of a row's source."""


class RowsOf:
    """From position to Row, over arrays of a frame's columns (a pandas row costs far more).

    Texts are kept in numpy's own strings: reading an object counts a reference in it, and each loader process that does
    so to a page of objects comes to own a copy of that page.
    """

    def __init__(self, frame: pd.DataFrame):
        self.columns = {str(name): _without_objects(frame[name].to_numpy()) for name in frame.columns}

    def __call__(self, at: int) -> Row:
        return Row({name: values[at] for name, values in self.columns.items()})


def _without_objects(values: np.ndarray) -> np.ndarray:
    """Texts as numpy's strings; objects that are not all texts stay."""
    texts = values.dtype.hasobject and pd.api.types.infer_dtype(values, skipna=False) == "string"
    return values.astype(np.dtypes.StringDType()) if texts else values


def source_of(row: Row) -> str:
    """The name under which a row's source is read once: its `source`, else its `sample_id`."""
    return str(row.get("source", row["sample_id"]))


class FileSources:
    """Sources read from the host's files; the last one is kept, so that tiles in a row read their file once.

    what: the member of the competition that reads, "read" or "read_target". read: gives the source before the cache's
    step, where others with another such step share the reading.
    """

    def __init__(
        self,
        competition: Competition,
        data: Path,
        preparation: Preparation,
        what: str = "read",
        read: Sources | None = None,
    ):
        self.competition, self.data, self.preparation, self.what = competition, data, preparation, what
        self.read = read
        self._last: tuple[str, np.ndarray] | None = None

    def __call__(self, row: Row) -> np.ndarray:
        name = source_of(row)
        if self._last is None or self._last[0] != name:
            self._last = (name, self.preparation.store(self.read(row) if self.read else self._read(row)))
        return self._last[1]

    def _read(self, row: Row) -> np.ndarray:
        return getattr(self.competition, self.what)(row, self.data, self.preparation.how)


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
        return at, tensor(self.preparation.fit_size(image)), height, width

    def name_of(self, at: int) -> str:
        """The id of a row, for messages."""
        return str(self.row(at)["sample_id"])


def tensor(array: np.ndarray) -> Tensor:
    """A tensor of its own memory: cached sources are read-only, which torch warns of."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


class Padded(NamedTuple):
    """Bags of several sizes in one batch. images: N x B x H x W x C, zeros where a bag has ended. mask: N x B, true
    where there is an image."""

    images: Tensor
    mask: Tensor


def collate(samples: Sequence[tuple[Any, ...]]) -> list[Any]:
    """torch's default batch, but bags (B x H x W x C, the second of each sample) of several sizes become Padded."""
    images = [sample[1] for sample in samples]
    sizes = [len(image) if image.ndim == 4 else 0 for image in images]
    if len(set(sizes)) == 1:
        return default_collate(list(samples))
    if 0 in sizes:
        raise DataError(
            "bags (N x H x W x C with N of at least 1) from `cut` for every row, or images for every row",
            f"shapes {sorted({tuple(image.shape) for image in images})}",
            "mend `cut` in the adapter",
        )
    bags = torch.zeros((len(images), max(sizes), *images[0].shape[1:]), dtype=images[0].dtype)
    for bag, image in zip(bags, images, strict=True):
        bag[: len(image)] = image
    mask = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
    rest = default_collate([(sample[0], *sample[2:]) for sample in samples])
    return [rest[0], Padded(bags, mask), *rest[1:]]


def to_device(
    images: Tensor | Padded, table: Tensor, preparation: Preparation, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch as the network gets it, `model(inputs, **beside)`: normalised images, channels first, and what is beside.

    table: the rows' numbers, N x T. beside: "table" if T > 0, and "mask" (N x B) if bags of several sizes were padded;
    the padding is 0, which is the mean.
    """
    beside = {"table": table.to(device)} if table.shape[1] else {}
    if not isinstance(images, Padded):
        return preparation.to_input(images.to(device, non_blocking=True)), beside
    mask = images.mask.to(device)
    inputs = preparation.to_input(images.images.to(device, non_blocking=True))
    return inputs * mask[:, :, None, None, None], {**beside, "mask": mask}


def evaluation_batches(samples: EvaluationSamples, batch_size: int, workers: int | None = None) -> DataLoader:
    """Every sample once, in order, as (positions, N x H x W x C or Padded bags, heights, widths)."""
    count = default_workers() if workers is None else workers
    batches = BatchSampler(range(len(samples)), batch_size, drop_last=False)
    return load(samples, batches, min(count, len(samples) // batch_size), collate)


def default_workers() -> int:
    """Loader processes: none on up to two cores, which the network needs itself, else all cores but two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(cores - 2, 12)
