"""Recipes for hubmap_kidney.

    kit train hubmap_kidney baseline

Nothing here was measured on the competition's data. Slides are shrunk by `read={"shrink": 4}` when they are read, so
the cache takes a sixteenth of the pixels (about 170 MB for 30,000 x 30,000); reading one takes 3 GB of memory. Windows
of 512 px are drawn anew each epoch, half of them around a glomerulus; evaluation stitches a grid with a quarter of
overlap and scores at native size. Reckoned from operation counts: a U-Net over EfficientNet-B4 takes 45 GMACs a window,
so `baseline` (15 slides of some 400 windows, 20 epochs, four folds) costs about 100 PFLOP, an hour and a half where a
device sustains 20 TFLOP/s. Few patients: the spread over folds is the noise to beat.
"""

from dataclasses import replace

import albumentations as A

from kit.training import Recipe


def slide(size):
    """The eight symmetries and stain: windows are drawn by chance already, so nothing is resized."""
    return A.Compose(
        [
            A.SquareSymmetry(p=1.0),
            A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.7, 1.3), hue=(-0.05, 0.05), p=0.7),
        ]
    )


baseline = Recipe(
    backbone="efficientnet_b4.ra2_in1k",
    model={"decoder": "unet"},
    read={"shrink": 4},
    image_size=512,
    fit="pad",
    epochs=20,
    batch_size=16,
    lr=5e-4,
    augment=slide,
    ema=0.999,
    tta=("identity", "hflip", "vflip", "rot90"),
)
closer = replace(baseline, read={"shrink": 2}, image_size=1024, batch_size=4, accumulate=4)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(
    baseline, backbone="test_resnet", pretrained=False, read={"shrink": 32}, image_size=64, epochs=2, lr=3e-3, ema=None,
    tta=("identity",), model={"decoder": "unet", "decoder_channels": [32, 16, 16, 8, 8]},
)  # fmt: skip
