"""Losses that a recipe puts in the place of its task's: timm's where it has them, for tasks of classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pandas as pd
import timm
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy
from torch import Tensor

from kit.offline.errors import RecipeError
from kit.offline.tasks import Binary, Learned, Multiclass, Multilabel, Ordinal, Task, weighted_mean
from kit.training.recipe import Recipe
from kit.training.samples import Targets

Losses = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets in 0..1, both N x C float32, -> losses, N."""
ARGUMENTS = {"ce": (), "bce": ("target_threshold",), "focal": ("gamma",), "asl": ("gamma_neg", "gamma_pos", "clip")}
"""What `Recipe.loss_arguments` may name, by loss."""
UPDATE = "update timm"


def with_loss(recipe: Recipe, task: Task, frame: pd.DataFrame, learned: Learned) -> Task:
    """The task with the recipe's loss and class weights; itself where the recipe asks for none.

    frame: the rows that train, whose classes are counted. Answers stay the task's: its probabilities are the softmax or
    sigmoid of the logits, whatever loss trained them. Raises RecipeError for a loss that does not suit the task.
    """
    if recipe.loss is None and recipe.class_weights is None:
        return task
    if not isinstance(task, Multiclass | Binary | Multilabel | Ordinal):
        found = f"{type(task).__name__}, which has its own"
        raise RecipeError("a task of classes for another loss or class_weights", found, "write it in the task's loss")
    exclusive = isinstance(task, Multiclass) or bool(getattr(task, "exclusive", False))
    name = recipe.loss or ("ce" if exclusive else "bce")
    if name == "ce" and not exclusive:
        raise RecipeError("classes that exclude each other for loss='ce'", type(task).__name__, "use loss='bce'")
    losses = _losses(name, dict(recipe.loss_arguments), exclusive, _class_weights(recipe, task, frame, learned))

    def loss(outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        return weighted_mean(losses(outputs.float(), targets), weight)

    other = copy.copy(task)
    other.loss = loss  # type: ignore[method-assign]
    return other


def _class_weights(recipe: Recipe, task: Task, frame: pd.DataFrame, learned: Learned) -> dict[str, Tensor]:
    """{"weight" or "pos_weight": C float32}, or nothing."""
    if recipe.class_weights is None:
        return {}
    try:
        from timm.loss import compute_class_weights
    except ImportError:
        raise RecipeError("a timm with class weights, 1.0.31 or newer", timm.__version__, UPDATE) from None
    counts = torch.from_numpy(Targets(task, frame, learned).rows.sum(axis=0))
    kind, weights = compute_class_weights(counts, len(frame), recipe.class_weights)
    return {"weight" if kind == "class_weight" else kind: weights}


def _losses(name: str, arguments: dict[str, Any], exclusive: bool, weights: dict[str, Any]) -> Losses:
    """The function of a loss's name. Raises RecipeError for arguments that it does not take."""
    known = ARGUMENTS[name]
    if bad := {
        key: value for key, value in arguments.items() if key not in known or not isinstance(value, int | float)
    }:
        raise RecipeError(f"numbers for loss={name!r}: {', '.join(known) or 'none'}", str(bad), "mend loss_arguments")
    if "pos_weight" in weights and name in ("ce", "focal"):
        fix = "use inv_freq or effective_num, or loss='bce'"
        raise RecipeError(f"class weights that loss={name!r} takes", "class_weights='neg_pos'", fix)
    if name == "ce":
        return _cross_entropy(**weights)
    if name == "focal":
        return _focal(exclusive, **arguments, **weights)
    if name == "asl":
        try:
            asymmetric = AsymmetricLossMultiLabel(**arguments, **weights, reduction="none")
        except TypeError:
            raise RecipeError(
                "a timm whose asl gives a loss a row, 1.0.31 or newer", timm.__version__, UPDATE
            ) from None
        return lambda outputs, targets: asymmetric.to(outputs.device)(outputs, targets).sum(dim=1)
    binary = BinaryCrossEntropy(**arguments, **weights, smoothing=0.0, reduction="none")
    return lambda outputs, targets: binary.to(outputs.device)(outputs, targets).mean(dim=1)


def _cross_entropy(weight: Tensor | None = None) -> Losses:
    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        of = None if weight is None else weight.to(outputs.device)
        return F.cross_entropy(outputs, targets, weight=of, reduction="none")

    return losses


def _focal(exclusive: bool, gamma: float = 2.0, weight: Tensor | None = None) -> Losses:
    """Cross-entropy of each class, times (1 - its probability)^gamma: what is known already counts less."""

    def unknown(log: Tensor) -> Tensor:
        return (-log.expm1()).clamp_min(1e-12) ** gamma  # at 0 a gamma below 1 has no finite slope

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        of = 1.0 if weight is None else weight.to(outputs.device)
        yes = outputs.log_softmax(dim=1) if exclusive else F.logsigmoid(outputs)
        each = -targets * unknown(yes) * yes
        if exclusive:
            return (each * of).sum(dim=1)
        no = F.logsigmoid(-outputs)
        return ((each - (1 - targets) * unknown(no) * no) * of).mean(dim=1)

    return losses
