"""Recipes of the probe."""

from kit.training import Recipe, augment

tiny = Recipe(
    backbone="test_resnet", pretrained=False, image_size=32, epochs=2, batch_size=8, lr=3e-3, workers=0,
    augment=augment.none, read={"gain": 10.0},
)  # fmt: skip
