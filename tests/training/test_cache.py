"""kit/training/cache.py"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter, namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit import Competition, Multiclass, Segmentation, rle
from kit.offline.batches import FileSources, RowsOf, source_of
from kit.offline.errors import DataError, RunError
from kit.offline.pixels import Preparation
from kit.training import cache
from kit.training.cache import cached_sources

PREPARATION = Preparation((8, 8), (0.5,), (0.5,))


class Arrays(Competition):
    """Sources out of a dict, whatever their shapes and dtypes; counts what is read."""

    slug = "arrays"
    task = Multiclass("label")

    def __init__(self, arrays):
        self.arrays, self.seen = arrays, Counter()

    def read(self, row, data, how):
        self.seen[source_of(row)] += 1
        return self.arrays[source_of(row)]


def frame_of(names):
    return pd.DataFrame({"sample_id": list(names)})


def quiet(line):
    pass


def open_arrays(competition, tmp_path, preparation=PREPARATION, keep="raw", say=quiet, frame=None):
    frame = frame_of(competition.arrays) if frame is None else frame
    return cached_sources(competition, frame, tmp_path, preparation, tmp_path / "cache", keep, say)


def folders(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


def random_arrays():
    draw = np.random.RandomState(0)
    return {
        "z9": draw.randint(0, 255, (5, 7, 3)).astype(np.uint8),
        "a 1": draw.randint(0, 65535, (3, 5)).astype(np.uint16),
        "007": draw.randint(-9, 9, 11).astype(np.int16),
        "wave": draw.rand(13).astype(np.float32),
        "vol": draw.rand(2, 3, 5, 1).astype(np.float16),
        "rows": np.asfortranarray(draw.rand(4, 6).astype(np.float32)),
    }


def test_arrays_come_back_as_they_were_read(tmp_path):
    """Values, native dtype and shape are kept: uint16, one-dimensional, half precision, any memory order; read-only."""
    competition = Arrays(random_arrays())
    sources = open_arrays(competition, tmp_path)
    for at in (4, 0, 3, 1, 5, 2):
        row = RowsOf(frame_of(competition.arrays))(at)
        array, wanted = sources(row), competition.arrays[row.sample_id]
        assert array.dtype == wanted.dtype
        np.testing.assert_array_equal(array, wanted)
        assert array.flags.aligned
        assert not array.flags.writeable
    assert pickle.loads(pickle.dumps(sources))(row).tolist() == competition.arrays["007"].tolist()


@pytest.mark.parametrize("count", [6, 200])
def test_each_source_is_read_once(tmp_path, count):
    """Rows that share a source read it once, the estimate included; another opening reads nothing."""
    competition = Arrays({f"s{number * 7 % 211}": np.full((2, 2), number, np.uint8) for number in range(count)})
    names = [name for name in competition.arrays for _ in range(2)]
    frame = pd.DataFrame({"sample_id": [f"t{number}" for number in range(2 * count)], "source": names})
    for order in (frame, frame.assign(fold=1, label="x", unit_id="u", weight=2.0)):
        sources = open_arrays(competition, tmp_path, frame=order)
        assert set(competition.seen.values()) == {1}
    for at in (0, 2 * count - 1):
        row = RowsOf(frame)(at)
        assert (sources(row) == competition.arrays[row.source]).all()
    assert len(folders(tmp_path)) == 1


def test_folds_and_recipes_share_what_was_read(world):
    """Folds and recipes of other sizes and rates read each of 48 images once between them; other settings reread."""
    world.train([0])
    assert Counter(world.reads()) == Counter(world.ground().frame["sample_id"])
    world.train([1])
    world.train([0], lr=1e-4, image_size=40, batch_size=16, seed=5)
    assert world.reads() == []
    world.train([0], read={"window": 3})
    assert len(world.reads()) == 48


def key_of(world, **changes):
    """The name of the cache that a training would use."""
    ground = world.ground()
    preparation = replace(PREPARATION, **changes)
    args = (ground.competition, ground.frame, ground.data, preparation, world.folder / "cache", "raw", quiet)
    return cached_sources(*args).path.name


def test_what_shapes_pixels_makes_another_cache(world):
    """`read`, what it calls, its settings, cache_size, JPEG and a changed file each do; words and labels do not."""
    keys = [key_of(world), key_of(world, how={"window": 3}), key_of(world, cache_size=10), key_of(world, jpeg=True)]
    world.edit("return opened(data, row.path)", "return opened(data, row.path)[::-1]")
    keys.append(key_of(world))
    world.edit("pixels.read_rgb(data, name)", "pixels.read_rgb(data, name)[:, ::-1]")
    keys.append(key_of(world))
    path = sorted((world.data / "images").iterdir())[5]
    os.utime(path, ns=(1, 1))
    keys.append(key_of(world))
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(1, 1))
    keys.append(key_of(world))
    world.edit('table["path"] =', 'table["series"] = "2"\n        table["path"] =')
    keys.append(key_of(world))
    assert len(set(keys)) == len(keys)
    world.edit("def read(self", "# a comment\n    def read(self")
    world.edit("metrics.accuracy(", "1 - metrics.accuracy(")
    world.edit(",red,", ",rot,", "data/train.csv")
    assert key_of(world) == keys[-1]


def test_jpeg_is_the_same_from_cache_and_files(world):
    """What training takes from a JPEG cache is, bit for bit, what inference makes of the file."""
    ground = world.ground()
    row = RowsOf(ground.frame)
    for changes in ({}, {"cache_size": 13}):
        preparation = replace(PREPARATION, jpeg=True, **changes)
        args = (ground.competition, ground.frame, ground.data, preparation, world.folder / "cache", "jpeg", quiet)
        cached, files = cached_sources(*args), FileSources(ground.competition, ground.data, preparation)
        for at in range(len(ground.frame)):
            np.testing.assert_array_equal(cached(row(at)), files(row(at)))


def test_names_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    """Sources whose names share a hash are hashed under another salt, so that none is given for another."""
    monkeypatch.setattr(cache, "HASH_BYTES", 1)
    competition = Arrays({f"{number * 37 % 101:03d}": np.full(3, number, np.uint8) for number in range(20)})
    names = [*competition.arrays, *reversed(competition.arrays)]
    frame = pd.DataFrame({"sample_id": [f"t{number}" for number in range(40)], "source": names})
    assert len({cache._hash(name, 0) for name in names}) < 20, "they would be mixed up"
    sources = open_arrays(competition, tmp_path, frame=frame)
    assert sources.salt > 0
    assert set(competition.seen.values()) == {1}
    assert [sources(RowsOf(frame)(at))[0] for at in range(40)] == [*range(20), *reversed(range(20))]


def test_a_source_that_the_cache_lacks_is_a_fault(tmp_path):
    """A row that was not there when the cache was made gets no other row's source."""
    sources = open_arrays(Arrays(random_arrays()), tmp_path)
    for name in ("b", "00", "zz"):
        with pytest.raises(KeyError, match=name):
            sources(RowsOf(frame_of([name]))(0))


