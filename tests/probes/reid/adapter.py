"""Who is it? Animals by their coat; those that no gallery holds are "new". Up to five names per photo, MAP@5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F

from kit import Competition, Folds, Predictions, Task, read_table
from kit.offline.frames import list_files

NEW = "new"


class Identity(Task):
    """Embeddings compared by cosine; a photo whose best similarity is under a learned threshold is of nobody known."""

    columns = ("name",)
    retrieval = True

    def __init__(self, size: int = 8, scale: float = 8.0):
        self.size = size
        self.scale = scale

    def learn(self, frame):
        return {"names": sorted(set(frame["name"])), "threshold": 0.5}

    def outputs(self, learned):
        return tuple(f"d{at}" for at in range(self.size))

    def targets(self, frame, learned):
        return (frame["name"].to_numpy(object)[:, None] == np.asarray(learned["names"], object)).astype(np.float32)

    def loss(self, outputs, targets, weight):
        losses = F.cross_entropy(outputs * self.scale, targets, reduction="none")
        return (losses * weight).sum() / weight.sum()

    def activate(self, outputs):
        return F.normalize(outputs.float(), dim=1)

    def compare(self, predictions, gallery):
        alike = unit(predictions.values) @ unit(gallery.values).T
        labels = np.asarray(gallery.labels)
        names = sorted(set(gallery.labels))
        best = np.stack([alike[:, labels == name].max(axis=1) for name in names], axis=1)
        return Predictions(predictions.ids, best, tuple(names))

    def truth(self, units, learned, gallery=None):
        known = set(gallery.labels) if gallery else set(learned["names"])
        return units["name"].where(units["name"].isin(known), NEW).to_frame()

    def decode(self, predictions, units, learned, gallery=None):
        alike = predictions.align(units.index).frame().assign(**{NEW: learned["threshold"]})
        order = np.argsort(-alike.to_numpy(float, na_value=-np.inf), axis=1, kind="stable")[:, :5]
        names = np.asarray(alike.columns, object)[order]
        return pd.DataFrame({"name": [" ".join(five) for five in names]}, index=units.index)

    def tune(self, predictions, units, score, learned):
        best = np.nanmax(predictions.values, axis=1)
        candidates = np.quantile(best, np.linspace(0, 1, 9)).tolist()
        return max([learned, *({**learned, "threshold": value} for value in candidates)], key=score)


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length one; the mean of several views is shorter."""
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class Adapter(Competition):
    slug = "probe-reid"
    task = Identity()
    folds = Folds(2, group="encounter")
    metric = "MAP@5"
    greater_is_better = True

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["file", "encounter", "name"])
        return table.assign(sample_id=table["file"], path="train/" + table["file"])

    def test_frame(self, data: Path) -> pd.DataFrame:
        files = [path.name for path in list_files(data / "test", [".png"])]
        return pd.DataFrame({"sample_id": files, "path": [f"test/{file}" for file in files]})

    def assign_folds(self, frame: pd.DataFrame) -> pd.Series:
        """An animal's encounters take turns, so that most are known to the other fold."""
        turn = frame.groupby("name")["encounter"].transform(lambda column: pd.factorize(column, sort=True)[0])
        return (turn + frame["name"].map(ord)) % 2

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("file").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        said = submission.set_index("file")["name"].str.split()
        ranks = [said[row.file].index(row.name_) + 1 if row.name_ in said[row.file] else np.inf for row in
                 solution.rename(columns={"name": "name_"}).itertuples()]  # fmt: skip
        return float(np.mean(1 / np.asarray(ranks)))
