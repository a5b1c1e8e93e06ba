"""kit/training/mix.py"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from sklearn.datasets import load_sample_images

from kit.offline.errors import RecipeError
from kit.training.chance import seed_step
from kit.training.mix import batch_mix
from kit.training.recipe import Recipe


def batch(rows, *shape):
    """Images of constant value 1, 2, 3 ...: a mixed pixel tells which two rows it is made of."""
    images = torch.arange(1.0, rows + 1).reshape(rows, *[1] * len(shape)).expand(rows, *shape).clone()
    return images, torch.eye(rows), torch.arange(1.0, rows + 1)


@pytest.mark.parametrize("rows", [2, 5, 8])
@pytest.mark.parametrize("how", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_targets_stay_distributions_and_tell_the_share(rows, how):
    """On even and odd batches targets sum to one, and the mean pixel and the weight are mixed by the share in them."""
    mix = batch_mix(Recipe(**how), "cpu")
    moved = 0
    for step in range(20):
        seed_step(0, 0, step)
        images, targets, weights = mix(*batch(rows, 3, 16, 16))
        torch.testing.assert_close(targets.sum(1), torch.ones(rows))
        told = targets @ torch.arange(1.0, rows + 1)
        torch.testing.assert_close(images.mean((1, 2, 3)), told, atol=1e-3, rtol=0)
        torch.testing.assert_close(weights, told)
        moved += int((targets != torch.eye(rows)).any())
    assert moved > 10


def test_no_mixing_leaves_the_batch():
    """Without mixup, cutmix and erasing a batch comes back as it was."""
    images, targets, weights = batch(5, 3, 16, 16)
    mixed = batch_mix(Recipe(), "cpu")(images.clone(), targets, weights)
    assert all((a == b).all() for a, b in zip(mixed, (images, targets, weights), strict=True))


@pytest.mark.parametrize("how", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_maps_are_mixed_as_their_images_are(how):
    """A dense task's map, equal to its image at the start, is equal to it after mixing too, pixel by pixel."""
    mix = batch_mix(Recipe(**how), "cpu")
    for step in range(10):
        seed_step(0, 0, step)
        images, _, weights = batch(5, 1, 16, 16)
        images, maps, _ = mix(images, images.clone(), weights)
        torch.testing.assert_close(images, maps)
    assert len(images.unique()) > 1


@pytest.mark.parametrize("how", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_the_images_of_a_bag_are_mixed_alike(how):
    """Bags keep their shape and take one share, whatever the memory order their batch came in."""
    mix = batch_mix(Recipe(**how), "cpu")
    seed_step(0, 0, 3)
    images, targets, weights = batch(4, 6, 16, 16, 3)
    images, targets, _ = mix(images.movedim(-1, -3), targets, weights)
    assert images.shape == (4, 6, 3, 16, 16)
    told = targets @ torch.arange(1.0, 5.0)
    torch.testing.assert_close(images.mean((2, 3, 4)), told[:, None].expand(4, 6), atol=1e-3, rtol=0)
    assert (told != torch.arange(1.0, 5.0)).any()


@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 3, 32, 32)])
def test_erasing_is_noise_of_its_own_per_pixel(shape):
    """An erased rectangle holds as many values as pixels and channels, of mean 0 and deviation 1; targets stay."""
    seed_step(0, 0, 1)
    images, targets, weights = batch(8, *shape)
    erased, after, _ = batch_mix(Recipe(erasing=1.0), "cpu")(images.clone(), targets, weights)
    noise = erased[erased != images]
    assert erased.shape == images.shape
    assert len(noise) > 200
    assert len(noise.unique()) > 0.99 * len(noise)
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    assert (after == targets).all()


def test_a_seeded_step_mixes_the_same():
    """The same step gives the same batch, another step another."""
    mix = batch_mix(Recipe(mixup=0.4, cutmix=1.0, erasing=0.5), "cpu")

    def mixed(step):
        seed_step(0, 0, step)
        return mix(*batch(6, 3, 16, 16))[0]

    assert (mixed(1) == mixed(1)).all()
    assert (mixed(1) != mixed(2)).any()


