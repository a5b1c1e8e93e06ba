"""Dogs vs. Cats Redux: is it a dog? Labels stand in file names, there is no table; binary log loss.

Host page: https://www.kaggle.com/competitions/dogs-vs-cats-redux-kernels-edition
Certain answers are dear: one wrong 0 or 1 costs 34.5 here (Kaggle clips at 1e-15) and 36.0 with MLE-bench's grader.
"""

from pathlib import Path

import pandas as pd

from kit import Binary, Competition, Folds, Rules, frames, metrics


class Adapter(Competition):
    slug = "dogs-vs-cats-redux-kernels-edition"
    task = Binary("kind", positive="dog", negative="cat")
    # The host names no group. A few photographs are mislabelled or there twice.
    folds = Folds(5, stratify="kind", group=None)
    metric = "log loss"
    greater_is_better = False
    rules = Rules(kind="csv")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = frames.files_frame(data, "train", [".jpg"])  # cat.0.jpg, dog.12499.jpg
        return table.assign(kind=table["sample_id"].str.split(".").str[0])

    def test_frame(self, data: Path) -> pd.DataFrame:
        return frames.files_frame(data, "test", [".jpg"])

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename(columns={"kind": "label"}).rename_axis("id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.log_loss(solution, submission, by="id", column="label")

    def unit_scores(self, solution: pd.DataFrame, submission: pd.DataFrame) -> pd.Series:
        return metrics.log_loss_units(solution, submission, by="id", column="label")
