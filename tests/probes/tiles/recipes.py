"""Recipes of the probe."""

from dataclasses import replace

import albumentations as A

from kit.training import Recipe


def turned(size):
    """A mirror only, which keeps pixels exact."""
    return A.Compose([A.HorizontalFlip(p=0.5)])


tiny = Recipe(
    backbone="few_convolutions", pretrained=False, image_size=16, epochs=3, batch_size=8, lr=1e-2, workers=0,
    augment=turned, tta=("identity", "hflip", "rot90"),
)  # fmt: skip
padded = replace(tiny, fit="pad", epochs=1)
