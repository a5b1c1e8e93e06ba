"""Tiny fake copies of host files: real formats, odd unsorted ids, images that a small network can learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def cassava(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Five kinds of striped leaves as JPEG photographs, 80 x 60; `image_id` carries ".jpg"."""
    draw = np.random.RandomState(seed)
    ids = np.array([f"{number:010d}.jpg" for number in draw.permutation(rows + test) * 50_000_017 + seed])
    labels = draw.permutation(np.arange(rows + test) % 5)
    _write_images(data, "train_images", ids[:rows], [_striped(label, 60, 80, draw) for label in labels[:rows]])
    _write_images(data, "test_images", ids[rows:], [_striped(label, 60, 80, draw) for label in labels[rows:]])
    pd.DataFrame({"image_id": ids[:rows], "label": labels[:rows]}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"image_id": ids[rows:], "label": 4}).to_csv(data / "sample_submission.csv", index=False)
    names = {str(label): f"disease {label}" for label in range(5)}
    (data / "label_num_to_disease_map.json").write_text(json.dumps(names))


def aerial_cactus(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Tiles of 32 x 32 with and without stripes, three in four with; ids are 32 hex digits and ".jpg"."""
    draw = np.random.RandomState(seed)
    ids = np.array([f"{draw.bytes(16).hex()}.jpg" for _ in range(rows + test)])
    labels = draw.permutation((np.arange(rows + test) % 4 > 0).astype(int))
    _write_images(data, "train", ids[:rows], [_striped(label, 32, 32, draw) for label in labels[:rows]])
    _write_images(data, "test", ids[rows:], [_striped(label, 32, 32, draw) for label in labels[rows:]])
    pd.DataFrame({"id": ids[:rows], "has_cactus": labels[:rows]}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"id": ids[rows:], "has_cactus": 0.5}).to_csv(data / "sample_submission.csv", index=False)


def digits(data: Path, rows: int | None = None, seed: int = 0) -> None:
    """The embedded competition; `rows` keeps that many of its training rows."""
    from kit.demo import write_digits  # here, since the demo imports the whole kit

    write_digits(data, None, seed=seed)
    if rows is not None:
        table = pd.read_csv(data / "train.csv", dtype=str)
        table.iloc[:rows].to_csv(data / "train.csv", index=False)


def _striped(label: int, height: int, width: int, draw: np.random.RandomState) -> np.ndarray:
    """Noise over a colour and as many stripes as the label says: learnable from either."""
    colour = np.array([40 + 40 * label, 160 - 25 * label, 90])
    stripes = 40 * np.sin(np.linspace(0, 2 * np.pi * (label + 1), width))[None, :, None]
    noise = draw.normal(0, 12, (height, width, 3))
    return (colour + stripes + noise).clip(0, 255).astype(np.uint8)


def _write_images(data: Path, folder: str, names: np.ndarray, images: list[np.ndarray]) -> None:
    (data / folder).mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(data / folder / name)


WORLDS: dict[str, Callable[..., None]] = {"aerial_cactus": aerial_cactus, "cassava": cassava, "digits": digits}
