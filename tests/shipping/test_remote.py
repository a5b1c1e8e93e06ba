"""Training on Kaggle, walked through the real client: what goes up, what comes home, and how it goes on."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from typer.testing import CliRunner

from kit.cli import app
from kit.offline.errors import BundleError, DataError, KaggleError, KitError, NotFound, RunError
from kit.offline.files import sha256_of
from kit.offline.places import load_competition
from kit.shipping import remote
from kit.shipping.rehearse import run_notebook
from kit.shipping.remote import (
    Order,
    bring_home,
    pack_code,
    render_session,
    requirements,
    session_name,
    train_on_kaggle,
)
from kit.training.fanout import open_ground, planned, train_run
from kit.training.recipe import find_recipe, override
from kit.training.rundir import ALL, shaping_hashes
from kit.training.session import RECORD, Job, keep, packed_name
from tests.fake_kaggle import Competition, FakeKaggle, Kernel, Push, Ran
from tests.shipping.conftest import World

ROOT = Path(__file__).parents[2]
HERE = ("adapter.py", "recipes.py", "folds.csv")


@pytest.fixture
def home(world: World, tmp_path: Path) -> Path:
    """The world's home before it trained; its data are those of the world."""
    folder = tmp_path / "home" / "competitions" / "tiles"
    folder.mkdir(parents=True)
    for name in HERE:
        shutil.copy(world.data.parent / name, folder)
    (folder / "data").symlink_to(world.data)
    return tmp_path / "home"


@pytest.fixture
def server(kaggle_server: FakeKaggle) -> FakeKaggle:
    """With the tiles as a competition; its files are mounted by the tests that need them."""
    kaggle_server.competitions["coloured-tiles"] = Competition("coloured-tiles")
    return kaggle_server


def ground_of(home: Path) -> Any:
    return open_ground(load_competition("tiles", home), home / "competitions" / "tiles" / "data", say=lambda _: None)


def order_of(home: Path, *settings: str, accelerator: str | None = "NvidiaTeslaT4") -> Order:
    """What `train_on_kaggle` makes of a command."""
    ground = ground_of(home)
    recipe = override(find_recipe(home / "competitions" / "tiles", "small"), list(settings))
    run = planned(ground, "small", recipe)
    return Order(ground, recipe, run, settings, home, "tester", 720.0, accelerator, lambda _: None)


def train(home: Path, *settings: str, folds: list[int] | None = None, **named: Any) -> tuple[Any, list[str]]:
    """`kit train tiles small --on kaggle`; returns the run and what was said."""
    said: list[str] = []
    recipe = override(find_recipe(home / "competitions" / "tiles", "small"), list(settings))
    named = {"say": said.append, **named}
    return train_on_kaggle(ground_of(home), "small", recipe, settings, folds, home, **named), said


def job_in(push: Push) -> Job:
    """The job that a pushed notebook has in its text, as Python reads it."""
    cell = next(cell for cell in json.loads(push.request["text"])["cells"] if cell["id"] == "find")
    assigned = [node for node in ast.parse("".join(cell["source"])).body if isinstance(node, ast.Assign)]
    call = next(node.value for node in assigned if ast.unparse(node.targets[0]) == "JOB")
    assert isinstance(call, ast.Call)
    return Job(**json.loads(ast.literal_eval(call.args[0])))


Becomes = dict[str, dict[str, Any]]
"""By fold, what a pretended session says of it beside what `keep` finds."""


def pretended(world: World, push: Push, becomes: Becomes) -> Ran:
    """What a session leaves whose folds were those that the world trained."""
    job = job_in(push)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        folds: dict[str, Any] = {}
        for fold in job.folds:
            folds[fold] = becomes.get(fold) or keep(fold, job, world.home, 0, False, out)
            if "step" in folds[fold]:
                (out / packed_name(fold)).write_bytes(b"state")
        record = {"run": job.run, "parts": job.parts, "number": job.number, "folds": folds, "gpus": 2, "seconds": 60}
        record |= {name: world.run.record[name] for name in ("threads", "versions")}
        (out / RECORD).write_text(json.dumps({**record, "started": "2026-11-24T00:00:00Z"}))
        return Ran({path.name: path.read_bytes() for path in out.iterdir()}, ["fold 0\n"])


