"""Notebooks are pushed once, with every source, and a failing run is told in its own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.offline.errors import KaggleError
from kit.shipping import kaggle_child, kernels
from kit.shipping.kaggle import ask
from kit.shipping.kernels import await_run, fetch_output, last_words, push_notebook, text_of_log
from tests.fake_kaggle import BUSY, Competition, Dataset, FakeKaggle, Kernel, Ran, Trouble, Version

KERNEL = "tester/toy-infer"


@pytest.fixture
def server(kaggle_server: FakeKaggle) -> FakeKaggle:
    """With the sources that the notebook names."""
    kaggle_server.competitions["toy-comp"] = Competition("toy-comp")
    made = Dataset("tester", "toy-data", "toy-data", "other", True, [Version({"a.csv": b""}, "", 0)])
    kaggle_server.datasets["tester", "toy-data"] = made
    return kaggle_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A notebook and its metadata, as the kit writes them."""
    (tmp_path / "submit.ipynb").write_text(
        json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: Any) -> None:
    metadata = {
        "id": KERNEL,
        "title": "toy-infer",
        "code_file": "submit.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",
        "dataset_sources": ["tester/toy-data"],
        "competition_sources": ["toy-comp"],
    }
    (folder / "kernel-metadata.json").write_text(json.dumps({**metadata, **changes}))


def quietly(line: str) -> None:
    """Say nothing."""


def test_the_request_says_every_setting(server: FakeKaggle, folder: Path) -> None:
    """Internet off, private, the accelerator and the time as they are written; versions count up."""
    assert push_notebook(folder, seconds=3600, say=quietly) == 1
    assert push_notebook(folder, say=quietly) == 2
    request = server.kernels["tester", "toy-infer"].pushes[0].request
    asked = {key: request[key] for key in ("enableInternet", "isPrivate", "machineShape", "sessionTimeoutSeconds")}
    expected = {"enableInternet": False, "isPrivate": True, "machineShape": "NvidiaTeslaT4"}
    assert asked == {**expected, "sessionTimeoutSeconds": 3600}


