"""Handwritten digits, embedded: scikit-learn's 1,797 scans of 8 x 8 pixels, laid out as a host would.

There is no such competition on Kaggle; `kit demo` writes the files. It is the shortest working template, and the whole
road runs on it without a download.
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multiclass, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "handwritten-digits"
    task = Multiclass("label")
    # 13 people wrote these digits; scikit-learn does not keep who wrote which, so writers are in several folds.
    folds = Folds(5, stratify="label", group=None)
    metric = "accuracy"
    greater_is_better = True
    rules = Rules(kind="notebook", accelerator=None)

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["image_id", "label"])
        paths = "train_images/" + table["image_id"] + ".png"
        return pd.DataFrame({"sample_id": table["image_id"], "path": paths, "label": table["label"]})

    def test_frame(self, data: Path) -> pd.DataFrame:
        return frames.files_frame(data, "test_images", [".png"])

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("image_id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.accuracy(solution, submission, by="image_id", column="label")