@pytest.mark.parametrize("how", [{"mixup": 0.5}, {"cutmix": 1.0}])
def test_numbers_are_mixed_as_targets_are_and_masks_joined(how):
    """What goes beside the images shares their draw: a table equal to the targets stays equal, a bag is the longer."""
    mix = batch_mix(Recipe(**how), "cpu")
    torch.manual_seed(1)
    targets = torch.eye(4)
    mask = torch.tensor([[True, True], [True, False], [True, False], [True, False]])
    beside = {"table": targets.clone(), "mask": mask}
    _, mixed, _ = mix(torch.randn(4, 2, 3, 16, 16), targets, torch.ones(4), beside)
    assert not torch.equal(mixed, targets)
    torch.testing.assert_close(beside["table"], mixed)
    assert beside["mask"][:, 1].tolist() == [True, False, False, True]


def test_the_last_epochs_see_images_as_they_are():
    """With mix_off_epochs nothing is mixed or erased at the end, and all is before."""
    recipe = Recipe(epochs=5, mix_off_epochs=2, mixup=1.0, erasing=1.0)
    images, targets, weights = batch(6, 3, 16, 16)
    for epoch, same in enumerate([False, False, False, True, True]):
        seed_step(0, 0, epoch)
        mixed = batch_mix(recipe, "cpu", epoch)(images.clone(), targets, weights)
        assert all((a == b).all() for a, b in zip(mixed, (images, targets, weights), strict=True)) == same


def test_no_epoch_may_be_frozen_or_unmixed_out_of_all():
    """A recipe whose every epoch is frozen would train a head alone by mistake."""
    for field in ("freeze_epochs", "mix_off_epochs"):
        with pytest.raises(RecipeError, match="fewer freeze_epochs"):
            Recipe(epochs=3, **{field: 3})


def test_noise_keeps_the_statistics_that_batch_norm_sees_and_a_black_cut_out_does_not():
    """On two photographs: the same rectangles, black, move the mean of each channel and change its variance; as noise
    pixel by pixel (`Recipe.erasing`) they leave the mean alone and the variance far nearer to what it was."""
    photos = [np.asarray(image, np.float32) / 255 for image in load_sample_images().images]
    patches = [photo[y : y + 96, x : x + 96] for photo in photos for y in range(0, 288, 96) for x in range(0, 576, 96)]
    pixels = torch.from_numpy(np.stack(patches)).movedim(-1, 1)
    whole = (pixels - pixels.mean(dim=(0, 2, 3), keepdim=True)) / pixels.std(dim=(0, 2, 3), keepdim=True)
    black = (-pixels.mean(dim=(0, 2, 3)) / pixels.std(dim=(0, 2, 3)))[None, :, None, None]

    def statistics(images):
        norm = torch.nn.BatchNorm2d(3, momentum=None).train()
        norm(images)
        return norm.running_mean, norm.running_var

    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    noisy, _, _ = batch_mix(Recipe(erasing=1.0), "cpu")(whole.clone(), torch.ones(36, 1), torch.ones(36))
    cut_out = torch.where(noisy == whole, whole, black)
    share = float((noisy != whole).float().mean())
    assert 0.05 < share < 0.4, "enough is erased to show anything"
    (mean_of_noise, variance_of_noise), (mean_of_black, variance_of_black) = statistics(noisy), statistics(cut_out)
    assert mean_of_noise.abs().max() < 0.05 < 0.15 < mean_of_black.abs().min()
    changes = (variance_of_noise - 1).abs(), (variance_of_black - 1).abs()
    assert (changes[0] < changes[1]).all(), "in every channel"
    assert changes[0].max() < 0.03 < 0.15 < changes[1].max()


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 25, 75), (1.0, 90, 100)])
def test_a_share_of_the_batches_is_mixed(share, least, most):
    """mix_prob leaves the other batches as they are."""
    mix, mixed = batch_mix(Recipe(cutmix=1.0, mix_prob=share), "cpu"), 0
    for step in range(100):
        seed_step(0, 0, step)
        images, targets, weights = batch(4, 3, 16, 16)
        mixed += int((mix(images.clone(), targets, weights)[0] != images).any())
    assert least <= mixed <= most


@pytest.mark.parametrize("count", [1, 3])
def test_erased_images_have_up_to_so_many_rectangles(count):
    """erasing_count rectangles at most, and that many somewhere."""
    seed_step(0, 0, 1)
    images, targets, weights = batch(32, 3, 48, 48)
    erased = batch_mix(Recipe(erasing=1.0, erasing_count=count), "cpu")(images.clone(), targets, weights)[0]
    found = [label(one)[1] for one in (erased != images).any(1).numpy()]
    assert max(found) == count
