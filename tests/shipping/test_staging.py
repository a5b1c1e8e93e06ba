"""Staged test sets hold what a host mounts, and the spoilt one what hidden sets bring."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from kit.offline.errors import DataError, ImageError
from kit.offline.frames import read_table
from kit.offline.pixels import read_rgb, size_of
from kit.shipping.staging import spoil, stage_hidden
from tests.shipping.conftest import World


def test_where_no_test_row_is_shown_the_adapter_must_stage(world: World, tmp_path: Path) -> None:
    """The default stage_test copies into the folder of the host's test files, and here there is none to see."""
    data = Path(shutil.copytree(world.data, tmp_path / "data"))
    shutil.rmtree(data / "test")
    (data / "test").mkdir()
    with pytest.raises(DataError, match="override stage_test"):
        stage_hidden(world.competition, world.ground.frame, data, tmp_path / "staged", 5)


def test_each_file_is_spoilt_in_its_own_way(world: World, tmp_path: Path) -> None:
    """Half a file, an empty one and 16 bits cannot be read; grey, CMYK, a turned one and one pixel can."""
    staged = tmp_path / "staged"
    rows = stage_hidden(world.competition, world.ground.frame, world.data, staged, 20)
    whole = {name: (staged / "test" / f"{name}.png").read_bytes() for name in rows["sample_id"]}
    order = read_table(staged / "sample_submission.csv")["tile"].tolist()
    spoilt = spoil(world.competition, staged)
    befell = spoilt.befell
    assert spoilt.needed == {}
    assert sorted(befell.values()) == sorted(
        ["truncated", "zero-byte", "grey", "CMYK", "16-bit", "turned by EXIF", "one-pixel"]
    )  # test_frame lists files: a missing one would be no row at all
    refused = set()
    for name, kind in befell.items():
        try:
            image = read_rgb(staged, f"test/{name}.png")
            assert image.shape == ((1, 1, 3) if kind == "one-pixel" else (20, 24, 3))
        except ImageError:
            refused.add(kind)
    assert refused == {"truncated", "zero-byte", "16-bit"}
    turned = next(name for name, kind in befell.items() if kind == "turned by EXIF")
    with Image.open(staged / "test" / f"{turned}.png") as image:
        assert image.size == (20, 24)  # as it lies in the file: width, height
    assert all((staged / "test" / f"{name}.png").read_bytes() == whole[name] for name in set(whole) - set(befell))
    shuffled = read_table(staged / "sample_submission.csv")["tile"].tolist()
    assert shuffled != order and sorted(shuffled) == sorted(order)


def test_a_file_that_the_rows_come_from_stays_whole(world: World, tmp_path: Path) -> None:
    """Where test_frame asks each image for its size, half a file or none leaves no rows to answer: that is told."""
    staged = tmp_path / "staged"
    stage_hidden(world.competition, world.ground.frame, world.data, staged, 20)
    competition = type(world.competition)()
    rows = type(competition).test_frame
    competition.test_frame = lambda data: rows(competition, data).assign(  # type: ignore[method-assign]
        height=lambda frame: [size_of(data, name)[0] for name in frame["path"]]
    )
    spoilt = spoil(competition, staged)
    assert set(spoilt.needed) == {"truncated", "zero-byte"} and "grey" in spoilt.befell.values()
    for name in spoilt.needed.values():
        assert (staged / name).read_bytes() == (world.data / "train" / Path(name).name).read_bytes()


def test_the_staged_test_set_tells_no_label(world: World, tmp_path: Path) -> None:
    """Only what a host mounts: images and a constant sample; the same rows each time, not in the order of train."""
    frame = world.ground.frame
    rows = stage_hidden(world.competition, frame, world.data, tmp_path / "one", 12)
    again = stage_hidden(world.competition, frame, world.data, tmp_path / "two", 12)
    pd.testing.assert_frame_equal(rows, again)
    assert len(rows) == 12
    files = {path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert files == {"sample_submission.csv", *(f"test/{name}.png" for name in rows["sample_id"])}
    assert read_table(tmp_path / "one" / "sample_submission.csv")["kind"].nunique() == 1
    positions = [frame["sample_id"].tolist().index(name) for name in rows["sample_id"]]
    assert positions != sorted(positions)
    everything = stage_hidden(world.competition, frame, world.data, tmp_path / "all")
    assert len(everything) == 40


def test_units_are_staged_whole(world: World, tmp_path: Path) -> None:
    """A study of several images is one unit for the host: half of it would be another test set."""
    pairs = world.ground.frame.assign(unit_id=[f"unit{at // 4}" for at in range(40)])
    competition = type(world.competition)()
    competition.stage_test = lambda rows, data, out: rows.to_csv(out / "rows.csv", index=False)  # type: ignore[method-assign]
    competition.test_frame = lambda data: read_table(data / "rows.csv")  # type: ignore[method-assign]
    rows = stage_hidden(competition, pairs, world.data, tmp_path / "staged", 10)
    assert len(rows) == 12 and (rows["unit_id"].value_counts() == 4).all()


def test_unscored_rows_are_not_staged(world: World, tmp_path: Path) -> None:
    """They train and are never scored, at home as in the rehearsal."""
    frame = world.ground.frame.assign(scored=[at >= 30 for at in range(40)])
    rows = stage_hidden(world.competition, frame, world.data, tmp_path / "staged")
    assert set(rows["sample_id"]) == set(frame["sample_id"].iloc[30:])


def test_staging_that_the_adapter_does_not_read_back_is_told(world: World, tmp_path: Path) -> None:
    """Else the rehearsal would score other rows than it staged."""
    competition = type(world.competition)()
    competition.stage_test = (
        lambda rows, data, out: type(competition).stage_test(  # type: ignore[method-assign]
            world.competition, rows.iloc[1:], data, out
        )
    )
    with pytest.raises(DataError, match="stage_test"):
        stage_hidden(competition, world.ground.frame, world.data, tmp_path / "staged", 5)
