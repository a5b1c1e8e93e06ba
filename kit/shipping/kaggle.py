"""Kaggle, asked through its own client in a child process: one question, one process, JSON back.

The client never sees more than it needs, and nothing that it prints is believed: answers are the fields of its response
objects, and what it printed is shown, without secrets, only where it failed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from kit.offline.errors import KaggleError, KitError
from kit.shipping import kaggle_child
from kit.shipping.redact import redact, redactor

TRIES = 6
PAUSE = 2.0
"""Seconds before the second try; doubled for each further one, up to LONGEST, and drawn by chance around that."""
LONGEST = 60.0
PASSED_ON = (
    *("PATH", "HOME", "TMPDIR", "XDG_CONFIG_HOME", "LD_LIBRARY_PATH"),
    *("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "KAGGLE_API_ENVIRONMENT"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
"""All that the client's process gets: VERBOSE would print keys, other KAGGLE_ variables would change defaults."""
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
OWNER = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*", re.IGNORECASE)
BAR = re.compile(r"\d+%\|")


def call(operation: Callable[..., Any], **arguments: Any) -> Any:
    """What a function of `kaggle_child` returns, run in a process of its own.

    Raises KaggleError; where it is `passing`, whether the call was carried out is not known.
    """
    with tempfile.TemporaryDirectory(prefix="kit-kaggle-") as folder:
        job, result = Path(folder, "job.json"), Path(folder, "result.json")
        job.write_text(json.dumps({"operation": operation.__name__, "arguments": arguments}))
        said = _run([sys.executable, "-P", kaggle_child.__file__, str(job), str(result)])
        try:
            answer = json.loads(result.read_text())
        except (OSError, ValueError):
            last = (said or ["nothing"])[-1]
            raise KaggleError("the kaggle client to answer", f"its process ended, saying {last!r}", AGAIN) from None
    if "fault" in answer:
        raise _explained(operation.__name__, answer["fault"], said)
    return answer["value"]


def ask(operation: Callable[..., Any], **arguments: Any) -> Any:
    """`call` for what changes nothing: tried again where Kaggle or the network is at fault."""
    for attempt in range(TRIES - 1):
        try:
            return call(operation, **arguments)
        except KaggleError as error:
            if not error.passing:
                raise
            wait(attempt)
    return call(operation, **arguments)


def wait(attempt: int) -> None:
    """Sleep before another try: PAUSE, doubled for each attempt before, up to LONGEST, give or take a quarter."""
    pause = min(PAUSE * 2 ** min(attempt, 10), LONGEST)  # a thousand doublings are no float
    time.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - not for secrets


def poll(
    look: Callable[[], dict[str, Any]],
    going: Collection[str],
    minutes: float,
    waiting_for: str,
    url: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Call `look` until its "status" is none of `going`; returns what it said last. Each change of status is told.

    Raises KaggleError after `minutes`: what it waited for goes on at Kaggle.
    """
    begun, shown = time.monotonic(), ""
    for attempt in itertools.count():
        state = look()
        if state["status"] != shown:
            shown = state["status"]
            say(f"  {waiting_for}: {shown.lower()} ({time.monotonic() - begun:.0f} s)  {url}")
        if shown not in going:
            return state
        if time.monotonic() - begun > 60 * minutes:
            break
        wait(attempt)
    raise KaggleError(
        f"{waiting_for} to be done within {minutes:.0f} minutes", shown.lower(), f"look at {url}; {AGAIN}"
    )


def missing(error: KaggleError) -> bool:
    """Whether Kaggle says that something is not there: a private thing that is not there is "denied"."""
    return error.status in (403, 404)


def require_slug(slug: str, kind: str) -> None:
    """Refuse what Kaggle would refuse, or turn into another name, before anything is sent. Raises KitError."""
    if not SLUG.fullmatch(slug) or not 6 <= len(slug) <= 50:
        fix = "give it another name"
        raise KitError(f"a {kind} name of 6 to 50 characters: a-z, 0-9 and single dashes", repr(slug), fix)


def owner_or_self(owner: str | None) -> str:
    """`owner`, else the user whose credentials the client finds."""
    found = owner or str(ask(kaggle_child.whoami)["user"])
    if not OWNER.fullmatch(found):
        raise KitError("a Kaggle user name", repr(found), "write it as in your profile's address, with --owner")
    return found


def environment() -> dict[str, str]:
    """The variables that the client's process gets."""
    return {"LANG": "C.UTF-8", **{name: os.environ[name] for name in PASSED_ON if name in os.environ}}


def _run(command: list[str]) -> list[str]:
    """Run the client's process to its end; returns what it said, line by line, without secrets.

    Progress bars are shown on a terminal, and left out of what is returned.
    """
    said: list[str] = []
    clean, terminal = redactor(), sys.stderr.isatty()
    with subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:  # a progress bar's carriage return ends a line too
                if not BAR.search(line):
                    said += [clean(line.rstrip())] if line.strip() else []
                elif terminal:
                    print(f"\r{clean(line.rstrip())}", end="\n" if "100%" in line else "", file=sys.stderr, flush=True)
        except BaseException:
            process.terminate()
            raise
    return said


AGAIN = "run the same command again: it goes on where it stopped"
MEND = "mend what it names, then run the same command again"
LOG_IN = (
    "log in with `kaggle auth login`, or put a token from https://www.kaggle.com/settings/api into "
    "~/.kaggle/access_token; kit doctor shows what is found"
)


def _explained(operation: str, fault: dict[str, Any], said: list[str]) -> KaggleError:
    """A fault of the client's process as an error with a remedy."""
    message = redact(fault.get("message", ""))
    did = operation.replace("_", " ")
    if fault["kind"] == "credentials":
        return KaggleError("credentials for Kaggle", "none in the environment or in ~/.kaggle", LOG_IN)
    if fault["kind"] == "token":
        found = f"the one from {message} is refused, and the client sends it even where a good key is there"
        return KaggleError(
            "an access token that Kaggle takes", found, f"unset or delete it, or make a new one: {LOG_IN}"
        )
    if fault["kind"] == "network":
        return KaggleError(f"an answer from Kaggle ({did})", message, f"mend the network; {AGAIN}", passing=True)
    if fault["kind"] == "disk":
        return KaggleError(f"a writable home and free disk ({did})", message, f"make room, or set HOME; then {AGAIN}")
    if fault["kind"] == "client":
        told = [line for line in said if line.lower() not in message.lower()][-1:]
        return KaggleError(f"the kaggle client to do this: {did}", "; ".join([message, *told]), MEND)
    status = int(fault["status"])
    found = f"HTTP {status}: {message}"
    if status == 401:
        return KaggleError("credentials that Kaggle takes", found, LOG_IN, status)
    if status == 429 or status >= 500:
        return KaggleError(f"Kaggle to do this: {did}", found, f"wait a little; {AGAIN}", status, passing=True)
    fix = "check its name; it may not be there, or not be yours, or ask for rules to be accepted on kaggle.com"
    return KaggleError(f"Kaggle to do this: {did}", found, fix, status)
