"""One fold, trained from start to end. Read it top to bottom; copy it to competitions/<name>/train.py to change it."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import islice
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
from kit.offline.errors import Diverged, KitError, RecipeError, RunError
from kit.offline.files import sha256_of, write_json, write_whole
from kit.offline.forward import predict_samples
from kit.offline.loading import load
from kit.offline.memory import peak_memory_mb
from kit.offline.models import (
    ModelSpec,
    build_model,
    inference_spec,
    input_config,
    load_pretrained,
    load_weights,
    pick_device,
    require_backbone,
    require_current,
)
from kit.offline.pixels import Preparation
from kit.offline.places import has_module
from kit.offline.predictions import Gallery, Maps, Predictions
from kit.offline.tasks import Learned, trained_task
from kit.offline.views import view_of
from kit.training import checkpoint, stop
from kit.training.cache import cached_sources
from kit.training.chance import seed_step
from kit.training.losses import with_loss
from kit.training.mix import Mix, batch_mix
from kit.training.optim import heads_of, make_optimizer, make_schedule, scale_heads, set_frozen
from kit.training.precision import choose_precision, precision_of
from kit.training.recipe import Recipe
from kit.training.rundir import ALL, name_of_fold, versions
from kit.training.samples import Steps, Targets, TrainingSamples, augmented, chances_of

COMMIT_SECONDS = 20.0
"""Time between two commits of the state: what a kill loses at most, an evaluation aside. A signal in the midst of an
epoch loses nothing."""
TRAVELLING = ("weights.safetensors", "model.json", "gallery.safetensors")
"""What a bundle takes of a fold; done.json keeps their hashes."""
INITIAL_WEIGHTS = 2**32 - 1
"""The step number under which initial weights are drawn."""

LoaderOf = Callable[[TrainingSamples, Steps, Recipe], Iterable[Any]]
"""Makes the batches of each epoch: (positions, images, masks)."""


@dataclass(frozen=True)
class Fold:
    """One fold to train.

    number: ALL trains on every row, and has none to score. train, held: rows that train and scored rows that do not,
    disjoint by unit and group. every: all rows, for the cache that folds share. data: host files. folder: where the
    fold's files go. cache: the competition's cache. home: where pretrained paths start. say: is told the progress,
    track: each line of the log. soft: targets of the last M rows of `train`, M x C float32, in the place of their
    labels. epochs: how many of the recipe's epochs are trained, None for all.
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
    track: Callable[[dict[str, Any]], None] = lambda line: None
    soft: np.ndarray | None = None
    epochs: int | None = None

    @property
    def labelled(self) -> pd.DataFrame:
        """The rows of `train` with labels of their own."""
        return self.train if self.soft is None else self.train.iloc[: len(self.train) - len(self.soft)]

    @property
    def name(self) -> str:
        """The number, or "all"."""
        return name_of_fold(self.number)


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
    task = trained_task(with_loss(recipe, competition.task, fold.labelled, fold.learned), fold.labelled)
    began = time.monotonic()
    fold.folder.mkdir(parents=True, exist_ok=True)

    # Data: preparation from the backbone's own config, sources from the cache, batches drawn by counting
    device = pick_device()
    setup = set_up(fold)
    preparation = setup.preparation
    samples = TrainingSamples(
        competition, fold.train, setup.sources, preparation, recipe, fold.number, fold.data, setup.masks
    )
    targets = Targets(task, fold.train, fold.learned, fold.soft)
    chances = chances_of(recipe, competition.task, fold.train, fold.learned)
    steps = Steps(recipe, fold.number, len(fold.train), chances)
    require_augmentation(samples, setup.example)
    loader = (loader_of or training_loader)(samples, steps, recipe)
    weights = torch.from_numpy(row_weights(fold.train))
    if recipe.sampling == "weighted":
        weights = torch.ones_like(weights)
    table = torch.from_numpy(table_of(fold.train, preparation.table))

    # Model, optimiser, schedule, average
    seed_step(recipe.seed, fold.number, INITIAL_WEIGHTS)
    model = build_model(setup.spec, competition)
    load_pretrained(model, setup.spec, recipe.pretrained, fold.home)
    scale_heads(recipe, model)
    if recipe.grad_checkpointing:
        checkpoint_gradients(model)
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    require_sizes(recipe, setup, model, device)
    network: Any = torch.compile(model) if recipe.compile else model
    optimizer, to_clip = make_optimizer(recipe, model), clipped(recipe, model)
    updates = -(-len(steps) // recipe.accumulate)
    schedule = make_schedule(recipe, optimizer, updates)
    average = ModelEmaV3(model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
    checkpoint.require_room(fold.folder, model, averaged=bool(average))

    # Where were we? `limits`: what this machine made of the recipe
    step, best, loss = 0, None, 0.0  # of the epoch's batches, summed
    machine = {**versions(), "threads": str(torch.get_num_threads()), "device": str(device)}
    found = checkpoint.resume(fold.folder)
    limits: dict[str, Any] = found[1]["limits"] if found else precision_and_parts(fold, setup, model, device)
    cast, scaler = precision_of(limits["precision"], device)
    if found:
        step, state = found
        best, loss, began = state["best"], state["loss"], began - state["seconds"]
        restore(state, model, optimizer, scaler, average)
        fold.say(f"fold {fold.name}: going on at epoch {step // len(steps) + 1} of {recipe.epochs}")
        tell_changes(fold, state["machine"], machine)
    keep_log(fold.folder / "log.jsonl", step // len(steps))

    def commit() -> None:
        told = {"best": best, "loss": loss, "limits": limits, "machine": machine, "seconds": time.monotonic() - began}
        checkpoint.commit(fold.folder, step, {**state_of(model, optimizer, scaler, average), **told})

    if not found and recipe.precision == "auto" and device.type == "cpu":
        commit()  # another trial might choose otherwise

    def gradients(batches: list[Any], epoch: int, mix: Mix) -> float:
        """Add up the gradients of an update's batches, each in as many parts as memory asks for, and their losses."""
        optimizer.zero_grad(set_to_none=True)
        summed, sums = 0.0, [float(weights[positions].sum()) for positions, *_ in batches]
        for number, (positions, images, masks) in enumerate(batches, step):
            seed_step(recipe.seed, fold.number, number)
            inputs, beside = to_device(images, table[positions], preparation, device)
            wanted = masks.to(device).movedim(-1, 1).float() if task.dense else targets[positions].to(device)
            wanted = task.smooth(wanted, recipe.label_smoothing) if recipe.label_smoothing else wanted
            inputs, wanted, weight = mix(inputs, wanted, weights[positions].to(device), beside)
            of_batch = torch.zeros((), device=device)
            of_update = sums[number - step] / max(sum(sums), 1e-12)  # weights that are mixed keep their sum
            for part, share in in_parts(weight, -(-recipe.batch_size // limits["parts"])):
                with cast():
                    outputs = network(channels_last(inputs[part]), **{name: of[part] for name, of in beside.items()})
                    of_part = task.loss(outputs, wanted[part], weight[part]) * share
                scaler.scale(of_part * of_update).backward()
                of_batch += of_part.detach()
            require_finite("loss", of_batch, fold, epoch, number % len(steps), positions, optimizer)
            summed += of_batch.item()
        return summed

    # Train
    committed = time.monotonic()
    with stop.held() as asked:  # a signal waits for the next commit
        for epoch in range(step // len(steps), fold.epochs or recipe.epochs):
            if recipe.patience and epoch - (best["epoch"] if best else 0) >= recipe.patience:
                fold.say(f"fold {fold.name}: no better score for {recipe.patience} epochs")
                break
            model.train()
            set_frozen(recipe, model, epoch)
            mix = batch_mix(recipe, device.type, epoch)
            steps.epoch, steps.first = epoch, step % len(steps)
            started, seen = time.monotonic(), 0
            loss = loss if steps.first else 0.0
            for batches in grouped(loader, recipe.accumulate, asked):
                at = step % len(steps)
                update = epoch * updates + at // recipe.accumulate
                schedule.step_update(update)
                done: float | None = None
                while done is None:
                    with suppress(torch.OutOfMemoryError):
                        done = gradients(batches, epoch, mix)
                    if done is None:  # told here, where the tensors of the failed pass are gone
                        limits["parts"] = more_parts(fold, limits["parts"])
                if not scaler.is_enabled():
                    rows = torch.cat([positions for positions, *_ in batches])
                    require_finite("gradient", norm_of_gradients(model), fold, epoch, at, rows, optimizer)
                if recipe.clip_grad:
                    scaler.unscale_(optimizer)
                    dispatch_clip_grad(to_clip, recipe.clip_grad, recipe.clip_mode)
                scaler.step(optimizer)
                scaler.update()
                if average:
                    average.update(model, step=update)
                loss += done
                step, seen = step + len(batches), seen + sum(len(one[0]) for one in batches)
                if (asked or time.monotonic() - committed > COMMIT_SECONDS) and step % len(steps):
                    commit()
                    committed = time.monotonic()
                    asked.leave()
            if asked and step < (epoch + 1) * len(steps):  # its processes got the signal, too
                commit()
                asked.leave()
            seconds = time.monotonic() - started

            # How good is it? One view, the averaged weights if there are any
            shown = average.module if average else model
            with asked.first():
                score = evaluate(fold, setup, shown, device, ("identity",), None)
            if is_better(score, best, competition.greater_is_better):
                best = {"epoch": epoch + 1, "score": score}
                if recipe.keep == "best":
                    best["sha256"] = keep_best(fold.folder / checkpoint.BEST.format(**best), shown)
            speed = seen / max(seconds, 1e-9)
            lr, elapsed = optimizer.param_groups[-1]["lr"], time.monotonic() - began
            report(fold, epoch, loss / len(steps), score, lr, speed, elapsed)
            if asked or (time.monotonic() - committed > COMMIT_SECONDS and epoch + 1 < recipe.epochs):
                commit()
                committed = time.monotonic()
                asked.leave()

    # Keep, predict with every view; done.json, written last, says that the fold is whole
    final, epochs = average.module if average else model, step // len(steps)
    if best and recipe.keep == "best":
        load_best(fold.folder / checkpoint.BEST.format(**best), best["sha256"], final)
    write_whole(fold.folder / "weights.safetensors", weights_of(final))
    write_json(fold.folder / "model.json", model_record(setup))
    score = evaluate(fold, setup, final, device, recipe.tta, fold.folder)
    record = {
        "fold": fold.name,
        "score": score if np.isfinite(score) else None,
        "epochs": epochs,
        "kept_epoch": best["epoch"] if best and recipe.keep == "best" else epochs,
        "rows": {"train": len(fold.train), "scored": len(fold.held)},
        "seconds": round(time.monotonic() - began, 2),
        "peak_memory_mb": _peak_memory_mb(device),
        "device": str(device),
        **limits,
        "machine": machine,
        "sha256": {path.name: sha256_of(path) for path in map(fold.folder.joinpath, TRAVELLING) if path.is_file()},
    }
    write_json(fold.folder / "done.json", record)
    checkpoint.clear(fold.folder)


def grouped(loader: Iterable[Any], size: int, asked: stop.Asked) -> Iterator[list[Any]]:
    """The batches of an update at a time: `size` of them, fewer at the end.

    They end early where a signal waits and the loader's processes, which it reached as well, are gone.
    """
    batches = iter(loader)
    try:
        while group := list(islice(batches, size)):
            yield group
    except RunError:
        if not asked:
            raise


def in_parts(weight: Tensor, size: int) -> Iterator[tuple[slice, Tensor | float]]:
    """Slices of a batch, about `size` rows each, and each one's share of its weight (N): losses of parts add up to that
    of the batch. None has one row, on which batch-norm cannot train, unless `size` is one."""
    count = -(-len(weight) // size)
    if size > 1:
        count = min(count, max(len(weight) // 2, 1))
    if count == 1:
        yield slice(None), 1.0
        return
    for rows in torch.arange(len(weight)).tensor_split(count):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        yield part, weight[part].sum() / weight.sum().clamp_min(1e-12)


def more_parts(fold: Fold, parts: int) -> int:
    """Twice as many parts of a batch after memory ran out. Raises RunError where a part is one image already."""
    recipe = fold.recipe
    if parts >= recipe.batch_size:
        found = f"out of memory with one image of {recipe.image_size} pixels through {recipe.backbone}"
        raise RunError("memory for a step of one image", found, "use a smaller image_size or backbone")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    fold.say(f"fold {fold.name}: out of memory; batches of {recipe.batch_size} go in {2 * parts} parts from here on")
    return 2 * parts


def clipped(recipe: Recipe, model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are clipped: all; with agc those of the head stay (Brock et al. 2021)."""
    spared = heads_of(model) if recipe.clip_mode == "agc" else []
    head = {id(parameter) for module in spared for parameter in module.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in head]


def norm_of_gradients(model: nn.Module) -> Tensor:
    """The norm of all gradients."""
    return torch.nn.utils.get_total_norm([one.grad for one in model.parameters() if one.grad is not None])


def set_up(fold: Fold) -> Setup:
    """Preparation and spec from the recipe, the backbone's config and a first image; sources of all rows, cached."""
    recipe, competition, task = fold.recipe, fold.competition, fold.competition.task
    if not (competition.folder and has_module(competition.folder, "model")):
        require_backbone(recipe.backbone)  # before the cache, which takes minutes
        require_current(recipe.backbone)
    if len(fold.train) < 2 or not (len(fold.held) or fold.number == ALL):
        found = f"{len(fold.train)} that train, {len(fold.held)} that score"
        raise RunError(f"at least 2 rows that train and 1 that scores in fold {fold.number}", found, "use fewer folds")
    if task.dense and recipe.cache_size is not None:
        raise RecipeError(
            "no cache_size for a task of maps",
            f"cache_size={recipe.cache_size}, which shrinks images and not their masks",
            "drop it, or let the adapter's read and read_target shrink both by a setting in the recipe's `read`",
        )
    row = RowsOf(fold.train)(0)
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
    crop = recipe.crop_pct or config.crop
    preparation = replace(
        stored, mean=config.mean, std=config.std, crop=crop, interpolation=config.interpolation, table=columns
    )
    outputs = len(trained_task(task, fold.labelled).outputs(fold.learned))
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


def some_inputs(
    setup: Setup, size: tuple[int, int], rows: int, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """Random images (or bags) of a size as the network gets them, and zeros for the numbers beside them."""
    images = torch.randn(rows, *setup.example.shape[:-3], setup.spec.channels, *size, device=device)
    beside = {"table": torch.zeros(rows, setup.spec.table, device=device)} if setup.spec.table else {}
    return channels_last(images), beside


def require_sizes(recipe: Recipe, setup: Setup, model: nn.Module, device: torch.device) -> None:
    """Raise RecipeError where the network does not take images of the recipe's sizes: told now, not in an assertion."""
    for size, view in dict.fromkeys([(recipe.size_at(0), "identity"), *((recipe.size, view) for view in recipe.tta)]):
        images, beside = some_inputs(setup, size, 1, device)
        try:
            with torch.no_grad():
                model.eval()(channels_last(view_of(view).apply(images)), **beside)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            found = f"{type(error).__name__}: {str(error)[:200] or 'its feature maps do not divide into blocks'}"
            fix = 'use another size (HaloNets: multiples of 256), or model={"dynamic_img_size": true} for a ViT'
            wanted = f"a size that {recipe.backbone} takes: {size[0]} x {size[1]}"
            if view != "identity":
                wanted, fix = f"{wanted} in the view {view!r} of tta", f"drop that view, or {fix}"
            raise RecipeError(wanted, found, fix) from None
    require_batch(recipe, setup, model, device)


def require_batch(recipe: Recipe, setup: Setup, model: nn.Module, device: torch.device) -> None:
    """Raise RecipeError for batches of one row where batch-norm would have one value a channel to train on."""
    if recipe.batch_size > 1:
        return
    images, beside = some_inputs(setup, recipe.size_at(0), 1, device)
    try:
        with torch.no_grad():
            deepcopy(model).train()(images, **beside)  # a copy: statistics of batch-norm change
    except ValueError as error:
        raise RecipeError(f"a batch_size of at least 2 for {recipe.backbone}", str(error), "mend the recipe") from None


def require_augmentation(samples: TrainingSamples, example: np.ndarray) -> None:
    """Raise RecipeError where the augmentation does not take the competition's images: told now, with what they are."""
    compose, _ = samples.at_size(samples.recipe.size_at(0))
    mask = np.zeros(example.shape[:2], np.uint8) if samples.competition.task.dense else None
    try:
        augmented(compose, example, mask, np.random.default_rng(0))
    except (KitError, MemoryError):
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        wanted = f"an augmentation that takes images of {example.shape[-1]} channels and {example.dtype}"
        fix = "set augment to light or imagenet, which move pixels alone, or mend `augment` or the adapter's cut"
        raise RecipeError(wanted, found, fix) from error


def precision_and_parts(fold: Fold, setup: Setup, model: nn.Module, device: torch.device) -> dict[str, Any]:
    """What this machine makes of a recipe: its precision, tried on up to 8 random inputs; at first, whole batches."""
    images, beside = some_inputs(setup, setup.spec.size, min(fold.recipe.batch_size, 8), device)
    return {"precision": choose_precision(fold.recipe.precision, device, model, images, **beside), "parts": 1}


def channels_last(images: Tensor) -> Tensor:
    """N x C x H x W in the memory order that convolutions like; bags stay as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def require_finite(
    what: str, value: Tensor, fold: Fold, epoch: int, at: int, positions: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """Stop the fold where the loss or gradient is no number, naming step, rate and rows; the last commit stays."""
    if torch.isfinite(value):
        return
    ids = fold.train["sample_id"].iloc[positions.tolist()].tolist()
    lr = optimizer.param_groups[-1]["lr"]
    raise Diverged(
        f"a finite {what} in fold {fold.name}",
        f"{value.item()} at epoch {epoch + 1}, step {at + 1}, lr {lr:.2g}, rows {', '.join(ids[:8])}",
        "lower lr, set clip_grad, use precision='fp32', or look at those rows",
    )


def evaluate(
    fold: Fold, setup: Setup, model: nn.Module, device: torch.device, views: tuple[str, ...], keep: Path | None
) -> float:
    """The score of the held-out rows, NaN where there are none.

    Their predictions, and the gallery of a retrieval task, are kept in `keep`.
    """
    competition = fold.competition
    if not len(fold.held) and not (keep and competition.task.retrieval):
        return float("nan")
    with tempfile.TemporaryDirectory() as scratch:
        folder, gallery = keep or Path(scratch), None
        if competition.task.retrieval:
            known = predict(fold, setup, model, device, views, fold.train, Path(scratch) / "gallery")
            assert isinstance(known, Predictions)
            gallery = Gallery(tuple(fold.train[competition.task.columns[0]]), known.values)
            if keep:
                gallery.save(keep / "gallery.safetensors")
        if not len(fold.held):
            return float("nan")
        predictions = predict(fold, setup, model, device, views, fold.held, folder / "oof")
        if keep and isinstance(predictions, Predictions):
            predictions.save(keep / "oof.npz")
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
) -> dict[str, Any]:
    """What has tensors of all that a fold needs to go on; no generators, since every draw is counted."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "average": average.module.state_dict() if average else None,
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


def tell_changes(fold: Fold, then: dict[str, str | None], now: dict[str, str | None]) -> None:
    """Say where a fold goes on with other versions, threads or another device: not to the bit any more."""
    changed = [f"{name} {now.get(name)} (was {then.get(name)})" for name in now if now[name] != then.get(name)]
    if changed:
        fold.say(f"fold {fold.name}: not to the bit as it would have been: {', '.join(changed)}")


def keep_best(path: Path, model: nn.Module) -> str:
    """Write a model's weights; returns their SHA-256."""
    content = weights_of(model)
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def load_best(path: Path, sha256: str, model: nn.Module) -> None:
    """Load the best epoch's weights. Raises RunError where they are not those that were kept."""
    if not path.is_file() or sha256_of(path) != sha256:
        fix = f"delete {path.parent} and train the fold again"
        raise RunError(f"{path} as it was kept", "missing or changed", fix)
    load_weights(model, path)


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


def report(fold: Fold, epoch: int, loss: float, score: float, lr: float, speed: float, elapsed: float) -> None:
    """One line on the screen and one in log.jsonl."""
    epochs = fold.epochs or fold.recipe.epochs
    left = elapsed / (epoch + 1) * (epochs - epoch - 1)
    fold.say(
        f"fold {fold.name}  epoch {epoch + 1:>3}/{epochs}  loss {loss:.4f}  score {score:.4f}"
        f"  {speed:.0f} images/s  {left:.0f} s left"
    )
    told = score if np.isfinite(score) else None
    line = {"epoch": epoch + 1, "loss": loss, "score": told, "lr": lr, "images_per_second": round(speed, 1)}
    with (fold.folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    fold.track(line)


def _peak_memory_mb(device: torch.device) -> int:
    """Of the GPU, where one is used, else of this process."""
    return round(torch.cuda.max_memory_allocated(device) / 1e6) if device.type == "cuda" else peak_memory_mb()
