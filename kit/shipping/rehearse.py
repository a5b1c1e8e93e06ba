"""The rehearsal: the rendered notebook on the given test set and on one it has never seen, without a network.

Both layouts in which Kaggle mounts inputs are walked, each by one of the runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import kit
from kit.offline.answers import scored_rows, solution_of, validate
from kit.offline.contract import Competition
from kit.offline.errors import DataError, KitError, SubmissionError, examples
from kit.offline.files import sha256_of, write_json, write_whole
from kit.offline.frames import checked, read_table, units_of
from kit.offline.manifest import FILE, Manifest, open_bundle
from kit.offline.predict import competition_in
from kit.offline.predictions import Gallery
from kit.shipping import sandbox
from kit.shipping.notebook import notebook_folder, render_notebook
from kit.shipping.predict import as_kit_error, last_line, predict_at_home
from kit.training.fanout import training_frame

Isolation = Literal["auto", "namespaces", "guard"]
WALLS = {
    "namespaces": "no network, inputs read-only, checkout hidden (Linux namespaces)",
    "seccomp": "no network (seccomp filter), inputs and checkout guarded in Python alone (no namespaces here)",
    "python": "network, inputs and checkout guarded in Python alone (neither namespaces nor seccomp here)",
}
PASSED_ON = ("PATH", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DEFAULT_ROWS = 200
GRACE = 60
"""Seconds beyond its limit after which a notebook's process is ended from outside."""


@dataclass(frozen=True)
class Executed:
    """A notebook that was run: its JSON, the error (name, message) it stopped at, seconds, isolation."""

    notebook: str
    error: tuple[str, str] | None
    seconds: float
    isolation: str


@dataclass(frozen=True)
class Walk:
    """One run of the notebook.

    name: given or hidden. layout: old or new. seconds: of the whole run. predict_seconds: of the cell that predicts,
    imports left out. score: of staged rows, where defined.
    """

    name: str
    layout: str
    rows: int
    seconds: float
    predict_seconds: float
    submission: str
    score: float | None = None


@dataclass(frozen=True)
class Report:
    """What a rehearsal showed. Every field is also in `rehearsal/report.json`.

    oof_score: the run's at home. equal_to_home: the CSV of the given test set is `kit predict`'s, byte for byte.
    seconds_per_row, minutes_for_hidden: estimates on this machine; the latter where rules.test_rows is set.
    """

    bundle: str
    folder: str
    manifest_sha256: str
    isolation: str
    runs: tuple[Walk, ...]
    oof_score: float | None
    equal_to_home: bool
    seconds_per_row: float | None
    minutes_for_hidden: float | None
    minutes_allowed: int
    seconds: float

    @property
    def submission(self) -> Path:
        """What the notebook wrote for the given test set."""
        return Path(self.folder) / self.runs[0].submission

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


