"""Histopathologic Cancer Detection: is there tumour in the centre of a 96 x 96 patch? Area under the ROC curve.

Host page: https://www.kaggle.com/competitions/histopathologic-cancer-detection
A patch is positive where its centre of 32 x 32 pixels holds tumour; what lies around it is context.
"""

from pathlib import Path

import pandas as pd

from kit import Binary, Competition, Folds, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "histopathologic-cancer-detection"
    task = Binary("label")
    # Patches of one slide resemble each other, and the host tests on other slides, but its files do not say which
    # patch comes from which slide: these folds flatter. With a table of slides, join it here and write group="slide".
    folds = Folds(5, stratify="label", group=None)
    metric = "area under the ROC curve"
    greater_is_better = True
    rules = Rules(kind="csv")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train_labels.csv", ["id", "label"])
        return table.assign(sample_id=table["id"], path="train/" + table["id"] + ".tif")

    def test_frame(self, data: Path) -> pd.DataFrame:
        return frames.files_frame(data, "test", [".tif"])

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.roc_auc(solution, submission, by="id", column="label")
