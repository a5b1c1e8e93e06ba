"""The rehearsal: the rendered notebook on the given test set and on some it has never seen, without a network.

Both layouts in which Kaggle mounts inputs are walked, each by one of the runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import kit
from kit.offline.answers import solution_of, validate
from kit.offline.contract import Competition
from kit.offline.errors import KitError, SubmissionError, examples
from kit.offline.files import sha256_of, write_json, write_whole
from kit.offline.frames import checked, read_table, units_of
from kit.offline.manifest import FILE, Manifest, open_bundle
from kit.offline.notebook import LOG
from kit.offline.predict import competition_in
from kit.offline.predictions import Gallery
from kit.shipping import sandbox
from kit.shipping.agreement import compare_with_home
from kit.shipping.datasets import datasets_of
from kit.shipping.estimate import MARGIN, Estimate, Took, estimate
from kit.shipping.image import load_image
from kit.shipping.notebook import notebook_folder, render_notebook
from kit.shipping.predict import as_kit_error, last_line, predict_at_home
from kit.shipping.staging import spoil, stage_hidden
from kit.shipping.wheels import modules_lacking, stand_ins
from kit.training.fanout import training_frame

Isolation = Literal["auto", "namespaces", "guard"]
WALLS = {
    "namespaces": "no network, inputs read-only, checkout hidden (Linux namespaces)",
    "seccomp": "no network (seccomp filter), inputs and checkout guarded in Python alone (no namespaces here)",
    "python": "network, inputs and checkout guarded in Python alone (neither namespaces nor seccomp here)",
}
PASSED_ON = ("PATH", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
CASES = ("given", "hidden", "spoilt", "empty")
"""The test set as given; train rows staged as a hidden one; the same with spoilt files and a shuffled sample; none."""
ERA = {"old": "before 2026", "new": "since 2026"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
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
class Case:
    """One run of the notebook.

    name: one of CASES. layout: old or new. rows: of the test set; those that were unreadable. seconds: of the whole
    notebook, and of its predicting alone. fault: None, or what failed and where, in the three lines of a KitError.
    score: of staged rows, where defined. needed: what would have befallen a file without which test_frame knows no rows
    -> the file (see `staging.Spoilt`).
    """

    name: str
    layout: str
    rows: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    predicting: float = 0.0
    megabytes: int = 0
    submission: str | None = None
    score: float | None = None
    fault: str | None = None
    needed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a rehearsal showed. Every field is also in `rehearsal/report.json`.

    oof_score: the run's at home. estimate: what the rerun will take, where its rows are known; minutes_allowed and
    gigabytes_allowed: what it may. fault: why the bundle will not fit, else None. untried: wheels for another Python,
    in whose place the copies installed here were imported.
    """

    bundle: str
    folder: str
    manifest_sha256: str
    isolation: str
    cases: tuple[Case, ...]
    oof_score: float | None
    estimate: Estimate | None
    minutes_allowed: float
    gigabytes_allowed: float
    fault: str | None
    seconds: float
    untried: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every case passed and the rerun will fit."""
        return self.fault is None and all(case.fault is None for case in self.cases)

    @property
    def submission(self) -> Path:
        """What the notebook wrote for the given test set."""
        given = next(case for case in self.cases if case.name == "given")
        return Path(self.folder) / str(given.submission)

    def require(self) -> Report:
        """Itself. Raises SubmissionError, the first fault, if there is one."""
        for fault in filter(None, (*(case.fault for case in self.cases), self.fault)):
            said = as_kit_error(fault) or KitError("a rehearsal without a fault", fault, f"look into {self.folder}")
            raise SubmissionError(said.expected, said.found, said.fix)
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {**asdict(self), "ok": self.ok}


def rehearse(
    bundle: Path,
    data: Path,
    home: Path,
    rows: int | None = None,
    limit_minutes: float | None = None,
    say: Callable[[str], None] = print,
    isolation: Isolation = "auto",
    cases: Sequence[str] = CASES,
    python: Path | None = None,
) -> Report:
    """Run the bundle's notebook on the test set in `data` and on hidden ones staged from train rows.

    rows: how many train rows are staged (default 200 or all), and rows of the hidden set that the estimate is for
    (default: the host's). limit_minutes: for each run and for the estimate (default: the host's). isolation: "auto"
    takes namespaces where the system gives them, else the guard. cases: of CASES; of a server, which answers the host's
    gateway, the given one alone. python: the interpreter of the notebook and of `predict_at_home`, in the place of this
    one (`image.image_python`). What a case fails by is in the report, which `Report.require` raises. Raises KitError
    for a bundle that is not whole.
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
    minutes = competition.rules.minutes if limit_minutes is None else limit_minutes
    instead = {} if python else stand_ins(name for name in manifest.files if name.endswith(".whl"))
    here = {module for modules in instead.values() for module in modules}
    stage = _Stage(bundle, manifest, competition, notebook, kept, (home,), isolation, 60 * minutes, python, here)
    for wheel, modules in instead.items():
        say(f"{wheel} is for another Python: {_in_its_place(modules)}; --image tries the wheel itself")
    frame = training_frame(competition, data)
    if competition.rules.kind == "server":
        cases = ("given",)
        say("the host's own gateway asks here; staged test sets, which it does not know, are left out")
        if competition.rules.test_rows is None:
            say("the rerun will have no clock: rules.test_rows of the adapter does not say how many rows will come")
    done: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="kit-hidden-") as scratch:
        for name in cases:
            case = _case(stage, name, frame, data, Path(scratch).resolve() / name, rows, done)
            done.append(case)
            verdict = "ok  " if case.fault is None else "FAIL"
            say(f"{verdict}  {name}: {case.rows} rows, inputs mounted as {ERA[case.layout]}, {case.seconds:.1f} s")
            if case.fault:
                say("      " + case.fault.replace("\n", "\n      "))
            if case.unreadable:
                say(f"      {case.unreadable} rows could not be read and got the prior")
            if case.needed:
                say(f"      warning: test_frame raises where a file is {' or '.join(case.needed)}: none was spoilt so;")
                say("      one such file in the rerun would make the host's sample submission the whole answer")
            if case.score is not None:
                oof = _shown(manifest.score.get("pooled"))
                say(f"      score {case.score:.5f}; out of fold {oof} (models that trained on most rows flatter)")
    walls = stage.walls[0] if stage.walls else isolation
    say(WALLS.get(walls, walls))
    took = [Took(case.rows, case.seconds, case.predicting, case.megabytes) for case in done if case.fault is None]
    asked = rows if competition.rules.test_rows is None else competition.rules.test_rows
    expected = estimate(took, rows or asked or 0) if asked else None
    report = Report(
        bundle=manifest.bundle,
        folder=str(kept),
        manifest_sha256=sha256_of(bundle / FILE),
        isolation=walls,
        cases=tuple(done),
        oof_score=manifest.score.get("pooled"),
        estimate=expected,
        minutes_allowed=minutes,
        gigabytes_allowed=sandbox.MEMORY / 1e9,
        fault=_too_much(expected, minutes, say),
        seconds=time.monotonic() - begun,
        untried=tuple(instead),
    )
    write_json(kept / "report.json", report.to_json())
    return report


