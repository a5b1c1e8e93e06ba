"""One fold, trained from start to end. Read it top to bottom; copy it to competitions/<name>/train.py to change it."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from timm.utils.clip_grad import dispatch_clip_grad
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kit.offline.answers import part_of, score_of
from kit.offline.batches import (
    EvaluationSamples,
    RowsOf,
    Sources,
    collate,
    default_workers,
    evaluation_batches,
    to_device,
)
from kit.offline.columns import learn_columns, table_of, table_width
from kit.offline.contract import Competition
from kit.offline.errors import RecipeError, RunError
from kit.offline.files import sha256_of, write_json, write_whole
from kit.offline.loading import load
from kit.offline.models import (
    ModelSpec,
    build_model,
    inference_spec,
    input_config,
    load_pretrained,
    load_weights,
    pick_device,
    require_backbone,
)
from kit.offline.pixels import Preparation
from kit.offline.places import has_module
from kit.offline.predict import predict_samples
from kit.offline.predictions import Gallery, Maps, Predictions
from kit.offline.tasks import Learned, trained_task
from kit.training import checkpoint, stop
from kit.training.cache import cached_sources
from kit.training.chance import seed_step
from kit.training.mix import batch_mix
from kit.training.optim import make_optimizer, make_schedule, set_frozen
from kit.training.recipe import Recipe
from kit.training.samples import Steps, Targets, TrainingSamples

COMMIT_SECONDS = 20.0
"""Time between two commits of the state; a kill loses at most that much, a signal nothing."""
TRAVELLING = ("weights.safetensors", "model.json", "gallery.safetensors")
"""What a bundle takes of a fold; done.json keeps their hashes."""
INITIAL_WEIGHTS = 2**32 - 1
"""The step number under which initial weights are drawn."""

LoaderOf = Callable[[TrainingSamples, Steps, Recipe], Iterable[Any]]
"""Makes the batches of each epoch: (positions, images, masks)."""


@dataclass(frozen=True)
class Fold:
    """One fold to train.

    train, held: rows that train and scored rows that do not, disjoint by unit and group. every: all rows, for the cache
    that folds share. data: host files. folder: where the fold's files go. cache: the competition's cache. home: where
    pretrained paths start.
    """

    competition: Competition
    recipe: Recipe
    learned: Learned
    number: int
    train: pd.DataFrame
    held: pd.DataFrame
    every: pd.DataFrame
    data: Path
    folder: Path
    cache: Path
    home: Path
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Setup:
    """What is fixed before the first step.

    example: an evaluation cut, whose shape golden inputs take. masks: the targets of a dense task, by source.
    """

    preparation: Preparation
    sources: Sources
    spec: ModelSpec
    example: np.ndarray
    licence: str
    masks: Sources | None = None


def train_fold(fold: Fold, loader_of: LoaderOf | None = None) -> None:
    """Train, predict the held-out rows; write weights.safetensors, oof, log.jsonl and, last, done.json.

    Goes on from the last committed step if there is one; each draw is counted, so the result is the same to the bit.
    loader_of: makes the batches; None for `training_loader`.
    """
    recipe, competition = fold.recipe, fold.competition
    task = trained_task(competition.task, fold.train)
    began = time.monotonic()
    fold.folder.mkdir(parents=True, exist_ok=True)

    # Data: preparation from the backbone's own config, sources from the cache, batches drawn by counting
    device = pick_device()
    setup = set_up(fold)
    preparation = setup.preparation
    samples = TrainingSamples(
        competition, fold.train, setup.sources, preparation, recipe, fold.number, fold.data, setup.masks
    )
    steps = Steps(recipe, fold.number, len(fold.train))
    loader = (loader_of or training_loader)(samples, steps, recipe)
    targets = Targets(task, fold.train, fold.learned)
    weights = torch.from_numpy(row_weights(fold.train))
    table = torch.from_numpy(table_of(fold.train, preparation.table))

    # Model, optimiser, schedule, average
    seed_step(recipe.seed, fold.number, INITIAL_WEIGHTS)
    model = build_model(setup.spec, competition)
    load_pretrained(model, setup.spec, recipe.pretrained, fold.home)
    if recipe.grad_checkpointing:
        checkpoint_gradients(model)
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(recipe, model)
    updates = -(-len(steps) // recipe.accumulate)
    schedule = make_schedule(recipe, optimizer, updates)
    average = ModelEmaV3(model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
    cast, scaler = precision_of(recipe.precision, device)
    checkpoint.require_room(fold.folder, model, averaged=bool(average))

    # Where were we?
    step, best = 0, None
    if found := checkpoint.resume(fold.folder):
        step, state = found
        best = state["best"]
        restore(state, model, optimizer, scaler, average)
        fold.say(f"fold {fold.number}: going on at epoch {step // len(steps) + 1} of {recipe.epochs}")
    keep_log(fold.folder / "log.jsonl", step // len(steps))

    # Train
    committed = time.monotonic()
    with stop.held() as asked:  # a signal waits for the next commit
        for epoch in range(step // len(steps), recipe.epochs):
            if recipe.patience and epoch - (best["epoch"] if best else 0) >= recipe.patience:
                fold.say(f"fold {fold.number}: no better score for {recipe.patience} epochs")
                break
            model.train()
            set_frozen(recipe, model, epoch)
            mix = batch_mix(recipe, device.type, epoch)
            steps.epoch, steps.first = epoch, step % len(steps)
            started, losses = time.monotonic(), []
            for at, (positions, images, masks) in enumerate(loader, steps.first):
                seed_step(recipe.seed, fold.number, step)
                update, within = divmod(at, recipe.accumulate)
                if within == 0:
                    schedule.step_update(epoch * updates + update)
                    optimizer.zero_grad(set_to_none=True)
                inputs, beside = to_device(images, table[positions], preparation, device)
                wanted = masks.to(device).movedim(-1, 1).float() if task.dense else targets[positions].to(device)
                wanted = task.smooth(wanted, recipe.label_smoothing) if recipe.label_smoothing else wanted
                inputs, wanted, weight = mix(inputs, wanted, weights[positions].to(device), beside)
                with cast():
                    loss = task.loss(model(channels_last(inputs), **beside), wanted, weight)
                require_finite(loss, fold, epoch, at, positions, optimizer)
                losses.append(loss.detach())
                grouped = min(recipe.accumulate, len(steps) - update * recipe.accumulate)
                scaler.scale(loss / grouped).backward()
                step += 1
                if within + 1 < grouped:
                    continue
                if recipe.clip_grad:
                    scaler.unscale_(optimizer)
                    dispatch_clip_grad(model.parameters(), recipe.clip_grad, recipe.clip_mode)
                scaler.step(optimizer)
                scaler.update()
                if average:
                    average.update(model, step=epoch * updates + update)
                if (asked or time.monotonic() - committed > COMMIT_SECONDS) and at + 1 < len(steps):
                    checkpoint.commit(fold.folder, step, state_of(model, optimizer, scaler, average, best))
                    committed = time.monotonic()
                    asked.leave()
            seconds = time.monotonic() - started

            # How good is it? One view, the averaged weights if there are any
            shown = average.module if average else model
            score = evaluate(fold, setup, shown, device, ("identity",), None)
            if is_better(score, best, competition.greater_is_better):
                best = {"epoch": epoch + 1, "score": score}
                if recipe.keep == "best":
                    write_whole(fold.folder / "best.safetensors", weights_of(shown))
            speed = len(losses) * recipe.batch_size / max(seconds, 1e-9)
            report(fold, epoch, losses, score, optimizer.param_groups[-1]["lr"], speed, time.monotonic() - began)
            if asked or (time.monotonic() - committed > COMMIT_SECONDS and epoch + 1 < recipe.epochs):
                checkpoint.commit(fold.folder, step, state_of(model, optimizer, scaler, average, best))
                committed = time.monotonic()
                asked.leave()

    # Keep, predict with every view; done.json, written last, says that the fold is whole
    final, epochs = average.module if average else model, step // len(steps)
    if best and recipe.keep == "best":
        load_weights(final, fold.folder / "best.safetensors")
    write_whole(fold.folder / "weights.safetensors", weights_of(final))
    write_json(fold.folder / "model.json", model_record(setup))
    score = evaluate(fold, setup, final, device, recipe.tta, fold.folder)
    done = {
        "fold": fold.number,
        "score": score if np.isfinite(score) else None,
        "epochs": epochs,
        "kept_epoch": best["epoch"] if best and recipe.keep == "best" else epochs,
        "rows": {"train": len(fold.train), "scored": len(fold.held)},
        "seconds": round(time.monotonic() - began, 2),
        "peak_memory_mb": peak_memory_mb(device),
        "device": str(device),
        "sha256": {path.name: sha256_of(path) for path in map(fold.folder.joinpath, TRAVELLING) if path.is_file()},
    }
    write_json(fold.folder / "done.json", done)
    checkpoint.clear(fold.folder)
    (fold.folder / "best.safetensors").unlink(missing_ok=True)


def set_up(fold: Fold) -> Setup:
    """Preparation and spec from the recipe, the backbone's config and a first image; sources of all rows, cached."""
    recipe, competition, task = fold.recipe, fold.competition, fold.competition.task
    if not (competition.folder and has_module(competition.folder, "model")):
        require_backbone(recipe.backbone)  # before the cache, which takes minutes
    if len(fold.train) < 2 or not len(fold.held):
        found = f"{len(fold.train)} that train, {len(fold.held)} that score"
        raise RunError(f"at least 2 rows that train and 1 that scores in fold {fold.number}", found, "use fewer folds")
    if task.dense and recipe.cache_size is not None:
        raise RecipeError(
            "no cache_size for a task of maps",
            f"cache_size={recipe.cache_size}, which shrinks images and not their masks",
            "drop it, or let the adapter's read and read_target shrink both by a setting in the recipe's `read`",
        )
    row = RowsOf(fold.held)(0)
    # The image that tells the channels comes from the cache, so that each source is read once.
    stored = Preparation(
        size=recipe.size,
        mean=(),
        std=(),
        fit=recipe.fit,
        cache_size=recipe.cache_size,
        jpeg=recipe.cache == "jpeg",
        how=recipe.read,
    )
    sources = cached_sources(competition, fold.every, fold.data, stored, fold.cache, recipe.cache, fold.say)
    example = competition.cut(sources(row), row, recipe.read, None)
    example = example if example.ndim > 2 else example[:, :, None]
    channels = example.shape[-1]
    config = input_config(recipe.backbone, channels, recipe.pretrained, fold.home)
    columns = learn_columns(fold.train, competition.table)
    preparation = replace(stored, mean=config.mean, std=config.std, table=columns)
    outputs = len(trained_task(task, fold.train).outputs(fold.learned))
    spec = ModelSpec(
        recipe.backbone,
        outputs,
        recipe.size,
        channels,
        task.head,
        recipe.drop_rate,
        recipe.drop_path,
        arguments={"bag": "mean", **recipe.model} if example.ndim == 4 else dict(recipe.model),
        targets=0 if task.dense else task.targets(fold.train.head(1), fold.learned).shape[1],
        table=table_width(columns),
        aux=outputs - len(task.outputs(fold.learned)),
    )
    licence = config.licence if recipe.pretrained else "trained from scratch"
    masks = _masks(fold, stored) if task.dense else None
    return Setup(preparation, sources, spec, example, licence, masks)


