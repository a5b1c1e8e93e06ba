"""Recipes for digits.

kit train digits small
"""

from dataclasses import replace

from kit.training import Recipe, augment

small = Recipe(
    backbone="test_resnet",
    pretrained=False,
    image_size=32,
    epochs=8,
    batch_size=64,
    lr=3e-3,
    augment=augment.light,
)
byob = replace(small, backbone="test_byobnet")
