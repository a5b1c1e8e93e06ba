"""Recipes for whale_categorization.

    kit train whale_categorization baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 256 x 512 px takes 12
GMACs an image, so `baseline` costs about 60 PFLOP per 10,000 photographs over five folds, most of an hour where a
device sustains 20 TFLOP/s; embedding the gallery after each epoch adds a third.
A mirrored fluke is another whale's: nothing here flips. Many whales have one photograph, so augmentation is what shows
the network a second one; a box around the fluke is what a next step would add.
"""

from dataclasses import replace

from kit import Retrieval
from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k_384",
    image_size=(256, 512),
    cache_size=320,
    epochs=20,
    batch_size=32,
    lr=2e-4,
    head_lr_scale=10,
    weight_decay=0.05,
    drop_path=0.1,
    augment=augment.light,
    ema=0.999,
)
wide_margin = replace(baseline, task=Retrieval("Id", unknown="new_whale", margin=0.5))
efficientnet = replace(baseline, backbone="tf_efficientnet_b4.ns_jft_in1k", drop_path=0.2)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = Recipe(
    backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3, augment=augment.light
)
