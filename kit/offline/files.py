"""Files that are whole or not there: written aside, synced, renamed; and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from kit.offline.errors import RunError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` at `path` so that a reader sees the old file or the new one, whatever kills the writer.

    Raises RunError where the disk is full; the old file, if any, stays.
    """
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        raise RunError(
            f"{len(content) / 1e6:.1f} MB of free disk to write {path}",
            f"the disk is full ({free:.1f} MB free)",
            "free some space and run the same command again; what was written before is kept",
        ) from None


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON with sorted keys, whole."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def sweep(folder: Path) -> None:
    """Delete what killed writers left aside in and below a folder that no other process writes in."""
    for left in folder.rglob(".*.tmp-*"):
        left.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
