"""`kit demo`: the whole road on the embedded competition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(data: Path, out_labels: Path | None, shuffle_labels: bool = False, seed: int = 0) -> None:
    """Write scikit-learn's 1,797 digits as a host would: train.csv, train_images/, test_images/, sample_submission.csv.

    Four fifths train. Ids are unsorted hex, some all digits with leading zeros; everything is a function of `seed`. The
    test labels go to the table `out_labels` (image_id, label), which lies outside `data`. `shuffle_labels` permutes the
    training labels: what is learned then must score like chance.
    """
    digits = load_digits()
    draw = np.random.RandomState(seed)
    labels = digits.target.astype(str)
    order = draw.permutation(len(labels))
    ids = _odd_ids(len(labels), draw)
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    for folder, rows in (("train_images", train), ("test_images", test)):
        (data / folder).mkdir(parents=True, exist_ok=True)
        for row in rows:
            pixels = (digits.images[row] * 255 / 16).round().astype(np.uint8)
            Image.fromarray(pixels).save(data / folder / f"{ids[row]}.png")
    seen = draw.permutation(labels[train]) if shuffle_labels else labels[train]
    _write_labels(data / "train.csv", ids[train], seen)
    _write_labels(data / "sample_submission.csv", ids[test], np.full(len(test), "0"))
    if out_labels is not None:
        out_labels.parent.mkdir(parents=True, exist_ok=True)
        _write_labels(out_labels, ids[test], labels[test])


def _odd_ids(count: int, draw: np.random.RandomState) -> np.ndarray:
    """Unique ids of ten hex digits; each eighth looks like a number with leading zeros, which only text keeps."""
    numbers = draw.choice(16**6, count, replace=False)
    return np.array([f"{n:010d}" if at % 8 == 0 else f"{n:06x}{at % 16:x}e0a" for at, n in enumerate(numbers)])


def _write_labels(path: Path, ids: np.ndarray, labels: np.ndarray) -> None:
    pd.DataFrame({"image_id": ids, "label": labels}).to_csv(path, index=False)
