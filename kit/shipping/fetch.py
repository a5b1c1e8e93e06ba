"""A competition's files: downloaded by the kaggle client, unpacked by the kit, whole where their record is there.

A new data folder appears whole. In one that is there files are replaced one by one, after its record is gone: what was
torn in between is fetched again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.offline.errors import DataError, KaggleError
from kit.offline.files import write_json
from kit.shipping import kaggle_child
from kit.shipping.kaggle import ask, missing
from kit.shipping.unpack import CAPS, Caps, unpack, unpack_nested

RECORD = ".fetched.json"
"""Written last into the data folder: the archive that it came from, name and size of each file."""


def fetch(slug: str, data: Path, caps: Caps = CAPS, say: Callable[[str], None] = print) -> Path:
    """Bring the files of competition `slug` into `data`; returns it. Does nothing where all are there.

    A download that broke off goes on in the next call. Files of other names stay; those of the host are replaced.
    Raises KaggleError where the rules are not accepted, and DataError for an archive that `unpack` refuses.
    """
    data = data.resolve()
    archive = _ask(kaggle_child.archive_of, slug)
    if _is_whole(data, archive):
        say(f"{data} holds every file of {slug}: nothing to do")
        return data
    aside = data.with_name(f".{data.name}.fetching")
    aside.mkdir(parents=True, exist_ok=True)
    _require_room(aside, archive["size"])
    say(f"downloading {archive['size'] / 1e6:.1f} MB")
    packed = Path(_ask(kaggle_child.download_competition, slug, folder=str(aside)))
    say("unpacking")
    fresh = aside / "files"
    shutil.rmtree(fresh, ignore_errors=True)
    unpack(packed, fresh, caps)
    unpack_nested(fresh, caps)
    sizes = {path.relative_to(fresh).as_posix(): path.stat().st_size for path in fresh.rglob("*") if path.is_file()}
    _move(fresh, data)
    write_json(data / RECORD, {**archive, "slug": slug, "files": sizes})
    shutil.rmtree(aside)
    say(f"{data}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB")
    return data


def _ask(operation: Callable[..., Any], slug: str, **arguments: Any) -> Any:
    """`ask` about a competition, where Kaggle's "denied" is told as what it means there."""
    try:
        return ask(operation, slug=slug, **arguments)
    except KaggleError as error:
        if not missing(error):
            raise
        url = f"https://www.kaggle.com/competitions/{slug}/rules"
        fix = f"accept them at {url}; or mend the adapter's slug, if that page is not there"
        raise KaggleError(f"a competition {slug} whose rules you accepted", error.found, fix, error.status) from None


def _is_whole(data: Path, archive: dict[str, Any]) -> bool:
    """Whether `data` came from this very archive and still holds each file at its size."""
    try:
        record = json.loads((data / RECORD).read_text())
        same = (record["size"], record["tag"]) == (archive["size"], archive["tag"])
        return same and all((data / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def _move(fresh: Path, data: Path) -> None:
    """Put the files of `fresh` into `data`: at once where there is nothing yet, else one by one."""
    (data / RECORD).unlink(missing_ok=True)
    if data.is_dir() and not any(data.iterdir()):
        data.rmdir()
    if not data.exists():
        fresh.rename(data)
        return
    for path in [path for path in fresh.rglob("*") if path.is_file()]:
        place = data / path.relative_to(fresh)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        found = f"{free / 1e9:.1f} GB in {folder}"
        raise DataError(f"{size / 1e9:.1f} GB of free disk for the download", found, "free some space, or use --data")
