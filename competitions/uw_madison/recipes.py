"""Recipes for uw_madison.

    kit train uw_madison baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: a U-Net over EfficientNet-B1 at
320 px takes 6 GMACs an image, so `baseline` (38,496 slices, 12 epochs, five folds) costs about 90 PFLOP, an hour and a
quarter where a device sustains 20 TFLOP/s. Three organs times about twenty scores: fitting the decisions decodes all
slices some sixty times for each fold. Most slices are empty, and the Hausdorff part punishes one stray pixel far away:
gate and area matter more than the threshold.
"""

from dataclasses import replace

import albumentations as A
import cv2

from kit.training import Recipe


def scan(size):
    """Mirror, shift, zoom and turn a little; 16-bit pixels bear no colour jitter."""
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.06, 0.06),
                rotate=(-12, 12),
                p=0.7,
                border_mode=cv2.BORDER_REFLECT_101,
            ),
        ]
    )


baseline = Recipe(
    backbone="tf_efficientnet_b1.ns_jft_in1k",
    model={"decoder": "unet"},
    image_size=320,
    fit="pad",
    epochs=12,
    batch_size=32,
    lr=5e-4,
    augment=scan,
    ema=0.999,
    tta=("identity", "hflip"),
)
convnext = replace(baseline, backbone="convnext_tiny.in12k_ft_in1k", lr=2e-4, drop_path=0.1)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(
    baseline, backbone="test_resnet", pretrained=False, image_size=64, epochs=2, lr=3e-3, ema=None,
    model={"decoder": "unet", "decoder_channels": [32, 16, 16, 8, 8]},
)  # fmt: skip
