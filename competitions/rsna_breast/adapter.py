"""RSNA Breast Cancer Detection: is there cancer in a breast, seen in several mammograms? Probabilistic F1.

Host page: https://www.kaggle.com/competitions/rsna-breast-cancer-detection
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import Binary, Competition, Folds, Rules, dicom, metrics, read_table
from kit.offline.contract import Row

COLUMNS = ("patient_id", "image_id", "laterality")


class Adapter(Competition):
    slug = "rsna-breast-cancer-detection"
    # Yes or no beats a probability under this metric; OOF fits the threshold.
    task = Binary("cancer", answer="label")
    # Sites and machines differ in rate and in looks: compare scores by site_id before you trust a gain.
    folds = Folds(5, stratify="cancer", group="patient_id")
    metric = "probabilistic F1"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=540, test_rows=32000)  # 8,000 patients, about four films each
    wheels = ("python-gdcm",)  # decodes JPEG lossless, which Kaggle's image cannot

    def train_frame(self, data: Path) -> pd.DataFrame:
        return mammograms(read_table(data / "train.csv", [*COLUMNS, "cancer"]), "train_images")

    def test_frame(self, data: Path) -> pd.DataFrame:
        return mammograms(read_table(data / "test.csv", COLUMNS), "test_images")

    def read(self, row: Row, data: Path, how: Mapping[str, Any]) -> np.ndarray:
        image = dicom.read_dicom(data, row.path, how.get("window", "full"))
        return image if how.get("bits", 16) == 16 else (image >> 8).astype(np.uint8)

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("prediction_id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.pf1(solution, submission, by="prediction_id", column="cancer")


def mammograms(table: pd.DataFrame, folder: str) -> pd.DataFrame:
    """A row per image; the unit is the breast, as the host's prediction_id names it."""
    path = folder + "/" + table["patient_id"] + "/" + table["image_id"] + ".dcm"
    unit = table["patient_id"] + "_" + table["laterality"]
    return table.assign(sample_id=table["patient_id"] + "_" + table["image_id"], unit_id=unit, path=path)
