"""kit/offline/batches.py"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from kit.offline.batches import Padded, RowsOf, collate, to_device
from kit.offline.errors import DataError
from kit.offline.pixels import Preparation

PREPARATION = Preparation((4, 4), (0.5,), (0.25,))


def bags(*sizes):
    """Samples of an evaluation: bag number `at` is full of at + 1."""
    return [(at, torch.full((size, 4, 4, 1), at + 1, dtype=torch.uint8), 4, 4) for at, size in enumerate(sizes)]


def test_rows_give_back_what_the_frame_holds():
    """Texts of any length come back as str from columns without objects; what is not all text stays what it was."""
    names = ["007", "", "a long id, such as hosts give", "ü\0x\0"]
    frame = pd.DataFrame({"sample_id": names, "number": [3, 1, 2, 0], "flag": [True, False, True, True]})
    mixed = [(1, 2), "x", None, 4.5]
    frame = frame.assign(mixed=pd.Series(mixed, dtype=object), blank=["a", float("nan"), "b", "c"])
    rows = RowsOf(frame.iloc[[2, 0, 3, 1]])
    for at, wanted in enumerate((2, 0, 3, 1)):
        row = rows(at)
        assert type(row.sample_id) is str and row.sample_id == names[wanted]
        assert (row.number, row.flag, row.mixed) == (*frame.loc[wanted, ["number", "flag"]], mixed[wanted])
    assert np.isnan(rows(3).blank) and rows(0).blank == "b"
    assert not isinstance(rows.columns["sample_id"].dtype, np.dtypes.ObjectDType)


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
