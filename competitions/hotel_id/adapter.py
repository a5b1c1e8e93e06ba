"""Hotel-ID to Combat Human Trafficking 2021: which of 7,700 hotels is a room in? Up to five ids a photo, MAP@5.

Host page: https://www.kaggle.com/competitions/hotel-id-2021-fgvc8
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Retrieval, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "hotel-id-2021-fgvc8"
    task = Retrieval("hotel_id", answers=5)  # the host has no label for a hotel that training lacks
    # One hotel and time stamp are one upload, whose photographs look alike. MLE-bench's
    # random split keeps them: as much as "host" scores above "uploads" is memory of the upload, not of the hotel.
    folds = {
        "uploads": Folds(5, stratify="hotel_id", group="upload"),
        "host": Folds(5, stratify="hotel_id", group=None),
    }
    metric = "MAP@5"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=540, test_rows=13000)

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["image", "chain", "hotel_id", "timestamp"])
        table = table.drop_duplicates("image", keep=False)  # one image stands there twice
        upload = table["hotel_id"] + " " + table["timestamp"]
        # A hotel of one upload always trains: held out, no gallery would know it.
        scored = upload.groupby(table["hotel_id"]).transform("nunique") > 1
        path = "train_images/" + table["chain"] + "/" + table["image"]
        return table.assign(sample_id=table["image"], path=path, upload=upload, scored=scored)

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the files: three are public, the hidden test set has thousands.
        names = [path.name for path in frames.list_files(data / "test_images", [".jpg"])]
        return pd.DataFrame({"sample_id": names, "path": [f"test_images/{name}" for name in names]})

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("image").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.map_at_k(solution, submission, by="image", column="hotel_id", k=5)

    def unit_scores(self, solution: pd.DataFrame, submission: pd.DataFrame) -> pd.Series:
        return metrics.map_at_k_units(solution, submission, by="image", column="hotel_id", k=5)
