"""timm's optimisers and schedules for a recipe: decay that spares norms and biases, layer decay, a faster head."""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from kit.offline.errors import RecipeError, did_you_mean
from kit.training.recipe import Recipe

LAYERS = (nn.Linear, nn.Conv2d)
"""What can be the last layer of a head."""


def make_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """timm's optimiser by name. Raises RecipeError with the nearest name, or for one that cannot be had here."""
    name = recipe.optimizer
    require_optimizer(name)
    groups: Any = lambda of: parameter_groups(recipe, of)  # noqa: E731 - timm asks for a function
    decay = recipe.weight_decay
    try:
        made = create_optimizer_v2(model, opt=name, lr=recipe.lr, weight_decay=decay, param_group_fn=groups)
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error or 'a package or a GPU that it needs is missing'}"
        raise RecipeError(f"an optimizer {name!r} that can be made here", found, "choose another one") from None
    if getattr(made, "is_second_order", False):
        raise RecipeError("an optimizer of first derivatives", name, "choose another one, such as adamw")
    return made


def require_optimizer(name: str) -> None:
    """Raise RecipeError, with the nearest name, for an optimiser that timm does not have."""
    known = list(map(str, list_optimizers()))
    if name.removeprefix("lookahead_") not in known:
        raise RecipeError("an optimizer that timm knows", repr(name), did_you_mean(name, known))


def parameter_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """timm's groups, by layer where layer_decay is set; the head's are split off with an `lr_scale` of their own.

    Only timm's schedules honour `lr_scale`.
    """
    body: Any = getattr(model, "backbone", model)  # where a wrapper keeps timm's network
    named: Any = getattr(body, "no_weight_decay", None)
    spared = set(named()) if named else set()
    if recipe.layer_decay is not None:
        groups = param_groups_layer_decay(body, recipe.weight_decay, spared, layer_decay=recipe.layer_decay)
    else:
        groups = param_groups_weight_decay(body, recipe.weight_decay, no_weight_decay_list=spared)
    groups = [*groups, *_groups_around(body, model, recipe.weight_decay)]
    if recipe.head_lr_scale == 1.0:
        return list(groups)
    head = {id(parameter) for module in heads_of(model) for parameter in module.parameters()}
    split: list[dict[str, Any]] = []
    for group in groups:
        scale = group.get("lr_scale", 1.0)
        body = [parameter for parameter in group["params"] if id(parameter) not in head]
        top = [parameter for parameter in group["params"] if id(parameter) in head]
        split += [{**group, "params": body}] if body else []
        split += [{**group, "params": top, "lr_scale": scale * recipe.head_lr_scale}] if top else []
    return split


def _groups_around(body: nn.Module, model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Groups of what a wrapper has beside its backbone: new parameters, at the full learning rate."""
    inside = {id(parameter) for parameter in body.parameters()}
    around = [parameter for parameter in model.parameters() if id(parameter) not in inside and parameter.requires_grad]
    groups = (
        {"params": [parameter for parameter in around if parameter.ndim <= 1], "weight_decay": 0.0},
        {"params": [parameter for parameter in around if parameter.ndim > 1], "weight_decay": decay},
    )
    return [group for group in groups if group["params"]]


def heads_of(model: nn.Module) -> list[nn.Module]:
    """The modules of the head. Raises RecipeError where the network does not say which they are."""
    classifier: Any = getattr(model, "get_classifier", None)
    if classifier is None:
        raise RecipeError(
            "a network with get_classifier() where head_lr_scale, head_init_scale or freeze_epochs is set",
            type(model).__name__,
            "give the network in model.py that method, or drop the field",
        )
    found = classifier()
    return list(found) if isinstance(found, tuple | list) else [found]  # distilled networks have two


def scale_heads(recipe: Recipe, model: nn.Module) -> None:
    """Multiply the initial weights and biases of the head's last layer by `head_init_scale`, as timm's script does.

    What comes before it (a decoder, a perceptron, attention) stays: all at zero it would never learn.
    """
    if recipe.head_init_scale == 1.0:
        return
    heads = heads_of(model)
    last = [head for head in heads if isinstance(head, LAYERS)]  # distilled networks have two
    last = last or [module for module in heads[-1].modules() if isinstance(module, LAYERS)][-1:]
    with torch.no_grad():
        for layer in last:
            for value in layer.parameters(recurse=False):
                value.mul_(recipe.head_init_scale)


def set_frozen(recipe: Recipe, model: nn.Module, epoch: int) -> None:
    """Before an epoch: in the first `freeze_epochs` only the head learns, and batch-norm elsewhere is in evaluation.

    An optimiser leaves parameters without gradients alone, decay and momentum included.
    """
    if not recipe.freeze_epochs:
        return
    frozen = epoch < recipe.freeze_epochs
    inside = {id(module) for head in heads_of(model) for module in head.modules()}
    learning = {id(parameter) for head in heads_of(model) for parameter in head.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in learning)
    for module in model.modules():
        if frozen and isinstance(module, _BatchNorm) and id(module) not in inside:
            module.eval()


def make_schedule(recipe: Recipe, optimizer: Optimizer, updates_per_epoch: int) -> Scheduler:
    """timm's schedule, to be stepped with the number of updates done."""
    warmup = min(recipe.warmup_epochs, recipe.epochs / 2)
    newer: dict[str, Any] = {"stable_timescale": warmup or 1.0} if recipe.schedule == "rsqrt" else {}
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=recipe.epochs,
        decay_epochs=None if recipe.schedule in ("wsd", "rsqrt") else max(1, math.ceil(recipe.epochs / 3)),
        decay_milestones=[recipe.epochs / 2, recipe.epochs * 3 / 4],  # type: ignore[list-item]
        # timm takes the power of "poly" from here: 0.1 would hold the rate up until the last update.
        decay_rate=0.9 if recipe.schedule == "poly" else 0.1,
        warmup_epochs=warmup,  # type: ignore[arg-type]
        warmup_lr=recipe.lr / 100 if recipe.warmup_lr is None else recipe.warmup_lr,
        min_lr=recipe.min_lr,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
        **newer,
    )
    if schedule is None:
        raise RecipeError(
            f"a timm that has the schedule {recipe.schedule!r}", f"timm {timm.__version__}", "update timm"
        )
    return schedule
