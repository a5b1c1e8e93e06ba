"""The real client, asked through a process of its own: what it answers, how it fails, and what it never tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kit.offline.errors import KaggleError, KitError
from kit.shipping import kaggle, kaggle_child
from kit.shipping.kaggle import ask, call, owner_or_self, require_slug
from tests.fake_kaggle import Competition, FakeKaggle, Trouble


@pytest.fixture
def server(kaggle_server: FakeKaggle) -> FakeKaggle:
    """With a competition that has something to say."""
    kaggle_server.competitions["toy-comp"] = Competition("toy-comp", daily=4, today=1)
    return kaggle_server


LIMITS = {"today": 1, "total": 1, "allowed": 3}


def test_the_client_is_kaggles_own_and_stays_on_this_machine(server: FakeKaggle) -> None:
    """The rail of these tests: whom it takes us for, and whom it would ask."""
    told = ask(kaggle_child.whoami)
    assert told == {"user": "tester", "method": "LEGACY_API_KEY", "endpoint": "http://localhost", "client": "2.2.5"}
    assert server.calls == []


@pytest.mark.parametrize("environment", ["TEST", "STAGING", "PROD", ""])
def test_the_rail_catches_an_environment_that_leads_away(
    server: FakeKaggle, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    """TEST and STAGING would reach the real Kaggle; asked for its endpoint, the client says so without going there."""
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", environment)
    assert ask(kaggle_child.whoami)["endpoint"] == "https://api.kaggle.com"


@pytest.mark.parametrize(
    "trouble",
    [Trouble(500), Trouble(503), Trouble(429), Trouble(), Trouble(after=True)],
    ids=["500", "503", "429", "dropped", "dropped after"],
)
def test_a_question_is_asked_again(server: FakeKaggle, trouble: Trouble) -> None:
    """What changes nothing is repeated where Kaggle or the network is at fault."""
    server.trouble["GetSubmissionLimits"] += [trouble, trouble]
    assert ask(kaggle_child.limits, slug="toy-comp") == LIMITS
    assert len(server.called("GetSubmissionLimits")) == 3


def test_a_question_is_given_up_in_the_end(server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that stays is told, with its status, and as one that may pass."""
    monkeypatch.setattr(kaggle, "TRIES", 2)
    server.trouble["GetSubmissionLimits"] += [Trouble(502)] * 5
    with pytest.raises(KaggleError, match="HTTP 502: the server had a bad day") as caught:
        ask(kaggle_child.limits, slug="toy-comp")
    assert (caught.value.status, caught.value.passing) == (502, True)
    assert len(server.called("GetSubmissionLimits")) == 2


def test_a_refusal_is_not_asked_again(server: FakeKaggle) -> None:
    """403 stays 403; the client's message has no number, its answer does."""
    with pytest.raises(KaggleError, match=r"Permission 'competitions\.participate'") as caught:
        ask(kaggle_child.limits, slug="another")
    assert (caught.value.status, caught.value.passing) == (403, False)
    with pytest.raises(KaggleError, match="HTTP 403") as caught:
        ask(kaggle_child.kernel_status, kernel="tester/nothing", version=1)  # the client hides it in a ValueError
    assert caught.value.status == 403
    assert len(server.calls) == 2


def test_what_may_have_happened_is_not_repeated_by_the_client(server: FakeKaggle, tmp_path: Path) -> None:
    """Left to itself the client would create a second time after a dropped connection."""
    (tmp_path / "a.csv").write_text("id\n")
    metadata = {"id": "tester/toy-data", "title": "toy-data", "licenses": [{"name": "other"}]}
    (tmp_path / "dataset-metadata.json").write_text(json.dumps(metadata))
    server.trouble["CreateDataset"] += [Trouble(after=True)]
    with pytest.raises(KaggleError) as caught:
        call(kaggle_child.create_dataset, folder=str(tmp_path))
    assert caught.value.passing
    assert len(server.called("CreateDataset")) == 1


def test_a_rate_limit_is_waited_for(server: FakeKaggle, tmp_path: Path) -> None:
    """429 says that nothing happened: the client waits as long as Kaggle asks, and goes on."""
    (tmp_path / "a.csv").write_text("id\n")
    metadata = {"id": "tester/toy-data", "title": "toy-data", "licenses": [{"name": "other"}]}
    (tmp_path / "dataset-metadata.json").write_text(json.dumps(metadata))
    for method in ("StartBlobUpload", "CreateDataset"):
        server.trouble[method] += [Trouble(429, headers={"Retry-After": "0"})]
    assert call(kaggle_child.create_dataset, folder=str(tmp_path))["status"] == "Ok"
    assert [name for name, _ in server.calls] == [
        "GetDatasetStatus",
        *["StartBlobUpload"] * 2,
        *["CreateDataset"] * 2,
    ]


