"""Humpback Whale Identification (playground): whose fluke is it? Up to five ids a photograph, "new_whale" among them.

Host page: https://www.kaggle.com/competitions/whale-categorization-playground
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Retrieval, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "whale-categorization-playground"
    task = Retrieval("Id", answers=5, unknown="new_whale")
    # Whales seen once are held out like all others: to that fold's gallery they are new, as some test whales are.
    # Photographs are there several times; "copies" keeps those together that are equal to the byte.
    folds = {"copies": Folds(5, stratify="Id", group="copy_of"), "host": Folds(5, stratify="Id", group=None)}
    metric = "MAP@5"
    greater_is_better = True
    rules = Rules(kind="csv")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["Image", "Id"])
        paths = "train/" + table["Image"]
        return table.assign(sample_id=table["Image"], path=paths, copy_of=frames.copies(data, paths))

    def test_frame(self, data: Path) -> pd.DataFrame:
        names = [path.name for path in frames.list_files(data / "test", [".jpg"])]
        return pd.DataFrame({"sample_id": names, "path": [f"test/{name}" for name in names]})

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("Image").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.map_at_k(solution, submission, by="Image", column="Id", k=5)

    def unit_scores(self, solution: pd.DataFrame, submission: pd.DataFrame) -> pd.Series:
        return metrics.map_at_k_units(solution, submission, by="Image", column="Id", k=5)
