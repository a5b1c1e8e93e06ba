"""Batch-level augmentation on the device: timm's Mixup, CutMix and random erasing, on soft targets and batches of any size."""

from __future__ import annotations

from collections.abc import Callable

from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from kit.training.recipe import Recipe

Mix = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def batch_mix(recipe: Recipe, device: str) -> Mix:
    """A function (images N x C x H x W, targets N x ..., weights N) -> the same, erased and mixed; it may write into `images`.

    Draws come from the global generators, which `chance.seed_step` seeds.
    """
    erase = RandomErasing(recipe.erasing, mode="pixel", device=device) if recipe.erasing else None
    mixup = Mixup(recipe.mixup, recipe.cutmix) if recipe.mixup or recipe.cutmix else None

    def mix(images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if erase:
            images = erase(images)
        if mixup:
            # The private step, because the public call builds one-hot targets of its own and refuses odd batches.
            share = float(mixup._mix_batch(images))
            targets = targets * share + targets.flip(0) * (1 - share)
            weights = weights * share + weights.flip(0) * (1 - share)
        return images, targets, weights

    return mix
