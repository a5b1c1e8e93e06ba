"""The spoken digits: a fork of right_whale, as the real tests use it; folds by speaker against random ones.

    python -m tests.spoken

trains both schemes in a scratch folder and prints log loss and accuracy of every speaker's recordings.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from kit.offline.places import load_competition
from kit.offline.predictions import Predictions
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import Run
from tests.forks import fork_edited

DATA = Path(os.environ.get("KIT_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "spoken-digits"

EDITS = {
    # 1: ten digits, a probability column each
    "import Binary, Competition, Folds, Rules, audio, frames, metrics": (
        "import Competition, Folds, Multiclass, Rules, audio, frames, metrics, read_table"
    ),
    'Binary("label")': 'Multiclass("label", answer="probability")',
    'answers["label"].rename("probability").rename_axis("clip")': (
        'answers.add_prefix("digit_").rename_axis("filename")'
    ),
    # 2: other sounds, shorter and at another rate
    "rate=2000, seconds=2, fft=256, hop=32, bands=64, low=30, high=1000": (
        "rate=8000, seconds=0.8, fft=512, hop=64, bands=64, low=60, high=4000"
    ),
    # 3: the test set is another speaker
    '{"days": Folds(2, group="day")': '{"speakers": Folds(5, stratify="label", group="speaker")',
    # 4: labels come from a table, files from other folders
    """        # 20090328_000000_002s3ms_TRAIN0_0.aif: day, time, length, number, label
        names = pd.Series([path.name for path in frames.list_files(data / "train2", [".aif"])], dtype=str)
        said = names.str.extract(r"^(?P<day>\\d+)_.*_(?P<label>[01])\\.aif$")
        return said.assign(sample_id=names, path="train2/" + names)
""": """        table = read_table(data / "train.csv", ["filename", "label", "speaker"])
        return table.assign(sample_id=table["filename"], path="train_audio/" + table["filename"])
""",
    'frames.list_files(data / "test2", [".aif"])': 'frames.list_files(data / "test_audio", [".wav"])',
    'f"test2/{name}"': 'f"test_audio/{name}"',
    'sample = "sampleSubmission.csv"': 'sample = "sample_submission.csv"',
    # 5: log loss, the lower the better
    "greater_is_better = True": "greater_is_better = False",
    'metric = "area under the ROC curve"': 'metric = "log loss"',
    'metrics.roc_auc(solution, submission, by="clip", column="probability")': (
        'metrics.multiclass_log_loss(solution, submission, by="filename", columns=list(solution.columns[1:]))'
    ),
}

RECIPES = """
from kit.training import Recipe, augment

resnet = Recipe(
    backbone="test_resnet", pretrained=False, image_size=64, read={"gain": 6.0, "noise": 10.0}, epochs=6, batch_size=32,
    lr=4e-3, weight_decay=0.05, augment=augment.none, mixup=0.4, ema=0.99,
)
"""


def fork_spoken(home: Path) -> Path:
    """`kit new spoken --from right_whale --slug spoken-digits`, the five edits, a recipe; returns the folder."""
    return fork_edited("spoken", "right_whale", "spoken-digits", EDITS, RECIPES, home)


def by_speaker(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """OOF log loss and accuracy of each speaker's recordings, and of all."""
    oof = Predictions.load(run.folder / "oof.npz").frame()
    rows = frame.set_index("sample_id").loc[oof.index]
    of_truth = oof.to_numpy()[np.arange(len(oof)), oof.columns.get_indexer(rows["label"])]
    right = oof.columns.to_numpy()[oof.to_numpy().argmax(axis=1)] == rows["label"].to_numpy()
    each = pd.DataFrame({"log loss": -np.log(of_truth.clip(1e-15)), "accuracy": right}, index=rows["speaker"])
    return pd.concat([each.groupby(level=0).mean(), each.mean().to_frame("all").T])


def main() -> None:
    """Both fold schemes, trained and told."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = fork_spoken(Path(scratch))
        competition = load_competition("spoken", Path(scratch))
        for scheme in ("speakers", "random"):
            ground = open_ground(competition, DATA, scheme)
            run = train_run(ground, "resnet", find_recipe(folder, "resnet"), home=Path(scratch), say=lambda line: None)
            seconds = sum(run.read(f"fold{number}/done.json")["seconds"] for number in run.folds)
            print(f"\n{scheme}: score {run.read('score.json')['pooled']:.4f}, {seconds:.0f} s of training")
            print(by_speaker(run, ground.frame).round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
