"""The doctor finds which credential is used and from where, says what is unfit, and tells no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kit.shipping import doctor
from kit.shipping.doctor import Finding, examine, sources
from tests.fake_kaggle import FakeKaggle

KEY = "key-0123456789abcdef"


def found(name: str) -> Finding:
    look = {"credentials": doctor._credentials, "answer": doctor._answer}[name]
    return doctor._finding(name, look)


def test_a_fit_machine_is_told_fit(kaggle_server: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look in turn; user, endpoint, method and source of the credentials; no secret."""
    monkeypatch.setattr(doctor, "ROOM", 0)
    findings = examine(tmp_path)
    assert [one.name for one in findings] == ["client", "credentials", "answer", "device", "disk", "versions"]
    assert all(one.ok for one in findings), findings
    told = found("credentials").message
    assert "tester at http://localhost, by LEGACY_API_KEY from KAGGLE_USERNAME and KAGGLE_KEY" in told
    assert "instead of https://api.kaggle.com" in told
    assert KEY not in str(findings)


def test_files_are_named_and_open_ones_scolded(
    kaggle_server: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of kaggle.json is used where variables are absent; the OAuth file beside it is not."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    folder = tmp_path / "client-home" / ".kaggle"
    folder.mkdir()
    (folder / "kaggle.json").write_text(json.dumps({"username": "tester", "key": KEY}))
    (folder / "kaggle.json").chmod(0o644)
    (folder / "credentials.json").write_text(json.dumps({"refresh_token": "refresh-1234567890", "username": "x"}))
    (folder / "credentials.json").chmod(0o600)
    told = found("credentials").message
    assert f"by LEGACY_API_KEY from {folder / 'kaggle.json'}" in told
    assert f"not used: {folder / 'credentials.json'}" in told
    assert f"chmod 600 {folder / 'kaggle.json'}" in told
    assert KEY not in told and "refresh-1234567890" not in told


def test_a_token_goes_first(kaggle_server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the client tries them: token, key, OAuth."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123456789abcdef")
    kaggle_server.tokens["KGAT_0123456789abcdef"] = "another"
    told = found("credentials").message
    assert "another at http://localhost, by ACCESS_TOKEN from KAGGLE_API_TOKEN" in told
    assert "not used: KAGGLE_USERNAME and KAGGLE_KEY" in told


@pytest.mark.parametrize("token", [True, False])
def test_unfit_credentials_are_a_finding(
    kaggle_server: FakeKaggle, monkeypatch: pytest.MonkeyPatch, token: bool
) -> None:
    """None at all, or a token that is refused while a good key lies beside it."""
    if token:
        monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_fedcba9876543210")
    else:
        monkeypatch.delenv("KAGGLE_KEY")
    one = found("credentials")
    assert not one.ok and ("KAGGLE_API_TOKEN is refused" if token else "kaggle auth login") in one.message
    assert "fedcba" not in one.message


def test_a_key_that_kaggle_refuses_is_unfit(kaggle_server: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client takes any key for good until it asks."""
    assert found("answer").message == "Kaggle answers: 1.0 of 30.0 GPU hours used this week"
    monkeypatch.setenv("KAGGLE_KEY", "not-the-key-of-tester")
    assert found("credentials").ok and not found("answer").ok


def test_a_client_that_loses_files_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.2.4 made datasets without the files whose upload failed."""
    for version, ok in (("2.2.4", False), ("2.2.5", True), ("2.10.0", True)):
        monkeypatch.setattr(doctor, "version", lambda package, number=version: number)
        assert doctor._client().ok is ok


def test_little_room_is_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free disk is looked at where the work and the client's uploads go."""
    monkeypatch.setattr(doctor, "ROOM", 1e18)
    one = doctor._disk(tmp_path)
    assert not one.ok and str(tmp_path) in one.message


def test_a_gpu_that_only_reports_itself_is_unfit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One real operation tells, not is_available."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch, "zeros", refuse)
    assert not doctor._device().ok
    capsys.readouterr()


def test_sources_follow_the_clients_order(tmp_path: Path) -> None:
    """By name alone: nothing of what they hold."""
    folder = tmp_path / ".kaggle"
    folder.mkdir()
    for name in ("access_token", "kaggle.json", "credentials.json"):
        (folder / name).write_text("secret")
    environment = {"HOME": str(tmp_path), "KAGGLE_API_TOKEN": "secret", "KAGGLE_KEY": "secret"}
    assert sources(environment) == {
        "ACCESS_TOKEN": ["KAGGLE_API_TOKEN", str(folder / "access_token")],
        "LEGACY_API_KEY": ["KAGGLE_KEY", str(folder / "kaggle.json")],
        "OAUTH": [str(folder / "credentials.json")],
    }
