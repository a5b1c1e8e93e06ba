"""What the notebook does on Kaggle: loud on the public run, and in the rerun a submission whatever happens."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kit.offline.clock import Clock
from kit.offline.ensemble import Seated, plan_of, predict_rows
from kit.offline.errors import BundleError, ImageError, KitError
from kit.offline.files import sha256_of
from kit.offline.frames import checked, read_table
from kit.offline.manifest import Manifest, open_bundle, open_mounted
from kit.offline.notebook import LOG, Log, Session, answerer, serve, submit
from kit.offline.predict import competition_in, predict_bundle, prior_table, seat_members
from kit.offline.predictions import Predictions
from kit.shipping.datasets import datasets_of
from kit.shipping.rehearse import mounted_as
from tests.shipping.conftest import World, reseal
from tests.shipping.gateways import adapter_that_serves, write_gateway

CPU = torch.device("cpu")


def seated_of(bundle: Path, devices: list[torch.device] | None = None) -> list[Seated]:
    """The members of a bundle in their seats."""
    manifest = open_bundle(bundle)
    files = {name: bundle / name for name in manifest.files}
    return seat_members(manifest, competition_in(bundle, manifest), files, devices or [CPU])


def test_frame_of(seated: list[Seated], data: Path) -> pd.DataFrame:
    return checked(seated[0].competition.test_frame(data), "test_frame")


test_frame_of.__test__ = False  # type: ignore[attr-defined]


def values(predictions: object) -> np.ndarray:
    assert isinstance(predictions, Predictions)
    return predictions.values


def test_a_file_is_read_once_for_members_views_and_sizes(
    world: World, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two members of two views, one of which takes another size: each file is decoded once, and nobody says anything
    else than alone."""
    seated = seated_of(bundle)
    other = replace(seated[1].member, preparation=replace(seated[1].member.preparation, size=(48, 48), cache_size=16))
    seated[1] = replace(seated[1], member=other)
    frame = test_frame_of(seated, world.data)
    read: list[str] = []
    kind = type(seated[0].competition)
    whole = kind.read
    monkeypatch.setattr(kind, "read", lambda self, row, data, how: read.append(row.path) or whole(self, row, data, how))
    together = predict_rows(seated, frame, world.data, tmp_path).predictions
    assert sorted(read) == sorted(frame["path"])
    for one, said in zip(seated, together, strict=True):
        alone = predict_rows([one], frame, world.data, tmp_path).predictions[0]
        np.testing.assert_array_equal(values(said), values(alone))


