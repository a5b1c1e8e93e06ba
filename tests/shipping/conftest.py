"""A tiny home with one trained run and its bundle, made once for all tests of shipping."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kit.offline.contract import Competition
from kit.offline.files import sha256_of
from kit.offline.places import load_competition
from kit.shipping.bundle import make_bundle
from kit.training.fanout import Ground, open_ground, train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import Run

ADAPTER = """
import pandas as pd

from kit import Competition, Folds, Multiclass, Rules, frames, metrics, read_table


class Adapter(Competition):
    slug = "coloured-tiles"
    task = Multiclass("kind")
    folds = Folds(2, stratify="kind", group=None)
    greater_is_better = True
    rules = Rules(minutes=30, test_rows=50_000)

    def train_frame(self, data):
        table = read_table(data / "train.csv", ["tile", "kind"])
        return pd.DataFrame(
            {"sample_id": table["tile"], "path": "train/" + table["tile"] + ".png", "kind": table["kind"]}
        )

    def test_frame(self, data):
        names = [path.stem for path in frames.list_files(data / "test", [".png"])]
        return pd.DataFrame({"sample_id": names, "path": [f"test/{name}.png" for name in names]})

    def submission(self, answers, units):
        return answers.rename_axis("tile").reset_index()

    def score(self, solution, submission):
        return metrics.accuracy(solution, submission, by="tile", column="kind")
"""

RECIPES = """
from dataclasses import replace

from kit.training import Recipe, augment

small = Recipe(
    backbone="test_resnet", pretrained=False, image_size=32, epochs=4, batch_size=8, lr=3e-3, augment=augment.light,
    precision="fp32", workers=0, tta=("identity", "hflip"),
)
other = replace(small, backbone="test_byobnet")
"""


@dataclass(frozen=True)
class World:
    """A home folder, its competition with data, a run of both folds and the bundle of that run."""

    home: Path
    data: Path
    ground: Ground
    run: Run
    bundle: Path

    @property
    def competition(self) -> Competition:
        return self.ground.competition


def write_tiles(data: Path, rows: int = 40, test: int = 7) -> None:
    """Tiles in three colours, 20 x 24, PNG; ids look like numbers with leading zeros."""
    draw = np.random.RandomState(3)
    ids = [f"{number:06d}" for number in draw.choice(10_000, rows + test, replace=False)]
    kinds = [("red", "green", "blue")[at % 3] for at in range(rows + test)]
    for at, (name, kind) in enumerate(zip(ids, kinds, strict=True)):
        pixels = draw.randint(0, 90, (20, 24, 3)).astype(np.uint8)
        pixels[:, :, ("red", "green", "blue").index(kind)] += 150
        folder = data / ("train" if at < rows else "test")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    pd.DataFrame({"tile": ids[:rows], "kind": kinds[:rows]}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"tile": ids[rows:], "kind": "red"}).to_csv(data / "sample_submission.csv", index=False)


def reseal(bundle: Path, wheel_files: dict[str, str] | None = None) -> None:
    """Change or add files of the bundle's wheel, and write the manifest anew for whatever now lies in the folder."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    wheel = bundle / manifest["wheel"]
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {name: text.encode() for name, text in (wheel_files or {}).items()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    files = [path for path in sorted(bundle.iterdir()) if path.name not in ("manifest.json", "dataset-metadata.json")]
    manifest["files"] = {path.name: {"sha256": sha256_of(path), "size": path.stat().st_size} for path in files}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Trained and bundled once; tests copy what they change."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "competitions" / "tiles"
    folder.mkdir(parents=True)
    (folder / "adapter.py").write_text(ADAPTER)
    (folder / "recipes.py").write_text(RECIPES)
    write_tiles(folder / "data")
    competition = load_competition("tiles", home)
    ground = open_ground(competition, folder / "data", say=lambda _: None)
    run = train_run(ground, "small", find_recipe(folder, "small"), home=home, say=lambda _: None)
    return World(home, folder / "data", ground, run, make_bundle(run, competition, home))


@pytest.fixture
def bundle(world: World, tmp_path: Path) -> Path:
    """A copy of the bundle under its own name, to be damaged at will."""
    return Path(shutil.copytree(world.bundle, tmp_path / "offline_weights" / world.bundle.name))
