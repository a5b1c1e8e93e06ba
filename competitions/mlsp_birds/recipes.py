"""Recipes for mlsp_birds.

    kit train mlsp_birds baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: EfficientNet-B0 at 192 x 512 px
takes 0.8 GMACs an image, so with some 320 recordings (260 in MLE-bench's copy) `baseline` costs a tenth of a PFLOP over
five folds: minutes on any device.
The score pools all cells, so probabilities must be comparable between species: rare ones must not be inflated, and
pos_weight would hurt. Few recordings, hence windows laid over each other (`mix`), noise, and mixing of recordings.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="tf_efficientnet_b0.ns_jft_in1k",
    image_size=(192, 512),
    read={"gain": 6.0, "noise": 10.0},
    epochs=40,
    batch_size=16,
    lr=3e-4,
    warmup_epochs=2,
    drop_rate=0.2,
    augment=augment.none,
    mixup=0.4,
    ema=0.99,
)
short_windows = replace(baseline, read={**baseline.read, "seconds": 5.0, "mix": 0.5}, image_size=(192, 256))
resnet = replace(baseline, backbone="resnet34.a1_in1k")

# A minute on a laptop's processor: does the road hold from end to end?
tiny = Recipe(
    backbone="test_resnet", pretrained=False, image_size=64, epochs=2, batch_size=16, lr=3e-3, augment=augment.none
)