def test_off_reads_the_files(tmp_path):
    """Without a cache the files are read and nothing is written."""
    competition = Arrays(random_arrays())
    sources = open_arrays(competition, tmp_path, keep="off")
    assert sources(RowsOf(frame_of(competition.arrays))(0)).shape == (5, 7, 3)
    assert not (tmp_path / "cache").exists()


def test_size_and_minutes_are_told_before_the_work(tmp_path):
    """The one line comes when no more than the estimate's share was read, with the count, the size and the place."""
    competition = Arrays({f"s{number}": np.zeros((100, 100), np.uint8) for number in range(300)})
    told = []
    open_arrays(competition, tmp_path, say=lambda line: told.append((line, sum(competition.seen.values()))))
    [(line, read)] = told
    assert read <= 16
    assert "300 sources" in line
    assert "about 3 MB" in line
    assert "minutes" in line
    assert str(tmp_path / "cache") in line


def test_a_disk_without_room_is_refused_with_remedies(tmp_path, monkeypatch):
    """Too little free disk is an error with four remedies, before most sources are read; no cache is left."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 2 * 10**6))
    competition = Arrays({f"s{number}": np.zeros((100, 100), np.uint8) for number in range(300)})
    with pytest.raises(RunError) as caught:
        open_arrays(competition, tmp_path)
    for remedy in ("cache_size", "jpeg", "off", "KIT_CACHE"):
        assert remedy in caught.value.fix
    assert sum(competition.seen.values()) <= 16
    assert folders(tmp_path) == []


def test_a_disk_that_fills_up_says_the_same(tmp_path, monkeypatch):
    """A write that meets a full disk names the remedies and gives the room back; the next try makes the cache."""

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    competition = Arrays(random_arrays())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="KIT_CACHE"):
        open_arrays(competition, tmp_path)
    assert folders(tmp_path) == []
    monkeypatch.undo()
    open_arrays(competition, tmp_path)
    assert len(folders(tmp_path)) == 1


def test_a_half_written_cache_is_made_again(tmp_path):
    """A cache without its index is not read: all sources are read again and come back right."""
    competition = Arrays(random_arrays())
    path = open_arrays(competition, tmp_path).path
    (path / "index.json").unlink()
    (path / "data.bin").write_bytes(b"torn")
    sources = open_arrays(competition, tmp_path)
    assert set(competition.seen.values()) == {2}
    assert (sources(RowsOf(frame_of(competition.arrays))(1)) == competition.arrays["a 1"]).all()


def test_a_part_of_a_cache_is_refused(tmp_path):
    """Bytes that a copy left away are told with the remedy, not read past; without the folder all is read again."""
    competition = Arrays(random_arrays())
    path = open_arrays(competition, tmp_path).path
    content = (path / "data.bin").read_bytes()
    (path / "data.bin").write_bytes(content[:-16])
    with pytest.raises(RunError, match=f"delete {path}"):
        open_arrays(competition, tmp_path)
    shutil.rmtree(path)
    open_arrays(competition, tmp_path)
    assert (path / "data.bin").read_bytes() == content


def test_a_read_that_fails_leaves_no_cache(tmp_path):
    """An error in `read` comes through, and the next opening does not take what was written for whole."""
    competition = Arrays({f"s{number}": np.zeros(4, np.uint8) for number in range(200)})
    good, competition.arrays["s101"] = competition.arrays["s101"], None
    with pytest.raises(AttributeError):
        open_arrays(competition, tmp_path)
    competition.arrays["s101"] = good + 1
    row = RowsOf(frame_of(competition.arrays))
    assert open_arrays(competition, tmp_path)(row(101)).tolist() == [1, 1, 1, 1]


def test_arrays_of_objects_are_refused(tmp_path):
    """Objects cannot be kept as bytes: the error names the source."""
    with pytest.raises(DataError, match="'s1'"):
        open_arrays(Arrays({"s1": np.array([None, "a"], dtype=object)}), tmp_path)


def test_kit_cache_moves_it(tmp_path, monkeypatch):
    """With KIT_CACHE set the cache lies there, under the competition's slug."""
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "elsewhere"))
    sources = open_arrays(Arrays(random_arrays()), tmp_path)
    assert sources.path.parent == tmp_path / "elsewhere" / "arrays"
    assert not (tmp_path / "cache").exists()