def test_busy_slots_are_waited_for(server: FakeKaggle, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaggle says so in a field of an answer that the client calls a success; waiting has an end."""
    server.busy = 3
    said: list[str] = []
    assert push_notebook(folder, say=said.append) == 1
    assert len([line for line in said if BUSY in line]) == 3
    server.busy = 3
    monkeypatch.setattr(kernels, "BUSY_MINUTES", 0)
    with pytest.raises(KaggleError, match="Maximum batch GPU session count"):
        push_notebook(folder, say=quietly)


@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("status", [500, 429, 0])
def test_a_push_that_may_have_happened_is_not_repeated(
    server: FakeKaggle, folder: Path, status: int, after: bool
) -> None:
    """After an error Kaggle is asked for the last version before the next is made."""
    push_notebook(folder, say=quietly)
    server.trouble["SaveKernel"] += [Trouble(status, after=after)]
    assert push_notebook(folder, say=quietly) == 2
    assert len(server.kernels["tester", "toy-infer"].pushes) == 2


def test_errors_that_stay_are_told(server: FakeKaggle, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A title that is taken is refused at once; a server that stays down is given up."""
    write(folder, title="Another title")
    with pytest.raises(KaggleError, match="HTTP 409"):
        push_notebook(folder, say=quietly)
    write(folder)
    monkeypatch.setattr(kernels, "TRIES", 2)
    server.trouble["SaveKernel"] += [Trouble(500)] * 5
    with pytest.raises(KaggleError, match="HTTP 500"):
        push_notebook(folder, say=quietly)
    assert len(server.called("SaveKernel")) == 3


SOURCES = {
    "dataset_sources": "tester/not-there",
    "competition_sources": "no-such-competition",
    "kernel_sources": "tester/no-such-kernel",
    "model_sources": "tester/model/pyTorch/fold0/1",
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_refused_source_is_an_error(server: FakeKaggle, folder: Path, kind: str) -> None:
    """Kaggle runs the notebook without it, and the client ends with 0; of models it does not even print it."""
    write(folder, **{kind: [SOURCES[kind]]})
    with pytest.raises(KaggleError, match=SOURCES[kind]):
        push_notebook(folder, say=quietly)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_refused_source_is_seen_where_the_answer_was_lost(server: FakeKaggle, folder: Path, kind: str) -> None:
    """The version is there, its sources of every kind are looked at; with all of them it is the version."""
    server.trouble["SaveKernel"] += [Trouble(after=True), Trouble(after=True)]
    write(folder, kernel_sources=[])
    assert push_notebook(folder, say=quietly) == 1
    write(folder, **{kind: [SOURCES[kind]]})
    with pytest.raises(KaggleError, match=SOURCES[kind]) as caught:
        push_notebook(folder, say=quietly)
    assert kind.replace("_", " ") in caught.value.found and len(server.called("SaveKernel")) == 2


def test_every_source_of_a_version_whose_answer_was_lost_is_known(server: FakeKaggle, folder: Path) -> None:
    """Kaggle tells each kind apart, and what was asked for is there: no reason to complain."""
    server.kernels["tester", "before"] = Kernel("tester", "before")
    write(folder, kernel_sources=["tester/before"])
    server.trouble["SaveKernel"] += [Trouble(after=True)]
    assert push_notebook(folder, say=quietly) == 1
    sources = {"dataset_sources": ["tester/toy-data"], "competition_sources": ["toy-comp"], "model_sources": []}
    assert ask(kaggle_child.kernel, kernel=KERNEL) == {"version": 1, **sources, "kernel_sources": ["tester/before"]}


def test_what_the_client_refuses_is_to_be_mended_first(server: FakeKaggle, folder: Path) -> None:
    """It sends nothing: the same command alone would end the same."""
    write(folder, title="toy")
    with pytest.raises(KaggleError, match="at least five characters") as caught:
        push_notebook(folder, say=quietly)
    assert caught.value.fix.startswith("mend what it names") and not server.called("SaveKernel")


def test_a_run_is_waited_for_and_its_files_brought_home(server: FakeKaggle, folder: Path, tmp_path: Path) -> None:
    """Past the first page, log included; the files are those of the version that was asked for."""
    server.page, server.kernel_polls = 2, 3
    outputs = {"submission.csv": b"id\n1\n", "empty.txt": b"", **{f"{at}.bin": bytes([at]) * 9 for at in range(4)}}
    server.run = lambda push: Ran(outputs, ["first\n", "\x1b[31mlast\x1b[0m\n"])
    said: list[str] = []
    push_notebook(folder, say=quietly)
    push_notebook(folder, say=quietly)
    await_run(KERNEL, 1, 1, said.append)
    assert [word for word in ("queued", "running", "complete") if any(word in line for line in said)] == [
        "queued",
        "running",
        "complete",
    ]
    files = fetch_output(KERNEL, 1, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in files} == outputs
    assert (tmp_path / "out" / "log.txt").read_text() == "first\nlast\n"
    assert server.kernels["tester", "toy-infer"].pushes[1].ran is None
    assert [path.name for path in fetch_output(KERNEL, 1, tmp_path / "some", r"^\d\.bin$")] == [
        f"{at}.bin" for at in range(4)
    ]


TRACEBACK = [
    "Traceback (most recent call last)\n",
    "\x1b[0;31mFileNotFoundError\x1b[0m: no folder with the manifest; mounted: ['toy']\n",
    "[NbConvertApp] ERROR | notebook failed\n",
]


def test_a_failed_run_is_told_in_its_own_words(server: FakeKaggle, folder: Path) -> None:
    """The status alone says ERROR; the log says why."""
    server.run = lambda push: Ran({}, TRACEBACK, "Your notebook was stopped")
    push_notebook(folder, say=quietly)
    with pytest.raises(KaggleError) as caught:
        await_run(KERNEL, 1, 1, quietly)
    assert "Your notebook was stopped; FileNotFoundError: no folder" in caught.value.found
    assert f"https://www.kaggle.com/code/{KERNEL}" in caught.value.fix


def test_a_fault_of_the_kit_in_a_run_keeps_its_remedy(server: FakeKaggle, folder: Path) -> None:
    """Three lines of ours in a log are three lines of ours at home."""
    lines = ["KitError: expected: 7 images\n", "found:    6\n", "to do:    attach the other dataset\n"]
    server.run = lambda push: Ran({}, ["noise\n", *lines], "failed")
    push_notebook(folder, say=quietly)
    with pytest.raises(KaggleError) as caught:
        await_run(KERNEL, 1, 1, quietly)
    assert (caught.value.expected, caught.value.found) == ("7 images", "failed; 6")
    assert caught.value.fix.startswith("attach the other dataset")


def test_waiting_for_a_run_ends(server: FakeKaggle, folder: Path) -> None:
    """A run that stays queued is told with its address."""
    server.kernel_polls = 10**6
    push_notebook(folder, say=quietly)
    with pytest.raises(KaggleError, match="run the same command again"):
        await_run(KERNEL, 1, 0, quietly)


@pytest.mark.parametrize(("log", "text"), [("", ""), ("not json", "not json"), ('{"a": 1}', '{"a": 1}'), ("[]", "")])
def test_odd_logs_are_read_all_the_same(log: str, text: str) -> None:
    """Kaggle may keep a log as something else, or none."""
    assert text_of_log(log) == text


def test_last_words_are_the_last_error() -> None:
    """Errors that were caught earlier are not taken for the one that ended the run."""
    text = "ValueError: early\nmore\nKeyError: 'late'\nafter\n"
    assert last_words(text) == "KeyError: 'late'\nafter"
    assert last_words("a\nb\nc\nd") == "b\nc\nd"
