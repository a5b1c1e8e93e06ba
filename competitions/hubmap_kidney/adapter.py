"""HuBMAP, Hacking the Kidney: glomeruli in whole-slide TIFFs of a billion pixels; mean Dice per image.

Host page: https://www.kaggle.com/competitions/hubmap-kidney-segmentation
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from kit import Competition, Folds, Rules, Segmentation, Tiles, frames, metrics, read_table, rle

# 2048 native pixels are about a millimetre; a glomerulus is a tenth to a third of one. Shrunk by 4: 512 pixels.
TILES = Tiles(size=2048, overlap=512, foreground=0.5)


class Adapter(Competition):
    slug = "hubmap-kidney-segmentation"
    task = Segmentation(["encoding"])
    folds = Folds(4, group="patient_number")  # tiles and sections of one patient stay together
    metric = "mean Dice per image"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=540)
    solution_columns = ("height", "width")

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["id", "encoding"])
        about = read_table(data / "HuBMAP-20-dataset_information.csv", ["image_file", "patient_number"])
        patients = about.set_index("image_file")["patient_number"].loc[table["id"] + ".tiff"]
        images = sized(table["id"], "train", data).assign(
            encoding=table["encoding"].to_numpy(), patient_number=patients.to_numpy()
        )
        points = [rle.points(row.encoding, row.height, row.width, 256) for row in images.itertuples()]
        return TILES.rows(images.assign(points=points))

    def test_frame(self, data: Path) -> pd.DataFrame:
        # The JSON files beside public test images give the answers away; the private ones have none.
        return TILES.rows(sized([p.stem for p in frames.list_files(data / "test", [".tiff"])], "test", data))

    def read(self, row, data, how):
        import tifffile

        image = tifffile.imread(data / row.path).squeeze()
        image = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image  # some files store colours as planes
        return shrunk(image, how.get("shrink", 4))

    def read_target(self, row, data, how):
        return shrunk(super().read_target(row, data, how), how.get("shrink", 4))

    def cut(self, array, row, how, rng):
        return TILES.cut(array, row, rng)

    def combine(self, frame, predictions):
        return TILES.stitch(frame, predictions)

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename(columns={"encoding": "predicted"}).rename_axis("id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.dice_per_image(solution, submission, by="id", column="predicted")

    def unit_scores(self, solution: pd.DataFrame, submission: pd.DataFrame) -> pd.Series:
        return metrics.dice_per_image_units(solution, submission, by="id", column="predicted")


def sized(ids, folder: str, data: Path) -> pd.DataFrame:
    """A row per image, with the height and width that its file tells."""
    import tifffile

    rows = []
    for name in ids:
        with tifffile.TiffFile(data / folder / f"{name}.tiff") as file:
            height, width = [side for side in file.series[0].shape if side > 3]
        rows.append({"sample_id": name, "path": f"{folder}/{name}.tiff", "height": height, "width": width})
    return pd.DataFrame(rows, columns=["sample_id", "path", "height", "width"])


def shrunk(image: np.ndarray, by: int) -> np.ndarray:
    """H x W (x C) uint8 -> the mean of by x by pixels."""
    return cv2.resize(image, (image.shape[1] // by, image.shape[0] // by), interpolation=cv2.INTER_AREA)
