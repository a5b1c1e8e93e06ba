"""A submission is spent only on purpose and only once, and the ledger has a line for each."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from kit.judging.ledger import read
from kit.offline.contract import Rules
from kit.offline.errors import BundleError, KaggleError, KitError, SubmissionError
from kit.offline.files import sha256_of
from kit.offline.places import load_competition
from kit.shipping import submit as module
from kit.shipping.notebook import notebook_folder
from kit.shipping.push import Pushed
from kit.shipping.submit import submit_bundle, submit_file
from tests.fake_kaggle import Competition, FakeKaggle, Kernel, Push, Ran, Trouble
from tests.shipping.conftest import World

SLUG = "coloured-tiles"


@pytest.fixture
def home(world: World, tmp_path: Path) -> Path:
    """The world's competition without its runs."""
    shutil.copytree(
        world.home / "competitions" / "tiles",
        tmp_path / "competitions" / "tiles",
        ignore=shutil.ignore_patterns("runs", "cache"),
    )
    return tmp_path


@pytest.fixture
def server(kaggle_server: FakeKaggle, bundle: Path) -> FakeKaggle:
    """Where the bundle's notebook has run as version 1, as its record says."""
    kaggle_server.competitions[SLUG] = Competition(SLUG)
    pushed = Push({"enableInternet": False}, 0, Ran({"submission.csv": b"tile,kind\n"}))
    kaggle_server.kernels["tester", bundle.name] = Kernel("tester", bundle.name, [pushed])
    record(bundle)
    return kaggle_server


def record(bundle: Path, done: bool = True) -> None:
    folder = notebook_folder(bundle)
    folder.mkdir(exist_ok=True)
    versions = {"kit-weights-0123456789abcdef": 1, bundle.name: 3}
    pushed = Pushed(bundle.name, sha256_of(bundle / "manifest.json"), "tester", versions, "x", 1, done)
    (folder / "pushed.json").write_text(json.dumps(asdict(pushed)))


def lines(home: Path) -> list[dict[str, str]]:
    return read(home / "competitions" / "tiles")


def quietly(line: str) -> None:
    """Say nothing."""


def test_a_submission_is_followed_to_its_score(server: FakeKaggle, bundle: Path, home: Path) -> None:
    """The version that ran, by its file's name; the line has versions, reference and both scores."""
    server.submission_polls = 2
    server.grade = lambda content: ("0.87654", "")
    said: list[str] = []
    line = submit_bundle(bundle, home, "a message", sure=True, say=said.append)
    request = server.called("CreateCodeSubmission")[0]
    assert (request["kernelSlug"], request["kernelVersion"], request["fileName"]) == (bundle.name, 1, "submission.csv")
    assert request["submissionDescription"] == "a message"
    oof = json.loads((bundle / "manifest.json").read_text())["score"]["pooled"]
    run = json.loads((bundle / "manifest.json").read_text())["members"][0]["run"]
    expected = {
        "event": "score",
        "run": run,
        "bundle": bundle.name,
        "dataset_version": "3",
        "notebook_version": "1",
        "submission": "1000",
        "public": "0.87654",
        "oof": str(oof),
        "note": "",
    }
    assert {key: text for key, text in line.items() if key != "date"} == expected
    first, last = lines(home)
    assert last == line and (first["event"], first["submission"], first["note"]) == ("submit", "1000", "not scored yet")
    assert any("5 left" in text for text in said) and any("0.87654" in text for text in said)


def test_the_same_version_is_not_spent_twice(server: FakeKaggle, bundle: Path, home: Path) -> None:
    """It would get the same score."""
    submit_bundle(bundle, home, sure=True, say=quietly)
    with pytest.raises(SubmissionError, match=r"it was, as 1000: public score 0\.5"):
        submit_bundle(bundle, home, sure=True, say=quietly)
    assert len(server.submissions) == 1


