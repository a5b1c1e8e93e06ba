"""Augmentation presets: functions from the input size to an albumentations Compose. Write your own in recipes.py.

They keep the statistics that batch-norm sees: no black cut-outs (use `Recipe.erasing`, whose rectangles are noise), and
borders are reflected.
"""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before the import: it would ask the network for a newer version

import albumentations as A
import cv2

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


PRESETS: dict[str, Augment] = {"none": none, "light": light, "photo": photo, "square": square}