def _masks(fold: Fold, stored: Preparation) -> Sources:
    keep = fold.recipe.cache
    return cached_sources(
        fold.competition, fold.every, fold.data, stored, fold.cache, keep, fold.say, what="read_target"
    )


def training_loader(samples: TrainingSamples, steps: Steps, recipe: Recipe) -> DataLoader:
    """Batches by `steps`; worker processes outlive an epoch."""
    workers = default_workers() if recipe.workers is None else recipe.workers
    return load(samples, steps, workers, collate, persistent=True)


def row_weights(frame: pd.DataFrame) -> np.ndarray:
    """The frame's `weight` column as N float32, else ones."""
    return frame["weight"].to_numpy(np.float32) if "weight" in frame.columns else np.ones(len(frame), np.float32)


def checkpoint_gradients(model: nn.Module) -> None:
    """timm's gradient checkpointing. Raises RecipeError for a network that has none."""
    body: Any = getattr(model, "backbone", model)
    try:
        body.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        found = f"{type(body).__name__}, which has none"
        raise RecipeError("a network with gradient checkpointing", found, "drop grad_checkpointing") from None


def channels_last(images: Tensor) -> Tensor:
    """N x C x H x W in the memory order that convolutions like; bags stay as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def precision_of(
    name: str, device: torch.device
) -> tuple[Callable[[], AbstractContextManager[Any]], torch.amp.GradScaler]:
    """(autocast, gradient scaler). Auto: bf16 if the GPU has it (a T4 only emulates it), else fp16; fp32 on the CPU."""
    if name == "auto":
        real = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        name = "fp32" if device.type == "cpu" else "bf16" if real else "fp16"
    scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
    if name == "fp32":
        return nullcontext, scaler
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    return lambda: torch.autocast(device.type, dtype), scaler


def require_finite(
    loss: Tensor, fold: Fold, epoch: int, at: int, positions: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """Stop the fold where the loss is no number, naming step, learning rate and rows; the last commit stays."""
    if torch.isfinite(loss):
        return
    ids = fold.train["sample_id"].iloc[positions.tolist()].tolist()
    lr = optimizer.param_groups[-1]["lr"]
    raise RunError(
        f"a finite loss in fold {fold.number}",
        f"{loss.item()} at epoch {epoch + 1}, step {at + 1}, lr {lr:.2g}, rows {', '.join(ids[:8])}",
        "lower lr, set clip_grad, use precision='fp32', or look at those rows",
    )


def evaluate(
    fold: Fold, setup: Setup, model: nn.Module, device: torch.device, views: tuple[str, ...], keep: Path | None
) -> float:
    """The score of the held-out rows; their predictions (and the gallery of a retrieval task) are kept in `keep`."""
    competition = fold.competition
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        predictions = predict(fold, setup, model, device, views, fold.held, folder / "oof")
        gallery = None
        if competition.task.retrieval:
            known = predict(fold, setup, model, device, views, fold.train, Path(scratch) / "gallery")
            assert isinstance(known, Predictions)
            gallery = Gallery(tuple(fold.train[competition.task.columns[0]]), known.values)
        if keep and isinstance(predictions, Predictions):
            predictions.save(keep / "oof.npz")
        if keep and gallery:
            gallery.save(keep / "gallery.safetensors")
        part = part_of(competition, fold.held, predictions, gallery)
        return score_of(competition, fold.held, [part], fold.learned)


def predict(
    fold: Fold,
    setup: Setup,
    model: nn.Module,
    device: torch.device,
    views: tuple[str, ...],
    frame: pd.DataFrame,
    folder: Path,
) -> Predictions | Maps:
    """Predictions of the rows of `frame`, by the very code that runs on Kaggle."""
    samples = EvaluationSamples(fold.competition, frame, setup.sources, setup.preparation)
    batches = evaluation_batches(samples, max(fold.recipe.batch_size, 32), fold.recipe.workers)
    columns = fold.competition.task.outputs(fold.learned)
    return predict_samples(model, fold.competition, frame, batches, setup.preparation, views, columns, device, folder)


def is_better(score: float, best: dict[str, Any] | None, greater: bool) -> bool:
    """Whether a score beats the best so far; NaN never does."""
    return bool(np.isfinite(score)) and (best is None or (score > best["score"] if greater else score < best["score"]))


def weights_of(model: nn.Module) -> bytes:
    """A model's state as safetensors, from the CPU, without metadata: the same weights give the same bytes."""
    return save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})