def run_by_turns(server: FakeKaggle, world: World, *turns: Becomes | str) -> None:
    """Each session becomes what its turn says; a text is the last line of a notebook that fails."""
    left = list(turns)

    def run(push: Push) -> Ran:
        turn = left.pop(0)
        return (
            Ran(log=[turn], failure="it ended with an error") if isinstance(turn, str) else pretended(world, push, turn)
        )

    server.run = run


def same_fold(run: Any, world: World, number: int) -> bool:
    """Whether a fold's files are those that were trained, all of them."""
    ours, theirs = run.fold(number), world.run.fold(number)
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    return all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)


PAUSED = {"state": "paused", "step": 3, "sha256": "0" * 64}
WAITING = {"state": "waiting"}


def test_two_sessions_and_an_interruption_end_in_the_run_of_home(server: FakeKaggle, world: World, home: Path) -> None:
    """Interrupted while the first session runs, the same command finds it, goes on with what it left in a second one,
    brings both folds home under the same name with the same bytes, and scores them as training here does."""
    run_by_turns(server, world, {"fold0": PAUSED, "fold1": WAITING}, {})

    def interrupt(line: str) -> None:
        if "running" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(home, say=interrupt)
    done = CliRunner().invoke(app, ["train", "tiles", "small", "--on", "kaggle", "--home", str(home)])
    assert done.exit_code == 0, done.output
    run = order_of(home).run
    assert run.name == world.run.name
    assert same_fold(run, world, 0) and same_fold(run, world, 1)
    assert run.read("score.json") == world.run.read("score.json")
    assert run.record["code_sha256"] == world.run.record["code_sha256"]
    assert run.record["started"] == "2026-11-24T00:00:00Z" and run.record["git"]["commit"] == "unknown"
    assert sorted(path.name for path in run.folder.parent.iterdir()) == [run.name]

    first, second = (push for kernel in server.kernels.values() for push in kernel.pushes)
    assert list(server.kernels) == [("tester", session_name(run, 1)), ("tester", session_name(run, 2))]
    assert "kernelDataSources" not in first.request
    assert second.request["kernelDataSources"] == [f"tester/{session_name(run, 1)}"]
    assert (job_in(first).folds, job_in(first).states) == (["fold0", "fold1"], [])
    assert (job_in(second).number, job_in(second).states) == (2, ["fold0"])
    assert first.request["isPrivate"] and first.request["enableInternet"] and first.request["enableGpu"]
    assert first.request["machineShape"] == "NvidiaTeslaT4" and first.request["sessionTimeoutSeconds"] == 43200
    assert len(server.called("GetAcceleratorQuotaStatistics")) == len(server.called("SaveKernel")) == 2
    assert len(server.called("CreateDataset")) == 1 and not server.called("CreateDatasetVersion")
    assert "29.0 of 30.0 hours left" in done.output and f"{world.run.read('score.json')['pooled']:.5f}" in done.output
    assert all(one.private for one in server.datasets.values())

    asked = len(server.calls)
    train(home)
    assert len(server.calls) == asked, "a run that is done asks nobody"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--on", "moon"], "there is kaggle"),
        (["--on", "kaggle", "--smoke"], "here"),
        (["--on", "kaggle", "--track", "x"], "here"),
    ],
    ids=["moon", "smoke", "track"],
)
def test_a_place_that_is_none_and_options_of_home_are_wrong_usage(home: Path, words: list[str], told: str) -> None:
    """They end with 2, before any data is read."""
    done = CliRunner().invoke(app, ["train", "tiles", "small", *words, "--home", str(home), "--data", "/nowhere"])
    assert done.exit_code == 2 and told in done.output


def test_what_fails_is_told_once_and_the_next_command_goes_on(server: FakeKaggle, world: World, home: Path) -> None:
    """A session that fails, with the notebook's words; one in which a fold fails, with the fold's words, after the
    other is home and scored; one in which nothing gets on. Each time the same command goes on with a new session."""
    mismatch = "RuntimeError: expected: the run as planned at home\nfound:    other labels\nto do:    compare\n"
    unfinished = {"step": 3, "sha256": ""}
    failed = {"state": "failed", "error": "expected: a finite loss\nfound:    nan\nto do:    lower lr", **unfinished}
    stuck = {"state": "paused", **unfinished}
    run_by_turns(server, world, mismatch, {"fold1": failed}, {"fold1": stuck}, {})
    with pytest.raises(KaggleError, match=r"planned at home\nfound:.*other labels\nto do: +compare; the log: https"):
        train(home)
    with pytest.raises(RunError, match=r"a finite loss\nfound: +nan \(fold1 in tester/kit-train-small-\w+-2\)"):
        train(home)
    run = order_of(home).run
    assert same_fold(run, world, 0) and list(run.read("score.json")["folds"]) == ["0"]
    with pytest.raises(RunError, match="no step was committed"):
        train(home)
    _, said = train(home)
    assert any("other labels" in line for line in said)
    assert same_fold(run, world, 1) and run.read("score.json") == world.run.read("score.json")
    jobs = [job_in(push) for kernel in server.kernels.values() for push in kernel.pushes]
    assert [(job.number, job.folds, job.states) for job in jobs] == [
        (1, ["fold0", "fold1"], []),
        (2, ["fold0", "fold1"], []),
        (3, ["fold1"], ["fold1"]),
        (4, ["fold1"], ["fold1"]),
    ]


