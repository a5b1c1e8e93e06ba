"""Augmentation presets: functions from the input size to an albumentations Compose. Write your own in recipes.py.

They keep the statistics that batch-norm sees: no black cut-outs (use `Recipe.erasing`, whose rectangles are noise), and
borders are reflected.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before the import: it would ask the network for a newer version

import albumentations as A
import cv2
import numpy as np
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from kit.offline.errors import RecipeError

IMAGENET_MEAN = (124, 116, 104)
Size = tuple[int, int]
Augment = Callable[[Size], A.Compose]


def none(size: Size) -> A.Compose:
    """The whole image, stretched: no chance."""
    return A.Compose([A.Resize(*size, area_for_downscale="image")])


def light(size: Size) -> A.Compose:
    """Small shifts, zooms and turns, no flips: for digits, signs and text."""
    return A.Compose(
        [
            A.Resize(*size, area_for_downscale="image"),
            A.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.1, 0.1),
                rotate=(-12, 12),
                p=0.9,
                border_mode=cv2.BORDER_REFLECT_101,
            ),
        ]
    )


def photo(size: Size) -> A.Compose:
    """Photographs that may be mirrored: random resized crop, flip, small turns, colour."""
    return A.Compose(
        [
            A.RandomResizedCrop(size, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), area_for_downscale="image"),
            A.HorizontalFlip(p=0.5),
            A.Affine(rotate=(-15, 15), p=0.3, border_mode=cv2.BORDER_REFLECT_101),
            A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.03, 0.03), p=0.5),
        ]
    )


def square(size: Size) -> A.Compose:
    """Images without an up or down (aerial, microscopy): the eight symmetries of the square, crop, colour."""
    return A.Compose(
        [
            A.SquareSymmetry(p=1.0),  # before the crop: a quarter turn would swap the sides of an oblong input
            A.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(3 / 4, 4 / 3), area_for_downscale="image"),
            A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.03, 0.03), p=0.5),
        ]
    )


def imagenet(size: Size) -> A.Compose:
    """ImageNet's training crop: a twelfth to the whole of the image (Szegedy et al. 2015), mirrored by chance."""
    return A.Compose(
        [
            A.RandomResizedCrop(size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), area_for_downscale="image"),
            A.HorizontalFlip(p=0.5),
        ]
    )


def rand_augment(size: Size, config: str = "rand-m7-mstd0.5-inc1", smallest: float = 0.08) -> A.Compose:
    """Random crop, flip and timm's RandAugment. Settings by functools.partial.

    config: timm's text: magnitude m of 10, its spread mstd, inc for operations that grow with it. smallest: share of
    the image that a crop takes at least.
    """
    return A.Compose(
        [
            A.RandomResizedCrop(size, scale=(smallest, 1.0), ratio=(3 / 4, 4 / 3), area_for_downscale="image"),
            A.HorizontalFlip(p=0.5),
            RandAugment(config, size),
        ]
    )


class RandAugment(A.DualTransform):
    """timm's RandAugment (Cubuk et al. 2019, arXiv 1909.13719) of 8-bit RGB images, H x W x 3.

    operations: names out of timm's, None for its own list. What it moves out of sight it fills with the mean colour of
    ImageNet, which keeps the image's statistics. Refuses masks, which timm would leave where they are.
    """

    def __init__(self, config: str, size: Size, operations: list[str] | None = None):
        super().__init__(p=1.0)
        # As timm's own transforms set it up: the shift in pixels, and the colour that fills.
        settings = {"translate_const": int(min(size) * 0.45), "img_mean": IMAGENET_MEAN}
        self.draw = rand_augment_transform(config, settings, operations)

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """One image; timm draws from the global generators, which are seeded from this transform's own."""
        seed = int(self.random_generator.integers(2**31))
        random.seed(seed)
        np.random.seed(seed)
        return np.asarray(self.draw(Image.fromarray(img)))

    def apply_to_mask(self, mask: np.ndarray, **params: Any) -> np.ndarray:
        """Always raises RecipeError."""
        raise RecipeError("augmentation that moves masks with images", "RandAugment", "use square or photo")


PRESETS: dict[str, Augment] = {
    "none": none,
    "light": light,
    "photo": photo,
    "square": square,
    "imagenet": imagenet,
    "rand_augment": rand_augment,
}
