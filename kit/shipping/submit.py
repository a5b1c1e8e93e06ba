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
    """Submit the notebook that `push` ran, follow it to its score, and add a line to the ledger; returns the line.

    sure: spend a submission without asking. A submission of this very version that is not scored yet is followed, not
    repeated. Raises BundleError where the bundle is not pushed, KaggleError where no submission is left, Kaggle refuses
    it or its rerun fails.
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
    minutes = rules.minutes + QUEUE_MINUTES
    before = _submitted_already(folder, cells)
    if before is not None:
        say(f"version {pushed.version} was submitted as {before}: following it")
        return _follow(folder, "score", manifest.slug, before, cells, minutes, say)
    text = message or f"{manifest.bundle} version {pushed.version}"
    _spend(manifest.slug, f"version {pushed.version} of {pushed.kernel}", sure, say)
    named = {"kernel": pushed.kernel, "version": pushed.version, "file": rules.file}
    ref = _submit(manifest.slug, text, say, kaggle_child.submit_kernel, **named)
    return _follow(folder, "submit", manifest.slug, ref, cells, minutes, say)


def submit_file(
    competition: Competition,
    data: Path,
    file: Path,
    message: str | None = None,
    sure: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Submit a table to a competition that takes files; as `submit_bundle`.

    Raises SubmissionError, before anything is spent, for a table that the host would refuse.
    """
    assert competition.folder is not None
    if competition.rules.kind != "csv":
        fix = "kit submit BUNDLE submits a pushed notebook; where the host takes files, say Rules(kind='csv')"
        raise SubmissionError(f"a competition that takes files at {competition.slug}", "it takes notebooks", fix)
    table = read_table(file)
    validate(competition, checked(competition.test_frame(data), "test_frame"), data, table)
    _spend(competition.slug, f"{file} ({len(table)} rows)", sure, say)
    text = message or file.name
    ref = _submit(competition.slug, text, say, kaggle_child.submit_file, file=str(file.resolve()))
    return _follow(competition.folder, "submit", competition.slug, ref, {"note": _flat(text)}, QUEUE_MINUTES, say)


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
    folder: Path, event: str, slug: str, ref: int, cells: dict[str, Any], minutes: float, say: Callable[[str], None]
) -> dict[str, str]:
    """Wait for the score of a submission and add its line to the ledger, whatever becomes of the waiting."""
    url = f"https://www.kaggle.com/competitions/{slug}/submissions"
    state: dict[str, Any] = {"status": "PENDING", "public": "", "error": ""}

    def look() -> dict[str, Any]:
        state.update(ask(kaggle_child.submission, ref=ref))
        return state

    try:
        poll(look, ("PENDING",), minutes, f"submission {ref}", url, say)
    finally:
        became = {"PENDING": UNSCORED, "ERROR": f"error: {_flat(state['error'])}"}.get(state["status"], "")
        note = "; ".join(text for text in (became, cells.get("note", "")) if text)
        line = ledger.append(folder, event, **{**cells, "note": note, "submission": ref, "public": state["public"]})
    if state["status"] == "ERROR":
        raise KaggleError(f"submission {ref} to be scored", state["error"] or "an error without a word", _cause(state))
    say(f"public score {line['public'] or 'not shown'}; out of fold {line['oof'] or 'unknown'}")
    return line


UNSCORED = "not scored yet"


def _submitted_already(folder: Path, cells: dict[str, Any]) -> int | None:
    """The submission of this very version that the ledger holds without a score.

    Raises SubmissionError where it was scored: the same version would be spent on the same score.
    """
    keys = ("bundle", "dataset_version", "notebook_version")
    same = [line for line in ledger.read(folder) if all(line[key] == str(cells[key]) for key in keys)]
    if not same or same[-1]["note"].startswith("error"):
        return None
    if same[-1]["note"].startswith(UNSCORED):
        return int(same[-1]["submission"])
    found = f"it was, as {same[-1]['submission']}: public score {same[-1]['public']}"
    raise SubmissionError(
        f"a version of {cells['bundle']} that was not submitted", found, "bundle and push another one"
    )


def _cause(state: dict[str, Any]) -> str:
    said = str(state["error"]).lower()
    return next((cause for words, cause in CAUSES.items() if words in said), "kit rehearse, and read its report")


def _flat(text: object) -> str:
    """A text as one line."""
    return " ".join(str(text or "").split())
