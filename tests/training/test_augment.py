"""kit/training/augment.py"""

from __future__ import annotations

import albumentations as A
import numpy as np
import pytest

from kit.offline.pixels import Preparation
from kit.training.augment import IMAGENET_MEAN, PRESETS, RandAugment

IMAGE = np.random.RandomState(0).randint(60, 200, (40, 52, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_give_the_input_size_without_black(name):
    """Each preset gives the size and dtype asked for, and no pixel darker than colour changes make it: no cut-outs.

    RandAugment's colour operations (solarize, invert, contrast) reach any value; where it moves an image it fills with
    the mean colour, so a grey image never comes out with the black borders that its own values cannot make.
    """
    compose = PRESETS[name]((24, 32))
    for seed in range(20):
        compose.set_random_seed(seed)
        image = compose(image=IMAGE)["image"]
        assert image.shape == (24, 32, 3)
        assert image.dtype == np.uint8
        assert image.min() > 10 or name == "rand_augment"


def test_what_rand_augment_moves_is_filled_with_the_mean():
    """Turned, sheared and shifted alone, a bright image shows the mean colour where it had nothing, and no black."""
    moves = ["Rotate", "ShearX", "TranslateXRel"]
    compose = A.Compose([RandAugment("rand-m10-n2-p1.0-inc1", (24, 32), moves)])
    filled = []
    for seed in range(20):
        compose.set_random_seed(seed)
        filled.append(compose(image=np.full((24, 32, 3), 240, np.uint8))["image"])
    assert min(image.min() for image in filled) > 50, "bicubic edges overshoot by a few levels; black would be 0"
    assert any((image == IMAGENET_MEAN).all(axis=2).any() for image in filled)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "none"])
def test_presets_draw_anew(name):
    """Two seeds give two images, the same seed the same one."""
    compose = PRESETS[name]((24, 32))
    images = []
    for seed in (1, 2, 3, 1):
        compose.set_random_seed(seed)
        images.append(compose(image=IMAGE)["image"])
    assert (images[0] == images[3]).all()
    assert (images[0] != images[1]).any() or (images[0] != images[2]).any()


def test_none_has_no_chance():
    """The preset `none` gives one image whatever the seed."""
    compose = PRESETS["none"]((24, 32))
    first = compose(image=IMAGE)["image"]
    compose.set_random_seed(9)
    assert (compose(image=IMAGE)["image"] == first).all()


@pytest.mark.parametrize("size", [(24, 32), (80, 90)])
def test_none_gives_the_pixels_of_evaluation(size):
    """Shrinking and enlarging, training without chance shows the pixels that evaluation shows: one interpolation."""
    seen = PRESETS["none"](size)(image=IMAGE)["image"]
    shown = Preparation(size=size, mean=(0.5,) * 3, std=(0.5,) * 3).fit_size(IMAGE)
    assert (seen == shown).all()
