"""Recipes for histopathologic.

    kit train histopathologic baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 192 px takes 3.3
GMACs an image, so `baseline` costs about 75 PFLOP over five folds, an hour where a device sustains 20 TFLOP/s; the
first epoch of the first run reads 220,000 small files. Patches of 96 px are enlarged because ImageNet networks halve
their input five times.
"""

from dataclasses import replace

import albumentations as A
import cv2

from kit.training import Recipe
from kit.training.augment import Size


def centred(size: Size) -> A.Compose:
    """The symmetries of the square, small shifts and stains. No crop: the centre decides, and must stay in view."""
    return A.Compose(
        [
            A.SquareSymmetry(p=1.0),
            A.Resize(*size, area_for_downscale="image"),
            A.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.05, 0.05),
                rotate=(-20, 20),
                p=0.5,
                border_mode=cv2.BORDER_REFLECT_101,
            ),
            A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.7, 1.3), hue=(-0.05, 0.05), p=0.8),
        ]
    )


baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k",
    image_size=192,
    epochs=4,
    batch_size=64,
    lr=2e-4,
    head_lr_scale=10,
    augment=centred,
    drop_path=0.1,
    ema=0.999,
    tta=("identity", "hflip", "vflip", "rot90"),
)
resnet = replace(baseline, backbone="resnet50.a1_in1k", lr=3e-4)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, epochs=1, lr=3e-3, tta=("identity",))
