"""Secrets are kept out of whatever is printed: those that lie here, and whatever looks like one."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HIDDEN = "[hidden]"
SHORTEST = 6
"""Characters a value must have to be hidden: a shorter one would blot out half a text, and is no key."""
PATTERNS = (
    re.compile(r"()KGAT_[A-Za-z0-9]{8,}"),
    re.compile(r"()hf_[A-Za-z0-9]{20,}"),
    re.compile(r"()gh[pousr]_[A-Za-z0-9]{20,}"),
    re.compile(r"((?:Basic|Bearer)\s+)[^\s'\",]+"),
    re.compile(r"([?&](?:upload_id|X-Goog-[A-Za-z-]+|GoogleAccessId|Signature|sig|token)=)[^&\s'\"]+"),
)
VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_TOKEN")
SECRET_FIELDS = ("key", "token", "access_token", "refresh_token")


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` without credentials: the values of those that the client would find, tokens, signed addresses."""
    return redactor(environment)(text)


def redactor(environment: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """`redact` for many texts: credentials are looked for once."""
    values = sorted(set(secrets_here(environment)), key=len, reverse=True)

    def clean(text: str) -> str:
        for value in values:
            text = text.replace(value, HIDDEN)
        for pattern in PATTERNS:
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return text

    return clean


def credential_files(environment: Mapping[str, str]) -> list[Path]:
    """Where the client looks for credentials, in its order: tokens, keys, OAuth."""
    home = Path(environment.get("HOME") or "~").expanduser()
    asked = environment.get("KAGGLE_CONFIG_DIR")
    folders = [Path(asked)] if asked else [home / ".kaggle", _config_home(environment, home) / "kaggle"]
    return [
        *(home / ".kaggle" / name for name in ("access_token", "access_token.txt")),
        *(folder / "kaggle.json" for folder in folders),
        home / ".kaggle" / "credentials.json",
    ]


def _config_home(environment: Mapping[str, str], home: Path) -> Path:
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config")


def secrets_here(environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The value of every credential that the client would find, and how HTTP Basic spells a user with each.

    environment: [this process's].
    """
    environment = os.environ if environment is None else environment
    found = [environment.get(name, "") for name in VARIABLES]
    users = [environment.get("KAGGLE_USERNAME", "")]
    files = credential_files(environment)
    if found[1] and Path(found[1]).is_file():
        files.append(Path(found[1]))
        found[1] = ""  # a path, which may be told
    for path in files:
        content = _read(path)
        if isinstance(content, dict):
            found += [str(content.get(name) or "") for name in SECRET_FIELDS]
            users.append(str(content.get("username") or ""))
        elif path.suffix != ".json":
            found.append(str(content))
    for value in found:
        if len(value) >= SHORTEST:
            yield value
            yield from (base64.b64encode(f"{user}:{value}".encode()).decode() for user in users if user)


def _read(path: Path) -> Any:
    """A credentials file: a mapping where it is JSON, else its text; nothing where it cannot be read."""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    try:
        return json.loads(text) if path.suffix == ".json" else text
    except ValueError:
        return ""
