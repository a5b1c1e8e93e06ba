"""Recipes for aerial_cactus.

    kit train aerial_cactus baseline

Nothing here was measured on the competition's data. Tiles are 32 px; they are enlarged because ImageNet networks halve
their input five times. Reckoned from operation counts, `baseline` costs about a quarter of a PFLOP a fold, so reading
files is what takes time. All medals stood at an AUC of 1.0: what is left to gain is in the last few tiles.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="resnet18.a1_in1k",
    image_size=96,
    epochs=10,
    batch_size=64,
    lr=5e-4,
    augment=augment.square,
    tta=("identity", "hflip", "vflip"),
)
convnext = replace(baseline, backbone="convnext_tiny.in12k_ft_in1k", image_size=128, lr=2e-4)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=32, epochs=2, lr=3e-3, tta=("identity",))
