"""The ICML 2013 Whale Challenge (redux): is a right whale calling in two seconds of sea? Area under the ROC curve.

Host page: https://www.kaggle.com/competitions/the-icml-2013-whale-challenge-right-whale-redux
"""

from pathlib import Path

import pandas as pd

from kit import Binary, Competition, Folds, Rules, audio, frames, metrics

SOUND = audio.Sound(rate=2000, seconds=2, fft=256, hop=32, bands=64, low=30, high=1000)


class Adapter(Competition):
    slug = "the-icml-2013-whale-challenge-right-whale-redux"
    task = Binary("label")
    # The test clips are of later days. Calls of one minute sound alike, so random folds flatter; training has four days
    # (two in MLE-bench's copy), hence two folds.
    folds = {"days": Folds(2, group="day"), "random": Folds(5, stratify="label", group=None)}
    metric = "area under the ROC curve"
    greater_is_better = True
    rules = Rules(kind="csv")
    sample = "sampleSubmission.csv"

    def train_frame(self, data: Path) -> pd.DataFrame:
        # 20090328_000000_002s3ms_TRAIN0_0.aif: day, time, length, number, label
        names = pd.Series([path.name for path in frames.list_files(data / "train2", [".aif"])], dtype=str)
        said = names.str.extract(r"^(?P<day>\d+)_.*_(?P<label>[01])\.aif$")
        return said.assign(sample_id=names, path="train2/" + names)

    def test_frame(self, data: Path) -> pd.DataFrame:
        names = [path.name for path in frames.list_files(data / "test2", [".aif"])]
        return pd.DataFrame({"sample_id": names, "path": [f"test2/{name}" for name in names]})

    def read(self, row, data, how):
        return SOUND.of(how).read(data, row.path)

    def cut(self, array, row, how, rng):
        return SOUND.of(how).picture(array, rng=rng)

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers["label"].rename("probability").rename_axis("clip").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.roc_auc(solution, submission, by="clip", column="probability")
