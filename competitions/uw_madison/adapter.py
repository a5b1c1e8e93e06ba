"""UW-Madison GI Tract Image Segmentation: three organs in slices of MRI scans; Dice and a 3-D Hausdorff distance.

Host page: https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation
MLE-bench's grader compares rows by their order, so the submission keeps that of the sample. The page counts two empty
masks as 0; the host's code leaves them out, and so does `metrics.dice_hausdorff`.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from kit import Competition, Folds, Rules, Segmentation, frames, metrics, pixels, read_table

ORGANS = ["large_bowel", "small_bowel", "stomach"]
SLICE = re.compile(r"(case\d+_day\d+)/scans/slice_(\d+)_.*\.png")


class Adapter(Competition):
    slug = "uw-madison-gi-tract-image-segmentation"
    # The host's page numbers pixels down the columns; its masks fit the images along the rows (public solutions agree).
    task = Segmentation(ORGANS, order="rows")
    # "days" is nearer to the host's own split, which tests on later days of known cases too: it flatters new cases.
    folds = {"cases": Folds(5, group="case"), "days": Folds(5, group="day")}
    metric = "0.4 Dice + 0.6 (1 - Hausdorff)"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=540)
    solution_columns = ("height", "width")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["id", "class", "segmentation"])
        masks = table.pivot(index="id", columns="class", values="segmentation")
        frame = slices(data, "train").set_index("sample_id").loc[table["id"].unique()]
        return frame.join(masks[ORGANS]).rename_axis("sample_id").reset_index()

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the files: the public download holds no test slice at all, and a sample without rows.
        frame = slices(data, "test")
        order = {name: at for at, name in enumerate(read_table(data / self.sample)["id"].unique())}
        return frame.iloc[frame["sample_id"].map(order).argsort(kind="stable")].reset_index(drop=True)

    def stage_test(self, rows: pd.DataFrame, data: Path, out: Path) -> None:
        # Slices alone, drawn by chance: their neighbours are not there, so each stands for them.
        for path in rows["path"]:
            place = out / "test" / Path(path).relative_to("train")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / path, place)
        (out / "test").mkdir(parents=True, exist_ok=True)
        self.constant_submission(frames.units_of(rows), data).to_csv(out / self.sample, index=False)

    def read(self, row, data, how):
        # 2.5-D: the slice between its neighbours. Scans differ in scale, so each is stretched by its greatest value.
        paths = (row.before, row.path, row.after)
        planes = np.stack([pixels.read_gray16(data, path, 65535) for path in paths], axis=2)
        return (planes * (65535 / max(int(planes.max()), 1))).astype(np.uint16)

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        rows = answers[ORGANS].rename_axis("id").reset_index().melt("id", var_name="class", value_name="predicted")
        order = rows["id"].map({name: at for at, name in enumerate(answers.index)}).argsort(kind="stable")
        return rows.iloc[order].reset_index(drop=True)

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        # Masks along the rows are masks down the columns of the turned image, whose distances are the same.
        turned = solution.rename(columns={"height": "width", "width": "height"})
        return metrics.dice_hausdorff(turned, submission, by=("id", "class"), column="predicted")


def slices(data: Path, folder: str) -> pd.DataFrame:
    """A row per slice below `folder`, in order, with the slices two before and after it in the same scan, or itself."""
    rows = []
    for path in sorted((data / folder).glob("case*/case*_day*/scans/slice_*.png")):
        name = path.relative_to(data).as_posix()
        day, number = SLICE.search(name).groups()
        rows.append([f"{day}_slice_{number}", name, day.split("_")[0], day, *pixels.size_of(data, name)])
    frame = pd.DataFrame(rows, columns=["sample_id", "path", "case", "day", "height", "width"])
    path_of = frame.set_index("sample_id")["path"]
    for column, by in (("before", -2), ("after", 2)):
        other = [f"{name[:-4]}{int(name[-4:]) + by:04d}" for name in frame["sample_id"]]
        frame[column] = path_of.reindex(other).fillna(pd.Series(path_of.array, index=other)).to_numpy()
    return frame
