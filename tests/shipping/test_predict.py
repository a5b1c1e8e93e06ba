"""Predicting at home runs the bundle's own code, and says again what the run said of its own held-out rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kit.offline.ensemble import predict_rows
from kit.offline.errors import BundleError, ImageError, KitError, NotFound
from kit.offline.frames import checked
from kit.offline.manifest import open_bundle
from kit.offline.places import load_adapter
from kit.offline.predict import seat_members
from kit.offline.predictions import Predictions, load_predictions
from kit.shipping.bundle import make_bundle
from kit.shipping.predict import as_kit_error, predict_at_home
from tests.shipping.conftest import World, reseal


@pytest.mark.parametrize("fold", [0, 1])
def test_a_member_says_of_its_held_out_rows_what_it_said_in_training(world: World, fold: int, tmp_path: Path) -> None:
    """Staged as a test set and read through manifest and wheel, the rows of fold k get their stored OOF, id by id.

    Cache, loader, preparation, views and weights of training and of inference are then the same.
    """
    bundle = make_bundle(world.run, world.competition, world.home, folds=[fold], full=True)
    manifest = open_bundle(bundle)
    rows = world.ground.frame[world.ground.frame["fold"] == fold].sample(frac=1, random_state=1)
    staged = tmp_path / "staged"
    staged.mkdir()
    world.competition.stage_test(rows, world.data, staged)
    competition = load_adapter(bundle / manifest.wheel / "competitions" / "tiles")
    frame = checked(competition.test_frame(staged), "test_frame")
    assert set(frame["sample_id"]) == set(rows["sample_id"]) and len(rows) == 20
    files = {name: bundle / name for name in manifest.files}
    seated = seat_members(manifest, competition, files, [torch.device("cpu")])
    said = predict_rows(seated, frame, staged, tmp_path).predictions[0]
    stored = load_predictions(world.run.fold(fold) / "oof")
    assert isinstance(said, Predictions) and isinstance(stored, Predictions)
    ids = rows["sample_id"].tolist()
    assert said.columns == stored.columns
    np.testing.assert_allclose(said.align(ids).values, stored.align(ids).values, rtol=0, atol=1e-5)
    assert stored.values.std() > 1e-3  # and they are not all the same


def test_the_code_is_the_wheels(bundle: Path, world: World, tmp_path: Path) -> None:
    """Not the checkout's, which may have moved on since the bundle was made; the adapter neither."""
    manifest = open_bundle(bundle)
    adapter = (world.home / "competitions" / "tiles" / "adapter.py").read_text()
    reseal(
        bundle,
        {
            "kit/offline/__init__.py": "print('offline:', __file__)\n",
            "competitions/tiles/adapter.py": adapter + "\n\nprint('adapter:', __file__)\n",
        },
    )
    said = predict_at_home(bundle, world.data, tmp_path / "submission.csv")
    wheel = bundle / manifest.wheel
    assert f"offline: {wheel}/kit/offline/__init__.py" in said
    assert f"adapter: {wheel}/competitions/tiles/adapter.py" in said
    table = pd.read_csv(tmp_path / "submission.csv", dtype=str)
    sample = pd.read_csv(world.data / "sample_submission.csv", dtype=str)
    assert set(table["tile"]) == set(sample["tile"]) and list(table.columns) == list(sample.columns)


def test_an_adapter_sees_no_credential(
    bundle: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code may be somebody else's: of the environment it gets what holds no secret, and what it needs."""
    secrets = ("KAGGLE_KEY", "KAGGLE_USERNAME", "KAGGLE_CONFIG_DIR", "HF_TOKEN", "WANDB_API_KEY")
    for name in (*secrets, "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    adapter = (world.home / "competitions" / "tiles" / "adapter.py").read_text()
    reseal(bundle, {"competitions/tiles/adapter.py": adapter + "\nimport os\n\nprint('seen:', *os.environ)\n"})
    said = predict_at_home(bundle, world.data, tmp_path / "submission.csv")
    seen = next(line for line in said.splitlines() if line.startswith("seen: ")).split()
    assert not set(secrets) & set(seen) and not [name for name in seen if name.startswith("KAGGLE_")]
    assert {"PATH", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE"} <= set(seen)


def test_a_fault_in_the_hosts_files_arrives_as_it_was_said(world: World, tmp_path: Path) -> None:
    """Expected, found, to do; no traceback, and no half submission."""
    data = Path(shutil.copytree(world.data, tmp_path / "data"))
    image = next((data / "test").glob("*.png"))
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(KitError) as caught:
        predict_at_home(world.bundle, data, tmp_path / "submission.csv")
    assert image.name in caught.value.expected
    assert caught.value.fix == ImageError("", "", "download it again, or drop its row").fix
    assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "submission.csv").exists()


def test_a_fault_of_the_adapter_is_named_in_a_line(bundle: Path, world: World, tmp_path: Path) -> None:
    """A mistake in the author's code is a clear error, too."""
    adapter = (world.home / "competitions" / "tiles" / "adapter.py").read_text()
    broken = adapter.replace('answers.rename_axis("tile")', "answers.no_such_method()")
    assert broken != adapter
    reseal(bundle, {"competitions/tiles/adapter.py": broken})
    with pytest.raises(BundleError, match="no_such_method") as caught:
        predict_at_home(bundle, world.data, tmp_path / "submission.csv")
    assert "Traceback" not in str(caught.value) and len(str(caught.value).splitlines()) == 3


def test_a_damaged_bundle_runs_nothing(bundle: Path, world: World, tmp_path: Path) -> None:
    """The wheel is code: it is compared with the manifest before Python sees it."""
    wheel = bundle / open_bundle(bundle).wheel
    wheel.write_bytes(b"")
    with pytest.raises(BundleError, match=r"\.whl"):
        predict_at_home(bundle, world.data, tmp_path / "submission.csv")


def test_the_last_fault_of_a_text_is_read_back() -> None:
    """Warnings may stand before it; lines may be long; other text is no fault."""
    fault = KitError("a thing", "another\nof two lines", "mend it")
    read = as_kit_error(f"UserWarning: expected: nothing\n  warn()\n{fault}\n")
    assert read is not None and str(read) == str(fault)
    assert as_kit_error("Traceback (most recent call last):\nValueError: no") is None
    quoting = KitError("the notebook to run through", "ValueError: shape expected: 3 channels, got 4", "look into it")
    assert str(as_kit_error(f"kit.offline.errors.KitError: {quoting}")) == str(quoting)


def test_predicting_into_no_folder_fails_at_once(world: World, tmp_path: Path) -> None:
    """Hours of prediction are not lost for want of a folder."""
    with pytest.raises(NotFound, match="no such folder"):
        predict_at_home(world.bundle, world.data, tmp_path / "none" / "submission.csv")
    with pytest.raises(NotFound, match="a file to write"):
        predict_at_home(world.bundle, world.data, tmp_path)
