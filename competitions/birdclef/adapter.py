"""BirdCLEF 2024: which of 182 species call in each five seconds of a soundscape? Mean ROC area of species that do.

Host page: https://www.kaggle.com/competitions/birdclef-2024
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multilabel, Rules, audio, frames, metrics, read_table

SOUND = audio.Sound(rate=32000, seconds=5, keep=15, fft=2048, hop=400, bands=128, low=50, high=15000)


class Adapter(Competition):
    slug = "birdclef-2024"
    task = Multilabel("birds", answer="word_probability")
    # Recordings of one author share microphone, place and often the very bird. No fold is like the test set, which is
    # soundscapes of other places: trust the leaderboard more than usual.
    folds = {
        "authors": Folds(5, stratify="primary_label", group="author"),
        "random": Folds(5, stratify="primary_label", group=None),
    }
    metric = "mean ROC area of the species that occur"
    greater_is_better = True
    rules = Rules(kind="notebook", minutes=120, accelerator=None)
    sample = None  # no soundscape is mounted before the rerun, so the sample's rows are nobody's

    def train_frame(self, data: Path) -> pd.DataFrame:
        table = read_table(data / "train_metadata.csv", ["primary_label", "secondary_labels", "author", "filename"])
        # secondary_labels is a Python list as text, at times of species that are no class
        others = table["secondary_labels"].str.findall(r"\w+")
        known = set(table["primary_label"])
        both = zip(table["primary_label"], others, strict=True)
        birds = [" ".join(sorted({first, *(known & set(more))})) for first, more in both]
        # Named as the host names windows: held out, a recording is judged by its first five seconds.
        names = table["filename"].str.replace("/", "-").str.removesuffix(".ogg") + "_5"
        return table.assign(sample_id=names, path="train_audio/" + table["filename"], start=0.0, birds=birds)

    def test_frame(self, data: Path) -> pd.DataFrame:
        rows = [
            (f"{path.stem}_{end}", f"test_soundscapes/{path.name}", path.stem, end - 5.0)
            for path in frames.list_files(data / "test_soundscapes", [".ogg"])
            for end in range(5, 5 * max(1, round(audio.seconds_of(path) / 5)) + 1, 5)
        ]
        return pd.DataFrame(rows, columns=["sample_id", "path", "source", "start"])

    def read(self, row, data, how):
        return SOUND.of(how).read(data, row.path, whole=row.path.startswith("test"))

    def cut(self, array, row, how, rng):
        return SOUND.of(how).picture(array, start=row.start if rng is None else None, rng=rng)

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("row_id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        species = [column for column in solution.columns if column != "row_id"]
        return metrics.mean_roc_auc(solution, submission, by="row_id", columns=species, skip_absent=True)

    def stage_test(self, rows: pd.DataFrame, data: Path, out: Path) -> None:
        (out / "test_soundscapes").mkdir(parents=True)
        for name, path in zip(rows["sample_id"], rows["path"], strict=True):
            first = SOUND.read(data, path)[: SOUND.length]
            audio.write_wav(out / "test_soundscapes" / f"{name.removesuffix('_5')}.ogg", first, SOUND.rate)
