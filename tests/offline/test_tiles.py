"""kit/offline/tiles.py"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kit.offline.contract import Row
from kit.offline.errors import DataError
from kit.offline.predictions import Map, Maps
from kit.offline.tiles import Tiles

SIZES = {"b7": (40, 33), "0a": (10, 70), "c": (16, 16), "00": (37, 12)}
"""Height and width by odd ids: larger than a window, smaller than one, smaller on one side."""


def images(sizes=SIZES):
    return pd.DataFrame(
        {
            "sample_id": list(sizes),
            "height": [height for height, _ in sizes.values()],
            "width": [width for _, width in sizes.values()],
            "patient": "p",
        }
    )


def painted(sizes, shrink=1, seed=0):
    draw = np.random.RandomState(seed)
    return {name: draw.rand(h // shrink, w // shrink).astype(np.float32) for name, (h, w) in sizes.items()}


def whole(tiles, rows, arrays):
    """What stitching makes of windows that answer with their own pixels."""
    cuts = {row["sample_id"]: tiles.cut(arrays[row["unit_id"]], Row(row)) for row in rows.to_dict("records")}
    maps = {name: (lambda cut=cut: Map(cut[None], *cut.shape)) for name, cut in cuts.items()}
    return tiles.stitch(rows.sample(frac=1, random_state=0), Maps(maps, ("tissue",)))


@pytest.mark.parametrize(("size", "overlap"), [(16, 0), (16, 4), (7, 3), (64, 8)])
def test_stitching_windows_gives_the_image_back(size, overlap):
    """Every pixel of every image is covered, and windows that answer with their input give it back exactly."""
    tiles, arrays = Tiles(size, overlap), painted(SIZES)
    rows = tiles.rows(images())
    assert rows["sample_id"].is_unique and (rows["unit_id"] == rows["source"]).all()
    assert list(dict.fromkeys(rows["unit_id"])) == list(SIZES) and set(rows["patient"]) == {"p"}
    said = whole(tiles, rows, arrays)
    for name, array in arrays.items():
        one = said.read(name)
        assert (one.height, one.width) == SIZES[name]
        assert np.allclose(one.values[0], array, atol=1e-6)


def test_windows_are_of_one_size_where_images_are_large_enough():
    """The last windows end at the edge instead of sticking out."""
    tiles = Tiles(16, 4)
    arrays = painted(SIZES)
    for row in tiles.rows(images()).to_dict("records"):
        cut = tiles.cut(arrays[row["unit_id"]], Row(row))
        assert cut.shape == tuple(min(16, side) for side in SIZES[row["unit_id"]])


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_windows_shrink_with_the_image(shrink):
    """Rows name native pixels; an array that was read smaller is cut and stitched at its own size, to be enlarged."""
    sizes = {"s": (192, 160), "t": (67 * shrink, 90)}
    tiles, arrays = Tiles(64, 16), painted(sizes, shrink)
    rows = tiles.rows(images(sizes))
    one = whole(tiles, rows, arrays).read("s")
    assert one.values.shape[1:] == arrays["s"].shape and (one.height, one.width) == sizes["s"]
    assert np.allclose(one.values[0], arrays["s"], atol=1e-6)
    assert np.isfinite(whole(tiles, rows, arrays).read("t").values).all()


def test_training_windows_look_for_the_foreground():
    """The share that was asked for holds a point of the foreground; the others lie anywhere; all are inside."""
    row = Row(height=1000, width=800, top=0, left=0, points=np.array([[990, 5], [3, 790]]))
    array = np.zeros((1000, 800), bool)
    array[row.points[:, 0], row.points[:, 1]] = True
    for foreground, low, high in ((0.0, 0.0, 0.1), (0.5, 0.4, 0.6), (1.0, 1.0, 1.0)):
        tiles = Tiles(100, 0, foreground)
        cuts = [tiles.cut(array, row, np.random.default_rng(seed)) for seed in range(300)]
        assert {cut.shape for cut in cuts} == {(100, 100)}
        assert low <= np.mean([cut.any() for cut in cuts]) <= high


def test_an_image_without_foreground_is_drawn_anywhere():
    """No points, or none known (a test image), is no fault; draws differ and repeat."""
    array = np.arange(60 * 50).reshape(60, 50)
    for row in (Row(height=60, width=50, points=np.empty((0, 2), int)), Row(height=60, width=50)):
        corners = [Tiles(20).cut(array, row, np.random.default_rng(seed))[0, 0] for seed in (0, 1, 2, 0)]
        assert corners[0] == corners[3] and len(set(corners)) == 3


def test_an_image_and_its_mask_are_cut_alike():
    """The same generator gives the same window of another array, of another type and with channels."""
    row = Row(height=90, width=70, top=5, left=3, points=np.array([[80, 60]]))
    places = np.arange(90 * 70).reshape(90, 70)
    for seed in range(20):
        one, two = (Tiles(32).cut(array, row, np.random.default_rng(seed)) for array in (places, places[:, :, None]))
        assert (one == two[:, :, 0]).all()


def test_overlaps_that_leave_no_step_are_refused():
    """A window must be larger than its overlap."""
    with pytest.raises(DataError, match="overlap"):
        Tiles(16, 16).rows(images())


def test_no_images_are_no_rows():
    """An empty test set has the columns of a full one."""
    empty, full = Tiles(16).rows(images({})), Tiles(16).rows(images())
    assert len(empty) == 0 and list(empty.columns) == list(full.columns)