def test_two_devices_say_the_same(world: World, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches go to each device in turn and come back in order; the devices here are two names of the CPU."""
    monkeypatch.setattr("kit.offline.ensemble.BATCH_SIZE", 2)
    frame = test_frame_of(seated_of(bundle), world.data)
    one = predict_rows(seated_of(bundle), frame, world.data, tmp_path).predictions
    both = predict_rows(seated_of(bundle, [CPU, torch.device("cpu", 0)]), frame, world.data, tmp_path).predictions
    for single, double in zip(one, both, strict=True):
        np.testing.assert_array_equal(values(single), values(double))


def test_a_batch_that_memory_does_not_hold_is_halved(
    world: World, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers from smaller batches; one row that does not fit is an error."""
    import kit.offline.forward as module

    seated, whole = seated_of(bundle), module.forward
    frame = test_frame_of(seated, world.data)
    plain = predict_rows(seated, frame, world.data, tmp_path).predictions
    room = 2

    def forward(model: object, task: object, images: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(images) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(model, task, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "forward", forward)
    for ours, theirs in zip(predict_rows(seated, frame, world.data, tmp_path).predictions, plain, strict=True):
        np.testing.assert_allclose(values(ours), values(theirs), atol=1e-6)
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        predict_rows(seated, frame, world.data, tmp_path)


PREDICT_MANY = """
import sys
from pathlib import Path

import pandas as pd

from kit.offline.memory import peak_memory_mb
from tests.shipping.test_rerun import predict_rows, seated_of, test_frame_of

bundle, data, folder = map(Path, sys.argv[1:4])
seated = seated_of(bundle)
frame = test_frame_of(seated, data)
rows = frame.iloc[[at % len(frame) for at in range(int(sys.argv[4]))]].reset_index(drop=True)
rows["sample_id"] = [f"{number:06d}" for number in range(len(rows))]
rows["unit_id"] = rows["sample_id"]
predict_rows(seated, rows, data, folder)
print(peak_memory_mb())
"""


@pytest.mark.full
def test_memory_hardly_grows_with_the_rows_of_the_hidden_set(world: World, tmp_path: Path) -> None:
    """18,000 more rows take at most 1 KiB each: a prepared image (3 KiB) that is kept by any part would show."""

    def peak(rows: int) -> int:
        command = [sys.executable, "-c", PREDICT_MANY, str(world.bundle), str(world.data), str(tmp_path), str(rows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        return int(done.stdout.split()[-1])

    assert peak(20_000) - peak(2_000) <= 18  # MB; 5 were measured


def test_unreadable_rows_get_the_prior_and_touch_no_other(world: World, bundle: Path, tmp_path: Path) -> None:
    """Where it is borne; else the first one is an error. Rows beside it in the batch keep their values to the bit."""
    seated = seated_of(bundle)
    data = Path(shutil.copytree(world.data, tmp_path / "data"))
    frame = test_frame_of(seated, data)
    clean = predict_rows(seated, frame, data, tmp_path).predictions
    gone, empty = frame["sample_id"].iloc[[3, 0]]
    (data / "test" / f"{gone}.png").unlink()
    (data / "test" / f"{empty}.png").write_bytes(b"")
    outcome = predict_rows(seated, frame, data, tmp_path, tolerant=True)
    assert set(outcome.unreadable) == {gone, empty}
    for one, said, before in zip(seated, outcome.predictions, clean, strict=True):
        assert isinstance(said, Predictions) and isinstance(before, Predictions) and one.member.prior
        rest = [name for name in frame["sample_id"] if name not in (gone, empty)]
        np.testing.assert_array_equal(said.align(rest).values, before.align(rest).values)
        np.testing.assert_allclose(said.align([empty]).values[0], one.member.prior, rtol=1e-6)
        assert sum(one.member.prior) == pytest.approx(1, abs=1e-4)  # a mean of probabilities
    with pytest.raises(ImageError):
        predict_rows(seated, frame, data, tmp_path)


def test_a_network_that_says_no_number_is_borne_in_the_rerun_alone(world: World, bundle: Path, tmp_path: Path) -> None:
    """As a row that cannot be read."""
    seated = seated_of(bundle)
    for parameter in seated[0].models[CPU].parameters():
        parameter.data.fill_(float("nan"))
    frame = test_frame_of(seated, world.data)
    outcome = predict_rows(seated, frame, world.data, tmp_path, tolerant=True)
    assert set(outcome.unreadable) == set(frame["sample_id"])
    with pytest.raises(KitError, match="finite"):
        predict_rows(seated, frame, world.data, tmp_path)


class Hands:
    """A clock's hands that a second passes over with each pass of a network."""

    def __init__(self, seated: list[Seated]) -> None:
        self.at, self.passes = 0.0, 0
        for one in seated:
            one.models[CPU].register_forward_pre_hook(self.move)

    def __call__(self) -> float:
        return self.at

    def move(self, *_: object) -> None:
        self.at += 1
        self.passes += 1


def test_what_time_does_not_allow_is_left_out(
    world: World, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that is left out changes no blend: it repeats what the others say. Without time rows get the prior, and
    none is begun."""
    monkeypatch.setattr("kit.offline.ensemble.BATCH_SIZE", 1)
    seated = seated_of(bundle)
    frame = test_frame_of(seated, world.data)
    clean = predict_rows(seated, frame, world.data, tmp_path).predictions
    hands = Hands(seated)
    # Two members with two views: four seconds a row. After two rows 9 seconds are left, and five rows.
    plan = plan_of(seated, Clock(20, 0, hands), len(frame))
    outcome = predict_rows(seated, frame, world.data, tmp_path, plan)
    first, second = (values(said) for said in outcome.predictions)
    assert [bool((first[at] == second[at]).all()) for at in range(7)] == [False] * 2 + [True] * 5
    np.testing.assert_array_equal(first[:2], values(clean[0])[:2])
    assert (hands.passes, outcome.late, len(outcome.left_out)) == (2 * 4 + 5, 0, 1)
    late = predict_rows(seated, frame, world.data, tmp_path, plan_of(seated, Clock(1, -100, hands), len(frame)))
    assert late.late == len(frame) and hands.passes == 13
    assert len(np.unique(values(late.predictions[0]), axis=0)) == 1


def test_weights_are_found_where_their_own_dataset_is_mounted(bundle: Path, tmp_path: Path) -> None:
    """Under both layouts, beside another file of that name; a changed bit is refused with the file's name."""
    manifest = open_bundle(bundle)
    for layout in ("old", "new"):
        inputs = tmp_path / layout
        for place, folder in mounted_as(bundle, manifest, layout, tmp_path / f"scratch-{layout}").items():
            shutil.copytree(folder, inputs / place)
        (inputs / "a").mkdir()
        (inputs / "a" / manifest.members[0].file).write_bytes(b"another")
        place = next(inputs.rglob("manifest.json")).parent
        assert not list(place.glob("*.safetensors"))
        with pytest.raises(BundleError, match="missing"):
            open_bundle(place)
        _, files = open_mounted(place, sha256_of(bundle / "manifest.json"), inputs)
        assert set(files) == set(manifest.files)
        weights = files[manifest.members[1].file]
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(BundleError, match=weights.name):
            open_mounted(place, None, inputs)
    assert len(datasets_of(manifest)) == 2


@pytest.fixture
def kaggle(world: World, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """`submit` in a working folder over mounted inputs; keyword rerun=True is Kaggle's rerun."""
    inputs, working = tmp_path / "input", tmp_path / "working"
    working.mkdir()
    shutil.copytree(world.data, inputs / "competitions" / "coloured-tiles")
    monkeypatch.setenv("KIT_INPUT", str(inputs))
    monkeypatch.chdir(working)

    def run(rerun: bool = False, **named: bool | float) -> pd.DataFrame:
        if rerun:
            monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
        return submit(bundle, sha256_of(bundle / "manifest.json"), **named)  # type: ignore[arg-type]

    return run


def log_of(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "working" / LOG).read_text())


def broken_read(world: World, bundle: Path, code: str) -> None:
    """Give the bundle's adapter a `read` of its own."""
    adapter = (world.home / "competitions" / "tiles" / "adapter.py").read_text()
    reseal(bundle, {"competitions/tiles/adapter.py": adapter + f"\n    def read(self, row, data, how):\n{code}\n"})


def test_the_public_run_proves_that_all_is_as_at_home(
    world: World, bundle: Path, tmp_path: Path, kaggle: Callable[..., pd.DataFrame]
) -> None:
    """The same bytes as at home; held-back rows are predicted again and are as they were."""
    kaggle()
    predict_bundle(bundle, world.data, tmp_path / "home.csv")
    assert (tmp_path / "working" / "submission.csv").read_bytes() == (tmp_path / "home.csv").read_bytes()
    log = log_of(tmp_path)
    assert log["rows"] == log["units"] == 7 and log["fault"] is None and log["unreadable"] == {}
    assert len(log["drift"]) == 2 and max(log["drift"].values()) < 0.01
    manifest = open_bundle(bundle)
    assert [len(member.remembered.ids) for member in manifest.members if member.remembered] == [20, 20]
    steps = sorted(log["seconds"], key=log["seconds"].get)
    assert steps == ["opened", "prior", "golden", "predicted again", "predicted", "written"]


def test_files_that_are_read_otherwise_are_refused(
    world: World, bundle: Path, kaggle: Callable[..., pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    """Golden inputs are no files and cannot show it: here channels come in another order. The rerun warns alone."""
    broken_read(world, bundle, "        return super().read(row, data, how)[:, :, ::-1]")
    with pytest.raises(BundleError, match="held-back training rows"):
        kaggle()
    assert len(kaggle(rerun=True)) == 7


def test_the_rerun_ends_in_the_prior_where_all_fails(
    world: World,
    bundle: Path,
    tmp_path: Path,
    kaggle: Callable[..., pd.DataFrame],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A legal table that is there before anything is tried; strict stops instead, and writes nothing."""
    monkeypatch.setattr("kit.offline.ensemble.default_workers", lambda: 0)  # the error as the adapter raised it
    adapter = (world.home / "competitions" / "tiles" / "adapter.py").read_text()
    broken = adapter + "\n    def cut(self, array, row, how, rng):\n        raise MemoryError('all of it')\n"
    reseal(bundle, {"competitions/tiles/adapter.py": broken})
    with pytest.raises(MemoryError):
        kaggle()
    table = kaggle(rerun=True)
    manifest = open_bundle(bundle)
    competition = competition_in(bundle, manifest)
    frame = checked(competition.test_frame(world.data), "test_frame")
    pd.testing.assert_frame_equal(table, prior_table(manifest, competition, frame, world.data))
    assert read_table(tmp_path / "working" / "submission.csv")["kind"].nunique() == 1
    assert log_of(tmp_path)["fault"] == "MemoryError: all of it"
    assert "LOOK AT THIS" in capsys.readouterr().err
    (tmp_path / "working" / "submission.csv").unlink()
    with pytest.raises(MemoryError):
        kaggle(strict=True)
    assert not (tmp_path / "working" / "submission.csv").exists()


def test_the_rerun_ends_in_the_sample_where_the_rows_are_unknown(
    world: World, bundle: Path, tmp_path: Path, kaggle: Callable[..., pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    """A test_frame that raises leaves the host's own sample, which is legal; the public run and strict stop."""
    adapter = (world.home / "competitions" / "tiles" / "adapter.py").read_text()
    broken = adapter + "\n    def test_frame(self, data):\n        raise ValueError('a size of 0')\n"
    reseal(bundle, {"competitions/tiles/adapter.py": broken})
    with pytest.raises(ValueError, match="a size of 0"):
        kaggle()
    pd.testing.assert_frame_equal(kaggle(rerun=True), read_table(world.data / "sample_submission.csv"))
    written = read_table(tmp_path / "working" / "submission.csv")
    pd.testing.assert_frame_equal(written, read_table(world.data / "sample_submission.csv"))
    assert log_of(tmp_path)["fault"] == "ValueError: a size of 0"
    assert "LOOK AT THIS" in capsys.readouterr().err
    with pytest.raises(ValueError, match="a size of 0"):
        kaggle(strict=True)


def test_the_rerun_counts_what_it_cannot_read(
    tmp_path: Path, kaggle: Callable[..., pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    """One of seven: it is said most loudly, and the table is whole; strict stops, and so does the public run."""
    bad = sorted((tmp_path / "input" / "competitions" / "coloured-tiles" / "test").glob("*.png"))[2]
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(ImageError):
        kaggle()
    assert len(kaggle(rerun=True)) == 7
    assert list(log_of(tmp_path)["unreadable"]) == [bad.stem]
    said = capsys.readouterr().err
    assert "LOOK AT THIS: 1 of 7 rows" in said and bad.stem in said
    with pytest.raises(ImageError):
        kaggle(strict=True)


@pytest.fixture
def served(world: World, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`serve` over mounted inputs with a gateway in the competition's files; with rerun=True the gateway calls from
    outside."""
    reseal(bundle, {"competitions/tiles/adapter.py": adapter_that_serves(world)})
    write_gateway(Path(shutil.copytree(world.data, tmp_path / "input" / "coloured-tiles")))
    (tmp_path / "working").mkdir()
    monkeypatch.setenv("KIT_INPUT", str(tmp_path / "input"))
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("kaggle_evaluation")]:
        monkeypatch.delitem(sys.modules, name)

    def run(**named: float) -> None:
        serve(bundle, sha256_of(bundle / "manifest.json"), "submission.csv", **named)

    return run


def test_a_gateway_is_answered_batch_by_batch(
    world: World, tmp_path: Path, served: Callable[..., None], bundle: Path
) -> None:
    """Every batch of two gets its rows, and together they are what the files alone would give."""
    served()
    table = read_table(tmp_path / "working" / "submission.csv").set_index("tile")["kind"]
    manifest: Manifest = open_bundle(bundle)
    home = predict_bundle(bundle, world.data, tmp_path / "home.csv").set_index("tile")["kind"]
    assert table.sort_index().to_dict() == home.sort_index().to_dict()
    log = log_of(tmp_path)
    assert log["rows"] == 7 and log["fault"] is None and len(log["drift"]) == len(manifest.members)


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Callable[..., None]) -> Callable[..., None]:
    """`served` in the rerun: the host's own gateway calls from outside."""
    data = tmp_path / "input" / "coloured-tiles"
    monkeypatch.syspath_prepend(str(data))
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    import kaggle_evaluation.tiles_server as host  # type: ignore[import-not-found]

    whole = host.TilesInferenceServer.serve

    def serve_and_be_called(self: object) -> None:
        caller = threading.Thread(target=host.gateway, args=(self.listener.address, data))  # type: ignore[attr-defined]
        caller.start()
        whole(self)
        caller.join()

    monkeypatch.setattr(host.TilesInferenceServer, "serve", serve_and_be_called)
    return served


def test_an_unreadable_image_is_loud_at_the_local_gateway(tmp_path: Path, served: Callable[..., None]) -> None:
    """As for notebooks that write a file."""
    bad = sorted((tmp_path / "input" / "coloured-tiles" / "test").glob("*.png"))[4]
    bad.write_bytes(b"")
    with pytest.raises(RuntimeError, match="SERVER_RAISED_EXCEPTION ImageError"):
        served()


def test_an_unreadable_image_is_borne_by_a_server_in_the_rerun(tmp_path: Path, called: Callable[..., None]) -> None:
    """It alone gets the prior."""
    bad = sorted((tmp_path / "input" / "coloured-tiles" / "test").glob("*.png"))[4]
    bad.write_bytes(b"")
    called()
    assert len(read_table(tmp_path / "working" / "submission.csv")) == 7
    assert list(log_of(tmp_path)["unreadable"]) == [bad.stem]


@pytest.mark.parametrize(("rules", "late"), [("test_rows=7", 7), ("test_rows=None", 0)], ids=["known", "unknown"])
def test_a_server_without_time_answers_with_the_prior(
    world: World, bundle: Path, tmp_path: Path, called: Callable[..., None], rules: str, late: int
) -> None:
    """Its minutes count where the rows of the hidden set are known; the gateway gets its seven rows in any case."""
    adapter = adapter_that_serves(world).replace("Rules(", f"Rules({rules}, ")
    reseal(bundle, {"competitions/tiles/adapter.py": adapter})
    called(minutes=0)
    log = log_of(tmp_path)
    assert (log["rows"], log["late"], log["fault"]) == (7, late, None)
    assert ["time is up" in line for line in log["left_out"]] == [True] * (late > 0)
    assert len(read_table(tmp_path / "working" / "submission.csv")) == 7


def test_a_server_has_one_plan_for_the_whole_session(
    world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty rows come one by one, four seconds each, after six seconds of waiting each. Time for the work is there
    until the waiting has taken it: then views go, later a member, and rows that come when time is up get the prior."""
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    reseal(bundle, {"competitions/tiles/adapter.py": adapter_that_serves(world)})
    manifest = open_bundle(bundle)
    competition = competition_in(bundle, manifest)
    competition.rules = replace(competition.rules, test_rows=20)
    files = {name: bundle / name for name in manifest.files}
    hands = Hands([])
    session = Session(manifest, files, competition, world.data, [CPU], Log(0.0), Clock(180, 0.0, hands))
    for one in session.seated:
        one.models[CPU].register_forward_pre_hook(hands.move)
    predict = answerer(session, strict=False)
    name = min(path.name for path in (world.data / "test").glob("*.png"))
    passes, answers = [], []
    for _ in range(30):
        before = hands.passes
        answers.append(predict([name], str(world.data / "test")))
        passes.append(hands.passes - before)
        hands.at += 6
    # After n rows 10 n - 6 seconds are gone, and 4 (20 - n) are needed: more than are left (85% of 180) from n = 14 on.
    assert passes[:14] == [4] * 14 and passes[14] < 4
    assert sorted(passes, reverse=True) == passes and passes[-1] == 0
    assert session.log.late == passes.count(0) and session.log.rows == 30 and session.log.fault is None
    assert len([line for line in session.log.left_out if "time is up" in line]) == 1
    frame = checked(competition.serve_frame(world.data, [name], "")[0], "serve_frame")
    pd.testing.assert_frame_equal(answers[-1], prior_table(manifest, competition, frame, world.data))
    assert [list(table["tile"]) for table in answers] == [[name.removesuffix(".png")]] * 30
