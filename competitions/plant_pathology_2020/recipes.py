"""Recipes for plant_pathology_2020.

    kit train plant_pathology_2020 baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 512 px takes 23 GMACs
an image, so `baseline` costs about 13 PFLOP over five folds, ten minutes where a device sustains 20 TFLOP/s.
Lesions are small and photographs large: resolution buys more than depth. The score hangs on the few leaves with several
diseases, so compare recipes over several seeds before you believe a difference.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k_384",
    image_size=512,
    cache_size=560,
    cache="jpeg",
    epochs=12,
    batch_size=16,
    accumulate=2,
    lr=2e-4,
    head_lr_scale=10,
    augment=augment.square,
    label_smoothing=0.05,
    drop_path=0.1,
    ema=0.999,
    tta=("identity", "hflip", "vflip"),
)
efficientnet = replace(baseline, backbone="tf_efficientnet_b4.ns_jft_in1k", drop_rate=0.3, drop_path=0.2)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
