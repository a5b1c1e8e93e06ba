"""No credential, whatever it is spelt like, survives in a text that is shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from kit.shipping.redact import HIDDEN, redact

KEY = "0a1b2c3d4e5f60718293"


def homes(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Every way in which a key can lie here, as an environment."""
    for name, content in {
        "json/.kaggle/kaggle.json": json.dumps({"username": "ann", "key": KEY}),
        "xdg/.config/kaggle/kaggle.json": json.dumps({"username": "ann", "key": KEY}),
        "token/.kaggle/access_token": KEY + "\n",
        "text/.kaggle/access_token.txt": KEY,
        "oauth/.kaggle/credentials.json": json.dumps({"refresh_token": KEY, "access_token": "other-token"}),
        "named/secret": KEY,
        "moved/kaggle.json": json.dumps({"username": "ann", "key": KEY}),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    bare = str(tmp_path / "bare")
    return {
        **{name: {"HOME": str(tmp_path / name)} for name in ("json", "xdg", "token", "text", "oauth")},
        "variable": {"HOME": bare, "KAGGLE_USERNAME": "ann", "KAGGLE_KEY": KEY},
        "variable token": {"HOME": bare, "KAGGLE_API_TOKEN": KEY},
        "token file": {"HOME": bare, "KAGGLE_API_TOKEN": str(tmp_path / "named" / "secret")},
        "moved": {"HOME": bare, "KAGGLE_CONFIG_DIR": str(tmp_path / "moved")},
    }


def test_a_key_is_hidden_wherever_it_lies(tmp_path: Path) -> None:
    """Its own characters, and, where a user is known, the two as HTTP Basic spells them."""
    pair = base64.b64encode(f"ann:{KEY}".encode()).decode()
    for name, environment in homes(tmp_path).items():
        assert redact(f"a {KEY} b", environment) == f"a {HIDDEN} b", name
        if name in ("json", "xdg", "variable", "moved"):
            assert pair not in redact(f"auth={pair}", environment), name


@pytest.mark.parametrize(
    "text",
    [
        "KGAT_abcdef0123456789",
        "hf_" + "a1B2" * 8,
        "ghp_" + "a1B2" * 9,
        "Authorization: Basic YW5uOnNlY3JldA==",
        "Authorization: Bearer eyJhbGciOi",
        "https://x/y.zip?a=1&X-Goog-Signature=5ecret0&b=2",
        "https://x/up?upload_id=5ecret0",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    """Tokens of several kinds, headers, signed addresses: unknown to this machine, hidden all the same."""
    shown = redact(text, {"HOME": "/nonexistent"})
    assert HIDDEN in shown
    assert not any(part in shown for part in ("0123456789", "a1B2a1B2", "YW5u", "eyJh", "5ecret0"))


def test_other_text_stays(tmp_path: Path) -> None:
    """Empty and short values hide nothing, a path to a token may be told, broken files are no fault."""
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text("{broken")
    (tmp_path / ".kaggle" / "access_token").write_bytes(b"\xff\xfe")
    environment = {"HOME": str(tmp_path), "KAGGLE_KEY": "abc", "KAGGLE_API_TOKEN": ""}
    text = "abc: 403 of https://www.kaggle.com/code/ann/abc, a basic fault"
    assert redact(text, environment) == text
