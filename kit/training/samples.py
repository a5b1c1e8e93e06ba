"""Training samples: a row, a draw, and nothing else decide what a sample looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import albumentations as A
import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kit.offline.batches import FileSources, RowsOf, Sources, tensor
from kit.offline.contract import Competition
from kit.offline.pixels import Preparation
from kit.offline.tasks import Learned, Task
from kit.training.chance import draw, draws_per_epoch, epoch_order
from kit.training.recipe import Recipe

TARGET_ROWS = 4096
"""Rows whose targets are made at a time."""
Key = tuple[int, int, int]
"""(position in the frame, epoch, draw number)"""


class TrainingSamples(Dataset[tuple[int, Tensor, Tensor]]):
    """Key -> (position, H x W x C image of the input size, mask H x W x K for dense tasks, else an empty tensor).

    masks: gives the target of a row's source for dense tasks; None reads it from `data` each time.
    """

    def __init__(
        self,
        competition: Competition,
        frame: pd.DataFrame,
        sources: Sources,
        preparation: Preparation,
        recipe: Recipe,
        fold: int,
        data: Path,
        masks: Sources | None = None,
    ):
        self.competition, self.sources, self.preparation = competition, sources, preparation
        self.masks = masks or FileSources(
            competition, data, replace(preparation, cache_size=None, jpeg=False), "read_target"
        )
        self.seed, self.fold, self.length, self.row = recipe.seed, fold, len(frame), RowsOf(frame)
        self.compose = recipe.augment(preparation.size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Key) -> tuple[int, Tensor, Tensor]:
        at, epoch, number = key
        row, how = self.row(at), self.preparation.how

        def rng() -> np.random.Generator:
            """Begun anew for the image, its mask and the augmentation, so that a mask is cut as its image is."""
            return draw(self.seed, self.fold, epoch, number, row["sample_id"])

        image, mask = self.competition.cut(self.sources(row), row, how, rng()), None
        if self.competition.task.dense:
            mask = self.competition.cut(self.masks(row), row, how, rng())
        image, mask = augmented(self.compose, image, mask, rng())
        shown = torch.zeros(0) if mask is None else tensor(self.preparation.fit_size(mask, nearest=True))
        return at, tensor(self.preparation.fit_size(image)), shown

    def name_of(self, key: Key) -> str:
        """The id of a row, for messages."""
        return str(self.row(key[0])["sample_id"])


def augmented(
    compose: A.Compose, image: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """The image (or each of a bag, N x H x W x C) and its mask through `compose`, drawn from `rng`.

    albumentations 2.0.8 gives each loader process the same stream and repeats it every epoch: each draw is seeded here.
    """
    if image.ndim == 4:
        return np.stack([augmented(compose, one, None, rng)[0] for one in image]), mask
    compose.set_random_seed(int(rng.integers(2**31)))
    if mask is None:
        return compose(image=image)["image"], None
    said = compose(image=image, mask=mask)
    return said["image"], said["mask"]


class Targets:
    """Targets of a frame's rows, kept without their zeros: one-hot rows of hotel_id's 7,700 labels would take 3 GB.

    Indexed by positions (N) they are N x K float32. Dense tasks, whose masks come with the images, have none here.
    """

    def __init__(self, task: Task, frame: pd.DataFrame, learned: Learned):
        some = range(0, 0 if task.dense else len(frame), TARGET_ROWS)
        parts = [csr_array(task.targets(frame.iloc[at : at + TARGET_ROWS], learned)) for at in some]
        self.rows = csr_array(vstack(parts)) if parts else csr_array((0, 0), dtype=np.float32)

    def __getitem__(self, positions: Tensor) -> Tensor:
        return torch.from_numpy(self.rows[positions.numpy()].toarray())


class Steps(Sampler[list[Key]]):
    """The batches of an epoch, from step `first` on; set `epoch` and `first` before each pass."""

    def __init__(self, recipe: Recipe, fold: int, rows: int):
        self.recipe, self.fold, self.rows = recipe, fold, rows
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        whole, rest = divmod(draws_per_epoch(self.rows, self.recipe.repeats), self.recipe.batch_size)
        # A last batch of one sample is dropped: batch-norm cannot train on it.
        return whole + (rest > 1 or (whole == 0 and rest == 1))

    def __iter__(self) -> Iterator[list[Key]]:
        order = epoch_order(self.recipe.seed, self.fold, self.epoch, self.rows, self.recipe.repeats)
        size = self.recipe.batch_size
        for step in range(self.first, len(self)):
            yield [(at, self.epoch, number) for at, number in order[step * size : (step + 1) * size]]