def _in_its_place(modules: Sequence[str]) -> str:
    if not modules:
        return "nothing installed here stands in for it"
    return f"the installed copy ({', '.join(modules)}) stands in for it"


def _case(
    stage: _Stage, name: str, frame: pd.DataFrame, data: Path, staged: Path, rows: int | None, before: Sequence[Case]
) -> Case:
    """Stage one test set and run the notebook on it; its fault is in the case."""
    try:
        if name == "given":
            case = stage.walk(name, "old", data)
            said = stage.kept / str(case.submission)
            if stage.competition.rules.kind == "server":
                # the gateway asks in batches of its own and writes the table: rounding and form may differ
                compare_with_home(stage.bundle, data, said, stage.python)
            else:
                _require_equal(stage.bundle, data, said, stage.python)
            return case
        chosen = stage_hidden(stage.competition, frame, data, staged, 0 if name == "empty" else rows)
        if name != "spoilt":
            case = stage.walk(name, "new", staged)
            if case.unreadable:
                raise SubmissionError(
                    f"every one of {case.rows} staged rows to be read",
                    f"{case.unreadable} got the prior",
                    f"look at the warnings in {stage.kept / name}.ipynb",
                )
            said = stage.kept / str(case.submission)
            return replace(case, score=_score(stage.bundle, stage.manifest, stage.competition, chosen, said))
        spoilt = spoil(stage.competition, staged)
        case = replace(stage.walk(name, "new", staged), needed=spoilt.needed)
        clean = next((one.submission for one in before if one.name == "hidden"), None)
        if clean:
            _require_alike(stage.kept / clean, stage.kept / str(case.submission), len(spoilt.befell), case.rows)
        return case
    except KitError as error:
        fault = error
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises is a finding
        fault = SubmissionError(
            f"stage_test, test_frame and submission of the adapter to bear the {name} test set",
            f"{type(error).__name__}: {error}",
            "mend the adapter; kit check names more",
        )
    return Case(name, "old" if name == "given" else "new", fault=str(fault))


def _require_alike(clean: Path, spoilt: Path, units: int, rows: int) -> None:
    """Refuse answers that moved from one id to another when the sample's lines were shuffled and some files spoilt.

    One unit in a hundred may differ by rounding, since the rows meet in other batches.
    """
    before, after = (set(path.read_text().splitlines()) for path in (clean, spoilt))
    numbers = {_rounded(line) for line in before}
    differing = [line for line in after - before if _rounded(line) not in numbers]
    borne = (units + 0.01 * rows + 1) * max(1.0, len(before) / max(rows, 1))
    if len(differing) > borne:
        raise SubmissionError(
            f"the answers of all but {units} units as before, with the sample submission in another order",
            f"{len(differing)} of {len(after)} lines differ: {examples(sorted(differing), 1)}",
            "match by id in `submission` and `test_frame`, never by position",
        )


def _rounded(line: str) -> str:
    """A line with its numbers to three places."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda found: f"{float(found[0]):.3f}", line)


def _too_much(expected: Estimate | None, minutes: float, say: Callable[[str], None]) -> str | None:
    """Say what the rerun will take; the fault if that is more than it may."""
    if expected is None:
        say("no estimate of the rerun: name its rows with --rows, or in rules.test_rows of the adapter")
        return None
    allowed = sandbox.MEMORY / 1e9
    line = (
        f"{expected.rows} hidden rows at {1000 * expected.seconds_per_row:.1f} ms: about {expected.minutes:.1f} of "
        f"{minutes:.0f} minutes and {expected.gigabytes:.1f} of {allowed:.0f} GB on this machine, "
        f"with a margin of {MARGIN}"
    )
    say(line)
    if expected.minutes <= minutes and expected.gigabytes <= allowed:
        return None
    fix = "bundle fewer folds or views, or smaller networks; --limit MINUTES where Kaggle's accelerator is faster"
    return str(SubmissionError(f"a rerun within {minutes:.0f} minutes and {allowed:.0f} GB", line, fix))


def run_notebook(
    notebook: str,
    inputs: Mapping[str, Path],
    working: Path,
    limit: float,
    hidden: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    isolation: Isolation = "auto",
    python: Path | None = None,
    here: Collection[str] = (),
) -> Executed:
    """Run a notebook (its JSON) behind walls, for at most `limit` seconds, in an environment that holds no secret.

    inputs: path below /kaggle/input -> folder. working: what it sees as /kaggle/working. hidden: folders it must not
    see beside this checkout. environment: further variables. python: the kernel's interpreter [this one, less the
    packages that Kaggle's image lacks]. here: top-level modules of such packages that it may import all the same. A
    failing cell is no exception: see `Executed.error`.
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
                "lacking": [] if python else [name for name in _lacking() if name not in here],
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


