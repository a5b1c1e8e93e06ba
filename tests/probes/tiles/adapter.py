"""Tissue in sections of any size: overlapping tiles are the samples, whole images the units, run-lengths the answer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F
from PIL import Image

from kit import Competition, Folds, Maps, Task, read_table
from kit.offline import rle
from kit.offline.frames import list_files
from kit.offline.predictions import Map

TILE, STRIDE = 16, 12


class Tissue(Task):
    """One mask per image, a probability per pixel; OOF fits where it begins."""

    columns = ("rle",)
    dense = True

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold

    def learn(self, frame):
        return {"threshold": self.threshold}

    def outputs(self, learned):
        return ("tissue",)

    def loss(self, outputs, targets, weight):
        maps = F.interpolate(outputs, size=targets.shape[-2:], mode="bilinear", align_corners=False)
        losses = F.binary_cross_entropy_with_logits(maps, targets, reduction="none").mean(dim=(1, 2, 3))
        return (losses * weight).sum() / weight.sum()

    def activate(self, outputs):
        return outputs.float().sigmoid()

    def decode(self, predictions, units, learned, gallery=None):
        masks = [rle.encode(predictions.read(unit).native()[0] >= learned["threshold"]) for unit in units.index]
        return pd.DataFrame({"rle": masks}, index=units.index)

    def tune(self, predictions, units, score, learned):
        return max(({**learned, "threshold": value} for value in (0.3, 0.4, 0.5, 0.6, 0.7)), key=score)


class Adapter(Competition):
    slug = "probe-tiles"
    task = Tissue()
    folds = Folds(2, group="patient")
    metric = "Dice"
    greater_is_better = True
    solution_columns = ("height", "width")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["id", "patient", "rle"])
        return tiles(table.assign(path="train/" + table["id"] + ".png"), data)

    def test_frame(self, data: Path) -> pd.DataFrame:
        paths = list_files(data / "test", [".png"])
        return tiles(
            pd.DataFrame({"id": [path.stem for path in paths], "path": [f"test/{p.name}" for p in paths]}), data
        )

    def cut(self, array, row, how, rng):
        top, left = row.top, row.left
        if rng is not None:  # training tiles begin anywhere near their place
            top, left = (int(np.clip(at + rng.integers(-4, 5), 0, max(0, whole - TILE))) for at, whole in
                         ((top, array.shape[0]), (left, array.shape[1])))  # fmt: skip
        return array[top : top + TILE, left : left + TILE]

    def read_target(self, row, data, how):
        return rle.decode(row.rle, row.height, row.width).astype(np.float32)

    def combine(self, frame, predictions):
        return Maps(
            {unit: partial(stitched, rows, predictions) for unit, rows in frame.groupby("unit_id", sort=False)},
            predictions.columns,
        )

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"id": answers.index, "rle": answers["rle"].to_numpy()})

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        said = submission.set_index("id")["rle"]
        return float(np.mean([dice(row.rle, said[row.id], row.height, row.width) for row in solution.itertuples()]))


def tiles(images: pd.DataFrame, data: Path) -> pd.DataFrame:
    """A row per tile; those at the right and lower edge are smaller."""
    rows = []
    for image in images.to_dict("records"):
        with Image.open(data / image["path"]) as file:
            width, height = file.size
        rows += [
            {**image, "sample_id": f"{image['id']}_{top}_{left}", "unit_id": image["id"], "source": image["id"],
             "top": top, "left": left, "height": height, "width": width}
            for top in range(0, height, STRIDE) for left in range(0, width, STRIDE)
        ]  # fmt: skip
    return pd.DataFrame(rows).drop(columns="id")


def stitched(rows: pd.DataFrame, predictions: Maps) -> Map:
    """The tiles of one image at native size, averaged where they overlap."""
    height, width = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
    total = np.zeros((len(predictions.columns), height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    for sample, top, left in zip(rows["sample_id"], rows["top"], rows["left"], strict=True):
        tile = predictions.read(sample).native()
        place = slice(top, top + tile.shape[1]), slice(left, left + tile.shape[2])
        total[:, *place] += tile
        count[place] += 1
    return Map(total / count, height, width)


def dice(truth: str, said: str, height: int, width: int) -> float:
    """Two run-lengths of one image; 1 where both are empty."""
    a, b = rle.decode(truth, height, width), rle.decode(said, height, width)
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else 1.0
