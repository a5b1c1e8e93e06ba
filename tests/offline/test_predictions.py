"""kit/offline/predictions.py"""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from kit.offline.errors import DataError, KitError, RunError
from kit.offline.predictions import (
    Gallery,
    Map,
    Maps,
    Predictions,
    blend,
    join,
    load_predictions,
    write_maps,
)

IDS = ["z9", "007", "a", "ü b", "7"]
COLUMNS = ("cat", "10", "9")


def table(ids=IDS, columns=COLUMNS, seed=0):
    values = np.random.default_rng(seed).random((len(ids), len(columns)), dtype=np.float32)
    return Predictions(ids, values, columns)


def shuffled(predictions, seed=1):
    """The same table, rows and columns in another order."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(predictions)), rng.permutation(len(predictions.columns))
    names = tuple(predictions.columns[at] for at in columns)
    return Predictions(predictions.ids[rows], predictions.values[rows][:, columns], names)


def cells(predictions):
    return predictions.frame().stack().to_dict()


def test_values_are_float32_of_the_shape_of_ids_and_columns():
    """Whatever dtype comes in, values are float32; a shape that does not fit is refused."""
    made = Predictions(["a"], [[1, 2]], ("x", "y"))
    assert made.values.dtype == np.float32
    with pytest.raises(DataError, match=r"\(1, 2\)"):
        Predictions(["a", "b"], [[1, 2]], ("x", "y"))
    with pytest.raises(DataError):
        Predictions(["a", "b"], [1, 2], ("x",))


def test_repeated_ids_are_refused_by_name():
    """An id twice is refused, naming it."""
    with pytest.raises(DataError, match="'b'"):
        table(["b", "a", "b"])


def test_align_gives_the_rows_asked_for_by_id():
    """Rows come in the order asked for, each with its own values; a part of them will do."""
    one = table()
    aligned = one.align(["7", "z9"])
    assert aligned.ids.tolist() == ["7", "z9"]
    assert (aligned.values == one.values[[4, 0]]).all()
    assert len(one.align([])) == 0


def test_align_names_ids_that_are_not_there():
    """ "7" is there, "07" is not, and the error says so."""
    with pytest.raises(DataError, match="'07'"):
        table().align(["7", "07"])


def test_only_keeps_the_order_of_the_table():
    """Ids that are not there are no matter, the order is the table's."""
    assert table().only(["a", "nobody", "z9"]).ids.tolist() == ["z9", "a"]


def test_join_refuses_overlaps():
    """A row predicted by two folds is refused, naming it."""
    with pytest.raises(DataError, match="'007'"):
        Predictions.join([table(["a", "007"]), table(["007", "b"])])


def test_join_matches_columns_by_name():
    """Parts with permuted columns join by name, and a column that a part lacks is NaN in its rows alone."""
    first, second = table(["b", "a"]), table(["d", "c"], ("9", "cat"), seed=3)
    joined = join([first, second])
    assert joined.ids.tolist() == ["b", "a", "d", "c"]
    assert joined.columns == COLUMNS
    frame = joined.frame()
    assert (frame.loc[["d", "c"], ["9", "cat"]].to_numpy() == second.values).all()
    assert frame["10"].isna().tolist() == [False, False, True, True]


def test_blend_matches_rows_and_columns():
    """The blend of a table with its shuffled self is the table, cell by cell."""
    one = table()
    assert cells(blend([one, shuffled(one)], [0.3, 0.7])) == pytest.approx(cells(one))


def test_blend_is_the_weighted_mean():
    """Weights need not sum to one; (1 x 1 + 3 x 5) / 4 = 4."""
    parts = [Predictions(["a"], [[1.0]], ("y",)), Predictions(["a"], [[5.0]], ("y",))]
    assert blend(parts, [1, 3]).values.tolist() == [[4.0]]


def test_blend_leaves_nan_out():
    """A cell that a part lacks is the mean of the others; one that all lack stays NaN."""
    nan = float("nan")
    first = Predictions(["b", "a"], [[1.0, nan], [2.0, nan]], ("x", "y"))
    second = Predictions(["a", "b"], [[nan, 8.0], [3.0, nan]], ("x", "y"))
    np.testing.assert_array_equal(blend([first, second], [1, 1]).align(["a", "b"]).values, [[2, 8], [2, nan]])


