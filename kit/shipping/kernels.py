"""Notebooks on Kaggle: pushed, waited for, and what their runs left."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.offline.errors import KaggleError
from kit.shipping import kaggle_child
from kit.shipping.kaggle import AGAIN, TRIES, ask, call, missing, poll, wait
from kit.shipping.predict import as_kit_error

BUSY = "session count"
"""What Kaggle's refusal says while all GPU slots of the user are taken."""
BUSY_MINUTES = 720
GOING = ("QUEUED", "RUNNING", "NEW_SCRIPT", "CANCEL_REQUESTED")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ERROR = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Found|Exit|Killed)\b.*")


def push_notebook(folder: Path, seconds: int | None = None, say: Callable[[str], None] = print) -> int:
    """Push and run the notebook in `folder` as its kernel-metadata.json says; returns the version's number.

    seconds: after which Kaggle ends the run. Waits while all GPU slots are taken. After an error Kaggle is asked
    whether the version is there before it is pushed again. Raises KaggleError where Kaggle refuses it, or one of its
    sources: the run would start without.
    """
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    kernel, before = metadata["id"], last_version(metadata["id"])
    begun, failures, waits = time.monotonic(), 0, 0
    while True:
        try:
            pushed = call(kaggle_child.push_kernel, folder=str(folder), seconds=seconds)
        except KaggleError as error:
            failures += 1
            if not error.passing or failures == TRIES:
                raise
            say(f"  {error.found}: asking Kaggle what became of it")
            wait(failures)
            if last_version(kernel) > before:
                return _with_sources(metadata)
            continue
        if BUSY not in pushed["error"] or time.monotonic() - begun > 60 * BUSY_MINUTES:
            return _accepted(kernel, pushed)
        say(f"  {pushed['error']} Waiting for one; Ctrl-C stops waiting")
        wait(waits)
        waits += 1


def last_version(kernel: str) -> int:
    """The number of a notebook's last version; 0 where there is no such notebook."""
    try:
        return int(ask(kaggle_child.kernel, kernel=kernel)["version"])
    except KaggleError as error:
        if missing(error):
            return 0
        raise


def await_run(
    kernel: str,
    version: int,
    minutes: float,
    say: Callable[[str], None] = print,
    fix: str = "kit rehearse runs the same notebook here",
) -> None:
    """Wait for the run of one version to complete.

    Raises KaggleError where it fails, with the notebook's own last words, and after `minutes`. fix: what to do where
    those name no remedy.
    """

    def look() -> dict[str, Any]:
        found: dict[str, Any] = ask(kaggle_child.kernel_status, kernel=kernel, version=version)
        return found

    ended = poll(look, GOING, minutes, f"version {version}", url_of(kernel), say)
    if ended["status"] == "COMPLETE":
        return
    words = last_words(text_of_log(ask(kaggle_child.kernel_log, kernel=kernel, version=version)))
    said = as_kit_error(words)
    found = "; ".join(part for part in (ended["failure"], *(said.found if said else words).splitlines()) if part)
    raise KaggleError(
        said.expected if said else f"version {version} of {kernel} to run through",
        found or ended["status"].lower(),
        f"{said.fix if said else fix}; the log: {url_of(kernel)}",
    )


def fetch_output(kernel: str, version: int, out: Path, pattern: str | None = None) -> list[Path]:
    """Download what a run left into `out`, files whose names match `pattern` where it is given, and log.txt.

    Returns the paths of the files. What broke off goes on when it is called again.
    """
    out.mkdir(parents=True, exist_ok=True)
    named = {"kernel": kernel, "version": version, "folder": str(out), "pattern": pattern}
    files = [Path(file) for file in ask(kaggle_child.download_kernel_output, **named)]
    raw = out / f"{kernel.split('/')[1]}.log"  # the client's own; a run that printed nothing has none
    (out / "log.txt").write_text(text_of_log(raw.read_text()) if raw in files else "")
    raw.unlink(missing_ok=True)
    return [file for file in files if file != raw]


def url_of(kernel: str) -> str:
    """Where a person looks at a notebook and its versions."""
    return f"https://www.kaggle.com/code/{kernel}"


def text_of_log(log: str) -> str:
    """What a notebook printed, out of the JSON that Kaggle keeps; colours are left out."""
    try:
        events = json.loads(log or "[]")
        text = "".join(str(event.get("data", "")) for event in events)
    except (ValueError, AttributeError):
        text = log
    return COLOUR.sub("", text)


def last_words(text: str) -> str:
    """The error that ended a notebook: the last line that names one with what follows, at most five lines."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    named = [at for at, line in enumerate(lines) if ERROR.match(line)]
    start = named[-1] if named else max(0, len(lines) - 3)
    return "\n".join(lines[start : start + 5])


def _accepted(kernel: str, pushed: dict[str, Any]) -> int:
    if pushed["error"]:
        raise KaggleError(f"Kaggle to take the notebook {kernel}", pushed["error"], f"mend that, then: {AGAIN}")
    if pushed["invalid"]:
        raise _refused_sources(kernel, pushed["invalid"])
    return int(pushed["version"])


def _with_sources(metadata: dict[str, Any]) -> int:
    """The version whose answer was lost, if it got what it asked for."""
    found = ask(kaggle_child.kernel, kernel=metadata["id"])
    lacking = {kind: sorted(set(metadata.get(kind, ())) - set(found[kind])) for kind in kaggle_child.SOURCES}
    if any(lacking.values()):
        raise _refused_sources(metadata["id"], lacking)
    return int(found["version"])


def _refused_sources(kernel: str, refused: Mapping[str, Sequence[str]]) -> KaggleError:
    named = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names)}" for kind, names in refused.items() if names)
    fix = f"see that each is there, READY, and yours or public; then: {AGAIN}"
    return KaggleError(f"Kaggle to take every source of {kernel} (it ran without)", named, fix)
