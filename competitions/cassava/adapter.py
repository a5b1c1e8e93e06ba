"""Cassava Leaf Disease Classification: one of five labels per photograph of a leaf; accuracy.

Host page: https://www.kaggle.com/competitions/cassava-leaf-disease-classification
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multiclass, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "cassava-leaf-disease-classification"
    task = Multiclass("label")
    # The host names no group. Near-duplicate photographs are known: be slow to trust a gain.
    folds = Folds(5, stratify="label", group=None)
    metric = "accuracy"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=540)

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["image_id", "label"])
        return table.assign(sample_id=table["image_id"], path="train_images/" + table["image_id"])

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the files: the hidden test set is larger than the one you download.
        names = [path.name for path in frames.list_files(data / "test_images", [".jpg"])]
        return pd.DataFrame({"sample_id": names, "path": [f"test_images/{name}" for name in names]})

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("image_id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.accuracy(solution, submission, by="image_id", column="label")
