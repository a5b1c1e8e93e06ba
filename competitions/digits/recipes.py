"""Recipes for digits.

    kit train digits small
    kit train digits byob

Both learn from scratch in seconds a fold on two cores, and are unlike enough to blend.
"""

from dataclasses import replace

from kit.training import Recipe, augment

small = Recipe(
    backbone="test_resnet",
    pretrained=False,
    image_size=32,
    epochs=6,
    batch_size=64,
    lr=3e-3,
    augment=augment.light,
)
byob = replace(small, backbone="test_byobnet")