def test_no_credentials_are_told_with_what_to_do(server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client prints twenty lines of help and ends its process; the user sees three."""
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(KaggleError, match="kaggle auth login"):
        ask(kaggle_child.whoami)
    assert server.calls == []


def test_a_token_is_introspected(server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """An access token goes before a key, and Kaggle says whose it is."""
    server.tokens["KGAT_0123456789abcdef"] = "another"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123456789abcdef")
    assert owner_or_self(None) == "another"
    assert ask(kaggle_child.limits, slug="toy-comp") == LIMITS


def test_a_log_in_that_fails_for_a_moment_is_tried_again(server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client swallows what goes wrong while it is imported."""
    server.tokens["KGAT_0123456789abcdef"] = "another"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123456789abcdef")
    server.trouble["IntrospectToken"] += [Trouble(500)] * 3
    assert owner_or_self(None) == "another"


@pytest.mark.parametrize("key", [True, False])
def test_a_bad_token_is_told_even_beside_a_good_key(
    server: FakeKaggle, monkeypatch: pytest.MonkeyPatch, key: bool
) -> None:
    """The client says that it uses the key and sends the token."""
    if not key:
        monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_fedcba9876543210")
    with pytest.raises(KaggleError, match="KAGGLE_API_TOKEN is refused") as caught:
        ask(kaggle_child.limits, slug="toy-comp")
    assert "unset" in str(caught.value) and "fedcba" not in str(caught.value)
    assert server.called("GetSubmissionLimits") == []


def test_a_wrong_key_is_told(server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 names how to log in."""
    monkeypatch.setenv("KAGGLE_KEY", "not-the-key-of-tester")
    with pytest.raises(KaggleError, match="kaggle auth login") as caught:
        ask(kaggle_child.limits, slug="toy-comp")
    assert caught.value.status == 401


def test_a_home_that_cannot_be_written_is_told(server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client makes a folder while it is imported."""
    monkeypatch.setenv("HOME", "/dev/null/nowhere")
    monkeypatch.delenv("KAGGLE_CONFIG_DIR")
    with pytest.raises(KaggleError, match="a writable home"):
        ask(kaggle_child.whoami)


def test_the_client_gets_no_more_than_it_needs(server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """VERBOSE would print keys, KAGGLE_COMPETITION would change what is asked, others are none of its business."""
    for name in ("VERBOSE", "VERBOSE_OUTPUT", "KAGGLE_COMPETITION", "KAGGLE_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "1")
    passed = kaggle.environment()
    assert {"HOME", "PATH", "KAGGLE_KEY", "http_proxy"} <= set(passed)
    assert not {name for name in passed if name.startswith("VERBOSE")}
    assert {name for name in passed if name.startswith("KAGGLE_")} <= set(kaggle.PASSED_ON)
    assert "AWS_SECRET_ACCESS_KEY" not in passed


def test_what_the_client_says_is_shown_without_secrets(server: FakeKaggle) -> None:
    """Kaggle's message, and the client's own words, go through the redactor."""
    key = server.users["tester"]
    server.trouble["GetSubmissionLimits"] += [Trouble(400, message=f"bad key {key} at ?upload_id=5ecre7")]
    with pytest.raises(KaggleError, match=r"bad key \[hidden\]") as caught:
        ask(kaggle_child.limits, slug="toy-comp")
    assert "5ecre7" not in str(caught.value)


def test_a_process_that_dies_is_told(server: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed for memory, or crashed: the last thing it said, and no traceback."""
    child = tmp_path / "child.py"
    child.write_text(f"import os; print('key {server.users['tester']}', flush=True); os.kill(os.getpid(), 9)")
    monkeypatch.setattr(kaggle_child, "__file__", str(child))
    with pytest.raises(KaggleError, match=r"its process ended, saying 'key \[hidden\]'"):
        ask(kaggle_child.whoami)


SILENT = """
import importlib.util, socket, sys
spec = importlib.util.spec_from_file_location("child", {child!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
child.TIMEOUT = (5, 0.2)
child.main({job!r}, {result!r})
"""


def test_a_silent_server_is_not_waited_for_for_ever(
    server: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's calls have no timeout of their own."""
    job, result = tmp_path / "job.json", tmp_path / "result.json"
    job.write_text(json.dumps({"operation": "limits", "arguments": {"slug": "toy-comp"}}))
    code = SILENT.format(child=kaggle_child.__file__, job=str(job), result=str(result))
    with server.lock:  # no call is answered
        subprocess.run([sys.executable, "-P", "-c", code], env=kaggle.environment(), timeout=60, check=True)
    fault = json.loads(result.read_text())["fault"]
    assert fault["kind"] == "network" and "Timeout" in fault["message"]


def test_pauses_grow_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """From two seconds to about a minute, drawn by chance, also after two days of polling."""
    slept: list[float] = []
    monkeypatch.setattr(kaggle.time, "sleep", slept.append)
    for attempt in (0, 1, 5, 3000):
        kaggle.wait(attempt)
    assert all(
        low <= pause <= high for pause, (low, high) in zip(slept, [(1.5, 2.5), (3, 5), (45, 75), (45, 75)], strict=True)
    )


@pytest.mark.parametrize(
    "slug",
    [
        "short",
        "a" * 51,
        "Upper-case",
        "under_score",
        "a--bcdef",
        "-abcdef",
        "abcdef-",
        "../../etc",
        "o/abcdef",
        "abc def",
        "äbcdef",
        "abcdef\n",
    ],
)
def test_a_bad_name_is_refused_before_anything_is_sent(slug: str) -> None:
    """Kaggle refuses some of these, and makes another name of others."""
    with pytest.raises(KitError, match="6 to 50 characters"):
        require_slug(slug, "dataset")


@pytest.mark.parametrize("slug", ["abcdef", "a" * 50, "kit-weights-0123456789abcdef", "1-2-3-4"])
def test_a_good_name_passes(slug: str) -> None:
    """The limits belong to what is allowed."""
    require_slug(slug, "dataset")


def test_an_owner_that_is_a_path_is_refused() -> None:
    """What --owner says becomes part of addresses."""
    with pytest.raises(KitError, match="user name"):
        owner_or_self("../other")
