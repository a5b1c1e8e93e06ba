"""Decoded sources on disk: each is read once, kept in native shape and dtype, and mapped by every fold and epoch."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kit.offline.batches import FileSources, RowsOf, Sources, source_of
from kit.offline.contract import Competition, Row
from kit.offline.errors import DataError, RunError
from kit.offline.files import write_json, write_whole
from kit.offline.pixels import Preparation, decode_jpeg, encode_jpeg
from kit.offline.places import inside
from kit.offline.tasks import settings_of
from kit.training.code import code_hash

SCHEMA = 3
PROBE = 16
"""Sources decoded to tell size and minutes before all of them are."""
AHEAD = 64
"""Sources decoded ahead of the writer at most, so that memory stays flat."""
ALIGN = 16
"""Sources start at multiples of this many bytes, so that every dtype can be read in place."""
HASH_BYTES = 8
"""Names are kept as hashes of so many bytes: two of a million names share one in 1 of 37 million caches."""
REMEDY = (
    'set cache_size (a smaller shorter side), cache="jpeg" or cache="off" in the recipe, or KIT_CACHE to a larger disk'
)

Stored = tuple[bytes, str]
"""A source as the cache keeps it: bytes, and dtype and shape as text, "|u1 600 800 3"."""


@dataclass(frozen=True)
class CachedSources:
    """Sources out of one memory-mapped file.

    path: the cache's folder. index: a record a source, sorted by `name`, which is a hash under `salt`: its bytes are
    content[start:stop], its dtype and shape are in `form`. jpeg: whether the bytes are JPEG. Index and content are
    mapped, so they take no memory that the system could not take back, however many sources there are.
    """

    path: Path
    index: np.ndarray
    salt: int
    jpeg: bool
    content: np.ndarray

    def __call__(self, row: Row) -> np.ndarray:
        """The stored form of a row's source; read-only."""
        name = source_of(row)
        names, wanted = self.index["name"], _hash(name, self.salt)
        at = bisect_left(names, wanted)
        if at == len(names) or names[at] != wanted:
            raise KeyError(name)
        _, start, stop, form = self.index[at].item()
        if self.jpeg:
            return decode_jpeg(self.content[start:stop])
        dtype, *shape = form.decode().split()
        return np.ndarray(tuple(map(int, shape)), dtype, self.content, start)

    def __reduce__(self) -> tuple[Callable[[Path], CachedSources], tuple[Path]]:
        return open_cache, (self.path,)


def open_cache(path: Path) -> CachedSources:
    """Map a finished cache. Raises RunError for a part of one; changed bytes are not noticed: hashing takes minutes."""
    known = json.loads((path / "index.json").read_text())
    index = np.load(path / "index.npy", mmap_mode="r")
    size, whole = (path / "data.bin").stat().st_size, int(index["stop"].max(initial=0))
    if size != whole:
        expected = f"{whole} bytes in {path / 'data.bin'}"
        raise RunError(expected, f"{size}", f"delete {path}: the next training makes it again")
    content = np.memmap(path / "data.bin", mode="r") if size else np.zeros(0, np.uint8)
    # As plain arrays: a memmap takes three times as long to index.
    return CachedSources(path, np.asarray(index), known["salt"], known["jpeg"], np.asarray(content))


def cached_sources(
    competition: Competition,
    frame: pd.DataFrame,
    data: Path,
    preparation: Preparation,
    folder: Path,
    keep: str,
    say: Callable[[str], None],
    what: str = "read",
) -> Sources:
    """Sources of every row of `frame`: from the cache in `folder`, made if need be, or from files if `keep` is "off".

    folder: the competition's cache folder; $KIT_CACHE moves it. keep: "raw", "jpeg" or "off". what: "read", or
    "read_target" for the targets of dense tasks, which are kept as they are. `say` is told the size and the minutes
    first. Raises RunError where the disk has no room. Written by one process, under a lock; others wait, then map it.
    """
    if what == "read_target":
        preparation = replace(preparation, cache_size=None, jpeg=False)
    if keep == "off":
        return FileSources(competition, data, preparation, what)
    root = Path(os.environ["KIT_CACHE"]) / competition.slug if os.environ.get("KIT_CACHE") else folder
    rows = SourceRows(frame)
    path = root / _key(competition, rows, data, preparation, what)
    with _lock(root / f"{path.name}.lock"):
        if not (path / "index.json").is_file():
            _write(path, rows, _storing(competition, data, preparation, what), preparation.jpeg, say)
    return open_cache(path)


class SourceRows:
    """The first row of each source of a frame, in order of appearance.

    at: their positions in the frame, ascending. names: the hash of each one's name, under the first `salt` that keeps
    the names apart.
    """

    def __init__(self, frame: pd.DataFrame):
        self.row = row = RowsOf(frame)
        for salt in itertools.count():
            hashes = np.fromiter((_hash(source_of(row(at)), salt) for at in range(len(frame))), np.uint64, len(frame))
            _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
            first_like = first[number]
            again = np.flatnonzero(first_like != np.arange(len(frame)))
            if all(source_of(row(at)) == source_of(row(first_like[at])) for at in again.tolist()):
                break
        self.salt, self.at = salt, np.sort(first)
        self.names = hashes[self.at]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, number: int) -> Row:
        return self.row(int(self.at[number]))

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))


def _hash(name: str, salt: int) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=HASH_BYTES, salt=salt.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


