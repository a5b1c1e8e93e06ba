"""APTOS 2019 Blindness Detection: how far has retinopathy gone, 0 to 4? Quadratic weighted kappa.

Host page: https://www.kaggle.com/competitions/aptos2019-blindness-detection
The host's kappa is that of 5 x 5 matrices, whatever grades occur. MLE-bench's grader ranks the grades that do: with no
3 in prediction and truth, 4 is one step from 2 there.
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Ordinal, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "aptos2019-blindness-detection"
    task = Ordinal("diagnosis", classes=["0", "1", "2", "3", "4"])
    # The training set holds some photographs under several ids, now and then with another grade; only
    # copies byte for byte are kept together. MLE-bench's split ("host") takes no notice; patients are not named.
    folds = {
        "copies": Folds(5, stratify="diagnosis", group="copy_of"),
        "host": Folds(5, stratify="diagnosis", group=None),
    }
    metric = "quadratic weighted kappa"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=540, test_rows=13000)

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["id_code", "diagnosis"])
        paths = "train_images/" + table["id_code"] + ".png"
        return table.assign(sample_id=table["id_code"], path=paths, copy_of=frames.copies(data, paths))

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the files: the hidden test set is larger than the one you download.
        return frames.files_frame(data, "test_images", [".png"])

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("id_code").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.quadratic_kappa(solution, submission, by="id_code", column="diagnosis", classes=range(5))
