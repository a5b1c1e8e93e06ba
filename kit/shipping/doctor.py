"""Whether this machine is fit to train and to push: credentials, client, device, disk, versions. Tells no secret."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kit.offline.errors import KitError
from kit.shipping import kaggle_child
from kit.shipping.kaggle import ask, call
from kit.shipping.redact import credential_files

CLIENT = "2.2.5"
"""The first client that says so when a file's upload failed."""
ROOM = 2e9
"""Free bytes below which a bundle or a cache soon finds none."""
PRODUCTION = "https://api.kaggle.com"
PACKAGES = (
    *("torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "numpy", "pandas", "scipy"),
    *("scikit-learn", "pillow", "safetensors", "kaggle"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is fit, and what was found."""

    name: str
    ok: bool
    message: str


def examine(home: Path) -> list[Finding]:
    """Look at everything; a fault is a finding, not an exception."""
    looks: dict[str, Callable[[], Finding]] = {
        "client": _client,
        "credentials": _credentials,
        "answer": _answer,
        "device": _device,
        "disk": lambda: _disk(home),
        "versions": _versions,
    }
    return [_finding(name, look) for name, look in looks.items()]


def sources(environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Where credentials lie, variables and files by name: by the client's method, as it tries them in turn."""
    files = [path for path in credential_files(environment) if path.is_file()]
    named = {kind: [str(path) for path in files if path.name.startswith(kind)] for kind in ("access", "kaggle", "cred")}
    token = ["KAGGLE_API_TOKEN"] if environment.get("KAGGLE_API_TOKEN") else []
    keys = [name for name in ("KAGGLE_USERNAME", "KAGGLE_KEY") if environment.get(name)]
    return {
        "ACCESS_TOKEN": token + named["access"],
        "LEGACY_API_KEY": [" and ".join(keys)] * bool(keys) + named["kaggle"],
        "OAUTH": named["cred"],
    }


def _finding(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except KitError as error:
        return Finding(name, False, str(error))


def _client() -> Finding:
    try:
        found = version("kaggle")
    except PackageNotFoundError:
        return Finding("client", False, f"kaggle is not installed: pip install 'kaggle>={CLIENT}'")
    if _numbers(found) < _numbers(CLIENT):
        return Finding("client", False, f"kaggle {found} loses files: pip install 'kaggle>={CLIENT}'")
    return Finding("client", True, f"kaggle {found}")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)[:3]]


def _credentials() -> Finding:
    found = sources(os.environ)
    who = ask(kaggle_child.whoami)
    used, endpoint = found[who["method"]][:1], who["endpoint"]
    lines = [f"{who['user']} at {endpoint}, by {who['method']} from {''.join(used)}"]
    if endpoint != PRODUCTION:
        lines.append(f"KAGGLE_API_ENVIRONMENT sends the client to {endpoint} instead of {PRODUCTION}")
    others = [place for places in found.values() for place in places if place not in used]
    if others:
        lines.append(f"not used: {', '.join(others)}")
    for path in credential_files(os.environ):
        if path.is_file() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            lines.append(f"others may read it: chmod 600 {path}")
    return Finding("credentials", True, "\n".join(lines))


def _answer() -> Finding:
    """A key is only as good as Kaggle says it is, and a question is the one way to hear that."""
    gpu = call(kaggle_child.quota)
    told = f"Kaggle answers: {gpu['used'] / 3600:.1f} of {gpu['allowed'] / 3600:.1f} GPU hours used this week"
    return Finding("answer", True, told)


def _device() -> Finding:
    import torch

    from kit.offline.models import pick_device

    device = pick_device()
    (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
    if device.type == "cpu" and torch.cuda.is_available():
        return Finding("device", False, "a GPU is there and fails at its first operation; the CPU is used")
    names = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    return Finding("device", True, ", ".join(names) or f"CPU, {os.cpu_count()} cores; no GPU")


def _disk(home: Path) -> Finding:
    free = {str(place): shutil.disk_usage(place).free for place in (home, Path(tempfile.gettempdir()))}
    told = ", ".join(f"{size / 1e9:.1f} GB free in {place}" for place, size in free.items())
    return Finding("disk", min(free.values()) >= ROOM, told)


def _versions() -> Finding:
    from kit.offline.golden import version_here

    found = {name: version_here(name) or "missing" for name in ("python", *PACKAGES)}
    told = ", ".join(f"{name} {number}" for name, number in found.items())
    return Finding("versions", "missing" not in found.values(), told)
