"""The cell membranes: a fork of tgs_salt that cuts windows and scores by Dice, as the real tests use it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from kit import load_competition
from kit.offline.answers import cross_fitted, score_of
from kit.offline.contract import Competition
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import Run, parts_of
from tests.forks import fork_edited

DATA = Path(os.environ.get("KIT_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "membrane"

EDITS = {
    # 1: images of another size, and windows of them
    "SIDE = 101": "SIDE = 512\nTILES = Tiles(size=192, overlap=32)",
    "import Competition, Folds, Rules, Segmentation,": "import Competition, Folds, Rules, Segmentation, Tiles,",
    "return table.assign(": "return TILES.rows(table.assign(",
    ")  # fmt: skip": "))  # fmt: skip",
    "return pd.DataFrame(": "return TILES.rows(pd.DataFrame(",
    "        )\n\n    def submission(": (
        "        ))\n\n"
        "    def cut(self, array, row, how, rng):\n        return TILES.cut(array, row, rng)\n\n"
        "    def combine(self, frame, predictions):\n        return TILES.stitch(frame, predictions)\n\n"
        "    def submission("
    ),
    # 2: other folders
    '"train/images/"': '"train/"',
    'data / "test" / "images"': 'data / "test"',
    "test/images/{name}": "test/{name}",
    # 3: two dozen slices of one volume: too few to stratify
    'stratify="coverage", group=None, bins=10': "group=None",
    # 4: the host's metric
    '"mean over IoU thresholds"': '"mean Dice per image"',
    "metrics.iou_sweep(": "metrics.dice_per_image(",
    "metrics.iou_sweep_units(": "metrics.dice_per_image_units(",
}

RECIPES = """
import albumentations as A

from kit.training import Recipe


def turned(size):
    return A.Compose([A.SquareSymmetry(p=1.0), A.RandomBrightnessContrast(0.2, 0.2, p=0.5)])


unet = Recipe(
    backbone="test_resnet",
    pretrained=False,
    model={"decoder": "unet", "encoder_depth": 4, "decoder_channels": [48, 32, 16, 8]},
    image_size=192,
    epochs=8,
    batch_size=8,
    lr=4e-3,
    augment=turned,
    tta=("identity", "hflip", "vflip", "transpose"),
)
"""


def fork_membrane(home: Path) -> Path:
    """`kit new membrane --from tgs_salt --slug membrane`, the edits, a recipe; returns the folder."""
    return fork_edited("membrane", "tgs_salt", "membrane", EDITS, RECIPES, home)


def what_the_search_adds(run: Run, competition: Competition, frame: pd.DataFrame) -> dict[str, float]:
    """OOF mean Dice: at the threshold 0.5, with decisions fitted for each fold on the others, and fitted on all."""
    parts = list(parts_of(run, competition, frame).values())
    return {
        "at 0.5": score_of(competition, frame, parts, run.record["learned"]),
        "cross-fitted": cross_fitted(competition, frame, parts, run.record["learned"]),
        "fitted on all": score_of(competition, frame, parts, run.read("learned.json")),
    }


def measure(home: Path) -> dict[str, Any]:
    """Five folds of `unet`; what `python -m tests.membrane FOLDER` prints."""
    folder = fork_membrane(home)
    competition = load_competition("membrane", home)
    ground = open_ground(competition, DATA)
    began = time.monotonic()
    run = train_run(ground, "unet", find_recipe(folder, "unet"), home=home)
    found = {**what_the_search_adds(run, competition, ground.frame), "learned": run.read("learned.json")}
    return {**found, "score": run.read("score.json"), "seconds": round(time.monotonic() - began)}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1])), indent=1))
