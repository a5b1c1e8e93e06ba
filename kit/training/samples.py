"""Training samples: a row, a draw, and nothing else decide what a sample looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kit.offline.batches import FileSources, RowsOf, Sources, tensor
from kit.offline.contract import Competition
from kit.offline.errors import RecipeError
from kit.offline.pixels import Preparation
from kit.offline.tasks import Binary, Learned, Multiclass, Multilabel, Ordinal, Retrieval, Task
from kit.training.chance import draw, drawn_order, draws_per_epoch, epoch_order
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
        self.recipe, self.fold, self.length, self.row = recipe, fold, len(frame), RowsOf(frame)
        self.fitted: dict[tuple[int, int], tuple[A.Compose, Preparation]] = {}

    def __len__(self) -> int:
        return self.length

    def at_size(self, size: tuple[int, int]) -> tuple[A.Compose, Preparation]:
        """Augmentation and preparation for images of a size, made once each."""
        if size not in self.fitted:
            compose = resized_alike(self.recipe.augment(size), self.preparation.interpolation)
            self.fitted[size] = compose, replace(self.preparation, size=size)
        return self.fitted[size]

    def name_of(self, key: Key) -> str:
        """The id of a row, for messages."""
        return str(self.row(key[0])["sample_id"])

    def __getitem__(self, key: Key) -> tuple[int, Tensor, Tensor]:
        at, epoch, number = key
        row, how = self.row(at), self.preparation.how
        compose, preparation = self.at_size(self.recipe.size_at(epoch))

        def rng() -> np.random.Generator:
            """Begun anew for the image, its mask and the augmentation, so that a mask is cut as its image is."""
            return draw(self.recipe.seed, self.fold, epoch, number, row["sample_id"])

        image, mask = self.competition.cut(self.sources(row), row, how, rng()), None
        if self.competition.task.dense:
            mask = self.competition.cut(self.masks(row), row, how, rng())
        image, mask = augmented(compose, image, mask, rng())
        shown = torch.zeros(0) if mask is None else tensor(preparation.fit_size(mask, nearest=True))
        return at, tensor(preparation.fit_size(image)), shown


def resized_alike(compose: A.Compose, interpolation: str) -> A.Compose:
    """The augmentation, whose resizing enlarges as evaluation does where it was left at the default (bilinear)."""
    for transform in compose.transforms if interpolation == "bicubic" else ():
        if isinstance(transform, A.Resize | A.RandomResizedCrop) and transform.interpolation == cv2.INTER_LINEAR:
            transform.interpolation = cv2.INTER_CUBIC
    return compose


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
    soft: targets of the last M rows, M x K float32, whose labels are not looked at.
    """

    def __init__(self, task: Task, frame: pd.DataFrame, learned: Learned, soft: np.ndarray | None = None):
        hard = frame if soft is None else frame.iloc[: len(frame) - len(soft)]
        some = range(0, 0 if task.dense else len(hard), TARGET_ROWS)
        parts = [csr_array(task.targets(hard.iloc[at : at + TARGET_ROWS], learned)) for at in some]
        parts += [] if soft is None else [csr_array(soft)]
        self.rows = csr_array(vstack(parts)) if parts else csr_array((0, 0), dtype=np.float32)

    def __getitem__(self, positions: Tensor) -> Tensor:
        return torch.from_numpy(self.rows[positions.numpy()].toarray())


def chances_of(recipe: Recipe, task: Task, frame: pd.DataFrame, learned: Learned) -> np.ndarray | None:
    """How likely each draw of an epoch is each row, N float64 of sum 1; None where each row comes once.

    task: the competition's, whose further heads do not count. Raises RecipeError for "balanced" without classes and for
    "weighted" without weights.
    """
    if recipe.sampling == "all":
        return None
    if recipe.sampling == "weighted":
        if "weight" not in frame.columns:
            found = f"columns {', '.join(frame.columns)}"
            raise RecipeError('a column weight for sampling="weighted"', found, "add it in train_frame")
        weight = frame["weight"].to_numpy(np.float64)
        if weight.min() < 0 or not weight.sum() > 0:
            found = f"{weight.min():g} to {weight.max():g}"
            raise RecipeError('a weight of 0 or more in each row for sampling="weighted"', found, "mend train_frame")
        return _shares(weight)
    if isinstance(task, Multilabel):
        rows = Targets(task, frame, learned).rows
        rare = rows.multiply(1 / np.maximum(rows.sum(axis=0), 1)).max(axis=1).toarray().ravel()
        without = rare == 0  # rows without a label are a class of their own
        return _shares(np.where(without, 1 / max(without.sum(), 1), rare))
    if isinstance(task, Multiclass | Binary | Ordinal | Retrieval):
        labels = frame[task.columns[0]]
        return _shares(1 / labels.map(labels.value_counts()).to_numpy(np.float64))
    fix = 'use sampling="weighted" with a column weight'
    raise RecipeError('a task of classes for sampling="balanced"', type(task).__name__, fix)


def _shares(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()


class Steps(Sampler[list[Key]]):
    """The batches of an epoch, from step `first` on; set `epoch` and `first` before each pass.

    chances: of each row, as `chances_of` gives them.
    """

    def __init__(self, recipe: Recipe, fold: int, rows: int, chances: np.ndarray | None = None):
        self.recipe, self.fold, self.rows, self.chances = recipe, fold, rows, chances
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        whole, rest = divmod(draws_per_epoch(self.rows, self.recipe.repeats), self.recipe.batch_size)
        # A last batch of one sample is dropped: batch-norm cannot train on it.
        return whole + (rest > 1 or (whole == 0 and rest == 1))

    def __iter__(self) -> Iterator[list[Key]]:
        if self.chances is None:
            order = epoch_order(self.recipe.seed, self.fold, self.epoch, self.rows, self.recipe.repeats)
        else:
            order = drawn_order(self.recipe.seed, self.fold, self.epoch, self.chances)
        size = self.recipe.batch_size
        for step in range(self.first, len(self)):
            yield [(at, self.epoch, number) for at, number in order[step * size : (step + 1) * size].tolist()]
