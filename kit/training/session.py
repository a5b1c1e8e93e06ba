"""A training session on a lent machine: folds side by side, one a GPU, until a wall; then packed, to go on or go home.

`notebooks/train_on_kaggle.ipynb` starts it: `python -m kit.training.session JOB CODE OUT`. Each fold is a `kit train`
of its own, in a home of its own, since a run's lock is for one process. Whatever becomes of the folds, the session ends
well and tells it in session.json: the output of a notebook that fails may not be kept.

Tried on the CPU: stopped, killed and gone on with. Not tried: two GPUs, Kaggle's T4 x2, its mounts, its twelve hours.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.offline.errors import KitError, NotFound, RunError
from kit.offline.files import sha256_of, write_json
from kit.offline.places import find_competition_data, input_folder, load_competition, mounted
from kit.training import checkpoint, stop
from kit.training.fanout import open_ground, planned
from kit.training.recipe import find_recipe, override
from kit.training.rundir import Run, shaping_hashes

RECORD = "session.json"
"""What became of each fold; written last."""
STOP_AT = 0.875
"""Share of a session's minutes after which folds are stopped: an evaluation may have to end, states are packed."""
KILL_AT = 0.95
"""Share after which a fold that has not stopped is killed; its last commit stays."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL)
"""Exit codes of a fold that was stopped."""
POLL_SECONDS = 0.5
ASK_GPUS = """
import torch
for number in range(torch.cuda.device_count()):
    (torch.zeros(1, device=f"cuda:{number}") + 1).item()
print(torch.cuda.device_count())
"""


@dataclass(frozen=True)
class Job:
    """What a session is to do.

    slug: the competition's on Kaggle. competition, recipe, settings, scheme: what `kit train` takes. folds: to train,
    by the names of their folders. run, parts: the name that the run has at home, and a hash of each thing that shapes
    it. number: of the session, from 1. states: folds that earlier sessions left unfinished; the outputs of those are
    inputs of this one. minutes: how long the machine is lent. gpu: whether it must have one. requirements: what pip
    makes sure of before.
    """

    slug: str
    competition: str
    recipe: str
    settings: Sequence[str]
    scheme: str | None
    folds: Sequence[str]
    run: str
    parts: Mapping[str, str]
    number: int
    states: Sequence[str]
    minutes: float
    gpu: bool
    requirements: Sequence[str] = ()


def run_session(job: Job, code: Path, out: Path, work: Path, asked: Callable[[], bool]) -> None:
    """Train the folds of a job; write their files and, last, session.json into `out`.

    code: a folder with the package `kit` and the competition's sources. work: scratch. asked: whether to stop before
    time. Raises KitError, before anything is trained, where no GPU works, the run would not be the one that home waits
    for, or a state is not mounted.
    """
    began = time.monotonic()
    gpus = working_gpus() if job.gpu else 0
    data = find_competition_data(job.slug)
    run = require_run(job, code, data)
    states = earlier_states(job, input_folder())
    homes = {fold: make_home(work / fold, job, code, states.get(fold)) for fold in job.folds}

    def start(fold: str, slot: int) -> subprocess.Popen[bytes]:
        return start_fold(job, fold, homes[fold], data, work / "cache", slot if gpus else None)

    left = 60 * job.minutes * STOP_AT - (time.monotonic() - began)
    grace = 60 * job.minutes * (KILL_AT - STOP_AT)
    codes, stopped = side_by_side(job.folds, start, gpus or 1, left, grace, asked)
    folds = {fold: keep(fold, job, homes[fold], codes.get(fold), stopped, out) for fold in job.folds}
    for fold, kept in folds.items():
        print(f"{fold}: {kept['state']}", *([kept["error"]] if "error" in kept else []), sep="\n", flush=True)
    record = {
        "run": job.run,
        "parts": job.parts,
        "number": job.number,
        "folds": folds,
        "gpus": gpus,
        "seconds": round(time.monotonic() - began),
        **{name: run.record[name] for name in ("started", "threads", "versions")},
    }
    write_json(out / RECORD, record)


def working_gpus() -> int:
    """How many GPUs there are, each of which passed one operation. Raises RunError where there is none, or one fails.

    Asked in a process of its own: what a process takes of a GPU's memory, it keeps.
    """
    asked = subprocess.run([sys.executable, "-c", ASK_GPUS], capture_output=True, text=True, check=False)
    count = int(asked.stdout) if asked.returncode == 0 else 0
    if not count:
        found = (asked.stderr.strip().splitlines() or ["none"])[-1]
        raise RunError("a GPU that this torch can use", found, "choose GPU T4 x2 as the notebook's accelerator")
    return count


def require_run(job: Job, code: Path, data: Path) -> Run:
    """The run as this machine plans it. Raises RunError where it is not the one that home waits for, and tells why."""
    competition = load_competition(job.competition, code)
    assert competition.folder is not None, "competitions are loaded from a folder"
    recipe = override(find_recipe(competition.folder, job.recipe), list(job.settings))
    run = planned(open_ground(competition, data, job.scheme), job.recipe, recipe)
    other = [part for part, digest in shaping_hashes(run).items() if digest != job.parts[part]]
    if other or run.name != job.run:
        fix = "compare the host's files here with those at home, and the versions of the packages that read them"
        raise RunError(f"the run {job.run}, planned at home", f"{run.name}: other {', '.join(other)}", fix)
    return run


def earlier_states(job: Job, inputs: Path) -> dict[str, Path]:
    """The files of the folds that earlier sessions left unfinished, the newest of each. Raises KitError for a lost one.

    Sessions are found by what they say, wherever Kaggle mounts them.
    """
    records = [path for depth in ("*", "*/*", "*/*/*") for path in inputs.glob(f"{depth}/{RECORD}")]
    sessions = [(path.parent, json.loads(path.read_text())) for path in records]
    found: dict[str, Path] = {}
    for folder, said in sorted(sessions, key=lambda session: session[1]["number"]):
        for fold, kept in said["folds"].items():
            if said["run"] == job.run and "sha256" in kept and fold in job.states:
                found[fold] = folder / packed_name(fold)
                if not found[fold].is_file() or sha256_of(found[fold]) != kept["sha256"]:
                    raise RunError(f"{found[fold]} as it was packed", "missing or changed", "run the command again")
    if lost := sorted(set(job.states) - set(found)):
        there = f"mounted: {', '.join(mounted(inputs)) or 'nothing'}"
        raise NotFound(f"the states of {', '.join(lost)} in the outputs of earlier sessions", there, "attach them")
    return found


def make_home(home: Path, job: Job, code: Path, state: Path | None) -> Path:
    """A home for one fold: the code, and what an earlier session left of the fold."""
    shutil.copytree(code, home)
    if state is not None:
        with zipfile.ZipFile(state) as archive:
            archive.extractall(run_folder(home, job))
    return home


def run_folder(home: Path, job: Job) -> Path:
    """Where a fold's home has the run."""
    return home / "competitions" / job.competition / "runs" / job.run


