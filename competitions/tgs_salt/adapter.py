"""TGS Salt Identification Challenge: where is salt in seismic images of 101 x 101; mean over IoU thresholds.

Host page: https://www.kaggle.com/competitions/tgs-salt-identification-challenge
An empty answer to a mask scores nothing here; MLE-bench's grader gives it the mask's share of the image as IoU. Its
depths.csv lacks the test images, so the depth cannot go beside the image.
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Rules, Segmentation, frames, metrics, read_table, rle

SIDE = 101


class Adapter(Competition):
    slug = "tgs-salt-identification-challenge"
    task = Segmentation(["rle_mask"])
    # Images are cut from a few large mosaics, which the host does not name: neighbours look alike across folds.
    folds = Folds(5, stratify="coverage", group=None, bins=10)
    metric = "mean over IoU thresholds"
    greater_is_better = True
    rules = Rules(kind="csv")
    solution_columns = ("height", "width")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["id", "rle_mask"])
        return table.assign(
            sample_id=table["id"], path="train/images/" + table["id"] + ".png", height=SIDE, width=SIDE,
            coverage=[rle.runs(text, SIDE * SIDE)[:, 1].sum() / SIDE**2 for text in table["rle_mask"]],
        )  # fmt: skip

    def test_frame(self, data: Path) -> pd.DataFrame:
        names = [path.stem for path in frames.list_files(data / "test" / "images", [".png"])]
        return pd.DataFrame(
            {"sample_id": names, "path": [f"test/images/{name}.png" for name in names], "height": SIDE, "width": SIDE}
        )

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.iou_sweep(solution, submission, by="id", column="rle_mask")

    def unit_scores(self, solution: pd.DataFrame, submission: pd.DataFrame) -> pd.Series:
        return metrics.iou_sweep_units(solution, submission, by="id", column="rle_mask")