def state_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: ModelEmaV3 | None,
    best: dict[str, Any] | None,
) -> dict[str, Any]:
    """All that a fold needs to go on; generators are not among it, since every draw is counted."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "average": average.module.state_dict() if average else None,
        "best": best,
    }


def restore(
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: ModelEmaV3 | None,
) -> None:
    """The inverse of `state_of`."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    if average:
        average.module.load_state_dict(state["average"])


def model_record(setup: Setup) -> dict[str, Any]:
    """What a bundle needs beside the weights."""
    return {
        "spec": asdict(inference_spec(setup.spec)),
        "preparation": asdict(setup.preparation),
        "input": {"shape": list(setup.example.shape), "dtype": str(setup.example.dtype)},
        "licence": setup.licence,
    }


def keep_log(path: Path, epochs: int) -> None:
    """Keep the lines of finished epochs: a fold that goes on, or starts anew, tells the others again."""
    if path.is_file():
        write_whole(path, b"".join(path.read_bytes().splitlines(keepends=True)[:epochs]))


def report(fold: Fold, epoch: int, losses: list[Tensor], score: float, lr: float, speed: float, elapsed: float) -> None:
    """One line on the screen and one in log.jsonl."""
    loss = float(torch.stack(losses).mean()) if losses else float("nan")
    left = elapsed / (epoch + 1) * (fold.recipe.epochs - epoch - 1)
    fold.say(
        f"fold {fold.number}  epoch {epoch + 1:>3}/{fold.recipe.epochs}  loss {loss:.4f}  score {score:.4f}"
        f"  {speed:.0f} images/s  {left:.0f} s left"
    )
    told = score if np.isfinite(score) else None
    line = {"epoch": epoch + 1, "loss": loss, "score": told, "lr": lr, "images_per_second": round(speed, 1)}
    with (fold.folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def peak_memory_mb(device: torch.device) -> int:
    """Peak resident memory of this process in MB, or of the GPU where one is used."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
