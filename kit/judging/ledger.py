"""LEDGER.tsv: one line for each thing that was tried or submitted, appended and never changed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from kit.offline.errors import DataError, did_you_mean, examples

FILE = "LEDGER.tsv"
COLUMNS = (
    *("date", "event", "run", "bundle", "dataset_version", "notebook_version"),
    *("submission", "public", "oof", "note"),
)
"""date: UTC, ISO. event: what happened, as submit. run: of this checkout; several are joined by "+". submission:
Kaggle's reference. public, oof: scores."""


def append(folder: Path, event: str, **cells: object) -> dict[str, str]:
    """Append a line, dated now, to the ledger in a competition's folder; returns it.

    cells: by column; None and what is not named stay empty. Two processes may append at once, and a line is there whole
    or not at all. Raises DataError for a cell that a table of tabs and lines cannot hold, and where the file there is
    no ledger.
    """
    line = _line({"date": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **cells})
    path = folder / FILE
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        there = path.read_bytes()
        if there:
            _require_header(path, there)
        head = b"" if there else _encoded(COLUMNS)
        torn = b"\n" if there and not there.endswith(b"\n") else b""
        os.write(handle, torn + head + _encoded([line[name] for name in COLUMNS]))
        os.fsync(handle)
    finally:
        os.close(handle)
    return line


def read(folder: Path) -> list[dict[str, str]]:
    """The lines of the ledger in a competition's folder, oldest first; none where there is no ledger.

    Raises DataError for a file that is no ledger, naming the line.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    content = path.read_bytes()
    _require_header(path, content)
    lines = []
    for at, text in enumerate(content.decode().splitlines()[1:], 2):
        cells = text.split("\t")
        if len(cells) != len(COLUMNS):
            raise DataError(f"{len(COLUMNS)} cells in line {at} of {path}", str(len(cells)), "mend or delete that line")
        lines.append(dict(zip(COLUMNS, cells, strict=True)))
    return lines


def _line(cells: Mapping[str, object]) -> dict[str, str]:
    unknown = [name for name in cells if name not in COLUMNS]
    if unknown:
        raise DataError("columns of the ledger", examples(unknown), did_you_mean(unknown[0], COLUMNS))
    line = {name: "" if cells.get(name) is None else str(cells[name]) for name in COLUMNS}
    for name, text in line.items():
        if any(letter < " " or letter in "\x7f\x85\u2028\u2029" for letter in text):
            raise DataError(f"one line without tabs for {name!r}", repr(text), "write it with spaces")
    return line


def _require_header(path: Path, content: bytes) -> None:
    header = content.split(b"\n", 1)[0]
    if header + b"\n" != _encoded(COLUMNS):
        found = repr(header.decode(errors="replace")[:80])
        raise DataError(f"a ledger with the columns {' '.join(COLUMNS)} at {path}", found, "move that file aside")


def _encoded(cells: Iterable[str]) -> bytes:
    return ("\t".join(cells) + "\n").encode()
