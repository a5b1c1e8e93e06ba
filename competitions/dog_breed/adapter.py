"""Dog Breed Identification: which of 120 breeds, as probabilities; log loss over classes.

Host page: https://www.kaggle.com/competitions/dog-breed-identification
The host divides each row by its sum. MLE-bench's grader refuses rows that do not sum to one and clips at 2.2e-16 where
Kaggle clips at 1e-15: only certain and wrong answers cost more there.
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multiclass, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "dog-breed-identification"
    task = Multiclass("breed", answer="probability")
    # The host names no group. Stanford Dogs is a part of ImageNet: pretrained backbones have seen train and test.
    folds = Folds(5, stratify="breed", group=None)
    metric = "log loss over 120 classes"
    greater_is_better = False
    rules = Rules(kind="csv")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "labels.csv", ["id", "breed"])
        return table.assign(sample_id=table["id"], path="train/" + table["id"] + ".jpg")

    def test_frame(self, data: Path) -> pd.DataFrame:
        return frames.files_frame(data, "test", [".jpg"])

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.multiclass_log_loss(solution, submission, by="id", columns=list(solution.columns.drop("id")))

    def unit_scores(self, solution: pd.DataFrame, submission: pd.DataFrame) -> pd.Series:
        breeds = list(solution.columns.drop("id"))
        return metrics.multiclass_log_loss_units(solution, submission, by="id", columns=breeds)