@pytest.mark.parametrize("weights", [[1], [0, 0], [1, -1]])
def test_blend_refuses_weights_without_meaning(weights):
    """A weight per part and a positive sum are required."""
    with pytest.raises(DataError, match="weight"):
        blend([table(), table()], weights)


def test_blend_refuses_other_rows():
    """Parts over other ids are refused, naming the ids."""
    with pytest.raises(DataError, match="'7', 'b'"):
        blend([table(), table([*IDS[:-1], "b"])], [1, 1])


def test_mean_by_averages_the_samples_of_a_unit():
    """Units come in order of appearance; the means do not depend on where the rows stand."""
    one = Predictions(["p", "c", "a", "b"], [[1.0], [2.0], [4.0], [6.0]], ("y",))
    unit = {"a": "u2", "b": "u1", "c": "u1", "p": "u2"}
    mean = one.mean_by(unit)
    assert mean.ids.tolist() == ["u2", "u1"]
    assert mean.values.tolist() == [[2.5], [4.0]]
    assert cells(shuffled(one).mean_by(unit)) == cells(mean)


def test_mean_by_of_single_samples_keeps_values_exactly():
    """Where each unit has one sample, only the names change."""
    one = table()
    renamed = one.mean_by({name: f"u-{name}" for name in IDS})
    assert renamed.ids.tolist() == [f"u-{name}" for name in IDS]
    assert (renamed.values == one.values).all()


def test_ranks_of_one_row_alone_are_its_ranks_among_all():
    """A row ranked alone, as in a hidden test set, gets what it gets in company."""
    one = table([f"r{n}" for n in range(50)])
    quantiles = one.quantiles_of(101)
    whole = one.ranked(quantiles)
    for name in ("r7", "r41"):
        assert (one.align([name]).ranked(quantiles).values == whole.align([name]).values).all()


def test_ranks_are_quantiles_of_the_reference():
    """The reference's ends are 0 and 1, its middle a half, values outside are clipped, the scale does not matter."""
    reference = Predictions([f"r{n}" for n in range(101)], np.arange(101.0)[::-1, None] / 100, ("y",))
    asked = Predictions(["lo", "mid", "hi", "out"], [[0.0], [0.5], [1.0], [7.0]], ("y",))
    ranks = asked.ranked(reference.quantiles_of()).values[:, 0]
    np.testing.assert_allclose(ranks, [0, 0.5, 1, 1], atol=1e-6)
    squared = Predictions(reference.ids, reference.values**2, ("y",)).quantiles_of()
    low = Predictions(["mid"], [[0.25]], ("y",)).ranked(squared).values
    np.testing.assert_allclose(low, 0.5, atol=1e-3)


def test_ties_share_a_rank():
    """Of ten values nine are equal: their rank is the middle of the places they hold, not an end."""
    values = [[0.0]] * 9 + [[1.0]]
    quantiles = Predictions([f"r{n}" for n in range(10)], values, ("y",)).quantiles_of(10)
    rank = Predictions(["a"], [[0.0]], ("y",)).ranked(quantiles).values[0, 0]
    assert rank == pytest.approx(4 / 9)


