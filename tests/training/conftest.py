"""A competition small enough to train in a second: images whose colour is the class, odd ids, two images a unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kit.offline.places import load_competition
from kit.training.fanout import Ground, open_ground, train_run
from kit.training.recipe import Recipe, load_recipes
from kit.training.rundir import Run

ADAPTER = '''
"""Which colour is it?"""

from kit import Competition, Folds, Multiclass, metrics, pixels, read_table


def opened(data, name):
    return pixels.read_rgb(data, name)


class Adapter(Competition):
    slug = "colours-of-things"
    task = Multiclass("colour")
    folds = Folds(3, stratify="colour", group="box")
    greater_is_better = True

    def train_frame(self, data):
        table = read_table(data / "train.csv")
        table["path"] = "images/" + table["sample_id"]
        table["scored"] = table["scored"] == "yes"
        return table

    def test_frame(self, data):
        return read_table(data / "train.csv")[["sample_id"]].head(0)

    def read(self, row, data, how):
        with (data / "reads.txt").open("a") as file:
            file.write(row.sample_id + "\\n")
        return opened(data, row.path)

    def submission(self, answers, units):
        return answers.rename_axis("thing").reset_index()

    def score(self, solution, submission):
        return metrics.accuracy(solution, submission, by="thing", column="colour")
'''
RECIPES = """
from kit.training import Recipe, augment

tiny = Recipe(
    backbone="test_resnet", pretrained=False, image_size=32, epochs=2, batch_size=8, lr=3e-3, workers=0,
    augment=augment.square, precision="fp32",
)
"""
COLOURS = {"blue": (40, 60, 190), "green": (40, 190, 60), "red": (190, 50, 40)}


@dataclass(frozen=True)
class World:
    """A home folder with one competition, `colours`."""

    home: Path

    @property
    def folder(self) -> Path:
        return self.home / "competitions" / "colours"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def ground(self) -> Ground:
        return open_ground(load_competition("colours", self.home), self.data, say=lambda line: None)

    def recipe(self, **changes: Any) -> Recipe:
        return replace(load_recipes(self.folder)["tiny"], **changes)

    def train(self, folds: list[int] | None = None, name: str = "tiny", **changes: Any) -> Run:
        return train_run(self.ground(), name, self.recipe(**changes), folds, self.home, say=lambda line: None)

    def edit(self, old: str, new: str, file: str = "adapter.py") -> None:
        """Change the text of a file of the competition; `old` must be there."""
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new))

    def reads(self) -> list[str]:
        """The sample ids that `read` was called for since the last call."""
        path = self.data / "reads.txt"
        lines = path.read_text().splitlines() if path.is_file() else []
        path.unlink(missing_ok=True)
        return lines


def write_world(home: Path, units: int = 24, seed: int = 3) -> World:
    """Units of three colours, two to a box and two samples each, ids unsorted; one unit in eight is unscored."""
    world = World(home)
    (world.data / "images").mkdir(parents=True)
    (world.folder / "adapter.py").write_text(ADAPTER)
    (world.folder / "recipes.py").write_text(RECIPES)
    draw = np.random.RandomState(seed)
    names = draw.permutation([f"{number:04d}" for number in draw.choice(9999, units, replace=False)])
    rows = []
    for number, unit in enumerate(names):
        colour = sorted(COLOURS)[number // 2 % 3]
        for side in "ba":
            row = {
                "sample_id": f"{unit}_{side}.png",
                "unit_id": f"u{unit}",
                "box": f"box {number // 2}",
                "colour": colour,
                "scored": "no" if number % 8 == 7 else "yes",
            }
            rows.append(row)
            noise = draw.normal(0, 25, (20, 28, 3))
            image = (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(world.data / "images" / row["sample_id"])
    table = pd.DataFrame(rows)
    table.iloc[draw.permutation(len(table))].to_csv(world.data / "train.csv", index=False)
    return world


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On busy cores OpenMP's threads wait seconds for each other; and the bits hang on their number."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("KIT_CACHE", raising=False)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return write_world(tmp_path)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """`write_world`, for fixtures that outlive a test."""
    return write_world


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Run, Run]:
    """A world with two runs of all folds; tests that use it must not change it."""
    torch.set_num_threads(1)
    world = write_world(tmp_path_factory.mktemp("trained"))
    return world, world.train(), world.train(name="other", seed=1, lr=1e-3)
