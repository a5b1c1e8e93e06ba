"""Decoded sources on disk: each is read once, kept in its native shape and dtype, and memory-mapped by every fold and epoch."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kit.offline.batches import FileSources, Sources, rows_of, source_of
from kit.offline.contract import Competition, Row
from kit.offline.errors import RunError
from kit.offline.files import write_json
from kit.offline.pixels import Preparation, decode_jpeg, encode_jpeg
from kit.offline.places import inside
from kit.training.code import code_hash

SCHEMA = 1
PROBE = 16
"""Sources decoded to tell size and minutes before all of them are."""


@dataclass(frozen=True)
class CachedSources:
    """Sources out of one memory-mapped file. offsets, lengths: of each in bytes; shape and dtype per source, or JPEG."""

    path: Path
    at: dict[str, int]
    offsets: np.ndarray
    shapes: list[list[int]]
    dtypes: list[str]
    jpeg: bool
    content: np.memmap

    def __call__(self, row: Row) -> np.ndarray:
        """The stored form of a row's source; read-only."""
        at = self.at[source_of(row)]
        raw = self.content[self.offsets[at] : self.offsets[at + 1]]
        return decode_jpeg(np.asarray(raw)) if self.jpeg else raw.view(self.dtypes[at]).reshape(self.shapes[at])

    def __reduce__(self) -> tuple[Callable[[Path], CachedSources], tuple[Path]]:
        return open_cache, (self.path,)


def open_cache(path: Path) -> CachedSources:
    """Map a finished cache."""
    index = json.loads((path / "index.json").read_text())
    content = np.memmap(path / "data.bin", mode="r") if (path / "data.bin").stat().st_size else np.zeros(0, np.uint8)
    at = {name: number for number, name in enumerate(index["names"])}
    return CachedSources(
        path, at, np.asarray(index["offsets"]), index["shapes"], index["dtypes"], index["jpeg"], content
    )  # type: ignore[arg-type]


def cached_sources(
    competition: Competition,
    frame: pd.DataFrame,
    data: Path,
    preparation: Preparation,
    folder: Path,
    keep: str,
    say: Callable[[str], None],
) -> Sources:
    """Sources of every row of `frame`, from the cache in `folder` (made if need be), or from the files where `keep` is "off".

    folder: the competition's cache folder; $KIT_CACHE moves it. keep: "raw", "jpeg" or "off". `say` is told the size and the
    minutes first. Raises RunError where the disk has no room. Written by one process, under a lock; others wait and then map it.
    """
    if keep == "off":
        return FileSources(competition, data, preparation)
    root = Path(os.environ["KIT_CACHE"]) / (competition.slug or "cache") if os.environ.get("KIT_CACHE") else folder
    row = rows_of(frame)
    rows = list({source_of(row(at)): row(at) for at in range(len(frame))}.items())
    path = root / _key(competition, rows, data, preparation)
    with _lock(root / f"{path.name}.lock"):
        if not (path / "index.json").is_file():
            _write(path, rows, FileSources, competition, data, preparation, say)
    return open_cache(path)


def _key(competition: Competition, rows: Sequence[tuple[str, Row]], data: Path, preparation: Preparation) -> str:
    """A name that changes with the adapter's `read`, its settings, the cached form, and each file's name, size and time."""
    digest = hashlib.sha256()
    read = code_hash(competition.folder / "adapter.py", only="read") if competition.folder else ""
    digest.update(
        json.dumps(
            [SCHEMA, read, dict(preparation.how), preparation.cache_size, preparation.jpeg], sort_keys=True
        ).encode()
    )
    for name, row in rows:
        stat = _stat(data, row)
        digest.update(f"{name}\0{stat}\n".encode())
    return digest.hexdigest()[:16]


def _stat(data: Path, row: Row) -> str:
    if "path" not in row:
        return ""
    try:
        stat = inside(data, str(row["path"])).stat()
    except FileNotFoundError:
        return "missing"  # reading it raises an error that names it
    return f"{row['path']} {stat.st_size} {stat.st_mtime_ns}"


def _write(
    path: Path, rows: Sequence[tuple[str, Row]], sources: type[FileSources], competition: Competition, data: Path, preparation: Preparation, say: Callable[[str], None]
) -> None:  # fmt: skip
    def stored(row: Row) -> tuple[bytes, list[int], str]:
        array = sources(competition, data, preparation)(row)
        return (
            (encode_jpeg(array) if preparation.jpeg else np.ascontiguousarray(array).tobytes()),
            list(array.shape),
            str(array.dtype),
        )

    _require_room(path, [row for _, row in rows], stored, say)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    offsets, shapes, dtypes = [0], [], []
    with (path / "data.bin").open("wb") as file:
        for content, shape, dtype in _in_order(stored, [row for _, row in rows]):
            file.write(content)
            offsets.append(offsets[-1] + len(content))
            shapes.append(shape)
            dtypes.append(dtype)
        file.flush()
        os.fsync(file.fileno())
    names = [name for name, _ in rows]
    write_json(
        path / "index.json",
        {"names": names, "offsets": offsets, "shapes": shapes, "dtypes": dtypes, "jpeg": preparation.jpeg},
    )


def _in_order(
    stored: Callable[[Row], tuple[bytes, list[int], str]], rows: Sequence[Row]
) -> Iterator[tuple[bytes, list[int], str]]:
    """Threads decode (Pillow and OpenCV let go of the interpreter), a few ahead of the writer, so that memory stays flat."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), 64):
            yield from pool.map(stored, rows[start : start + 64])


def _require_room(
    path: Path, rows: Sequence[Row], stored: Callable[[Row], tuple[bytes, list[int], str]], say: Callable[[str], None]
) -> None:
    some = (
        [rows[int(at)] for at in np.unique(np.linspace(0, len(rows) - 1, min(PROBE, len(rows))).astype(int))]
        if rows
        else []
    )
    start = time.monotonic()
    sizes = [len(stored(row)[0]) for row in some]
    seconds = (time.monotonic() - start) / max(len(some), 1) * len(rows) / (os.cpu_count() or 1)
    need = int(np.mean(sizes or [0]) * len(rows) * 1.05)
    say(f"cache: {len(rows)} sources, about {need / 1e6:.0f} MB and {seconds / 60:.1f} minutes, in {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if need > free * 0.95:
        raise RunError(
            f"{need / 1e9:.1f} GB of free disk for the cache in {path.parent}",
            f"{free / 1e9:.1f} GB free",
            'set cache_size (a smaller shorter side), cache="jpeg" or cache="off" in the recipe, or KIT_CACHE to a larger disk',
        )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield
