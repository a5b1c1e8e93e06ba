"""Submissions: counted before they are spent, followed by their reference, and written into the ledger."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.judging import ledger
from kit.offline.answers import validate
from kit.offline.contract import Competition
from kit.offline.errors import BundleError, KaggleError, SubmissionError
from kit.offline.files import sha256_of
from kit.offline.frames import checked, read_table
from kit.offline.manifest import open_bundle
from kit.offline.places import competition_folder
from kit.offline.predict import competition_in
from kit.shipping import kaggle_child
from kit.shipping.kaggle import ask, call, poll, wait
from kit.shipping.push import pushed_of

QUEUE_MINUTES = 240
"""What a rerun may wait for a machine, beyond the time it may take."""
CAUSES = {
    "timeout": "the hidden set is larger: kit rehearse --rows tells how long; fewer views, folds or pixels",
    "exceeded allowed compute": "out of memory or disk: fewer rows at once, smaller batches",
    "threw exception": "an image of the hidden set that the adapter does not read, or memory: kit rehearse",
    "not found": "the notebook wrote no such file: an exception before the last cell, or another name in rules.file",
    "scoring error": "rows, columns, ids or values that the metric refuses: kit check NAME, and NaN or run-lengths",
    "kaggle error": "Kaggle's own fault: submit again",
}
"""Kaggle's words for what went wrong, and what it usually was."""


def submit_bundle(
    bundle: Path, home: Path, message: str | None = None, sure: bool = False, say: Callable[[str], None] = print
) -> dict[str, str]:
    """Submit the notebook that `push` ran and follow it to its score; returns the ledger's line of the score.

    sure: spend a submission without asking. The submission is a line of the ledger as soon as Kaggle took it: one of
    this very version that is not scored yet is followed, not repeated. Raises BundleError where the bundle is not
    pushed, KaggleError where no submission is left, Kaggle refuses it or its rerun fails.
    """
    manifest = open_bundle(bundle)
    folder = competition_folder(manifest.competition, home)
    rules = competition_in(bundle, manifest).rules
    pushed = pushed_of(bundle)
    if pushed is None or not pushed.done:
        found = "nothing of it was pushed" if pushed is None else "its run is not over"
        raise BundleError(
            f"{manifest.bundle} as it lies here to have run on Kaggle", found, f"kit push {manifest.bundle}"
        )
    if rules.kind == "csv":
        fix = f"kit submit {manifest.competition} --file {rules.file}"
        raise SubmissionError("a competition that takes notebooks", f"{manifest.slug} takes files", fix)
    cells = {
        "run": "+".join(dict.fromkeys(member.run for member in manifest.members)),
        "bundle": manifest.bundle,
        "dataset_version": pushed.datasets[manifest.bundle],
        "notebook_version": pushed.version,
        "oof": manifest.score.get("pooled"),
    }
    keys = ("bundle", "dataset_version", "notebook_version")
    this = f"version {pushed.version} of {pushed.kernel}"
    ref = _submitted_already(folder, this, lambda line: all(line[key] == str(cells[key]) for key in keys))
    if ref is None:
        _spend(manifest.slug, this, sure, say)
        text = message or f"{manifest.bundle} version {pushed.version}"
        named = {"kernel": pushed.kernel, "version": pushed.version, "file": rules.file}
        ref = _submit(manifest.slug, text, say, kaggle_child.submit_kernel, **named)
        ledger.append(folder, "submit", **cells, submission=ref, note=UNSCORED)
    else:
        say(f"{this} was submitted as {ref}: following it")
    return _follow(folder, manifest.slug, ref, cells, rules.minutes + QUEUE_MINUTES, say)


def submit_file(
    competition: Competition,
    data: Path,
    file: Path,
    message: str | None = None,
    sure: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Submit a table to a competition that takes files; as `submit_bundle`. A table is known by the hash of its bytes.

    Raises SubmissionError, before anything is spent, for a table that the host would refuse.
    """
    assert competition.folder is not None
    if competition.rules.kind != "csv":
        fix = "kit submit BUNDLE submits a pushed notebook; where the host takes files, say Rules(kind='csv')"
        raise SubmissionError(f"a competition that takes files at {competition.slug}", "it takes notebooks", fix)
    table = read_table(file)
    validate(competition, checked(competition.test_frame(data), "test_frame"), data, table)
    digest = f"sha256 {sha256_of(file)[:16]}"
    ref = _submitted_already(competition.folder, str(file), lambda line: digest in line["note"])
    cells = {"note": f"{_flat(message or file.name)}; {digest}"}
    if ref is None:
        _spend(competition.slug, f"{file} ({len(table)} rows)", sure, say)
        text = message or file.name
        ref = _submit(competition.slug, text, say, kaggle_child.submit_file, file=str(file.resolve()))
        ledger.append(competition.folder, "submit", submission=ref, note=f"{UNSCORED}; {cells['note']}")
    else:
        say(f"{file} was submitted as {ref}: following it")
    return _follow(competition.folder, competition.slug, ref, cells, QUEUE_MINUTES, say)


def _spend(slug: str, what: str, sure: bool, say: Callable[[str], None]) -> None:
    """Raise KaggleError where no submission is left, and SubmissionError where nobody says yes to spending one."""
    left = ask(kaggle_child.limits, slug=slug)
    if not left["allowed"]:
        raise KaggleError(
            f"a submission to {slug} that may be spent",
            f"{left['today']} of today are spent, {left['total']} in all, none is left",
            f"wait for 00:00 UTC; with none spent at all, join at https://www.kaggle.com/competitions/{slug}/rules",
        )
    say(f"{slug}: {left['today']} submissions spent today, {left['allowed']} left")
    if sure:
        return
    if not sys.stdin.isatty():
        raise SubmissionError(f"a yes to submit {what}", "no terminal to ask at; nothing was spent", "add --yes")
    if input(f"submit {what}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise SubmissionError(f"a yes to submit {what}", "no; nothing was spent", "run it again, or add --yes")


def _submit(slug: str, text: str, say: Callable[[str], None], operation: Callable[..., Any], **arguments: Any) -> int:
    """Submit once; returns the reference. After an error Kaggle is asked for it, and nothing is submitted twice."""
    before = {one["ref"] for one in ask(kaggle_child.submissions, slug=slug)}
    try:
        made = call(operation, slug=slug, message=text, **arguments)
    except KaggleError as error:
        if not error.passing:
            raise
        say(f"  {error.found}: asking Kaggle what became of it")
        wait(1)
        listed = ask(kaggle_child.submissions, slug=slug)
        fresh = [one["ref"] for one in listed if one["ref"] not in before and one["description"] == text]
        if not fresh:
            fix = f"see https://www.kaggle.com/competitions/{slug}/submissions; if it is not there, run this again"
            raise KaggleError(f"{slug} to take a submission", error.found, fix, error.status) from None
        return int(fresh[0])
    if not made["ref"]:
        raise KaggleError(f"{slug} to take a submission", made["message"], "run the same command again; none was spent")
    return int(made["ref"])


def _follow(
    folder: Path, slug: str, ref: int, cells: dict[str, Any], minutes: float, say: Callable[[str], None]
) -> dict[str, str]:
    """Wait for the score of a submission and add its line to the ledger; returns it."""
    url = f"https://www.kaggle.com/competitions/{slug}/submissions"

    def look() -> dict[str, Any]:
        found: dict[str, Any] = ask(kaggle_child.submission, ref=ref)
        return found

    state = poll(look, ("PENDING",), minutes, f"submission {ref}", url, say)
    failed = state["status"] == "ERROR"
    note = "; ".join(filter(None, [f"{FAILED} {_flat(state['error'])}" if failed else "", cells.get("note", "")]))
    line = ledger.append(folder, "score", **{**cells, "note": note, "submission": ref, "public": state["public"]})
    if failed:
        raise KaggleError(f"submission {ref} to be scored", state["error"] or "an error without a word", _cause(state))
    say(f"public score {line['public'] or 'not shown'}; out of fold {line['oof'] or 'unknown'}")
    return line


UNSCORED, FAILED = "not scored yet", "error:"
"""How the note of a submission begins that waits for its score, and of one that failed."""


def _submitted_already(folder: Path, this: str, same: Callable[[dict[str, str]], bool]) -> int | None:
    """The submission of `this` that the ledger holds without a score; `same` knows its lines.

    Raises SubmissionError where it was scored: the same would be spent on the same score.
    """
    lines = [line for line in ledger.read(folder) if line["submission"] and same(line)]
    if not lines or lines[-1]["note"].startswith(FAILED):
        return None
    if lines[-1]["note"].startswith(UNSCORED):
        return int(lines[-1]["submission"])
    found = f"it was, as {lines[-1]['submission']}: public score {lines[-1]['public'] or 'not shown'}"
    raise SubmissionError(f"a submission other than {this}", found, "submit another bundle or table")


def _cause(state: dict[str, Any]) -> str:
    said = str(state["error"]).lower()
    return next((cause for words, cause in CAUSES.items() if words in said), "kit rehearse, and read its report")


def _flat(text: object) -> str:
    """A text as one line."""
    return " ".join(str(text or "").split())
