"""MLSP 2013 Bird Classification: which of 19 species sing in ten seconds of forest? ROC area pooled over all cells.

Host page: https://www.kaggle.com/competitions/mlsp-2013-birds
"""

from pathlib import Path

import pandas as pd

from kit import Competition, Folds, Multilabel, Rules, audio, metrics, read_table

SOUND = audio.Sound(rate=16000, seconds=10, fft=1024, hop=320, bands=96, low=200, high=8000)
LABELS, FILES, SPLIT = (
    Path("essential_data") / f"{name}.txt" for name in ("rec_labels_test_hidden", "rec_id2filename", "CVfolds_2")
)


class Adapter(Competition):
    slug = "mlsp-2013-birds"
    task = Multilabel("species", answer="word_probability", classes=[str(number) for number in range(19)], none="")
    # Recordings of one site and day share birds and weather; "host" is random over recordings.
    folds = {"sites": Folds(5, group="site_day"), "host": Folds(5, group=None)}
    metric = "ROC area, pooled"
    greater_is_better = True
    rules = Rules(kind="csv")

    def train_frame(self, data: Path) -> pd.DataFrame:
        return recordings(data, fold="0")

    def test_frame(self, data: Path) -> pd.DataFrame:
        return recordings(data, fold="1").drop(columns="species")

    def read(self, row, data, how):
        return SOUND.of(how).read(data, row.path)

    def cut(self, array, row, how, rng):
        return SOUND.of(how).picture(array, rng=rng)

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        long = answers.rename_axis("rec_id").reset_index().melt("rec_id", var_name="species", value_name="Probability")
        long["Id"] = long["rec_id"].astype(int) * 100 + long["species"].astype(int)
        return long.sort_values("Id")[["Id", "Probability"]]

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return metrics.roc_auc(solution, submission, by="Id", column="Probability")

    def stage_test(self, rows: pd.DataFrame, data: Path, out: Path) -> None:
        super().stage_test(rows, data, out)
        (out / FILES).parent.mkdir(parents=True, exist_ok=True)
        rows[["rec_id", "filename"]].to_csv(out / FILES, index=False)
        rows[["rec_id"]].assign(fold=1).to_csv(out / SPLIT, index=False)
        (out / LABELS).write_text("rec_id,[labels]\n" + "".join(f"{rec_id},?\n" for rec_id in rows["rec_id"]))


def recordings(data: Path, fold: str) -> pd.DataFrame:
    """The recordings of the host's fold (0 trains, 1 is to be predicted) with species as words, none as ""."""
    lines = (data / LABELS).read_text().split()[1:]  # ragged: 14,0,4 is recording 14 with species 0 and 4
    species = {rec_id: " ".join(found) for rec_id, *found in (line.split(",") for line in lines)}
    table = read_table(data / FILES, ["rec_id", "filename"])
    split = read_table(data / SPLIT, ["rec_id", "fold"]).set_index("rec_id")["fold"]
    table = table[table["rec_id"].map(split) == fold]
    return table.assign(
        sample_id=table["rec_id"],
        path="essential_data/src_wavs/" + table["filename"] + ".wav",
        species=table["rec_id"].map(species),
        site_day=table["filename"].str.split("_").str[:2].str.join("_"),  # PC1_20090606_050012_0010
    )