@pytest.mark.parametrize("done", [None, False])
def test_what_did_not_run_on_kaggle_is_not_submitted(
    server: FakeKaggle, bundle: Path, home: Path, done: bool | None
) -> None:
    """Neither a bundle that was not pushed nor one whose run is not over or answers otherwise."""
    if done is None:
        shutil.rmtree(notebook_folder(bundle))
    else:
        record(bundle, done)
    with pytest.raises(BundleError, match=f"kit push {bundle.name}"):
        submit_bundle(bundle, home, sure=True, say=quietly)
    assert server.calls == []


def test_a_spent_day_is_told_and_nothing_is_sent(server: FakeKaggle, bundle: Path, home: Path) -> None:
    """Limits are asked first."""
    server.competitions[SLUG].today = 5
    with pytest.raises(KaggleError, match="00:00 UTC"):
        submit_bundle(bundle, home, sure=True, say=quietly)
    assert server.submissions == [] and server.called("CreateCodeSubmission") == []


@pytest.mark.parametrize("answer", [None, "n", "", "no"])
def test_nobody_says_yes(
    server: FakeKaggle, bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    """Without a terminal, or with any other answer, nothing is spent."""
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: answer is not None})())
    monkeypatch.setattr("builtins.input", lambda question: answer)
    with pytest.raises(SubmissionError, match="--yes"):
        submit_bundle(bundle, home, say=quietly)
    assert server.submissions == [] and lines(home) == []


