"""Archives from outside: what is sound comes out as it went in, and every attack is refused and leaves nothing."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from kit.offline.errors import DataError
from kit.shipping.unpack import Caps, unpack, unpack_nested

SMALL = Caps(total=50_000, file=40_000, count=20, ratio=20, slack=5_000)


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name  # ZipInfo would mend it
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def archive(path: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as content:
        for info, data in entries:
            with pytest.warns(UserWarning) if info.filename in content.namelist() else _nothing():
                content.writestr(info, data)
    return path


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def squeezed(name: str) -> zipfile.ZipInfo:
    """An entry in a format whose decoder raises errors of its own."""
    info = entry(name)
    info.compress_type = zipfile.ZIP_BZIP2
    return info


def encrypted(path: Path) -> Path:
    """An archive whose entry says that it is encrypted."""
    archive(path, (entry("a.csv"), b"id"))
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= 1
    path.write_bytes(content)
    return path


def lying(path: Path, said: int, data: bytes) -> Path:
    """An archive whose headers give `said` as the size of what unpacks to `data`."""
    archive(path, (entry("a.csv"), data))
    content = path.read_bytes()
    sizes = struct.pack("<I", len(data))
    assert content.count(sizes) == 2
    path.write_bytes(content.replace(sizes, struct.pack("<I", said)))
    return path


ATTACKS = {
    "parent": [(entry("../out.csv"), b"x")],
    "parent inside": [(entry("a/../../out.csv"), b"x")],
    "absolute": [(entry("/tmp/out.csv"), b"x")],
    "drive": [(entry("C:out.csv"), b"x")],
    "backslash": [(entry("..\\out.csv"), b"x")],
    "dot": [(entry("./out.csv"), b"x")],
    "empty part": [(entry("a//out.csv"), b"x")],
    "control": [(entry("a\nb.csv"), b"x")],
    "link": [(entry("a", stat.S_IFLNK | 0o777), b"/etc")],
    "link then file": [(entry("a", stat.S_IFLNK | 0o777), b".."), (entry("a/out.csv"), b"x")],
    "device": [(entry("a", stat.S_IFCHR | 0o666), b"")],
    "pipe": [(entry("a", stat.S_IFIFO | 0o666), b"")],
    "twice": [(entry("a.csv"), b"1"), (entry("a.csv"), b"2")],
    "case": [(entry("a.csv"), b"1"), (entry("A.CSV"), b"2")],
    "case of folders": [(entry("a/1.csv"), b"1"), (entry("A/2.csv"), b"2")],
    "accents": [(entry("\u00e9.csv"), b"1"), (entry("e\u0301.csv"), b"2")],
    "file and folder": [(entry("a"), b"1"), (entry("a/b.csv"), b"2")],
    "folder and file": [(entry("a/b.csv"), b"2"), (entry("A"), b"1")],
    "many": [(entry(f"{at}.csv"), b"") for at in range(21)],
    "large file": [(entry("a.csv"), bytes(40_001))],
    "large in all": [(entry(f"{at}.csv"), bytes(30_000)) for at in range(2)],
    "bzip2": [(squeezed("a.csv"), b"id")],
    "bomb": [(entry("a.csv"), bytes(30_000))],
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_every_attack_is_refused_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """Names that leave the folder or meet on some disk, links, devices, bombs: refused, with no file beside."""
    path = archive(tmp_path / "a.zip", *ATTACKS[kind])
    with pytest.raises(DataError, match="a\\.zip"):
        unpack(path, tmp_path / "deep" / "out", SMALL)
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["a.zip", "deep"]


@pytest.mark.parametrize("said", [10, 3_000_000_000])
def test_the_header_is_not_believed(tmp_path: Path, said: int) -> None:
    """A header that says less or more than unpacks is refused; bytes are counted as they come."""
    path = lying(tmp_path / "a.zip", said, bytes(30_000))
    with pytest.raises(DataError):
        unpack(path, tmp_path / "out", Caps())
    assert not (tmp_path / "out").exists()


def test_what_is_encrypted_or_broken_is_refused(tmp_path: Path) -> None:
    """A password, another format, a cut, a flipped bit."""
    sound = archive(tmp_path / "sound.zip", (entry("a.csv"), bytes(range(256)) * 40)).read_bytes()
    flipped = bytearray(sound)
    flipped[60] ^= 1
    faulty = [encrypted(tmp_path / "encrypted.zip")]
    for name, content in {"html.zip": b"<html>", "cut.zip": sound[:-30], "flipped.zip": bytes(flipped)}.items():
        (tmp_path / name).write_bytes(content)
        faulty.append(tmp_path / name)
    for path in faulty:
        with pytest.raises(DataError, match=path.stem):
            unpack(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_sound_archive_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Folders, empty files, odd names; a table of constants packs a thousandfold and is no bomb."""
    files = {
        "train/007é.png": b"\x89PNG",
        "train/a b.png": b"",
        "train.csv": b"id,label\n",
        "const.csv": bytes(900_000),
    }
    path = archive(
        tmp_path / "a.zip", (entry("train/", stat.S_IFDIR | 0o755), b""), *((entry(n), c) for n, c in files.items())
    )
    assert unpack(path, tmp_path / "out") == sorted(files)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files


def test_wrapped_files_are_unwrapped(tmp_path: Path) -> None:
    """train.csv.zip becomes the table, train.zip a folder, whether or not it holds one; others stay where they are."""
    archive(tmp_path / "train.csv.zip", (entry("train.csv"), b"id\n"))
    archive(tmp_path / "train.zip", (entry("train/1.png"), b"1"))
    archive(tmp_path / "test.zip", (entry("2.png"), b"2"), (entry("3.png"), b"3"))
    archive(tmp_path / "both.csv.zip", (entry("both.csv"), b"of the archive"))
    (tmp_path / "both.csv").write_text("of the host")
    unpack_nested(tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"train.csv", "train/1.png", "test/2.png", "test/3.png", "both.csv", "both.csv.zip"}
    assert (tmp_path / "both.csv").read_text() == "of the host"


def test_a_wrapped_attack_is_refused_too(tmp_path: Path) -> None:
    """The archive inside is no more trusted than the one around it."""
    archive(tmp_path / "train.zip", (entry("../train.csv"), b"x"))
    with pytest.raises(DataError, match="train\\.zip"):
        unpack_nested(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.zip"]
