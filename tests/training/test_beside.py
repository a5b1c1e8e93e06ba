"""Numbers beside the image and bags of any size, from training over the fold's predictions to the bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit.offline.errors import DataError
from kit.offline.manifest import open_bundle
from kit.offline.places import load_competition
from kit.offline.predict import predict_bundle
from kit.offline.predictions import load_predictions
from kit.shipping.bundle import make_bundle
from tests.training.conftest import COLOURS, World

TABLE = """    greater_is_better = True
    table = ("height", "colour_said")
"""
BAG = '''
    def cut(self, array, row, how, rng):
        """One to three looks at the image, as the id says."""
        return np.stack([array] * (1 + int(row.sample_id[:4]) % 3))

    def submission('''


def described(world: World, informative: bool = True) -> World:
    """The world with grey images: a word says the colour, two words in three; heights are noise with blanks."""
    table = pd.read_csv(world.data / "train.csv", dtype=str)
    draw = np.random.RandomState(5)
    table["height"] = [draw.choice(["", "1.5", "2", "70"]) for _ in range(len(table))]
    table["colour_said"] = table["colour"] if informative else "?"
    table.to_csv(world.data / "train.csv", index=False)
    world.edit("    greater_is_better = True\n", TABLE)
    world.edit("return opened(data, row.path)", "return opened(data, row.path) * 0 + 120")
    world.edit(".head(0)", "")
    world.edit(
        '[["sample_id"]]',
        '[["sample_id", "unit_id", "height", "colour_said"]].assign(path=lambda of: "images/" + of["sample_id"])',
    )
    return world


@pytest.mark.parametrize("mix", [{}, {"mixup": 0.2}])
def test_numbers_are_learned_from_and_travel(world: World, tmp_path: Path, mix: dict[str, float]) -> None:
    """Of grey images whose row says the colour, the network learns it; the bundle predicts OOF's own values again."""
    described(world)
    run = world.train([0], epochs=12, lr=1e-2, **mix)
    assert run.read("score.json")["pooled"] == 1.0
    record = json.loads((run.fold(0) / "model.json").read_text())
    words = next(column for column in record["preparation"]["table"] if column["column"] == "colour_said")
    assert words["values"] == sorted(COLOURS)
    assert record["spec"]["table"] == 4
    competition = load_competition("colours", world.home)
    competition.sample = None
    bundle = make_bundle(run, competition, world.home)
    member = open_bundle(bundle).members[0]
    assert [column["column"] for column in member.preparation.table] == ["height", "colour_said"]
    world.edit("    greater_is_better = True\n", "    greater_is_better = True\n    sample = None\n")
    again = make_bundle(run, load_competition("colours", world.home), world.home)
    said = predict_bundle(again, world.data, tmp_path / "submission.csv").set_index("thing")["colour"]
    held = pd.read_csv(world.data / "train.csv", dtype=str).drop_duplicates("unit_id").set_index("unit_id")
    assert (said == held.loc[said.index, "colour"]).mean() == 1.0


def test_numbers_that_say_nothing_teach_nothing(world: World) -> None:
    """The control: with the same word in every row, grey images stay a guess."""
    assert described(world, informative=False).train([0], epochs=6).read("score.json")["pooled"] < 0.7


def test_the_rows_that_train_measure_the_columns(world: World) -> None:
    """A fold's median is that of its training rows: another fold has another, and a held-out row changes nothing."""
    described(world)
    run = world.train([0, 1], epochs=1)
    means = [json.loads((run.fold(k) / "model.json").read_text())["preparation"]["table"][0]["mean"] for k in (0, 1)]
    assert means[0] != means[1]


@pytest.mark.parametrize("how", ["mean", "max", "attention"])
def test_bags_of_any_size_are_trained_and_predicted(world: World, how: str) -> None:
    """Bags of one to three images learn; a batch of several and rows alone say the same out of fold."""
    world.edit("    def submission(", BAG.lstrip("\n"))
    world.edit("from kit import", "import numpy as np\n\nfrom kit import")
    run = world.train([0], epochs=4, model={"bag": how}, mixup=0.2, tta=("identity", "hflip"))
    assert run.read("score.json")["pooled"] > 0.7
    oof = load_predictions(run.fold(0) / "oof")
    assert np.isfinite(oof.values).all()
    assert open_bundle(make_bundle(run, load_competition("colours", world.home), world.home)).members[0].golden.answers


def test_a_bag_is_pooled_by_its_mean_where_the_recipe_is_silent(world: World) -> None:
    """`cut` alone makes a bag: no setting is needed to train on it."""
    world.edit("    def submission(", BAG.lstrip("\n"))
    world.edit("from kit import", "import numpy as np\n\nfrom kit import")
    run = world.train([0], epochs=1)
    assert json.loads((run.fold(0) / "model.json").read_text())["spec"]["arguments"] == {"bag": "mean"}


def test_a_column_that_the_test_frame_lacks_is_named(world: World, tmp_path: Path) -> None:
    """What training had and the mounted test set has not stops the prediction by name."""
    described(world)
    run = world.train([0], epochs=1)
    world.edit('"unit_id", "height", "colour_said"]]', '"unit_id", "colour_said"]]')
    with pytest.raises(DataError, match="'height'"):
        predict_bundle(
            make_bundle(run, load_competition("colours", world.home), world.home), world.data, tmp_path / "s"
        )