def test_saved_tables_come_back_without_pickle(tmp_path):
    """Ids, values (NaN too) and columns come back bit for bit from a file that holds no pickled object."""
    one = Predictions(IDS, np.where(table().values > 0.5, np.nan, table().values), COLUMNS)
    one.save(tmp_path / "oof.npz")
    back = load_predictions(tmp_path / "oof")
    assert isinstance(back, Predictions)
    assert back.ids.tolist() == IDS
    assert back.columns == COLUMNS
    np.testing.assert_array_equal(back.values, one.values)
    with np.load(tmp_path / "oof.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} == {"U", "f"}


def test_a_pickled_table_is_refused(tmp_path):
    """A file that hides an object array, which unpickling would run, does not load."""
    np.savez(tmp_path / "oof.npz", ids=np.array(["a"], object), values=np.ones((1, 1)), columns=np.array(["y"]))
    with pytest.raises(RunError, match="allow_pickle"):
        Predictions.load(tmp_path / "oof.npz")


def test_predictions_that_are_not_there_are_an_error(tmp_path):
    """Neither file nor folder: both places are named."""
    with pytest.raises(KitError, match=r"oof\.npz"):
        load_predictions(tmp_path / "oof")


class Loads:
    """Maps from constants, counting loads and how many maps are alive at once."""

    def __init__(self, values, columns=("mask",), size=(8, 8)):
        self.count = self.alive = self.most = 0
        self.maps = Maps({name: self._loader(value, size) for name, value in values.items()}, columns)

    def _loader(self, value, size):
        counter = self

        class Counted(Map):
            def __del__(self):
                counter.alive -= 1

        def load():
            self.count += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            return Counted(np.full((len(self.maps.columns), 4, 4), value, np.float32), *size)

        return load


def test_maps_are_loaded_one_at_a_time_and_only_when_read(tmp_path):
    """Align, only, join, blend and mean_by load nothing; saving loads each map once and drops it for the next."""
    loads = Loads(dict.fromkeys(IDS, 0.2))
    maps = Maps.join([loads.maps.only(IDS[:2]), loads.maps.align(IDS[2:])])
    blended = blend([maps, maps.align(IDS[::-1])], [1, 1])
    maps.mean_by(dict.fromkeys(IDS, "u"))
    assert loads.count == 0
    maps.save(tmp_path / "maps")
    assert loads.count == len(IDS)
    assert loads.most <= 2
    blended.read("a")
    assert loads.count == len(IDS) + 2
    assert loads.most <= 2


def test_maps_are_written_as_they_are_made(tmp_path):
    """Streaming writes each map before it asks for the next, so memory holds one, however many there are."""
    seen = []

    def stream():
        for name in IDS:
            seen.append(len(list((tmp_path / "maps").glob("*.npy"))))
            yield name, Map(np.zeros((1, 2, 2), np.float32), 2, 2)

    write_maps(tmp_path / "maps", stream(), ["mask"])
    assert seen == list(range(len(IDS)))


def test_maps_come_back_at_eight_bits(tmp_path):
    """Saved values are within 1/510 of what they were, with ids of any letters, columns and native sizes."""
    rng = np.random.default_rng(0)
    maps = {name: Map(rng.random((2, 3, 5), dtype=np.float32), 30 + at, 50) for at, name in enumerate(IDS)}
    Maps({name: lambda one=one: one for name, one in maps.items()}, ("a", "b")).save(tmp_path / "oof")
    back = load_predictions(tmp_path / "oof")
    assert isinstance(back, Maps)
    assert back.ids.tolist() == IDS
    assert back.columns == ("a", "b")
    for name, one in maps.items():
        assert np.abs(back.read(name).values - one.values).max() <= 0.5 / 255 + 1e-6
        assert (back.read(name).height, back.read(name).width) == (one.height, one.width)


def test_no_flipped_bit_changes_a_table(tmp_path):
    """One in every byte of the file: it is refused by its name, or it stood where nothing is read from."""
    path, flip = tmp_path / "oof.npz", np.random.RandomState(0)
    before = table()
    before.save(path)
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << flip.randint(8)]) + whole[at + 1 :])
        try:
            assert Predictions.load(path).frame().equals(before.frame())
        except RunError as error:
            assert "oof.npz" in error.expected
            refused += 1
    assert refused > len(whole) / 2


def test_no_flipped_bit_changes_a_map(tmp_path):
    """Maps are arrays without checksums of their own: the index has them."""
    Loads({"a": 0.5, "b": 0.25}).maps.save(tmp_path / "oof")
    path = tmp_path / "oof" / "000001.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-5] + bytes([content[-5] ^ 8]) + content[-4:])
    maps = Maps.load(tmp_path / "oof")
    assert maps.read("a").values.max() > 0.4
    with pytest.raises(RunError, match=r"000001\.npy"):
        maps.read("b")


def test_maps_written_in_part_are_not_there(tmp_path):
    """A stream that breaks leaves no index, not even that of an earlier run over the same folder."""

    def broken():
        yield "a", Map(np.ones((1, 2, 2), np.float32), 2, 2)
        raise RuntimeError("power cut")

    Loads({"a": 0.0, "b": 0.0}).maps.save(tmp_path / "oof")
    with pytest.raises(RuntimeError, match="power cut"):
        write_maps(tmp_path / "oof", broken(), ["mask"])
    with pytest.raises(KitError):
        load_predictions(tmp_path / "oof")