def test_too_little_quota_is_told_before_anything_is_sent(server: FakeKaggle, home: Path) -> None:
    """With less than half an hour left nothing is uploaded or pushed, and when to go on is told."""
    server.gpu_seconds_used = 108_000 - 60 * 29
    with pytest.raises(KaggleError, match=r"29 minutes\nto do: +after 2030-01-05.* run the same command again"):
        train(home)
    assert not server.datasets and not server.kernels and not server.called("StartBlobUpload")
    server.gpu_seconds_used = 108_000 - 60 * 90
    assert remote._minutes_left(order_of(home)) == 90.0


def packed_in(server: FakeKaggle, world: World, order: Order, change: Callable[[Path], None], sealed: bool) -> Any:
    """What a session tells that trained fold 0, and whose packed file is changed; sealed: before its hash is taken."""
    slug = session_name(order.run, 1)
    job = Job("coloured-tiles", "tiles", "small", [], None, ["fold0"], order.run.name, {}, 1, [], 1.0, False)
    with tempfile.TemporaryDirectory() as folder:
        kept = keep("fold0", job, world.home, 0, False, Path(folder))
        packed = Path(folder, packed_name("fold0"))
        change(packed)
        kept |= {"sha256": sha256_of(packed)} if sealed else {}
        ran = Ran({packed.name: packed.read_bytes()})
    server.kernels["tester", slug] = Kernel("tester", slug, [Push({}, 0, ran)])
    circumstances = {name: world.run.record[name] for name in ("started", "threads", "versions")}
    return {"folds": {"fold0": kept}, **circumstances}


def cut(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:-1])


