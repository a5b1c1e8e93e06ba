"""kit/offline/batches.py"""

from __future__ import annotations

import pytest
import torch

from kit.offline.batches import Padded, collate, to_device
from kit.offline.errors import DataError
from kit.offline.pixels import Preparation

PREPARATION = Preparation((4, 4), (0.5,), (0.25,))


def bags(*sizes):
    """Samples of an evaluation: bag number `at` is full of at + 1."""
    return [(at, torch.full((size, 4, 4, 1), at + 1, dtype=torch.uint8), 4, 4) for at, size in enumerate(sizes)]


def test_bags_of_one_size_and_images_are_plain_batches():
    """Nothing is padded that need not be: the batch is torch's own."""
    positions, images, heights, widths = collate(bags(2, 2, 2))
    assert images.shape == (3, 2, 4, 4, 1)
    assert (positions.tolist(), heights.tolist(), widths.tolist()) == ([0, 1, 2], [4] * 3, [4] * 3)
    assert collate([(at, image[0], 4, 4) for at, image, _, _ in bags(1, 1)])[1].shape == (2, 4, 4, 1)


def test_bags_of_several_sizes_are_padded_and_masked():
    """Each image keeps its place, the mask is true on images alone, and padding is the mean, whatever the bag."""
    positions, images, heights, _ = collate(bags(3, 1, 2))
    assert isinstance(images, Padded)
    assert positions.tolist() == [0, 1, 2] and heights.tolist() == [4] * 3
    assert images.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert (images.images.flatten(2).amax(dim=2) == torch.tensor([[1, 1, 1], [2, 0, 0], [3, 3, 0]])).all()
    inputs, beside = to_device(images, torch.zeros(3, 0), PREPARATION, torch.device("cpu"))
    assert inputs.shape == (3, 3, 1, 4, 4)
    assert (inputs[~images.mask] == 0).all()
    assert (inputs[images.mask] == PREPARATION.to_input(images.images)[images.mask]).all()
    assert set(beside) == {"mask"}


def test_an_empty_bag_is_refused():
    """A row without an image has nothing to pool; so has a batch of bags and single images."""
    with pytest.raises(DataError, match="cut"):
        collate(bags(2, 0))
    with pytest.raises(DataError, match="cut"):
        collate([*bags(2), (1, torch.zeros(4, 4, 1), 4, 4)])


def test_the_table_goes_beside_images_where_there_is_one():
    """Without numbers the network is called with images alone."""
    images = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    assert to_device(images, torch.zeros(2, 0), PREPARATION, torch.device("cpu"))[1] == {}
    assert set(to_device(images, torch.zeros(2, 3), PREPARATION, torch.device("cpu"))[1]) == {"table"}
