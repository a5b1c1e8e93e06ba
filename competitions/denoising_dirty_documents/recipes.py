"""Recipes for denoising_dirty_documents.

    kit train denoising_dirty_documents baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: a U-Net over ResNet-18 at 256 px
takes 5 GMACs a window, so `baseline` (144 pages of six windows, 115 of them in MLE-bench's copy; 200 epochs, five
folds) costs about 18 PFLOP, a quarter of an hour where a device sustains 20 TFLOP/s. The table that is scored has a row
per pixel, some 20 million over all folds: each score takes a minute or so and gigabytes of memory. The loss is L2,
which is what RMSE counts.
"""

from dataclasses import replace

import albumentations as A

from kit import ImageToImage
from kit.training import Recipe


def page(size):
    """Mirrors alone: text keeps its pixels, windows are drawn by chance already."""
    return A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])


baseline = Recipe(
    backbone="resnet18.a1_in1k",
    model={"decoder": "unet"},
    task=ImageToImage("clean", loss_name="l2"),
    image_size=256,
    fit="pad",
    epochs=200,
    batch_size=16,
    lr=1e-3,
    augment=page,
    ema=0.999,
    tta=("identity", "hflip", "vflip", "rot180"),
)
absolute = replace(baseline, task=ImageToImage("clean", loss_name="l1"))

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(
    baseline, backbone="test_resnet", pretrained=False, image_size=64, epochs=2, lr=3e-3, ema=None, tta=("identity",),
    model={"decoder": "unet", "decoder_channels": [32, 16, 16, 8, 8]},
)  # fmt: skip
