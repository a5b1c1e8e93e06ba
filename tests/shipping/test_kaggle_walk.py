"""The walk: fetch, train, bundle, push, submit, by the command line, with the real client and the pushed notebook run.

Everything that was printed or written on the way is searched for the key that it went with.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit import cli, scaffold
from kit.demo import write_digits
from kit.judging.ledger import read
from kit.offline.frames import read_table
from kit.shipping.rehearse import run_notebook
from tests.fake_kaggle import SIGNATURE, Competition, FakeKaggle, Push, Ran, Trouble
from tests.shipping.conftest import World

KEY = "planted-0123456789abcdef"
Kit = Callable[..., str]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name from there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def server(kaggle_server: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKaggle:
    """Which runs what it is sent, on the sources that it keeps; for a user with a planted key, in VERBOSE."""
    kaggle_server.users["tester"] = KEY
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setenv("VERBOSE", "1")

    def run(pushed: Push) -> Ran:
        number = len(list(tmp_path.glob("kaggle-*")))
        working = tmp_path / f"kaggle-{number}" / "working"
        working.mkdir(parents=True)
        mounts = kaggle_server.mount(pushed, working.parent / "input")
        executed = run_notebook(pushed.request["text"], mounts, working, 300)
        failure = ": ".join(executed.error or ())
        return Ran(files_of(working), [f"{failure}\n"], failure and "Notebook threw exception")

    kaggle_server.run = run
    return kaggle_server


@pytest.fixture
def said() -> list[str]:
    """Everything that was printed."""
    return []


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], said: list[str]) -> Kit:
    """Runs a command line at home; returns what it printed, its exit code first."""
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "home"))
    quiet = SimpleNamespace(SIGINT=signal.SIGINT, SIGTERM=signal.SIGTERM, signal=lambda *_: None)
    monkeypatch.setattr(cli, "signal", quiet)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kit", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capfd.readouterr()
        said.append(out + err)
        return f"{code} {out}{err}"

    return run


@pytest.fixture(autouse=True)
def _no_secret_is_told(tmp_path: Path, said: list[str]) -> Iterator[None]:
    """Neither printed nor written: the key, the key as HTTP spells it, signed addresses."""
    yield
    pair = base64.b64encode(f"tester:{KEY}".encode()).decode()
    home = files_of(tmp_path / "home")
    for secret in (KEY, pair, SIGNATURE, "5ecre7"):
        assert not [text for text in said if secret in text]
        assert not [name for name, content in home.items() if secret.encode() in content]
    assert said and home


def test_a_bundle_goes_from_home_to_a_score(server: FakeKaggle, kit: Kit, world: World, tmp_path: Path) -> None:
    """Files come, a bundle goes, its notebook runs on what Kaggle keeps, and the score is in the ledger."""
    home = tmp_path / "home"
    tiles = home / "competitions" / "tiles"
    tiles.mkdir(parents=True)
    for name in ("adapter.py", "recipes.py"):
        shutil.copyfile(world.home / "competitions" / "tiles" / name, tiles / name)
    name = world.bundle.name
    shutil.copytree(world.bundle, home / "offline_weights" / name)
    server.competitions["coloured-tiles"] = Competition("coloured-tiles", files_of(world.data), accepted=False)

    assert "1 expected: a competition coloured-tiles whose rules you accepted" in kit("fetch", "tiles")
    server.competitions["coloured-tiles"].accepted = True
    server.trouble["DownloadDataFiles"] += [Trouble(500, message=f"oops {KEY} ?upload_id=5ecre7")]
    assert kit("fetch", "tiles").startswith("0 ")
    assert "nothing to do" in kit("fetch", "tiles")

    server.trouble["CreateDataset"] += [Trouble(500, after=True, message=f"oops Basic {KEY}")]
    server.trouble["PUT"] += [Trouble(503, keep=1)]
    server.busy = 1
    pushed = kit("push", name)
    assert pushed.startswith("0 "), pushed
    assert f"next: kit submit {name}" in pushed and "equal, byte for byte, compared with kit predict" in pushed
    assert "nothing to do" in kit("push", name)

    assert "nothing was spent" in kit("submit", name)
    server.trouble["CreateCodeSubmission"] += [Trouble(after=True)]
    assert "public score 0.5" in kit("submit", name, "--yes")
    assert [line["public"] for line in read(tiles)] == ["", "0.5"] and len(server.submissions) == 1
    server.trouble["GetSubmissionLimits"] += [Trouble(400, message=f"no {KEY}")]
    (tiles / "LEDGER.tsv").unlink()
    assert "[hidden]" in kit("submit", name, "--yes")
    kit("doctor")
    assert json.loads(kit("doctor", "--json").split(" ", 1)[1])["checks"]


@pytest.mark.full
def test_the_digits_go_from_the_host_to_a_score(server: FakeKaggle, kit: Kit, tmp_path: Path) -> None:
    """The embedded template, from an empty folder: and the score is that of the held-back labels."""
    home = tmp_path / "home"
    write_digits(tmp_path / "host", tmp_path / "labels.csv")
    scaffold.new("digits", "digits", "handwritten-digits", home)
    server.competitions["handwritten-digits"] = Competition("handwritten-digits", files_of(tmp_path / "host"))
    labels = read_table(tmp_path / "labels.csv").set_index("image_id")["label"]

    def grade(content: bytes) -> tuple[str | None, str]:
        (tmp_path / "graded.csv").write_bytes(content)
        answers = read_table(tmp_path / "graded.csv").set_index("image_id")["label"]
        return f"{(answers == labels.reindex(answers.index)).mean():.4f}", ""

    server.grade = grade
    server.dataset_polls, server.kernel_polls, server.submission_polls = 2, 3, 2
    for command in (
        ("fetch", "digits"),
        ("check", "digits"),
        ("train", "digits", "small", "--fold", "0", "--fold", "1", "--set", "epochs=6"),
    ):
        assert kit(*command).startswith("0 "), command
    run = next((home / "competitions" / "digits" / "runs").iterdir()).name
    assert kit("bundle", "digits", run).startswith("0 ")
    name = next(path.parent.name for path in (home / "offline_weights").glob("*/manifest.json"))
    for command in (("push", name), ("submit", name, "--yes")):
        assert kit(*command).startswith("0 "), command
    line = read(home / "competitions" / "digits")[-1]
    assert line["run"] == run and float(line["public"]) > 0.8 and abs(float(line["public"]) - float(line["oof"])) < 0.06
