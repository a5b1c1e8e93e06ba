"""Recipes for right_whale.

    kit train right_whale baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: EfficientNet-B0 at 128 x 256 px
takes 0.26 GMACs an image, so `baseline` costs about 0.2 PFLOP per 10,000 clips over two folds: making pictures from
sound, about a millisecond each, is what takes time. A recipe's `read` changes any setting of `SOUND` in the adapter;
each such set decodes the files into a cache of its own.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="tf_efficientnet_b0.ns_jft_in1k",
    image_size=(128, 256),
    read={"gain": 6.0, "noise": 10.0},
    epochs=10,
    batch_size=64,
    lr=5e-4,
    augment=augment.none,
    mixup=0.4,
    ema=0.999,
)
low_pitch = replace(baseline, read={**baseline.read, "high": 500.0, "fft": 512})
convnext = replace(baseline, backbone="convnext_tiny.in12k_ft_in1k", lr=2e-4, drop_path=0.1)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = Recipe(backbone="test_resnet", pretrained=False, image_size=64, epochs=2, lr=3e-3, augment=augment.none)
