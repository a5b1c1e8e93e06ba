"""Leaf Classification: one of 99 species from a leaf's silhouette and 192 numbers that describe it; log loss.

Host page: https://www.kaggle.com/competitions/leaf-classification
The host divides each row by its sum. MLE-bench's grader refuses rows that do not sum to one and clips at 2.2e-16 where
Kaggle clips at 1e-15: only certain and wrong answers cost more there.
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multiclass, Rules, metrics, read_table


class Adapter(Competition):
    slug = "leaf-classification"
    task = Multiclass("species", answer="probability")
    folds = Folds(5, stratify="species", group=None)  # the host names no group; about nine leaves a species
    metric = "multiclass log loss"
    greater_is_better = False
    table = tuple(f"{kind}{number}" for kind in ("margin_", "shape_", "texture_") for number in range(1, 65))
    rules = Rules(kind="csv")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["id", "species", *self.table])
        return table.assign(sample_id=table["id"], path="images/" + table["id"] + ".jpg")

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the host's test table: its folder of images holds train and test together.
        table = read_table(data / "test.csv", ["id", *self.table])
        return table.assign(sample_id=table["id"], path="images/" + table["id"] + ".jpg")

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        species = [name for name in solution.columns if name != "id"]
        return metrics.multiclass_log_loss(solution, submission, by="id", columns=species)
