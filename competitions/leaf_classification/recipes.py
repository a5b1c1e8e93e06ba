"""Recipes for leaf_classification: the image, and the host's 192 numbers beside it.

    kit train leaf_classification baseline

Nothing here was measured on the competition's data. Under a thousand silhouettes at 224 px: ConvNeXt-T takes 4.5 GMACs
an image, so `baseline` costs about 4 PFLOP over five folds, minutes on any GPU. The numbers alone are known to tell
most species apart; the image settles the rest. Leaves lie in every direction and have no colour: turns and mirrors, no
colour jitter. Log loss punishes a sure mistake most: little label smoothing, and blend before you sharpen.
"""

from dataclasses import replace

import albumentations as A

from kit.training import Recipe


def turned(size: tuple[int, int]) -> A.Compose:
    """The eight symmetries of the square and small turns and zooms; the background stays black."""
    return A.Compose(
        [
            A.Resize(*size, area_for_downscale="image"),
            A.SquareSymmetry(p=1.0),
            A.Affine(scale=(0.85, 1.1), rotate=(-20, 20), p=0.8),
        ]
    )


baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k",
    image_size=224,
    cache_size=256,
    fit="stretch",
    epochs=40,
    batch_size=32,
    lr=2e-4,
    head_lr_scale=10,
    augment=turned,
    mixup=0.2,
    drop_rate=0.2,
    ema=0.99,
    tta=("identity", "hflip", "vflip", "rot180"),
)
small = replace(baseline, backbone="resnet26d.bt_in1k", lr=3e-4)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=4, lr=3e-3)