def test_native_maps_have_the_size_of_the_image():
    """Values are spread over the whole native area, bilinear: a ramp stays one, a constant too, channels stay apart."""
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32), (4, 4))
    native = Map(np.stack([ramp, np.full((4, 4), 0.5, np.float32)]), 6, 8).native()
    assert native.shape == (2, 6, 8)
    assert (native[0] == native[0][0]).all()
    np.testing.assert_allclose(native[0][0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert (native[1] == 0.5).all()


def test_blended_maps_of_other_grids_take_the_first_ones():
    """A member with a finer grid is brought to the first one's; the native size stays."""
    coarse = Maps({"a": lambda: Map(np.full((1, 2, 2), 0.2, np.float32), 9, 7)}, ["mask"])
    fine = Maps({"a": lambda: Map(np.full((1, 8, 8), 0.8, np.float32), 9, 7)}, ["mask"])
    one = blend([coarse, fine], [1, 3]).read("a")
    np.testing.assert_allclose(one.values, np.full((1, 2, 2), 0.65), rtol=1e-6)
    assert (one.height, one.width) == (9, 7)


def test_blended_maps_are_matched_by_id():
    """Members in another order give the same blend."""
    first = Loads({"a": 0.0, "b": 1.0}).maps
    second = Loads({"b": 1.0, "a": 0.0}).maps
    assert {name: float(blend([first, second], [1, 1]).read(name).values.mean()) for name in "ab"} == {"a": 0, "b": 1}


@pytest.mark.parametrize("together", [lambda parts: blend(parts, [1, 1]), join])
def test_maps_of_other_columns_do_not_mix(together):
    """Channels have no names inside a map, so parts whose columns differ, or only their order, are refused."""
    ids = {blend: ("a", "a"), join: ("a", "b")}[join if together is join else blend]
    parts = [Loads({name: 0.0}, columns).maps for name, columns in zip(ids, [("x", "y"), ("y", "x")], strict=True)]
    with pytest.raises(DataError, match="columns"):
        together(parts)


def test_maps_refuse_what_tables_refuse():
    """Overlaps, unknown ids and blends of other rows are errors that name the ids."""
    maps = Loads({"a": 0.0, "b": 0.0}).maps
    with pytest.raises(DataError, match="'b'"):
        join([maps, Loads({"b": 0.0}).maps])
    with pytest.raises(DataError, match="'c'"):
        maps.align(["a", "c"])
    with pytest.raises(DataError, match="'c'"):
        maps.read("c")
    with pytest.raises(DataError, match="'c'"):
        blend([maps, Loads({"a": 0.0, "c": 0.0}).maps], [1, 1])


def test_maps_are_averaged_by_unit():
    """Samples of a unit are averaged, a unit of one sample stays as it is."""
    maps = Loads({"c": 0.25, "a": 1.0, "b": 0.75}).maps.mean_by({"a": "u", "b": "v", "c": "v"})
    assert maps.ids.tolist() == ["v", "u"]
    assert maps.read("v").values.max() == 0.5
    assert maps.read("u").values.min() == 1.0


def test_a_gallery_comes_back(tmp_path):
    """Labels of any letters and float32 embeddings survive the file; its bytes do not depend on when it is written."""
    gallery = Gallery(("w_10", "w ü", "w_10"), np.random.default_rng(0).random((3, 4)).astype(np.float32))
    gallery.save(tmp_path / "a.safetensors")
    gallery.save(tmp_path / "b.safetensors")
    back = Gallery.load(tmp_path / "a.safetensors")
    assert back.labels == gallery.labels
    assert (back.values == gallery.values).all()
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_index_of_maps_is_plain_json(tmp_path):
    """Anyone can read which file belongs to which id, its native size and its checksum."""
    Loads({"ü/1": 0.0}).maps.save(tmp_path / "oof")
    index = json.loads((tmp_path / "oof" / "index.json").read_text())
    assert index["maps"] == {"ü/1": ["000000.npy", 8, 8, zlib.crc32((tmp_path / "oof" / "000000.npy").read_bytes())]}


def test_the_largest_of_a_unit():
    """Column by column, units in order of appearance, however rows lie."""
    values = np.array([[0.1, 0.9], [0.5, 0.2], [0.4, 0.3]], np.float32)
    most = Predictions(np.array(["c", "a", "b"]), values, ("x", "y")).max_by({"a": "v", "b": "u", "c": "v"})
    assert most.ids.tolist() == ["v", "u"]
    assert most.values.tolist() == np.array([[0.5, 0.9], [0.4, 0.3]], np.float32).tolist()
