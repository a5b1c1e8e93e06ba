"""timm's optimisers and schedules for a recipe: decay that spares norms and biases, layer decay, a faster head."""

from __future__ import annotations

import math
from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from kit.offline.errors import RecipeError, did_you_mean
from kit.training.recipe import Recipe


def make_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """timm's optimiser by name. Raises RecipeError with the nearest name."""
    if recipe.optimizer not in list_optimizers():
        raise RecipeError(
            "an optimizer that timm knows", repr(recipe.optimizer), did_you_mean(recipe.optimizer, list_optimizers())
        )
    return create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        param_group_fn=lambda of: parameter_groups(recipe, of),
    )


def parameter_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """timm's groups (by layer where layer_decay is set), the head's split off with its `lr_scale`, which timm's schedules honour."""
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    if recipe.layer_decay is not None:
        groups = param_groups_layer_decay(model, recipe.weight_decay, spared, layer_decay=recipe.layer_decay)
    else:
        groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared)
    if recipe.head_lr_scale == 1.0 or not hasattr(model, "get_classifier"):
        return list(groups)
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    split: list[dict[str, Any]] = []
    for group in groups:
        body = [parameter for parameter in group["params"] if id(parameter) not in head]
        top = [parameter for parameter in group["params"] if id(parameter) in head]
        split += [{**group, "params": body}] if body else []
        split += (
            [{**group, "params": top, "lr_scale": group.get("lr_scale", 1.0) * recipe.head_lr_scale}] if top else []
        )
    return split


def make_schedule(recipe: Recipe, optimizer: Optimizer, updates_per_epoch: int) -> Scheduler:
    """timm's schedule, to be stepped with the number of updates done."""
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=recipe.epochs,
        decay_epochs=max(1, math.ceil(recipe.epochs / 3)),
        warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 2),  # type: ignore[arg-type]
        warmup_lr=recipe.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    return schedule
