"""Recipes for ranzcr.

    kit train ranzcr baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 512 px takes 23 GMACs
an image, so `baseline` costs about 110 PFLOP over five folds, an hour and a half where a device sustains 20 TFLOP/s.
Tubes are thin: resolution first. Training mirrors films and evaluation looks both ways; what a heart on the wrong side
costs was not measured. Some findings are rare, so a fold's score wavers with a few films.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k_384",
    image_size=512,
    cache_size=560,
    cache="jpeg",
    fit="pad",
    epochs=6,
    batch_size=16,
    accumulate=2,
    lr=2e-4,
    head_lr_scale=10,
    augment=augment.photo,
    drop_path=0.1,
    ema=0.999,
    tta=("identity", "hflip"),
)
efficientnet = replace(baseline, backbone="tf_efficientnet_b5.ns_jft_in1k", drop_rate=0.3, drop_path=0.2)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
