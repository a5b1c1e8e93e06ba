"""Run-length encoding of masks as Kaggle hosts write it: pairs of start and length, 1-based, down columns first."""

from __future__ import annotations

import numpy as np

from kit.offline.errors import DataError


def encode(mask: np.ndarray) -> str:
    """H x W bool or 0/1 mask -> "start length start length ..."; an empty mask is ""."""
    flat = np.concatenate([[0], np.asarray(mask, bool).T.reshape(-1).view(np.uint8), [0]])
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    starts, ends = edges[0::2], edges[1::2]
    return " ".join(f"{start} {end - start}" for start, end in zip(starts, ends, strict=True))


def decode(text: str, height: int, width: int) -> np.ndarray:
    """The inverse: H x W bool. Raises DataError for a text that is no list of pairs or leaves the image."""
    try:
        runs = np.asarray(str(text).split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise DataError("run-lengths: pairs of whole numbers", repr(str(text)[:60]), "mend that row") from None
    starts, lengths = runs[0::2] - 1, runs[1::2]
    if len(runs) % 2 or (starts < 0).any() or (lengths < 0).any() or (lengths > height * width - starts).any():
        raise DataError(
            f"run-lengths inside {height} x {width}",
            repr(str(text)[:60]),
            "is the mask of another image or transposed?",
        )
    flat = np.zeros(height * width, bool)
    for start, length in zip(starts, lengths, strict=True):
        flat[start : start + length] = True
    return flat.reshape(width, height).T
