"""Aerial Cactus Identification: is there a cactus in a 32 x 32 tile? Area under the ROC curve.

Host page: https://www.kaggle.com/competitions/aerial-cactus-identification
"""

from pathlib import Path

import pandas as pd

from kit import Binary, Competition, Folds, frames, metrics, read_table


class Adapter(Competition):
    slug = "aerial-cactus-identification"
    task = Binary("has_cactus")  # a probability: the metric ranks, so a threshold would only lose
    # Ids are hashes and the host names no group; tiles of one flight cannot be told apart by the table.
    folds = Folds(5, stratify="has_cactus", group=None)
    metric = "area under the ROC curve"
    greater_is_better = True
    # Rules are the kit's defaults; read the host's before you submit.

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["id", "has_cactus"])
        return table.assign(sample_id=table["id"], path="train/" + table["id"])

    def test_frame(self, data: Path) -> pd.DataFrame:
        names = [path.name for path in frames.list_files(data / "test", [".jpg"])]
        return pd.DataFrame({"sample_id": names, "path": [f"test/{name}" for name in names]})

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.roc_auc(solution, submission, by="id", column="has_cactus")
