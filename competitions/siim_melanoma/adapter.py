"""SIIM-ISIC Melanoma: is a mole malignant? A photograph, with age, sex and place on the body; area under the ROC curve.

Host page: https://www.kaggle.com/competitions/siim-isic-melanoma-classification
"""

from pathlib import Path

import pandas as pd

from kit import Binary, Competition, Folds, Rules, metrics, read_table

BESIDE = ("sex", "age_approx", "anatom_site_general_challenge")


class Adapter(Competition):
    slug = "siim-isic-melanoma-classification"
    task = Binary("target")
    # A patient has many moles, and some photographs are there twice. One in fifty is malignant.
    folds = Folds(5, stratify="target", group="patient_id")
    metric = "area under the ROC curve"
    greater_is_better = True
    table = BESIDE  # blanks are known: ages take the median, words none
    rules = Rules(kind="csv")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["image_name", "patient_id", *BESIDE, "target"])
        return table.assign(sample_id=table["image_name"], path="jpeg/train/" + table["image_name"] + ".jpg")

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the host's test table, which brings the columns beside the image.
        table = read_table(data / "test.csv", ["image_name", *BESIDE])
        return table.assign(sample_id=table["image_name"], path="jpeg/test/" + table["image_name"] + ".jpg")

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("image_name").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.roc_auc(solution, submission, by="image_name", column="target")
