"""Recipes for plant_pathology_2021.

    kit train plant_pathology_2021 baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 384 px takes 13 GMACs
an image, so `baseline` costs about 60 PFLOP over five folds, an hour where a device sustains 20 TFLOP/s. The first
run reads each photograph once and keeps it at 448 px; with large files that is the processor's hour, not the device's.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k_384",
    image_size=384,
    cache_size=448,
    cache="jpeg",
    epochs=10,
    batch_size=32,
    lr=2e-4,
    head_lr_scale=10,
    augment=augment.square,
    mixup=0.2,
    label_smoothing=0.02,
    drop_path=0.1,
    ema=0.999,
    tta=("identity", "hflip", "vflip"),
)
efficientnet = replace(baseline, backbone="tf_efficientnet_b4.ns_jft_in1k", drop_rate=0.3, drop_path=0.2)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
