"""RANZCR CLiP: are catheters and lines well placed? Eleven findings per chest film; mean area under their ROC curves.

Host page: https://www.kaggle.com/competitions/ranzcr-clip-catheter-line-classification
The host scores all eleven. MLE-bench's grader scores nine: its sample submission lacks "CVC - Normal" and
"Swan Ganz Catheter Present", and it takes the host's table as it is, further columns ignored: with its copy of the
files set sample = None.
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multilabel, Rules, frames, metrics, read_table

FINDINGS = [
    *("ETT - Abnormal", "ETT - Borderline", "ETT - Normal"),
    *("NGT - Abnormal", "NGT - Borderline", "NGT - Incompletely Imaged", "NGT - Normal"),
    *("CVC - Abnormal", "CVC - Borderline", "CVC - Normal", "Swan Ganz Catheter Present"),
]


class Adapter(Competition):
    slug = "ranzcr-clip-catheter-line-classification"
    task = Multilabel(FINDINGS)
    # A patient has many films. "host" is how MLE-bench drew its test set: studies at random, patients on both sides.
    folds = {
        "patients": Folds(5, stratify=FINDINGS, group="PatientID"),
        "host": Folds(5, stratify=FINDINGS, group=None),
    }
    metric = "mean area under the ROC curve of 11 columns"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=540, test_rows=14000)

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["StudyInstanceUID", *FINDINGS, "PatientID"])
        return table.assign(sample_id=table["StudyInstanceUID"], path="train/" + table["StudyInstanceUID"] + ".jpg")

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the files: the hidden test set is larger than the one you download.
        return frames.files_frame(data, "test", [".jpg"])

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("StudyInstanceUID").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.mean_roc_auc(solution, submission, by="StudyInstanceUID", columns=FINDINGS)
