"""Recipes for tgs_salt.

    kit train tgs_salt baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: a U-Net over ResNet-34 at 128 px
takes 8 GMACs an image, so `baseline` (4,000 images, 40 epochs, five folds) costs about 30 PFLOP, half an hour where a
device sustains 20 TFLOP/s. The metric gives nothing for an empty answer to a mask and all for one to an empty image:
OOF fits the gate that empties masks. Winners blended unlike encoders and added pseudo-labels; the mosaics that join
images of train and test are not used here.
"""

from dataclasses import replace

import albumentations as A
import cv2

from kit.training import Recipe


def seismic(size):
    """Mirror left and right, shift and zoom a little; depth has a direction, so never upside down."""
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(
                scale=(0.9, 1.15),
                translate_percent=(-0.08, 0.08),
                rotate=(-8, 8),
                p=0.7,
                border_mode=cv2.BORDER_REFLECT_101,
            ),
            A.RandomBrightnessContrast(0.15, 0.15, p=0.5),
        ]
    )


baseline = Recipe(
    backbone="resnet34.a1_in1k",
    model={"decoder": "unet", "decoder_attention_type": "scse"},
    image_size=128,
    epochs=40,
    batch_size=32,
    lr=3e-4,
    augment=seismic,
    ema=0.999,
    tta=("identity", "hflip"),
)
convnext = replace(baseline, backbone="convnext_tiny.in12k_ft_in1k", lr=2e-4, drop_path=0.1, model={"decoder": "unet"})

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(
    baseline, backbone="test_resnet", pretrained=False, image_size=64, epochs=2, lr=3e-3, ema=None,
    model={"decoder": "unet", "decoder_channels": [32, 16, 16, 8, 8]},
)  # fmt: skip
