"""Recipes for rsna_breast: each mammogram is a sample, a breast the mean of its views.

    kit train rsna_breast baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-S at 1024 x 512 px takes
91 GMACs an image, so `baseline` costs about 950 PFLOP over five folds of 54,000 images (a count from memory), thirteen
hours where a device sustains 20 TFLOP/s. Begin with `--fold 0` and half the size. The first place trained at
2048 x 1024 on crops of the breast, with one positive a batch; neither is here. `bits` 8 keeps the cache small (JPEG);
16 bits of 1024 x 800 would fill 90 GB. The files' own windows (`read={"window": "header"}`) are another
choice to compare.
"""

from dataclasses import replace

import albumentations as A

from kit.training import Recipe


def films(size: tuple[int, int]) -> A.Compose:
    """Mirrors, small turns and zooms, brightness: for grey films of 8 or 16 bits."""
    return A.Compose(
        [
            A.Resize(*size, area_for_downscale="image"),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.Affine(scale=(0.85, 1.15), rotate=(-15, 15), translate_percent=(-0.05, 0.05), p=0.8),
            A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.15, p=0.5),
        ]
    )


baseline = Recipe(
    backbone="convnext_small.fb_in22k_ft_in1k_384",
    image_size=(1024, 512),
    cache_size=800,
    cache="jpeg",
    read={"bits": 8},
    epochs=8,
    batch_size=8,
    accumulate=4,
    lr=1e-4,
    head_lr_scale=10,
    augment=films,
    drop_rate=0.5,
    drop_path=0.2,
    ema=0.999,
    tta=("identity", "hflip"),
)
deep = replace(baseline, read={"bits": 16}, cache="raw")

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