def other_weights(packed: Path) -> None:
    """As packed, but for one byte of the weights."""
    with zipfile.ZipFile(packed) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    weights = content["fold0/weights.safetensors"]
    content["fold0/weights.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    with zipfile.ZipFile(packed, "w") as archive:
        for name, each in content.items():
            archive.writestr(name, each)


def escaping(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("../../adapter.py", "raise SystemExit")


@pytest.mark.parametrize(
    ("change", "sealed", "error", "words"),
    [
        (cut, False, KaggleError, "other bytes"),
        (other_weights, True, RunError, "missing or changed: weights.safetensors"),
        (escaping, True, DataError, "not plain"),
    ],
    ids=["cut", "other weights", "escape"],
)
def test_a_fold_that_is_not_as_it_was_trained_stays_away(
    server: FakeKaggle,
    world: World,
    home: Path,
    change: Callable[[Path], None],
    sealed: bool,
    error: type[KitError],
    words: str,
) -> None:
    """Other bytes than the session packed, than training wrote, or for another place: refused, and nothing is left."""
    order = order_of(home)
    adapter = (order.folder / "adapter.py").read_bytes()
    told = packed_in(server, world, order, change, sealed)
    with pytest.raises(error, match=words):
        bring_home(order, f"tester/{session_name(order.run, 1)}", 1, told, 0)
    assert not list((order.folder / "runs").iterdir())
    assert (order.folder / "adapter.py").read_bytes() == adapter


def test_a_fold_that_was_begun_here_gives_way_and_one_that_is_done_stays(
    server: FakeKaggle, world: World, home: Path
) -> None:
    """What is done at home is never overwritten; an unfinished state is, since the fold is done now."""
    order = order_of(home)
    told = packed_in(server, world, order, lambda packed: None, True)
    kernel = f"tester/{session_name(order.run, 1)}"
    order.run.fold(0).mkdir(parents=True)
    (order.run.fold(0) / "state.json").write_text("{}")
    assert bring_home(order, kernel, 1, told, 0)
    assert same_fold(order.run, world, 0)
    before = (order.run.fold(0) / "done.json").stat().st_mtime_ns
    assert not bring_home(order, kernel, 1, told, 0)
    assert (order.run.fold(0) / "done.json").stat().st_mtime_ns == before


def test_what_travels_is_code_recipes_and_folds(world: World, home: Path, tmp_path: Path) -> None:
    """The whole package, and of the home the competition's sources and what the recipe names: no data, no run, no
    ledger; the same content is the same wheel."""
    folder = home / "competitions" / "tiles"
    for name in ("LEDGER.tsv", "LOG.md", ".env", "cache/x/data.bin", "runs/small-aaaaaa/run.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (home / "weights").mkdir()
    for name in ("weights/model.safetensors", "weights/config.json", "soft.npz", "kaggle.json"):
        (home / name).write_text("x")
    order = order_of(home, "pretrained=weights", "pseudo=soft.npz")
    wheel = pack_code(order, tmp_path / "code", ["fold0"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = Path(remote.__file__).parents[1]
    code = {f"kit/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    assert code <= names
    rest = {name for name in names if not name.startswith(("kit/", "kit-"))}
    theirs = {f"competitions/tiles/{name}" for name in HERE}
    assert rest == theirs | {"weights/model.safetensors", "weights/config.json", "soft.npz"}
    assert not any("__pycache__" in name for name in names)
    assert sha256_of(wheel) == sha256_of(pack_code(order, tmp_path / "again", ["fold0"]))
    (home / "soft.npz").unlink()
    with pytest.raises(NotFound, match=r"soft\.npz"):
        pack_code(order, tmp_path / "lost", ["fold0"])
    with pytest.raises(DataError, match="a path inside"):
        outside = replace(order, recipe=replace(order.recipe, pretrained="/etc/hostname"))  # type: ignore[type-var]
        pack_code(outside, tmp_path / "outside", ["fold0"])


def test_a_secret_does_not_travel_for_training(server: FakeKaggle, world: World, home: Path, tmp_path: Path) -> None:
    """In any file of the competition, by this machine's own key too: refused before anything is uploaded, and named by
    file and line. What else of the kit travels is no secret, though it knows how secrets look."""
    recipes = home / "competitions" / "tiles" / "recipes.py"
    whole = recipes.read_text()
    pack_code(order_of(home), tmp_path / "clean", ["fold0"])
    for number, secret in enumerate((server.users["tester"], "hf_" + "a1B2" * 8)):
        recipes.write_text(f"{whole}# {secret}\n")
        with pytest.raises(BundleError, match=r"recipes\.py, line \d+: a") as caught:
            pack_code(order_of(home), tmp_path / str(number), ["fold0"])
        assert secret not in str(caught.value)
    with pytest.raises(BundleError):
        train(home)
    assert not server.datasets and not server.kernels and not server.blobs


def test_a_fit_on_all_rows_takes_along_what_its_folds_say(world: World, home: Path, tmp_path: Path) -> None:
    """It trains as long as they did at the median, so their records travel; it is refused without every fold."""
    with pytest.raises(RunError, match="every fold"):
        train_run(ground_of(home), "small", order_of(home).recipe, [ALL], home, say=lambda _: None)
    shutil.copytree(world.run.folder, order_of(home).run.folder, dirs_exist_ok=True)
    wheel = pack_code(order_of(home), tmp_path / "code", ["all"])
    with zipfile.ZipFile(wheel) as archive:
        runs = {name for name in archive.namelist() if "/runs/" in name}
    assert runs == {f"competitions/tiles/runs/{world.run.name}/fold{number}/done.json" for number in (0, 1)}


def test_the_notebook_of_a_session_says_what_it_does(world: World, home: Path, tmp_path: Path) -> None:
    """The template is filled to the last name, the job in it survives any text, and every field of the metadata is
    written: the client's own defaults are other ones."""
    order = order_of(home)
    wheel = pack_code(order, tmp_path / "code", ["fold0"])
    settings = ["lr=0.003", 'read={"a": "it\'s """so""" {wheel} \\\\"}', '""""', ""]
    job = Job("coloured-tiles", "tiles", "small", settings, None, ["fold0"], "small-1", {}, 2, ["fold0"], 1.0, True)
    kernel = f"tester/{session_name(order.run, 2)}"
    render_session(tmp_path / "notebook", kernel, job, wheel, "tester/kit-code-1", ["tester/one"], "NvidiaTeslaT4")
    notebook = nbformat.read(tmp_path / "notebook" / "train.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"\{(run|number|folds|recipe|slug|competition|dataset|wheel_sha256|job)\}", text)
    assert sha256_of(wheel) in text and wheel.name in text
    assert job_in(Push({"text": nbformat.writes(notebook)}, 0)).settings == settings
    metadata = json.loads((tmp_path / "notebook" / "kernel-metadata.json").read_text())
    assert metadata["title"] == metadata["id"].split("/")[1] and 6 <= len(metadata["title"]) <= 50
    assert metadata["is_private"] is True and metadata["enable_internet"] is True and metadata["enable_tpu"] is False
    assert metadata["kernel_sources"] == ["tester/one"] and metadata["competition_sources"] == ["coloured-tiles"]


def test_names_of_sessions_are_slugs(home: Path) -> None:
    """Whatever a recipe is called, Kaggle makes the same slug of the title; another run has another name."""
    run = order_of(home).run
    long = replace(run, record={**run.record, "recipe_name": "_A_very_Long__name_of_a_recipe_for_the_evening_"})
    for each in (run, long):
        for number in (1, 12):
            assert re.fullmatch(r"(?=.{6,50}$)[a-z0-9]+(-[a-z0-9]+)*", session_name(each, number))
    assert session_name(run, 1) != session_name(order_of(home, "lr=1e-4").run, 1)


def test_pip_is_asked_for_what_training_imports(home: Path) -> None:
    """The kit's own bounds for what the image may lack, and the competition's packages as they are at home; no torch,
    which must stay the image's."""
    order = order_of(home)
    asked = requirements(order)
    assert {re.split(r"[^\w-]", line)[0] for line in asked} == set(remote.REQUIRED)
    assert any(line.startswith("albumentations") and "<2.1" in line for line in asked)
    order.ground.competition.wheels = ("segmentation-models-pytorch", "no-such-package")
    found = requirements(order)
    assert re.fullmatch(r"segmentation-models-pytorch==[\d.]+", found[-1]) and found[-2] == "no-such-package"


@pytest.mark.full
def test_pushed_notebooks_really_train(server: FakeKaggle, world: World, home: Path, tmp_path: Path) -> None:
    """The notebook as it was pushed, run behind the walls of the rehearsal with what was pushed and what the session
    before left: stopped by its time after fold 0's first epoch, then to the end, it makes the bits of a run here."""
    (home / "competitions" / "tiles" / "train.py").write_text(HELD)
    for path in sorted(world.data.rglob("*")):
        if path.is_file():
            server.competitions["coloured-tiles"].files[str(path.relative_to(world.data))] = path.read_bytes()
    executed = []

    def run(push: Push) -> Ran:
        place = tmp_path / f"session{len(executed)}"
        (place / "working").mkdir(parents=True)
        given = server.mount(push, place / "input")
        executed.append(run_notebook(push.request["text"], given, place / "working", 900, [home]))
        error = executed[-1].error
        files = {path.name: path.read_bytes() for path in (place / "working").iterdir() if path.is_file()}
        return Ran(files, [f"{error[0]}: {error[1]}"] if error else [], "it failed" if error else "")

    server.run = run
    settings = ("epochs=2", "seed=3")
    here = Path(shutil.copytree(home, tmp_path / "here", symlinks=True))
    run_there, said = train(home, *settings, minutes=1.0, accelerator=None)
    assert len(executed) >= 2, said
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "kit.cli", "train", "tiles", "small", *overrides, "--home", str(here)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    run_here = order_of(here, *settings).run
    assert (run_there.name, shaping_hashes(run_there)) == (run_here.name, shaping_hashes(run_here))
    for number in (0, 1):
        for name in ("weights.safetensors", "oof.npz", "model.json"):
            assert (run_there.fold(number) / name).read_bytes() == (run_here.fold(number) / name).read_bytes(), name
    assert run_there.read("score.json") == run_here.read("score.json")


HELD = '''
"""The kit's loop; but on Kaggle fold 0 waits after its first epoch, once, until it is told to stop."""

import os
import signal
import time
from dataclasses import replace

from kit.training.loop import train_fold as kits


def train_fold(fold):
    there = "KAGGLE_KERNEL_RUN_TYPE" in os.environ
    waits = there and fold.number == 0 and not (fold.folder / "state.json").is_file()

    def track(line):
        while waits and not signal.getsignal(signal.SIGTERM).__self__:
            time.sleep(0.01)

    kits(replace(fold, track=track))
'''
