"""`kit bench`: images per second of the step, the loader, training and prediction, and what bounds a run."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from kit.offline.batches import EvaluationSamples, Padded, evaluation_batches, to_device
from kit.offline.columns import table_of
from kit.offline.forward import forward
from kit.offline.models import build_model, pick_device
from kit.training.fanout import Ground
from kit.training.folds import split
from kit.training.loop import Fold, channels_last, predict, set_up, train_fold, training_loader
from kit.training.recipe import Recipe
from kit.training.samples import Steps, TrainingSamples

STEPS = 40
"""Steps of an epoch that is measured; the one before it warms up."""


class OneBatch:
    """The loader's first batch, on the device, again and again: a loader that costs nothing."""

    def __init__(self, loader: DataLoader):
        positions, images, masks = next(iter(loader))
        device = pick_device()
        images = Padded(*(part.to(device) for part in images)) if isinstance(images, Padded) else images.to(device)
        self.loader, self.batch = loader, (positions, images, masks.to(device))

    def __iter__(self) -> Iterator[Any]:
        return (self.batch for _ in range(len(self.loader)))


def bench(ground: Ground, recipe: Recipe, home: Path = Path(), say: Callable[[str], None] = print) -> dict[str, float]:
    """Images per second on rows of fold 0, the cache made first if it is not there; nothing else is kept.

    step: `train_fold` on one batch, always the same, without a loader. loader: batches alone. train: `train_fold` as it
    is. predict: evaluation with every view. train_ratio: train / step. predict_ratio: predict / (the network alone, on
    one batch with every view).
    """
    competition = ground.competition.with_task(recipe.task)
    assert competition.folder is not None, "competitions are loaded from a folder"
    rows, held = (part.head(STEPS * recipe.batch_size) for part in split(ground.frame, 0))
    short = dataclasses.replace(  # type: ignore[type-var]
        recipe, epochs=2, freeze_epochs=0, mix_off_epochs=0, patience=None, start_size=None
    )
    with tempfile.TemporaryDirectory() as scratch:
        fold = Fold(
            competition=competition,
            recipe=short,
            learned=competition.task.learn(ground.frame),
            number=0,
            train=rows,
            held=held,
            every=ground.frame,
            data=ground.data,
            folder=Path(scratch) / "train",
            cache=competition.folder / "cache",
            home=home,
            say=lambda line: None,
        )
        set_up(dataclasses.replace(fold, say=say))  # makes the cache, and tells of it
        step, loader = _trained(fold, "step", OneBatch), _loaded(fold)
        train = _trained(fold, "train", lambda batches: batches)
        whole, alone = _predicted(fold, recipe.tta)
    speeds = {"step": step, "loader": loader, "train": train, "predict": whole}
    return {**speeds, "train_ratio": train / step, "predict_ratio": whole / alone}


def bound(found: dict[str, float]) -> str:
    """In words, what bounds a run."""
    ratio, loader, step = (found[name] for name in ("train_ratio", "loader", "step"))
    if ratio >= 0.9:
        return f"the network bounds training: loading costs {1 - ratio:.0%} of its speed"
    if loader < step:
        return "loading bounds training: set cache_size near image_size, augment less, or add workers"
    return "loading and the network share the cores: try workers=0 and workers=1"


def _trained(fold: Fold, name: str, seen: Callable[[DataLoader], Any]) -> float:
    folder = fold.folder.with_name(name)
    train_fold(
        dataclasses.replace(fold, folder=folder),
        lambda samples, steps, recipe: seen(training_loader(samples, steps, recipe)),
    )
    last = (folder / "log.jsonl").read_text().splitlines()[-1]
    return float(json.loads(last)["images_per_second"])


def _loaded(fold: Fold) -> float:
    setup, steps = set_up(fold), Steps(fold.recipe, fold.number, len(fold.train))
    samples = TrainingSamples(
        fold.competition, fold.train, setup.sources, setup.preparation, fold.recipe, fold.number, fold.data, setup.masks
    )
    loader = training_loader(samples, steps, fold.recipe)
    speed = 0.0
    for epoch in range(2):
        steps.epoch, began = epoch, time.monotonic()
        images = sum(len(positions) for positions, _, _ in loader)
        speed = images / (time.monotonic() - began)
    return speed


def _predicted(fold: Fold, views: tuple[str, ...]) -> tuple[float, float]:
    """(evaluation from source to activated output, the network alone), in images per second."""
    setup, device = set_up(fold), pick_device()
    model = build_model(setup.spec, fold.competition).to(device).eval()
    for place in ("warm", "measured"):
        began = time.monotonic()
        predict(fold, setup, model, device, views, fold.held, fold.folder / place)
        whole = time.monotonic() - began
    samples = EvaluationSamples(fold.competition, fold.held, setup.sources, setup.preparation)
    positions, images, *_ = next(iter(evaluation_batches(samples, max(fold.recipe.batch_size, 32), workers=0)))
    table = torch.from_numpy(table_of(fold.held, setup.preparation.table))
    inputs, beside = to_device(images, table[positions], setup.preparation, device)
    inputs = channels_last(inputs)
    times = -(-len(fold.held) // len(positions))
    began = time.monotonic()
    with torch.no_grad():
        for _ in range(times):
            forward(model, fold.competition.task, inputs, views, beside).cpu()
    alone = time.monotonic() - began
    return len(fold.held) / whole, times * len(positions) / alone
