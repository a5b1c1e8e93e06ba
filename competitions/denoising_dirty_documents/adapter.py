"""Denoising Dirty Documents: scanned pages without their stains and folds; RMSE over all pixels.

Host page: https://www.kaggle.com/competitions/denoising-dirty-documents
"""

from pathlib import Path

import numpy as np
import pandas as pd

from kit import Competition, Folds, ImageToImage, Rules, Tiles, frames, metrics, pixels

TILES = Tiles(size=256, overlap=64)


class Adapter(Competition):
    slug = "denoising-dirty-documents"
    task = ImageToImage("clean")
    folds = Folds(5, group="page")  # one page of text comes back under other stains
    metric = "RMSE"
    greater_is_better = False
    rules = Rules(kind="csv")
    sample = "sampleSubmission.csv"

    def train_frame(self, data: Path) -> pd.DataFrame:
        images = pages(data, "train")
        clean = [f"train_cleaned/{name}.png" for name in images["sample_id"]]
        absolute = [str((data / name).resolve()) for name in clean]
        return TILES.rows(images.assign(clean=absolute, page=frames.copies(data, clean)))

    def test_frame(self, data: Path) -> pd.DataFrame:
        return TILES.rows(pages(data, "test"))

    def read(self, row, data, how):
        return pixels.read_rgb(data, row.path)[:, :, :1]  # pages are grey

    def cut(self, array, row, how, rng):
        return TILES.cut(array, row, rng)

    def combine(self, frame, predictions):
        return TILES.stitch(frame, predictions)

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        tables = [
            pd.DataFrame(
                {"id": [f"{name}_{y + 1}_{x + 1}" for y, x in np.ndindex(image.shape)], "value": image.ravel()}
            )
            for name, image in answers["image"].items()
        ]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["id", "value"])

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.rmse(solution, submission, by="id", column="value")


def pages(data: Path, folder: str) -> pd.DataFrame:
    """A row per page, with its size."""
    files = frames.list_files(data / folder, [".png"])
    rows = [[path.stem, f"{folder}/{path.name}", *pixels.size_of(data / folder, path.name)] for path in files]
    return pd.DataFrame(rows, columns=["sample_id", "path", "height", "width"])