@cache
def _lacking() -> list[str]:
    return modules_lacking(load_image())


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
    """What all cases share. here: as for `run_notebook`. walls: what held each run."""

    bundle: Path
    manifest: Manifest
    competition: Competition
    notebook: str
    kept: Path
    hidden: tuple[Path, ...]
    isolation: Isolation
    limit: float
    python: Path | None
    here: Collection[str]
    walls: list[str] = field(default_factory=list)

    def walk(self, name: str, layout: str, data: Path) -> Case:
        """Run the notebook on the test set in `data`, keep what it made, and refuse what the host would."""
        rules = self.competition.rules
        with tempfile.TemporaryDirectory(prefix="kit-working-", ignore_cleanup_errors=True) as folder:
            working, mounts = Path(folder) / "working", Path(folder) / "mounts"
            working.mkdir()
            executed = run_notebook(
                self.notebook,
                {
                    **mounted_as(self.bundle, self.manifest, layout, mounts),
                    **_data_at(self.manifest.slug, layout, data),
                },
                working,
                self.limit,
                self.hidden,
                {"KAGGLE_IS_COMPETITION_RERUN": "1"} if layout == "new" else {},
                self.isolation,
                self.python,
                self.here,
            )
            self.walls.append(executed.isolation)
            kept = self.kept / f"{name}.ipynb"
            write_whole(kept, executed.notebook.encode())
            if executed.error is not None:
                raise failure(f"the {name} test set, {failed_cell(executed.notebook)}", kept, *executed.error)
            written = working / rules.file
            if not written.is_file():
                raise SubmissionError(
                    f"{rules.file} in the working folder",
                    f"there: {examples(sorted(path.name for path in working.iterdir()))}",
                    "write it there from the notebook's last cell",
                )
            out = self.kept / (rules.file if name == "given" else f"{name}-{rules.file}")
            shutil.copyfile(written, out)
            log = json.loads((working / LOG).read_text()) if (working / LOG).is_file() else {}
        if log.get("fault"):
            raise failure(f"the {name} test set (the rerun would submit the prior)", kept, *log["fault"].split(": ", 1))
        if log.get("late") or log.get("left_out"):
            raise SubmissionError(
                f"the {name} test set within {self.limit / 60:.0f} minutes",
                "; ".join(log["left_out"]),
                "bundle fewer folds or views, or smaller networks",
            )
        frame = checked(self.competition.test_frame(data), "test_frame")
        validate(self.competition, frame, data, read_table(out))
        steps = log.get("seconds", {})
        begun = max((value for step, value in steps.items() if step not in ("predicted", "written")), default=0.0)
        predicting = steps["predicted"] - begun if "predicted" in steps else executed.seconds
        return Case(
            name,
            layout,
            len(frame),
            len(log.get("unreadable", {})),
            executed.seconds,
            predicting,
            log.get("peak_memory_mb", 0),
            out.name,
        )


def mounted_as(bundle: Path, manifest: Manifest, layout: str, scratch: Path) -> dict[str, Path]:
    """Place below /kaggle/input -> folder, as Kaggle mounts the datasets of a pushed bundle: weights apart."""
    owner = "" if layout == "old" else "datasets/owner/"
    mounts = {}
    for dataset in datasets_of(manifest):
        folder = scratch / dataset.slug
        folder.mkdir(parents=True)
        for name in dataset.files:
            _link(bundle / name, folder / name)
        mounts[owner + dataset.slug] = folder
    return mounts


def _data_at(slug: str, layout: str, data: Path) -> dict[str, Path]:
    return {slug if layout == "old" else f"competitions/{slug}": data}


def _link(source: Path, place: Path) -> None:
    try:
        place.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, place)


def failed_cell(notebook: str) -> str:
    """Which code cell of an executed notebook failed first, by number and first line."""
    cells = [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            return f"cell {number} ({''.join(cell['source']).strip().splitlines()[0][:60]})"
    return "no cell"


def failure(where: str, notebook: Path, name: str, message: str) -> SubmissionError:
    """The error that stopped a notebook, as a fault with a remedy."""
    said = as_kit_error(message)
    if said is not None:
        return SubmissionError(said.expected, f"{said.found} (the notebook on {where})", said.fix)
    fix = f"look into {notebook}"
    if name == "TimeoutError":
        fix = "give it more time with --limit, or fewer views and folds"
    if sandbox.LACKING in message:
        fix = "name its package in `wheels` of the adapter, and bundle again"
    return SubmissionError(f"the notebook to run through on {where}", f"{name}: {message}", fix)


def _current_notebook(bundle: Path, folder: Path) -> str:
    """The rendered notebook, as it lies there; rendered now where there is none or it belongs to another manifest."""
    path = folder / "submit.ipynb"
    if not path.is_file() or sha256_of(bundle / FILE) not in path.read_text():
        render_notebook(bundle)
    return path.read_text()


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


def _shown(score: float | None) -> str:
    return "undefined" if score is None else f"{score:.5f}"
