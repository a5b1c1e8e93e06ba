"""A competition's files come whole or not at all, go on where they broke off, and are fetched once."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest

from kit.offline.errors import DataError, KaggleError
from kit.shipping import fetch as module
from kit.shipping.fetch import fetch
from tests.fake_kaggle import Competition, FakeKaggle, Trouble, zipped

SLUG = "toy-comp"
NOISE = random.Random(7).randbytes(4_000_000)  # incompressible: a cut leaves whole chunks on disk
FILES = {
    "train/007.png": NOISE,
    "test/0a.png": b"\x89PNG",
    "train.csv.zip": zipped({"train.csv": b"id,label\n007,1\n"}),
    "sample_submission.csv": b"id,label\n0a,0\n",
}
HALF = len(zipped(FILES)) // 2
LOOKED_AT = Trouble(keep=0)
"""Of one answer the client reads the headers alone, before each download that goes on, and the kit before the first."""
UNPACKED = {
    "train/007.png": NOISE,
    "test/0a.png": b"\x89PNG",
    "train.csv": b"id,label\n007,1\n",
    "sample_submission.csv": b"id,label\n0a,0\n",
}


@pytest.fixture
def server(kaggle_server: FakeKaggle) -> FakeKaggle:
    """With a competition whose rules are accepted."""
    kaggle_server.competitions[SLUG] = Competition(SLUG, dict(FILES))
    return kaggle_server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that is not there yet."""
    return tmp_path / "competitions" / "toy" / "data"


def quietly(line: str) -> None:
    """Say nothing."""


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != module.RECORD
    }


def test_files_are_downloaded_and_unpacked(server: FakeKaggle, data: Path) -> None:
    """Wrapped tables too; nothing is left beside the data folder."""
    assert fetch(SLUG, data, say=quietly) == data
    assert contents(data) == UNPACKED
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def test_the_second_time_there_is_nothing_to_do(server: FakeKaggle, data: Path) -> None:
    """Kaggle is asked whether its files are others, and no file is downloaded."""
    fetch(SLUG, data, say=quietly)
    said: list[str] = []
    fetch(SLUG, data, say=said.append)
    assert "nothing to do" in said[0] and len(said) == 1
    (data / "train.csv").unlink()
    fetch(SLUG, data, say=quietly)
    assert contents(data) == UNPACKED
    server.competitions[SLUG].files["train.csv.zip"] = zipped({"train.csv": b"id,label\n007,0\n"})
    fetch(SLUG, data, say=quietly)
    assert contents(data) == {**UNPACKED, "train.csv": b"id,label\n007,0\n"}


def test_files_of_ones_own_stay(server: FakeKaggle, data: Path) -> None:
    """What lies in the data folder under other names is not touched; the host's files are replaced."""
    (data / "train").mkdir(parents=True)
    (data / "train" / "mine.png").write_bytes(b"mine")
    (data / "train.csv").write_text("half")
    fetch(SLUG, data, say=quietly)
    assert contents(data) == {**UNPACKED, "train/mine.png": b"mine"}


def test_rules_that_were_not_accepted_are_told_with_their_address(server: FakeKaggle, data: Path) -> None:
    """Kaggle's 403, as what it means; then the same command works."""
    server.competitions[SLUG].accepted = False
    with pytest.raises(KaggleError, match=f"https://www.kaggle.com/competitions/{SLUG}/rules") as caught:
        fetch(SLUG, data, say=quietly)
    assert "rules you accepted" in caught.value.expected and "You must accept" in caught.value.found
    assert not data.exists()
    server.competitions[SLUG].accepted = True
    fetch(SLUG, data, say=quietly)
    assert contents(data) == UNPACKED


def test_an_interrupted_download_goes_on(server: FakeKaggle, data: Path) -> None:
    """Cut at half, twice: the rest is asked for by its range, and the file is whole."""
    server.trouble["GET"] += [LOOKED_AT, Trouble(keep=HALF), LOOKED_AT, Trouble(keep=HALF // 2 + 1000)]
    fetch(SLUG, data, say=quietly)
    assert contents(data) == UNPACKED
    assert len(server.ranges) == 2 and all(int(asked[6:-1]) > 1_000_000 for asked in server.ranges)


def test_a_download_that_is_cut_for_good_leaves_no_half_file(
    server: FakeKaggle, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No data folder, an error with what to do, and the next command goes on."""
    monkeypatch.setattr("kit.shipping.kaggle.TRIES", 2)
    server.trouble["GET"] += [LOOKED_AT, Trouble(keep=HALF), LOOKED_AT, Trouble(keep=10)]
    with pytest.raises(KaggleError, match="run the same command again"):
        fetch(SLUG, data, say=quietly)
    assert not data.exists()
    server.ranges.clear()
    fetch(SLUG, data, say=quietly)
    assert contents(data) == UNPACKED and len(server.ranges) == 1


def test_files_that_changed_meanwhile_are_not_mixed(
    server: FakeKaggle, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the old archive is not gone on with by half of a new one."""
    monkeypatch.setattr("kit.shipping.kaggle.TRIES", 1)
    server.trouble["GET"] += [LOOKED_AT, Trouble(keep=HALF)]
    with pytest.raises(KaggleError):
        fetch(SLUG, data, say=quietly)
    server.competitions[SLUG].files["train/007.png"] = NOISE[::-1]
    fetch(SLUG, data, say=quietly)
    assert contents(data) == {**UNPACKED, "train/007.png": NOISE[::-1]}


@pytest.mark.parametrize("name", ["../outside.csv", "/tmp/outside.csv", "a\\b.csv"])
def test_a_hostile_archive_leaves_nothing(server: FakeKaggle, data: Path, name: str) -> None:
    """The kit's own extractor unpacks, not the client's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"x")
    server.DownloadDataFiles = lambda user, body: server._link(f"{SLUG}.zip", buffer.getvalue())  # type: ignore[method-assign]
    with pytest.raises(DataError, match="plain files"):
        fetch(SLUG, data, say=quietly)
    assert not data.exists()
    assert not [path for path in data.parents[2].rglob("*outside*") if path.suffix == ".csv"]


def test_a_full_disk_is_told_before_the_download(
    server: FakeKaggle, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kaggle says how large the archive is."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match="free disk for the download"):
        fetch(SLUG, data, say=quietly)
