"""Recipes for aptos.

    kit train aptos baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: EfficientNet-B4 at 512 px takes
8 GMACs an image, so `baseline` costs about 10 PFLOP over five folds, ten minutes where a device sustains 20 TFLOP/s;
depthwise convolutions rarely let it, so expect several times that. The photographs' sizes and borders go with the grade
in this training set: a network that reads them off scores well out of fold and need not elsewhere. The best teams
first trained on the competition of 2015 (diabetic-retinopathy-detection) and fitted thresholds to a regression.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="tf_efficientnet_b4.ns_jft_in1k",
    image_size=512,
    cache_size=560,
    cache="jpeg",
    epochs=15,
    batch_size=16,
    accumulate=2,
    lr=2e-4,
    head_lr_scale=10,
    augment=augment.square,
    drop_rate=0.3,
    drop_path=0.2,
    ema=0.999,
    tta=("identity", "hflip", "vflip"),
)
convnext = replace(baseline, backbone="convnext_tiny.in12k_ft_in1k_384", drop_rate=0.0, drop_path=0.1)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
