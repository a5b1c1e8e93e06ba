"""Batch-level augmentation on the device: timm's Mixup, CutMix and random erasing, on soft targets, for any batch."""

from __future__ import annotations

from typing import Protocol

import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from kit.training.recipe import Recipe


class Mix(Protocol):
    """Images, targets, weights and what goes beside -> the first three, mixed; the last is mixed in place."""

    def __call__(
        self, images: Tensor, targets: Tensor, weights: Tensor, beside: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]: ...


def batch_mix(recipe: Recipe, device: str, epoch: int = 0) -> Mix:
    """A function (images, targets, weights) -> the same, erased and mixed with the batch in reverse order.

    In the last `mix_off_epochs` it leaves them as they are.

    images: N x C x H x W, or N x B x C x H x W for bags; it may be written into. targets: N x K, or N x K x H x W for
    dense tasks, which are cut and pasted as their images are. weights: N. beside: a "table" (N x T) is mixed as targets
    are; a "mask" (N x B) becomes that of the longer bag. Draws come from the global generators, which
    `chance.seed_step` seeds.
    """
    on = epoch < recipe.epochs - recipe.mix_off_epochs
    erase = _erasing(recipe, device) if on and recipe.erasing else None
    mixup = Mixup(recipe.mixup, recipe.cutmix, prob=recipe.mix_prob) if on and (recipe.mixup or recipe.cutmix) else None

    def mix(
        images: Tensor, targets: Tensor, weights: Tensor, beside: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if erase:
            images = erase(images.flatten(0, -4)).reshape(images.shape)
        if not mixup:
            return images, targets, weights
        flat = images.flatten(1, -3)  # the images of a bag are mixed alike
        channels, dense = flat.shape[1], targets.ndim == 4
        both = torch.cat([flat, targets], dim=1) if dense else flat
        # The private step, because the public call builds one-hot targets of its own and refuses odd batches.
        share = float(mixup._mix_batch(both))
        targets = both[:, channels:] if dense else targets * share + targets.flip(0) * (1 - share)
        weights = weights * share + weights.flip(0) * (1 - share)
        for name, value in (beside or {}).items():
            mixed = value | value.flip(0) if name == "mask" else value * share + value.flip(0) * (1 - share)
            beside[name] = mixed  # type: ignore[index]
        return both[:, :channels].reshape(images.shape), targets, weights

    return mix


def _erasing(recipe: Recipe, device: str) -> RandomErasing:
    return RandomErasing(recipe.erasing, mode="pixel", max_count=recipe.erasing_count, device=device)
