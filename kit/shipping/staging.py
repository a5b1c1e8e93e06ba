"""Train rows staged as hidden test sets: whole units in another order, and with the images that hidden sets bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from kit.offline.answers import scored_rows
from kit.offline.contract import Competition
from kit.offline.errors import DataError, KitError, examples
from kit.offline.frames import checked, read_table
from kit.offline.places import inside

DEFAULT_ROWS = 200
IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
SHARE = 0.5
"""Of a staged set, at most so many files are spoilt: the others must come out as they were."""


def stage_hidden(
    competition: Competition, frame: pd.DataFrame, data: Path, out: Path, rows: int | None = None
) -> pd.DataFrame:
    """Write about `rows` scored train rows, whole units drawn by chance, as a test set into `out`; returns those rows.

    Raises DataError where the adapter then sees other units than were staged.
    """
    scored = scored_rows(frame)
    units = np.random.RandomState(0).permutation(scored["unit_id"].unique())
    sizes = scored["unit_id"].value_counts().loc[units].cumsum()
    wanted = min(DEFAULT_ROWS, len(scored)) if rows is None else rows
    taken = units[: int((sizes.to_numpy() < wanted).sum()) + 1] if wanted else units[:0]
    order = {unit: at for at, unit in enumerate(taken)}
    chosen = scored[scored["unit_id"].isin(order)]
    chosen = chosen.iloc[np.argsort(chosen["unit_id"].map(order).to_numpy(), kind="stable")].reset_index(drop=True)
    out.mkdir(parents=True)
    competition.stage_test(chosen, data, out)
    try:
        seen = _units(competition, out)
        found = f"missing: {examples(sorted(set(order) - seen))}; extra: {examples(sorted(seen - set(order)))}"
    except KitError as error:  # where the host shows no test row, the default stage_test knows no folder for them
        seen, found = {""}, f"{error.expected}: {error.found}"
    if seen != set(order):
        raise DataError(
            f"test_frame to find the {len(order)} units that stage_test wrote",
            found,
            "override stage_test in the adapter, so that it writes what test_frame reads",
        )
    return chosen


@dataclass(frozen=True)
class Spoilt:
    """befell: unit_id -> what befell its file. needed: what befell a file without which test_frame knows no rows -> the
    file, which is whole again."""

    befell: dict[str, str] = field(default_factory=dict)
    needed: dict[str, str] = field(default_factory=dict)


def spoil(competition: Competition, data: Path) -> Spoilt:
    """Spoil some test files below `data`, each in another way, and shuffle the lines of the sample submission.

    Nothing is spoilt where test rows have no `path`. A file that the adapter finds by looking for files is not removed:
    the host's sample would still name it. Raises DataError where shuffling gives a row of the test frame to another id.
    """
    before = checked(competition.test_frame(data), "test_frame")
    if competition.sample and (data / competition.sample).is_file():
        sample = read_table(data / competition.sample)
        sample.sample(frac=1, random_state=0).to_csv(data / competition.sample, index=False)
    frame = checked(competition.test_frame(data), "test_frame")
    _require_same_rows(before, frame)
    spoilt = Spoilt()
    if "path" not in frame.columns:
        return spoilt
    units = set(frame["unit_id"])
    paths = list(dict.fromkeys(frame["path"]))
    for name, (kind, change) in zip(paths[: int(SHARE * len(paths))], WAYS.items(), strict=False):
        path = inside(data, name)
        if change in PICTURES and path.suffix.lower() not in IMAGES:
            continue
        whole = path.read_bytes()
        change(path)
        try:
            found = _units(competition, data) == units
        except Exception:  # noqa: BLE001 - whatever an adapter raises
            spoilt.needed[kind], found = name, False
        if found:
            spoilt.befell.update(dict.fromkeys(frame.loc[frame["path"] == name, "unit_id"], kind))
        else:
            path.write_bytes(whole)
    return spoilt


def _require_same_rows(before: pd.DataFrame, after: pd.DataFrame) -> None:
    known, seen = (frame.set_index("sample_id") for frame in (before, after))
    seen = seen.reindex(known.index)
    for column in known.columns.intersection(seen.columns):
        other = known[column].astype(str) != seen[column].astype(str)
        if other.any():
            name = known.index[other][0]
            raise DataError(
                "the same test_frame, row by row, with the sample submission in another order",
                f"{column} of {name!r}: {known[column][name]} before, {seen[column][name]} after",
                "match by id in test_frame, never by position",
            )


def _units(competition: Competition, data: Path) -> set[str]:
    return set(checked(competition.test_frame(data), "test_frame")["unit_id"])


def _grey(path: Path) -> None:
    _saved(_opened(path).convert("L"), path, "PNG")


def _cmyk(path: Path) -> None:
    _saved(_opened(path).convert("CMYK"), path, "JPEG")


def _sixteen_bit(path: Path) -> None:
    grey = np.asarray(_opened(path).convert("L")).astype(np.uint16) * 257
    _saved(Image.fromarray(grey), path, "PNG")


def _rotated(path: Path) -> None:
    image = _opened(path)
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: turn right to see it as it was
    image.rotate(90, expand=True).save(path, "JPEG", quality=95, exif=exif)


def _truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _one_pixel(path: Path) -> None:
    _saved(_opened(path).resize((1, 1)), path, "PNG")


def _missing(path: Path) -> None:
    path.unlink()


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _saved(image: Image.Image, path: Path, kind: str) -> None:
    image.save(path, kind)  # under its old name: readers go by the content


WAYS: dict[str, Callable[[Path], None]] = {
    "truncated": _truncated,
    "zero-byte": _empty,
    "missing": _missing,
    "grey": _grey,
    "CMYK": _cmyk,
    "16-bit": _sixteen_bit,
    "turned by EXIF": _rotated,
    "one-pixel": _one_pixel,
}
PICTURES = (_grey, _cmyk, _sixteen_bit, _rotated, _one_pixel)