def start_fold(job: Job, fold: str, home: Path, data: Path, cache: Path, gpu: int | None) -> subprocess.Popen[bytes]:
    """`kit train` of one fold as a process; what it says on standard error goes to a file in its home."""
    command = [sys.executable, "-u", "-m", "kit.cli", "train", job.competition, job.recipe]
    command += ["--fold", fold.removeprefix("fold"), "--data", str(data), "--home", str(home)]
    command += [word for setting in job.settings for word in ("--set", setting)]
    command += ["--scheme", job.scheme] if job.scheme else []
    with errors_of(home).open("wb") as errors:
        environment = environment_of(home, cache, gpu)
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=errors)


def environment_of(home: Path, cache: Path, gpu: int | None) -> dict[str, str]:
    """The variables of a fold's process: its own home's kit, the cache that folds share, one GPU."""
    path = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "KIT_CACHE": str(cache), "NO_ALBUMENTATIONS_UPDATE": "1"}
    return {**os.environ, **own, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)})}


def errors_of(home: Path) -> Path:
    """What a fold's process said on standard error."""
    return home / "errors.txt"


def side_by_side(
    folds: Sequence[str],
    start: Callable[[str, int], subprocess.Popen[bytes]],
    slots: int,
    seconds: float,
    grace: float,
    asked: Callable[[], bool],
) -> tuple[dict[str, int], bool]:
    """Run a process for each fold, `slots` at a time: (exit codes of those that started, whether they were stopped).

    start: makes the process of a fold in a slot, from 0. After `seconds`, or once `asked` says so, no fold starts any
    more and those that run get SIGTERM; `grace` seconds later SIGKILL.
    """
    began, end = time.monotonic(), math.inf
    waiting, free, stopped = list(folds), list(range(slots)), False
    running: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}
    codes: dict[str, int] = {}
    while running or (waiting and not stopped):
        now = time.monotonic()
        if not stopped and (asked() or now >= began + seconds):
            stopped, end = True, now + grace
            for _, process in running.values():
                process.terminate()
        while waiting and free and not stopped:
            fold, slot = waiting.pop(0), free.pop(0)
            running[fold] = slot, start(fold, slot)
        for fold, (slot, process) in list(running.items()):
            if now >= end:
                process.kill()
            if process.poll() is not None:
                codes[fold] = process.returncode
                free.append(slot)
                del running[fold]
        time.sleep(POLL_SECONDS)
    return codes, stopped


def keep(fold: str, job: Job, home: Path, code: int | None, stopped: bool, out: Path) -> dict[str, Any]:
    """Pack what there is of a fold into `out`; returns what the session's record says of it.

    state: done, paused, failed (then `error` tells why) or waiting, where no time was left to start it. step: the last
    that was committed, of a fold that is not done. sha256: of the packed file, if there is one.
    """
    folder = run_folder(home, job) / fold
    if (folder / "done.json").is_file():
        kept: dict[str, Any] = {"state": "done"}
    elif code is None:
        kept = {"state": "waiting"}
    elif stopped and code in STOPPED:
        kept = {"state": "paused"}
    else:
        said = errors_of(home).read_text(errors="replace").strip()[-2000:]
        kept = {"state": "failed", "error": said or f"exit code {code} and no word: out of memory?"}
    state = folder / checkpoint.RECORD
    if state.is_file():
        kept["step"] = json.loads(state.read_text())["step"]
    if kept["state"] == "done" or "step" in kept:
        packed = out / packed_name(fold)
        with zipfile.ZipFile(packed, "w") as archive:  # stored: weights hardly shrink
            for path in sorted(folder.rglob("*")):
                if path.is_file() and ".tmp-" not in path.name:
                    archive.write(path, path.relative_to(folder.parent))
        kept["sha256"] = sha256_of(packed)
    return kept


def packed_name(fold: str) -> str:
    """The file that a fold's folder is packed into: a zip, by another name, since Kaggle unpacks archives."""
    return f"{fold}.packed"


def main(job: str, code: str, out: str) -> int:
    """Run the session of a job's JSON file. 0 whatever became of the folds, 1 where none could be trained.

    A signal is a wall: the folds stop and are packed.
    """
    asked = threading.Event()
    for number in stop.SIGNALS:
        signal.signal(number, lambda *_: asked.set())
    try:
        with tempfile.TemporaryDirectory(prefix="kit-session-") as work:
            run_session(Job(**json.loads(Path(job).read_text())), Path(code), Path(out), Path(work), asked.is_set)
    except KitError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