def test_a_yes_at_the_terminal_is_enough(
    server: FakeKaggle, bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question names what is submitted."""
    asked: list[str] = []
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    submit_bundle(bundle, home, say=quietly)
    assert f"version 1 of tester/{bundle.name}" in asked[0] and len(server.submissions) == 1


@pytest.mark.parametrize("status", [500, 0])
def test_an_error_after_success_spends_one(server: FakeKaggle, bundle: Path, home: Path, status: int) -> None:
    """Kaggle is asked for its reference, and it is followed."""
    server.trouble["CreateCodeSubmission"] += [Trouble(status, after=True)]
    assert submit_bundle(bundle, home, sure=True, say=quietly)["submission"] == "1000"
    assert len(server.submissions) == 1


def test_an_error_before_spends_none(server: FakeKaggle, bundle: Path, home: Path) -> None:
    """What did not arrive is not sent again without the user."""
    server.trouble["CreateCodeSubmission"] += [Trouble(500)]
    with pytest.raises(KaggleError, match=f"competitions/{SLUG}/submissions"):
        submit_bundle(bundle, home, sure=True, say=quietly)
    assert server.submissions == [] and lines(home) == []
    submit_bundle(bundle, home, sure=True, say=quietly)
    assert len(server.submissions) == 1


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("Notebook Timeout", "kit rehearse --rows"),
        ("Notebook Exceeded Allowed Compute", "memory"),
        ("Submission CSV Not Found", "no such file"),
        ("Submission Scoring Error: NaN\nin line 3", "kit check"),
        ("Something new", "kit rehearse"),
    ],
)
def test_a_failed_rerun_is_told_with_its_usual_cause(
    server: FakeKaggle, bundle: Path, home: Path, error: str, cause: str
) -> None:
    """Kaggle's description, which its client does not print; the submission is spent, and the ledger says so."""
    server.grade = lambda content: (None, error)
    with pytest.raises(KaggleError) as caught:
        submit_bundle(bundle, home, sure=True, say=quietly)
    assert error.splitlines()[0] in caught.value.found and cause in caught.value.fix
    assert [line["note"] for line in lines(home)] == ["not scored yet", f"error: {' '.join(error.split())}"]
    server.grade = lambda content: ("0.5", "")
    submit_bundle(bundle, home, sure=True, say=quietly)  # after an error another try may be worth it


def test_an_interrupted_wait_is_written_down_and_gone_on_with(
    server: FakeKaggle, bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second command spends nothing: it follows the first one's submission."""
    server.submission_polls = 10**6
    monkeypatch.setattr(module, "QUEUE_MINUTES", -30)
    with pytest.raises(KaggleError, match="within 0 minutes"):
        submit_bundle(bundle, home, sure=True, say=quietly)
    server.submissions[0].polls = 0
    line = submit_bundle(bundle, home, say=quietly)
    assert [(one["event"], one["note"]) for one in lines(home)] == [("submit", "not scored yet"), ("score", "")]
    assert (line["submission"], line["public"]) == ("1000", "0.5") and len(server.submissions) == 1


def csv_competition(home: Path) -> object:
    """The tiles, where the host takes files."""
    competition = load_competition("tiles", home)
    type(competition).rules = Rules(kind="csv")
    return competition


@pytest.fixture
def table(home: Path) -> Path:
    """A table that the host would take."""
    shutil.copyfile(home / "competitions" / "tiles" / "data" / "sample_submission.csv", home / "mine.csv")
    return home / "mine.csv"


def test_a_file_is_submitted_where_the_host_takes_files(server: FakeKaggle, home: Path, table: Path) -> None:
    """Its bytes arrive, and its name is in the ledger."""
    server.competitions[SLUG].code = False
    data = home / "competitions" / "tiles" / "data"
    line = submit_file(csv_competition(home), data, table, sure=True, say=quietly)  # type: ignore[arg-type]
    assert server.submissions[0].content == table.read_bytes()
    assert (line["event"], line["public"]) == ("score", "0.5") and line["note"].startswith("mine.csv; sha256 ")
    assert [one["event"] for one in lines(home)] == ["submit", "score"]


def test_a_file_is_spent_once(
    server: FakeKaggle, home: Path, table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same bytes under another name are followed, not sent again; once scored they are refused; others are sent."""
    server.competitions[SLUG].code = False
    data = home / "competitions" / "tiles" / "data"

    def submit(file: Path) -> dict[str, str]:
        return submit_file(csv_competition(home), data, file, sure=True, say=quietly)  # type: ignore[arg-type]

    with monkeypatch.context() as patience:
        server.submission_polls = 10**6
        patience.setattr(module, "QUEUE_MINUTES", 0)
        with pytest.raises(KaggleError, match="within 0 minutes"):
            submit(table)
    server.submissions[0].polls = 0
    assert submit(Path(shutil.copyfile(table, tmp_path / "again.csv")))["submission"] == "1000"
    with pytest.raises(SubmissionError, match=r"it was, as 1000: public score 0\.5"):
        submit(table)
    assert len(server.submissions) == 1
    table.write_text(table.read_text().replace("red", "blue"))
    server.submission_polls = 0
    assert submit(table)["submission"] == "1001"


def test_a_table_that_the_host_would_refuse_is_not_sent(server: FakeKaggle, home: Path, table: Path) -> None:
    """A missing row, another column: said before Kaggle is asked for anything."""
    server.competitions[SLUG].code = False
    data = home / "competitions" / "tiles" / "data"
    good = pd.read_csv(table, dtype=str)
    for bad in (good.iloc[1:], good.rename(columns={"kind": "colour"})):
        bad.to_csv(table, index=False)
        with pytest.raises(KitError):
            submit_file(csv_competition(home), data, table, sure=True, say=quietly)  # type: ignore[arg-type]
    assert server.calls == []


def test_a_failed_upload_spends_nothing(server: FakeKaggle, home: Path, table: Path) -> None:
    """The client answers with a message and no reference."""
    server.competitions[SLUG].code = False
    server.trouble["PUT"] += [Trouble(500)]
    data = home / "competitions" / "tiles" / "data"
    with pytest.raises(KaggleError, match="none was spent"):
        submit_file(csv_competition(home), data, table, sure=True, say=quietly)  # type: ignore[arg-type]
    assert server.submissions == [] and lines(home) == []


def test_a_file_for_a_notebook_competition_is_refused(server: FakeKaggle, home: Path, table: Path) -> None:
    """Rules say what the host takes; nothing is sent."""
    data = home / "competitions" / "tiles" / "data"
    with pytest.raises(SubmissionError, match="kit submit BUNDLE"):
        submit_file(load_competition("tiles", home), data, table, sure=True, say=quietly)
    assert server.calls == []