TWO = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_cache import Arrays, open_arrays

class Slow(Arrays):
    def read(self, row, data, how):
        time.sleep(0.01)
        with (data / "reads.txt").open("a") as file:
            file.write(row.sample_id + "\\n")
        return super().read(row, data, how)

print("ready", flush=True)
sys.stdin.readline()
open_arrays(Slow({f"s{number}": np.zeros(4, np.uint8) for number in range(60)}), Path(sys.argv[2]))
"""


def test_two_processes_write_it_once(tmp_path):
    """Two processes that want one cache at the same time read each source once between them, and both end well."""
    here = str(Path(__file__).parent)
    start = [sys.executable, "-c", TWO, here, str(tmp_path)]
    both = [subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in both:
        assert child.stdout.readline() == "ready\n"
    for child in both:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in both:
        child.communicate(timeout=60)
    assert [child.returncode for child in both] == [0, 0]
    assert sorted((tmp_path / "reads.txt").read_text().split()) == sorted(f"s{number}" for number in range(60))


class Masks(Arrays):
    """Sources with a mask each, in the column `mask`; counts what is painted."""

    task = Segmentation(["mask"])

    def read_target(self, row, data, how):
        self.seen[f"mask of {source_of(row)}"] += 1
        return super().read_target(row, data, how)


def test_targets_are_cached_beside_their_sources(tmp_path):
    """A mask is painted once for all rows of its source, stays apart from the source, and is as it was."""
    masks = {name: np.random.default_rng(at).random((6, 9)) < 0.4 for at, name in enumerate(("z", "00", "a"))}
    competition = Masks({name: np.zeros((6, 9), np.uint8) for name in masks})
    rows = [{"sample_id": f"{name}{tile}", "source": name} for name in masks for tile in (0, 1)]
    frame = pd.DataFrame(rows)
    frame = frame.assign(height=6, width=9, mask=[rle.encode(masks[name]) for name in frame["source"]])

    def opened(of, what, keep="raw"):
        return cached_sources(competition, of, tmp_path, PREPARATION, tmp_path / "cache", keep, quiet, what)

    sources, targets = opened(frame, "read"), opened(frame, "read_target")
    again, row = opened(frame, "read_target"), RowsOf(frame)
    for at in range(len(frame)):
        assert (targets(row(at))[:, :, 0] == masks[row(at)["source"]]).all() and not sources(row(at)).any()
    assert again.path == targets.path != sources.path
    assert set(competition.seen.values()) == {1}
    corrected = frame.assign(mask=frame["mask"].where(frame["source"] != "a", "1 1"))
    assert opened(corrected, "read").path == sources.path
    assert opened(corrected, "read_target").path != targets.path
    assert (opened(frame, "read_target", "off")(row(0))[:, :, 0] == masks["z"]).all()


def test_targets_in_files_are_read_again_when_they_change(tmp_path):
    """A clean page that was mended has another cache, though its name stayed."""

    class Pages(Competition):
        slug, task = "pages", Multiclass("clean")

        def read(self, row, data, how):
            return np.zeros((4, 4, 3), np.uint8)

        def read_target(self, row, data, how):
            return np.full((4, 4, 1), Path(row["clean"]).stat().st_size, np.uint8)

    page = tmp_path / "page.png"
    frame = pd.DataFrame({"sample_id": ["p"], "clean": [str(page)]})
    seen = []
    for content in (b"dirty", b"clean!!"):
        page.write_bytes(content)
        cached = cached_sources(
            Pages(), frame, tmp_path, PREPARATION, tmp_path / "cache", "raw", lambda line: None, what="read_target"
        )
        seen.append(int(cached(RowsOf(frame)(0)).max()))
    assert seen == [5, 7]
