"""Run-length encoding of masks as Kaggle hosts write it: pairs of start and length, 1-based, down columns first.

Some hosts number pixels along rows instead: `order` is "columns" or "rows". Peak memory is three times the mask's.
"""

from __future__ import annotations

import numpy as np

from kit.offline.errors import DataError


def encode(mask: np.ndarray, order: str = "columns") -> str:
    """H x W bool or 0/1 mask -> "start length start length ..."; an empty mask is ""."""
    flat = np.asarray(mask, bool).reshape(-1, order="F" if order == "columns" else "C")
    inside = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0] if flat[:1].any() else [], inside, [flat.size] if flat[-1:].any() else []])
    starts, lengths = edges[0::2] + 1, edges[1::2] - edges[0::2]
    return " ".join(f"{start} {length}" for start, length in zip(starts.astype(int), lengths.astype(int), strict=True))


def decode(text: str, height: int, width: int, order: str = "columns") -> np.ndarray:
    """The inverse: H x W bool. Raises DataError for a text that is no list of pairs or leaves the image."""
    starts, lengths = runs(text, height * width, f"{height} x {width}").T
    flat = np.zeros(height * width, bool)
    for start, length in zip(starts, lengths, strict=True):
        flat[start : start + length] = True
    return flat.reshape(width, height).T if order == "columns" else flat.reshape(height, width)


def runs(text: str, pixels: int, image: str = "the image") -> np.ndarray:
    """R x 2 (start from 0, length) of a text, in its order. Raises DataError as `decode` does."""
    try:
        numbers = np.asarray(str(text).split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise DataError("run-lengths: pairs of whole numbers", repr(str(text)[:60]), "mend that row") from None
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    if len(numbers) % 2 or (starts < 0).any() or (lengths < 0).any() or (lengths > pixels - starts).any():
        raise DataError(
            f"run-lengths inside {image}",
            repr(str(text)[:60]),
            "is the mask of another image or transposed?",
        )
    return np.stack([starts, lengths], axis=1)


def points(text: str, height: int, width: int, count: int, order: str = "columns") -> np.ndarray:
    """P x 2 (row, column) of at most `count` pixels of the mask, evenly spread over its runs, without painting it."""
    found = runs(text, height * width, f"{height} x {width}")
    until = np.cumsum(found[:, 1])
    total = int(until[-1]) if len(until) else 0
    wanted = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    at = np.searchsorted(until, wanted, side="right")
    flat = found[at, 0] + wanted - (until[at] - found[at, 1])
    return np.stack((flat % height, flat // height) if order == "columns" else (flat // width, flat % width), axis=1)
