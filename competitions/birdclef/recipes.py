"""Recipes for birdclef.

    kit train birdclef baseline

Nothing here was measured on the competition's data. The settings are those that the third place reports
(EfficientViT-B1 at 288 px, AdamW 3e-3, mixup). Reckoned: 0.9 GMACs an image, so `baseline` costs about 4 PFLOP per
10,000 recordings over five folds; a recording takes 1 MB of cache (15 seconds), and drawing its picture, some
milliseconds of a core each time, is what takes hours.
The rerun has two hours and no GPU for some 1,100 soundscapes of 48 windows: 53,000 forward passes a member, and the
decoding of 73 hours of OGG. `kit rehearse` tells what a bundle takes; expect room for one to three folds
(`kit bundle birdclef RUN --folds 0,1`). What won beyond this is learning from unlabeled_soundscapes.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="efficientvit_b1.r288_in1k",
    image_size=288,
    read={"gain": 6.0, "noise": 10.0, "mix": 0.3},
    epochs=20,
    batch_size=128,
    lr=3e-3,
    weight_decay=0.01,
    warmup_epochs=2,
    clip_grad=10,
    augment=augment.none,
    mixup=0.5,
)
efficientnet = replace(baseline, backbone="tf_efficientnet_b0.ns_jft_in1k", image_size=(128, 384), lr=1e-3)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = Recipe(backbone="test_resnet", pretrained=False, image_size=64, epochs=2, lr=3e-3, augment=augment.none)
