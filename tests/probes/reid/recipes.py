"""Recipes of the probe."""

from dataclasses import replace

from kit.training import Recipe, augment

tiny = Recipe(
    backbone="embedder", pretrained=False, image_size=16, epochs=6, batch_size=8, lr=1e-2, workers=0,
    augment=augment.none, tta=("identity", "hflip"),
)  # fmt: skip
other = replace(tiny, seed=1, epochs=3)
