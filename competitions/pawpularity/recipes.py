"""Recipes for pawpularity.

    kit train pawpularity baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: Swin-T at 224 px takes 4.5 GMACs an
image, so `baseline` costs about 6 PFLOP over five folds, five minutes where a device sustains 20 TFLOP/s. The target is
noisy: medals lie between 16.95 and 17.10 where the median team had 17.70, so a difference of 0.02 says nothing without
its interval. The winners trained short, on the score over 100 as a soft label, as the bounded
Regression does.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
    image_size=224,
    cache_size=256,
    cache="jpeg",
    epochs=5,
    batch_size=32,
    lr=5e-5,
    head_lr_scale=10,
    augment=augment.photo,
    mixup=0.4,
    drop_path=0.1,
    ema=0.999,
    tta=("identity", "hflip"),
)
convnext = replace(baseline, backbone="convnext_tiny.in12k_ft_in1k", lr=1e-4)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