def rehearse(
    bundle: Path,
    data: Path,
    home: Path,
    rows: int | None = None,
    limit_minutes: float | None = None,
    say: Callable[[str], None] = print,
    isolation: Isolation = "auto",
    python: Path | None = None,
) -> Report:
    """Run the bundle's notebook on the test set in `data` and on train rows staged as a hidden one; keep what it wrote.

    rows: how many train rows are staged (default 200 or all). limit_minutes: for each run (default: the host's).
    isolation: "auto" takes namespaces where the system gives them, else the guard. python: the interpreter of the
    notebook and of `predict_at_home`, in the place of this one (`image.image_python`). Raises KitError where the
    notebook fails, is late, writes what the host would refuse, or something else than `predict_at_home`.
    """
    begun = time.monotonic()
    bundle, data, home = Path(bundle).resolve(), Path(data).resolve(), Path(home).resolve()
    manifest = open_bundle(bundle)
    competition = competition_in(bundle, manifest)
    folder = notebook_folder(bundle)
    notebook = _current_notebook(bundle, folder)
    kept = folder / "rehearsal"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    stage = _Stage(bundle, manifest, competition, notebook, kept, (home,), isolation, python)
    limit = 60 * (competition.rules.minutes if limit_minutes is None else limit_minutes)

    say(f"given test set, mounted as before 2026: {data}")
    given, walls = stage.walk("given", "old", data, limit)
    say(f"  {given.rows} rows in {given.seconds:.1f} s; {WALLS[walls]}")
    _require_equal(bundle, data, kept / given.submission, python)
    say("  submission equal to that of kit predict, byte for byte")
    if python is not None:
        differing = _differing(bundle, data, kept / given.submission)
        say(f"  and to that of this machine's own Python: {differing or 'yes'}")

    frame = training_frame(competition, data)
    with tempfile.TemporaryDirectory(prefix="kit-hidden-") as scratch:
        hidden_data = Path(scratch).resolve() / "data"
        chosen = stage_hidden(competition, frame, data, hidden_data, rows)
        say(f"hidden test set, mounted as since 2026: {len(chosen)} train rows staged as test rows")
        hidden, _ = stage.walk("hidden", "new", hidden_data, limit)
        score = _score(bundle, manifest, competition, chosen, kept / hidden.submission)
    hidden = replace(hidden, score=score)
    oof = manifest.score.get("pooled")
    say(f"  {hidden.rows} rows in {hidden.seconds:.1f} s")
    say(f"  score {_shown(score)}; out of fold {_shown(oof)} (models trained on most staged rows, so theirs flatters)")

    per_row, test_rows = _seconds_per_row(given, hidden), competition.rules.test_rows
    minutes = None if per_row is None or test_rows is None else per_row * test_rows / 60
    if per_row is not None:
        say(f"about {per_row * 1000:.1f} ms a row on this machine")
    if minutes is not None:
        verdict = "fits" if minutes <= competition.rules.minutes else "DOES NOT FIT"
        say(f"{test_rows} hidden rows: about {minutes:.1f} of {competition.rules.minutes} minutes here: {verdict}")
    report = Report(
        bundle=manifest.bundle,
        folder=str(kept),
        manifest_sha256=sha256_of(bundle / FILE),
        isolation=walls,
        runs=(given, hidden),
        oof_score=oof,
        equal_to_home=True,
        seconds_per_row=per_row,
        minutes_for_hidden=minutes,
        minutes_allowed=competition.rules.minutes,
        seconds=time.monotonic() - begun,
    )
    write_json(kept / "report.json", report.to_json())
    return report


def run_notebook(
    notebook: str,
    inputs: Mapping[str, Path],
    working: Path,
    limit: float,
    hidden: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    isolation: Isolation = "auto",
    python: Path | None = None,
) -> Executed:
    """Run a notebook (its JSON) behind walls, for at most `limit` seconds, in an environment that holds no secret.

    inputs: path below /kaggle/input -> folder. working: what it sees as /kaggle/working. hidden: folders it must not
    see beside this checkout. environment: further variables. python: the kernel's interpreter [this one]. A failing
    cell is no exception: see `Executed.error`.
    Raises KitError where the process itself fails, or namespaces are refused and nothing else is allowed.
    """
    refused = ""
    for namespaces in {"auto": (True, False), "namespaces": (True,), "guard": (False,)}[isolation]:
        with tempfile.TemporaryDirectory(prefix="kit-", ignore_cleanup_errors=True) as folder:
            scratch = Path(folder).resolve()
            job = {
                "notebook": notebook,
                "inputs": {name: str(Path(source).resolve()) for name, source in inputs.items()},
                "working": str(Path(working).resolve()),
                "hidden": [str(path) for path in (*_checkout(), *(Path(path).resolve() for path in hidden))],
                "kept": [str(path) for path in _interpreters(sys.executable, python or sys.executable)],
                "python": str(python or sys.executable),
                "limit": limit,
                "namespaces": namespaces,
            }
            (scratch / "job.json").write_text(json.dumps(job))
            result = _in_own_process(scratch, limit, environment or {})
        if "refused" not in result:
            return Executed(
                result["notebook"],
                tuple(result["error"]) if result["error"] else None,
                result["seconds"],
                result["isolation"],
            )
        refused = result["refused"]
    raise KitError("Linux namespaces for the rehearsal", refused, 'allow user namespaces, or use isolation="auto"')


def _in_own_process(scratch: Path, limit: float, environment: Mapping[str, str]) -> dict[str, Any]:
    passed_on = {name: os.environ[name] for name in (*PASSED_ON, *THREADS) if name in os.environ}
    job, result, errors = scratch / "job.json", scratch / "result.json", scratch / "errors.txt"
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(sandbox.__file__).resolve()), str(job), str(result)],
            env={**passed_on, "LANG": "C.UTF-8", "KAGGLE_KERNEL_RUN_TYPE": "Batch", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )
        try:
            process.wait(limit + GRACE)
        except subprocess.TimeoutExpired:
            pass  # said below
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    try:
        return json.loads(result.read_text())
    except (OSError, ValueError):
        raise KitError(
            f"the notebook's process to end within {limit:.0f} seconds with a result",
            last_line(errors.read_text()) or f"exit code {process.returncode} and no word",
            "free some memory, or give it more time with --limit",
        ) from None


def _checkout() -> list[Path]:
    """What must not be importable: the checkout that this package lies in, or the installed package."""
    package = Path(kit.__file__ or "").resolve().parent
    return [package.parent if (package.parent / "pyproject.toml").is_file() else package]


def _interpreters(*pythons: Path | str) -> list[Path]:
    """Folders that these Pythons live in; they stay, even inside the checkout."""
    code = "import sys; print(sys.prefix, sys.base_prefix, sys.exec_prefix, sep='\\n')"
    names: list[Path] = []
    for python in dict.fromkeys(map(str, pythons)):
        told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
        names += [*map(Path, told.splitlines()), Path(python).resolve().parents[1]]
    return sorted({path for name in names for path in (name, name.resolve()) if len(path.parts) > 1})


@dataclass(frozen=True)
class _Stage:
    """What both runs share."""

    bundle: Path
    manifest: Manifest
    competition: Competition
    notebook: str
    kept: Path
    hidden: tuple[Path, ...]
    isolation: Isolation
    python: Path | None

    def walk(self, name: str, layout: str, data: Path, limit: float) -> tuple[Walk, str]:
        """Run the notebook on the test set in `data`, keep what it made, and refuse what the host would."""
        rules, slug = self.competition.rules, self.manifest.slug
        places = (
            {self.manifest.bundle: self.bundle, slug: data}
            if layout == "old"
            else {f"datasets/owner/{self.manifest.bundle}": self.bundle, f"competitions/{slug}": data}
        )
        with tempfile.TemporaryDirectory(prefix="kit-working-", ignore_cleanup_errors=True) as folder:
            executed = run_notebook(
                self.notebook,
                places,
                Path(folder),
                limit,
                self.hidden,
                {"KAGGLE_IS_COMPETITION_RERUN": "1"} if layout == "new" else {},
                self.isolation,
                self.python,
            )
            kept = self.kept / f"{name}.ipynb"
            write_whole(kept, executed.notebook.encode())
            if executed.error is not None:
                raise failure(f"the {name} test set", kept, *executed.error)
            written = Path(folder) / rules.file
            if not written.is_file():
                raise SubmissionError(
                    f"{rules.file} in the working folder",
                    f"there: {examples(sorted(path.name for path in Path(folder).iterdir()))}",
                    "write it there from the notebook's last cell",
                )
            out = self.kept / (rules.file if name == "given" else f"{name}-{rules.file}")
            shutil.copyfile(written, out)
        frame = checked(self.competition.test_frame(data), "test_frame")
        validate(self.competition, frame, data, read_table(out))
        predicting = _seconds_of_cell(executed.notebook, "predict") or executed.seconds
        return Walk(name, layout, len(frame), executed.seconds, predicting, out.name), executed.isolation


def failure(where: str, notebook: Path, name: str, message: str) -> SubmissionError:
    """The error that stopped a notebook, as a fault with a remedy."""
    said = as_kit_error(message)
    if said is not None:
        return SubmissionError(said.expected, f"{said.found} (the notebook on {where})", said.fix)
    fix = (
        "give it more time with --limit, or fewer views and folds"
        if name == "TimeoutError"
        else f"look into {notebook}"
    )
    return SubmissionError(f"the notebook to run through on {where}", f"{name}: {message}", fix)


def _current_notebook(bundle: Path, folder: Path) -> str:
    """The rendered notebook, as it lies there; rendered now where there is none or it belongs to another manifest."""
    path = folder / "submit.ipynb"
    if not path.is_file() or sha256_of(bundle / FILE) not in path.read_text():
        render_notebook(bundle)
    return path.read_text()


def stage_hidden(
    competition: Competition, frame: pd.DataFrame, data: Path, out: Path, rows: int | None = None
) -> pd.DataFrame:
    """Write about `rows` scored train rows, whole units drawn by chance, as a test set into `out`; returns those rows.

    Raises DataError where the adapter then sees other units than were staged.
    """
    scored = scored_rows(frame)
    units = np.random.RandomState(0).permutation(scored["unit_id"].unique())
    sizes = scored["unit_id"].value_counts().loc[units].cumsum()
    wanted = min(DEFAULT_ROWS, len(scored)) if rows is None else rows
    taken = units[: int((sizes.to_numpy() < wanted).sum()) + 1] if wanted else units[:0]
    order = {unit: at for at, unit in enumerate(taken)}
    chosen = scored[scored["unit_id"].isin(order)]
    chosen = chosen.iloc[np.argsort(chosen["unit_id"].map(order).to_numpy(), kind="stable")].reset_index(drop=True)
    out.mkdir(parents=True)
    competition.stage_test(chosen, data, out)
    try:
        seen = set(checked(competition.test_frame(out), "test_frame")["unit_id"])
        found = f"missing: {examples(sorted(set(order) - seen))}; extra: {examples(sorted(seen - set(order)))}"
    except KitError as error:  # where the host shows no test row, the default stage_test knows no folder for them
        seen, found = {""}, f"{error.expected}: {error.found}"
    if seen != set(order):
        raise DataError(
            f"test_frame to find the {len(order)} units that stage_test wrote",
            found,
            "override stage_test in the adapter, so that it writes what test_frame reads",
        )
    return chosen


def _require_equal(bundle: Path, data: Path, submission: Path, python: Path | None) -> None:
    differing = _differing(bundle, data, submission, python)
    if differing is not None:
        raise SubmissionError(
            f"the notebook's {submission.name} to be that of kit predict",
            differing,
            "the notebook was edited, or the adapter's answers depend on where or when they are computed",
        )


def _differing(bundle: Path, data: Path, submission: Path, python: Path | None = None) -> str | None:
    """How a submission differs from that of `predict_at_home`, in words; None where it is the same to the byte."""
    with tempfile.TemporaryDirectory(prefix="kit-home-") as folder:
        at_home = Path(folder) / submission.name
        predict_at_home(bundle, data, at_home, python)
        if at_home.read_bytes() == submission.read_bytes():
            return None
        ours, theirs = set(at_home.read_text().splitlines()), submission.read_text().splitlines()
    differing = [line for line in theirs if line not in ours]
    return f"{len(differing)} of {len(theirs)} lines differ: {examples(differing, 1)}"


def _score(
    bundle: Path, manifest: Manifest, competition: Competition, rows: pd.DataFrame, submission: Path
) -> float | None:
    """The host's score of the staged rows; None where it is undefined."""
    if not len(rows):
        return None
    galleries = [Gallery.load(bundle / member.gallery) for member in manifest.members if member.gallery]
    labels = tuple(dict.fromkeys(label for gallery in galleries for label in gallery.labels))
    known = Gallery(labels, np.empty((len(labels), 0), np.float32)) if galleries else None
    solution = solution_of(competition, units_of(rows), dict(manifest.learned), known)
    said = read_table(submission)
    for column in said.columns.intersection(solution.columns):
        if pd.api.types.is_numeric_dtype(solution[column]):
            said[column] = pd.to_numeric(said[column])
    value = float(competition.score(solution, said))
    return value if np.isfinite(value) else None


def _seconds_of_cell(notebook: str, name: str) -> float | None:
    """How long a cell of an executed notebook took, by its id; None where it was not timed."""
    for cell in json.loads(notebook)["cells"]:
        times = cell["metadata"].get("execution", {})
        if cell.get("id") == name and {"iopub.execute_input", "shell.execute_reply"} <= set(times):
            first, last = (datetime.fromisoformat(times[key]) for key in ("iopub.execute_input", "shell.execute_reply"))
            return (last - first).total_seconds()
    return None


def _seconds_per_row(given: Walk, hidden: Walk) -> float | None:
    """From the difference of the two runs where they differ by enough rows to tell, else the larger run's mean.

    The mean counts the loading of the models as the rows', so for small runs it says too much rather than too little.
    """
    few, many = sorted((given, hidden), key=lambda walk: walk.rows)
    if many.rows == 0:
        return None
    more = many.predict_seconds - few.predict_seconds
    if many.rows - few.rows >= 100 and more > 0:
        return more / (many.rows - few.rows)
    return many.predict_seconds / many.rows


def _shown(score: float | None) -> str:
    return "undefined" if score is None else f"{score:.5f}"
