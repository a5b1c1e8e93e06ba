"""PetFinder.my Pawpularity: how often will this photograph of a pet be looked at, 1 to 100? Root mean squared error.

Host page: https://www.kaggle.com/competitions/petfinder-pawpularity-score
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Regression, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "petfinder-pawpularity-score"
    task = Regression("Pawpularity", low=1, high=100)
    # The same photograph is known to stand in train under several ids; near-copies stay apart even here.
    folds = {
        "copies": Folds(5, stratify="Pawpularity", group="copy_of", bins=10),
        "host": Folds(5, stratify="Pawpularity", group=None, bins=10),
    }
    metric = "root mean squared error"
    greater_is_better = False
    rules = Rules(kind="notebook", minutes=540, test_rows=6800)

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["Id", "Pawpularity"])  # and 12 flags, which helped nobody
        paths = "train/" + table["Id"] + ".jpg"
        return table.assign(sample_id=table["Id"], path=paths, copy_of=frames.copies(data, paths))

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the files: the hidden test set is larger than the one you download.
        return frames.files_frame(data, "test", [".jpg"])

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("Id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.rmse(solution, submission, by="Id", column="Pawpularity")
