"""Recipes for dogs_vs_cats.

    kit train dogs_vs_cats baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 224 px takes 4.5
GMACs an image, so `baseline` costs about 11 PFLOP over five folds, ten minutes where a device sustains 20 TFLOP/s; at
first reading 25,000 files takes longer. Log loss punishes certainty, hence the label smoothing: it keeps answers off 0
and 1, which caps what a mislabelled photograph can cost.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k",
    image_size=224,
    cache_size=256,
    cache="jpeg",
    epochs=4,
    batch_size=64,
    lr=2e-4,
    head_lr_scale=10,
    augment=augment.photo,
    label_smoothing=0.01,
    ema=0.999,
    tta=("identity", "hflip"),
)
resnet = replace(baseline, backbone="resnet50.a1_in1k", lr=3e-4)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