def _key(competition: Competition, rows: SourceRows, data: Path, preparation: Preparation, what: str = "read") -> str:
    """A name that changes with the code and settings of reading, the cached form, and each file's name, size and time.

    Other columns that `read` may look at count too; what the kit adds does not, nor do labels, save for targets.
    """
    read = code_hash(competition.folder / "adapter.py", only=what) if competition.folder else ""
    form = [SCHEMA, read, dict(preparation.how), preparation.cache_size, preparation.jpeg]
    unseen = {*competition.task.label_columns, "unit_id", "fold", "scored", "weight"}
    if what == "read_target":
        form.append(settings_of(competition.task))
        unseen -= set(competition.task.columns)
    digest = hashlib.sha256(json.dumps(form, sort_keys=True).encode())
    if "path" not in rows.row.columns:
        digest.update(
            str(data.resolve()).encode()
        )  # read finds its files for itself: those of another folder are others
    for row in rows:
        seen = [f"{column}={row[column]}" for column in sorted(set(row) - unseen)]
        if what == "read_target":
            seen += [_stat_of_cell(row[column]) for column in competition.task.columns]
        digest.update("\0".join([source_of(row), *seen, _stat(data, row)]).encode() + b"\n")
    return digest.hexdigest()[:16]


def _stat(data: Path, row: Row) -> str:
    if "path" not in row:
        return ""
    try:
        stat = inside(data, str(row["path"])).stat()
    except FileNotFoundError:
        return "missing"  # reading it raises an error that names it
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _stat_of_cell(cell: object) -> str:
    """Size and time of the file that a cell names by its full path, as those of targets do; "" for other cells."""
    path = Path(str(cell))
    if not path.is_absolute() or not path.is_file():
        return ""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _storing(
    competition: Competition, data: Path, preparation: Preparation, what: str = "read"
) -> Callable[[Row], Stored]:
    """A function from row to its source as it is kept. JPEG is encoded here and decoded on the way out, once each."""
    before_jpeg = replace(preparation, jpeg=False)

    def stored(row: Row) -> Stored:
        array = before_jpeg.store(getattr(competition, what)(row, data, preparation.how))
        if array.dtype.hasobject:
            raise DataError(
                f"an array of numbers from the adapter's {what}",
                f"one of {array.dtype} for {source_of(row)!r}",
                "stack the arrays, or pad them to one shape",
            )
        content = encode_jpeg(array) if preparation.jpeg else array.tobytes()
        return content + bytes(-len(content) % ALIGN), " ".join(map(str, (array.dtype.str, *array.shape)))

    return stored


def _write(
    path: Path, rows: SourceRows, stored: Callable[[Row], Stored], jpeg: bool, say: Callable[[str], None]
) -> None:
    """Decode all sources into `path`; index.json, written last, says that they are whole."""
    known = _estimate(path, rows, stored, say)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    ends, forms = np.zeros(len(rows) + 1, np.int64), []
    try:
        with (path / "data.bin").open("wb") as file:
            for number, (content, form) in enumerate(_in_order(rows, stored, known), 1):
                file.write(content)
                ends[number] = ends[number - 1] + len(content)
                forms.append(sys.intern(form))
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        shutil.rmtree(path)  # what the advice of a damaged image changes is the key: these bytes would stay for ever
        if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        found = f"the disk is full after {ends.max() / 1e9:.1f} GB"
        raise RunError(f"room for the cache in {path.parent}", found, REMEDY) from None
    write_whole(path / "index.npy", _index(rows.names, ends, forms))
    write_json(path / "index.json", {"salt": rows.salt, "jpeg": jpeg})


def _index(names: np.ndarray, ends: np.ndarray, forms: list[str]) -> bytes:
    """The records of CachedSources as an .npy file, from the sources in the order they were written."""
    width = max(map(len, forms), default=1)
    index = np.empty(len(names), [("name", "<u8"), ("start", "<i8"), ("stop", "<i8"), ("form", f"S{width}")])
    index["name"], index["start"], index["stop"], index["form"] = names, ends[:-1], ends[1:], forms
    file = io.BytesIO()
    np.save(file, index[np.argsort(names)])
    return file.getvalue()


def _in_order(rows: SourceRows, stored: Callable[[Row], Stored], known: dict[int, Stored]) -> Iterator[Stored]:
    """Threads decode: Pillow and OpenCV let go of the interpreter. What is `known` is not decoded again."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), AHEAD):
            some = range(start, min(start + AHEAD, len(rows)))
            yield from pool.map(lambda at: known.pop(at, None) or stored(rows[at]), some)


def _estimate(
    path: Path, rows: SourceRows, stored: Callable[[Row], Stored], say: Callable[[str], None]
) -> dict[int, Stored]:
    """Decode some sources, spread evenly, and tell what all will take. Raises RunError where that is too much."""
    start = time.monotonic()
    spread = np.linspace(0, len(rows) - 1, min(PROBE, len(rows)), dtype=int).tolist()
    known = {at: stored(rows[at]) for at in spread}
    share = len(rows) / max(len(known), 1)
    seconds = (time.monotonic() - start) * share / (os.cpu_count() or 1)
    need = sum(len(content) for content, _ in known.values()) * share * 1.05
    say(f"cache: {len(rows)} sources, about {need / 1e6:.0f} MB and {seconds / 60:.1f} minutes, in {path}")
    free = shutil.disk_usage(path.parent).free
    if need > free * 0.95:
        expected = f"{need / 1e9:.1f} GB of free disk for the cache in {path.parent}"
        raise RunError(expected, f"{free / 1e9:.1f} GB free", REMEDY)
    return known


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield
