"""Plant Pathology 2020: healthy, rust, scab or several diseases of an apple leaf; mean area under four ROC curves.

Host page: https://www.kaggle.com/competitions/plant-pathology-2020-fgvc7
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multilabel, Rules, metrics, read_table

CLASSES = ["healthy", "multiple_diseases", "rust", "scab"]


class Adapter(Competition):
    slug = "plant-pathology-2020-fgvc7"
    task = Multilabel(CLASSES, exclusive=True)  # a column per class, but each leaf has exactly one
    # One leaf in twenty has several diseases: without stratifying, a fold's area for that class is mostly chance.
    folds = Folds(5, stratify=CLASSES, group=None)
    metric = "mean area under the ROC curve of 4 columns"
    greater_is_better = True
    rules = Rules(kind="csv")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["image_id", *CLASSES])
        return table.assign(sample_id=table["image_id"], path="images/" + table["image_id"] + ".jpg")

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the host's test table: its folder of images holds train and test together.
        table = read_table(data / "test.csv", ["image_id"])
        return table.assign(sample_id=table["image_id"], path="images/" + table["image_id"] + ".jpg")

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("image_id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.mean_roc_auc(solution, submission, by="image_id", columns=CLASSES)
