"""Zip archives from outside, unpacked so that nothing of them lands anywhere else, or fills the disk."""

from __future__ import annotations

import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kit.offline.errors import DataError

CHUNK = 1 << 20


@dataclass(frozen=True)
class Caps:
    """What an archive may become: bytes in all and of one file, number of files, and bytes per byte of archive.

    ratio: counted over the whole archive, from the first `slack` bytes on: a table of constants packs a thousandfold.
    """

    total: int = 2 << 40
    file: int = 512 << 30
    count: int = 3_000_000
    ratio: int = 100
    slack: int = 1 << 30


CAPS = Caps()


def unpack(archive: Path, folder: Path, caps: Caps = CAPS) -> list[str]:
    """Unpack `archive` into the new folder `folder`; returns the names of the files, sorted.

    Bytes are counted as they are written, whatever the archive says of itself. Raises DataError, and leaves no folder,
    for a broken archive, one that is larger than `caps`, is encrypted, holds links or devices, or names a file twice
    (also where two names differ in case alone) or outside the folder.
    """
    folder.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as content:
            files = _checked(archive, content, caps)
            _require_room(archive, folder, sum(file.file_size for file in files))
            _write(archive, content, files, folder, caps)
        return sorted(file.filename for file in files)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        shutil.rmtree(folder)
        raise _refused(archive, "a whole zip archive", str(error)) from None
    except BaseException:
        shutil.rmtree(folder)
        raise


def unpack_nested(folder: Path, caps: Caps = CAPS) -> None:
    """Unpack the zip archives that lie in `folder` itself, as Kaggle wraps large files, in the place of each.

    train.csv.zip becomes train.csv, and train.zip the folder train, whether or not it says so inside. An archive stays
    where something of that name lies already.
    """
    for archive in sorted(folder.glob("*.zip")):
        place = folder / archive.stem
        if place.exists():
            continue
        aside = folder / f".{archive.name}.unpacking"
        shutil.rmtree(aside, ignore_errors=True)
        unpack(archive, aside, caps)
        wrapped = [path.name for path in aside.iterdir()] == [archive.stem]
        (aside / archive.stem if wrapped else aside).rename(place)
        shutil.rmtree(aside, ignore_errors=True)
        archive.unlink()


def _checked(archive: Path, content: zipfile.ZipFile, caps: Caps) -> list[zipfile.ZipInfo]:
    """The files of an archive, each with a name that is its own, inside, and nothing but a file's."""
    infos = content.infolist()
    if len(infos) > caps.count:
        raise _refused(archive, f"at most {caps.count} entries", str(len(infos)))
    files: list[zipfile.ZipInfo] = []
    taken: dict[str, str] = {}
    for info in infos:
        fault = _fault(info)
        if fault:
            raise _refused(archive, "plain files with names inside the folder", f"{info.orig_filename!r}: {fault}")
        if info.is_dir():
            continue
        other = _collision(info.filename, taken)
        if other is not None:
            found = f"{other!r} and {info.filename!r}"
            raise _refused(archive, "each name once, also on disks that know no case", found)
        files.append(info)
    return files


def _collision(name: str, taken: dict[str, str]) -> str | None:
    """The file or folder among `taken` that a disk without case cannot tell from `name` or a folder above it."""
    for path in (PurePosixPath(name), *PurePosixPath(name).parents[:-1]):
        here = str(path) if str(path) == name else f"{path}/"
        key = unicodedata.normalize("NFC", str(path)).casefold()
        if key in taken and (here == name or taken[key] != here):
            return taken[key]
        taken[key] = here
    return None


def _fault(info: zipfile.ZipInfo) -> str:
    """What is wrong with an entry; "" where nothing is."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & 1:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed in another way than deflate"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link" if kind == stat.S_IFLNK else "a device"
    if "\\" in name or "\0" in name or any(ord(letter) < 32 for letter in name):
        return "a backslash or a control character"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "an absolute path"
    parts = name.rstrip("/").split("/")
    if ".." in parts or "." in parts or "" in parts:
        return "a path that is not plain"
    return ""


def _write(archive: Path, content: zipfile.ZipFile, files: list[zipfile.ZipInfo], folder: Path, caps: Caps) -> None:
    total, packed = 0, archive.stat().st_size
    for info in files:
        path = folder / info.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with content.open(info) as source, path.open("xb") as target:
            while chunk := source.read(CHUNK):
                written, total = written + len(chunk), total + len(chunk)
                if written > caps.file or total > caps.total:
                    found = f"{info.filename!r} is larger"
                    raise _refused(archive, f"at most {caps.file} bytes a file and {caps.total} in all", found)
                if total > caps.slack and total > caps.ratio * packed:
                    found = f"more than {total} bytes out of {packed}"
                    raise _refused(archive, f"at most {caps.ratio} bytes out of one", found)
                target.write(chunk)
        if written != info.file_size:
            raise _refused(archive, f"{info.file_size} bytes of {info.filename!r}, as the archive says", str(written))


def _require_room(archive: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        found = f"{free / 1e9:.1f} GB"
        raise DataError(f"{size / 1e9:.1f} GB of free disk to unpack {archive.name}", found, "free some space")


def _refused(archive: Path, expected: str, found: str) -> DataError:
    return DataError(f"{expected} in {archive.name}", found, f"do not trust this archive; it stays at {archive}")
