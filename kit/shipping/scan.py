"""The last look at a bundle before it is finished: nothing in it that must not be published.

Every file must be of a known kind, by its name and by its first bytes. Text, inside wheels too, is searched for tokens,
private keys, the credentials that lie here, home folders and the name of who runs this; wheels from elsewhere, whose
authors have homes and names of their own, for secrets and this machine's home alone, and so is the code that trains on
Kaggle. What was found is named by file and line and never repeated.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

import kit
from kit.offline.errors import BundleError, examples
from kit.shipping.redact import secrets_here

FORBIDDEN = {
    "kaggle.json", "access_token", "access_token.txt", "credentials.json", ".env", ".netrc", ".git", ".ssh", ".aws",
    ".ipynb_checkpoints", "id_rsa", "id_ed25519",
}  # fmt: skip
"""Names of files and folders that hold secrets, or whatever lay about."""
SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a Kaggle token": r"KGAT_[A-Za-z0-9]{16,}",
    "a Kaggle key": r"\bkey\\*\"\s*:\s*\\*\"[0-9a-f]{32}\b",
    "a Hugging Face token": r"hf_[A-Za-z0-9]{20,}",
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a password of HTTP": r"\b(Basic|Bearer)\s+[A-Za-z0-9+/=._-]{24,}",
    "a signed address": r"[?&](upload_id|X-Goog-Signature|X-Amz-Signature|token)=[A-Za-z0-9%_-]{8,}",
    "a setting that is a secret": (
        r"(?i)\b(kaggle_key|kaggle_api_token|wandb_api_key|hf_token|aws_secret_access_key)\b[\"'\]]*\s*[=:,]\s*[\"']?"
        r"(?=[a-z/+_-]*\d)[a-z0-9/+_-]{16,}"  # a digit: the name of another such setting may follow
    ),
}
HOMES = {"a home folder": r"(?<![\w.])/(root/|(home|Users)/\w)|\b[A-Za-z]:[\\/]+Users[\\/]+\w"}
PICTURES = {"an image in text": r"data:(image|video)/|iVBORw0KGgo|/9j/4AAQSk"}
IMAGES = {
    "a JPEG image": rb"\xff\xd8\xff",
    "a PNG image": rb"\x89PNG\r\n",
    "a GIF image": rb"GIF8",
    "a BMP image": rb"BM.{4}\0{4}",
    "a TIFF image": rb"II[*+]\0|MM\0[*+]",
    "a WebP image or AVI video": rb"RIFF.{4}(WEBP|AVI )",
    "a JPEG 2000 image": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "a DICOM image": rb".{128}DICM",
    "a NIfTI image": rb".{344}n[+i]1\0",
    "an MP4 video or HEIC image": rb".{4}ftyp",
    "a Matroska video": rb"\x1a\x45\xdf\xa3",
}
"""How files of images and videos begin."""
COMMON = {"root", "user", "admin", "kaggle", "runner", "ubuntu", "debian", "jovyan", "docker", "vagrant", "default"}
"""User names that tell nothing about anybody."""
LEAST = 4
"""Letters of a user name; a shorter one is found in any text."""


def scan(folder: Path) -> None:
    """Refuse a bundle that holds what must not be published. Raises BundleError naming up to three places."""
    found = [fault for path in sorted(folder.iterdir()) for fault in _faults_of(path)]
    if found:
        raise BundleError(
            "a bundle without secrets, traces of this machine and images of the competition",
            examples(found).replace('"', ""),
            "take it out of where it comes from (the adapter, model.py, the recipe, labels), then bundle again",
        )


def scan_code(wheel: Path) -> None:
    """Refuse code for a private dataset where it holds a secret or names this machine's home.

    What is no text, as weights, is not searched. Raises BundleError naming up to three places.
    """
    found: list[str] = []
    patterns = foreign_patterns()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            with contextlib.suppress(UnicodeDecodeError):
                found += _places(entry, archive.read(entry).decode(), patterns)
    if found:
        raise BundleError(
            "code without secrets and traces of this machine, to train on Kaggle",
            examples(found).replace('"', ""),
            "take it out of that file, then train again",
        )


def _faults_of(path: Path) -> Iterator[str]:
    """What is wrong with one file of a bundle, as texts."""
    if path.is_symlink() or not path.is_file():
        yield f"{path.name}: no plain file"
        return
    if path.name in FORBIDDEN or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", path.name):
        yield f"{path.name}: a name that no bundle has"
        return
    with path.open("rb") as file:
        image = image_in(file.read(512))
    if image or path.suffix not in READERS:
        yield f"{path.name}: {image or 'a kind of file that no bundle has'}"
        return
    try:
        yield from READERS[path.suffix](path)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile):
        yield f"{path.name}: not of the kind that its name says"


def _text(path: Path) -> Iterator[str]:
    yield from _places(path.name, path.read_bytes().decode(), own_patterns())


def _json(path: Path) -> Iterator[str]:
    json.loads(path.read_bytes())
    yield from _text(path)


def _safetensors(path: Path) -> Iterator[str]:
    """The header is JSON: names of tensors, and labels of galleries."""
    with path.open("rb") as file:
        header = file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size)).decode()
    json.loads(header)
    yield from _places(f"{path.name} (its header)", header, own_patterns())


def _array(path: Path) -> Iterator[str]:
    np.load(path, allow_pickle=False)
    yield from ()


def _wheel(path: Path) -> Iterator[str]:
    ours = path.name.startswith("kit-")
    patterns = own_patterns() if ours else foreign_patterns()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            content, place = archive.read(entry), f"{path.name}/{entry}"
            image = image_in(content) if ours else None
            if FORBIDDEN & set(PurePosixPath(entry).parts):
                yield f"{place}: a name that no bundle has"
            elif image:
                yield f"{place}: {image}"
            else:
                yield from _places(place, content.decode(errors="ignore"), patterns)


READERS: Mapping[str, Callable[[Path], Iterator[str]]] = {
    ".safetensors": _safetensors,
    ".json": _json,
    ".npy": _array,
    ".whl": _wheel,
    ".csv": _text,
    ".txt": _text,
    ".md": _text,
}
"""What a bundle may hold, by the end of its name; each raises ValueError for a file that is of another kind."""


def _places(name: str, text: str, patterns: Mapping[str, str]) -> Iterator[str]:
    """Where each pattern is first found in a text, and what it is."""
    for what, pattern in patterns.items():
        found = re.search(pattern, text)
        if found:
            yield f"{name}, line {text.count(chr(10), 0, found.start()) + 1}: {what}"


def image_in(content: bytes) -> str | None:
    """What kind of image or video the first bytes of a file are, if any."""
    return next((kind for kind, begins in IMAGES.items() if re.match(begins, content, re.DOTALL)), None)


def own_patterns() -> dict[str, str]:
    """What may stand in no text of ours: secrets, images, anybody's home folder, this user's name."""
    user = _user()
    named = {"the name of this machine's user": rf"\b{re.escape(user)}\b"} if user else {}
    return {**SECRETS, **PICTURES, **HOMES, **_here(), **named}


def foreign_patterns() -> dict[str, str]:
    """What may stand in no package from elsewhere: secrets, this machine's own among them, and its home folder."""
    return {**SECRETS, **_here()}


def _here() -> dict[str, str]:
    """This machine's own credentials, and its home folder, where that is more than a root."""
    home, values = str(Path.home()), sorted(set(secrets_here()))
    patterns = {"a credential of this machine": "|".join(map(re.escape, values))} if values else {}
    if len(Path(home).parts) > 2:
        patterns["this machine's home folder"] = rf"{re.escape(home)}(?![\w-])"
    return patterns


def _user() -> str | None:
    """The user's name, unless it is too short, everybody's, or a word of the kit's own code."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a number without a name, as in some containers
        return None
    return None if len(user) < LEAST or user.lower() in COMMON | _vocabulary() else user


@cache
def _vocabulary() -> set[str]:
    """The words of the code that travels in every bundle."""
    files = sorted((Path(kit.__file__ or "").parent / "offline").glob("*.py"))
    return {word.lower() for file in files for word in re.findall(r"\w+", file.read_text())}
