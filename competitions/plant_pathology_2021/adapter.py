"""Plant Pathology 2021: which diseases has an apple leaf? Words, several at once; F1 per image, then the mean.

Host page: https://www.kaggle.com/competitions/plant-pathology-2021-fgvc8
The host's mean F1 is taken over images. MLE-bench's grader pools all words (`metrics.micro_f1`) and ignores predicted
words that never occur in its answers, so it flatters.
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multilabel, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "plant-pathology-2021-fgvc8"
    task = Multilabel("labels", answer="words")  # thresholds are fitted on OOF; "healthy" is a word like the others
    # Some photographs are there twice; near-copies stay apart even here. "host" is MLE-bench's split, at random.
    folds = {"copies": Folds(5, stratify="labels", group="copy_of"), "host": Folds(5, stratify="labels", group=None)}
    metric = "mean F1 of words"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=120, test_rows=5000)  # two hours on a GPU, nine on the CPU

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train.csv", ["image", "labels"])
        paths = "train_images/" + table["image"]
        return table.assign(sample_id=table["image"], path=paths, copy_of=frames.copies(data, paths))

    def test_frame(self, data: Path) -> pd.DataFrame:
        # From the files: the hidden test set is larger than the one you download.
        names = [path.name for path in frames.list_files(data / "test_images", [".jpg"])]
        return pd.DataFrame({"sample_id": names, "path": [f"test_images/{name}" for name in names]})

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("image").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.mean_f1(solution, submission, by="image", column="labels")

    def unit_scores(self, solution: pd.DataFrame, submission: pd.DataFrame) -> pd.Series:
        return metrics.mean_f1_units(solution, submission, by="image", column="labels")
