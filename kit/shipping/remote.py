"""Training on Kaggle: code goes up, sessions follow one another, folds come home.

Code, recipes and fold tables travel in one private dataset, named by its content. A session is a private notebook of
its own, `kit-train-RUN-1`, `-2` ..., rendered from `notebooks/train_on_kaggle.ipynb`; what one leaves unfinished is an
input of the next. Which sessions there are, how they ended and what they left is asked of Kaggle each time: nothing of
it is kept here, so the same command goes on wherever it stopped.

Tried against a server on the loopback, with the notebook run on the CPU. Not tried: Kaggle itself, its GPUs and quota.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import kit
from kit.offline.errors import KaggleError, NotFound, RunError
from kit.offline.files import sha256_of, write_json, write_whole
from kit.offline.places import inside
from kit.shipping import kaggle_child
from kit.shipping.datasets import store
from kit.shipping.kaggle import AGAIN, ask, owner_or_self
from kit.shipping.kernels import GOING, await_run, fetch_output, last_version, push_notebook, url_of
from kit.shipping.notebook import rendered
from kit.shipping.predict import as_kit_error, last_line
from kit.shipping.scan import scan_code
from kit.shipping.unpack import unpack
from kit.shipping.wheels import pack
from kit.training.fanout import Ground, folds_to_train, justified_epochs, planned, train_run
from kit.training.recipe import Recipe
from kit.training.rundir import ALL, SOURCES, Run, begin_run, locked, read_run, shaping_hashes, summarise
from kit.training.session import RECORD, Job, packed_name

TEMPLATE = Path(__file__).parents[2] / "notebooks" / "train_on_kaggle.ipynb"
NOTEBOOK = "train.ipynb"
ACCELERATOR = "NvidiaTeslaT4"
"""Two T4 with 16 GB each: Kaggle has no single one."""
SESSION_MINUTES = 720.0
"""What Kaggle gives a notebook with a GPU."""
LEAST_MINUTES = 30.0
"""Quota below which a session is not worth its start."""
QUEUE_MINUTES = 720.0
"""How long a session may wait for a machine."""
REQUIRED = ("albumentations", "pydantic", "rich", "safetensors", "timm", "typer")
"""Those of the kit's requirements that training imports and Kaggle's image may lack, or have too old."""

State = tuple[int, str]
"""What a session left of an unfinished fold: its last step, and the notebook that has it."""


@dataclass(frozen=True)
class Order:
    """What is trained, and on what.

    run: as home plans it. settings: of the recipe, as `--set` takes them. home: the folder with competitions/. owner:
    the Kaggle user. minutes, accelerator: of a session; without an accelerator folds train on the CPU, one by one. say:
    is told the progress.
    """

    ground: Ground
    recipe: Recipe
    run: Run
    settings: tuple[str, ...]
    home: Path
    owner: str
    minutes: float
    accelerator: str | None
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        """The competition's."""
        assert self.ground.competition.folder is not None, "competitions are loaded from a folder"
        return self.ground.competition.folder


def train_on_kaggle(
    ground: Ground,
    name: str,
    recipe: Recipe,
    settings: Sequence[str] = (),
    folds: Sequence[int] | None = None,
    home: Path = Path(),
    say: Callable[[str], None] = print,
    minutes: float = SESSION_MINUTES,
    accelerator: str | None = ACCELERATOR,
) -> Run:
    """Train the folds of a recipe that are not done yet in sessions on Kaggle, bring them home and score the run.

    settings: what made `recipe` of the one of that name. folds: as in `train_run`. Raises KitError where Kaggle refuses
    something, the quota is used up, or a session or a fold fails; what is done is home by then.
    """
    run = planned(ground, name, recipe)
    wanted = folds_to_train(run, folds)
    if not all(run.is_done(number) for number in wanted):
        settings = (*settings, f"seed={recipe.seed}")
        order = Order(ground, recipe, run, settings, home, owner_or_self(None), minutes, accelerator, say)
        _train_in_sessions(order, [number for number in wanted if number != ALL])
        if ALL in wanted:
            justified_epochs(run)  # told now where a fold is not done
            _train_in_sessions(order, [ALL])
    return train_run(ground, name, recipe, wanted, home, say)


def _train_in_sessions(order: Order, numbers: Sequence[int]) -> None:
    """Walk the sessions of a run, first those that are there, until the folds of these numbers are home."""
    states: dict[str, State] = {}
    for number in itertools.count(1):
        lacking = [order.run.fold(each).name for each in numbers if not order.run.is_done(each)]
        if not lacking:
            return
        kernel = f"{order.owner}/{session_name(order.run, number)}"
        there = last_version(kernel)
        over = bool(there) and ask(kaggle_child.kernel_status, kernel=kernel, version=there)["status"] not in GOING
        try:
            pushed = there or _push_session(order, kernel, number, lacking, states)
            await_run(kernel, pushed, order.minutes + QUEUE_MINUTES, order.say, AGAIN)
            told = _record(order, kernel, pushed)
        except KaggleError as error:
            if not over:
                raise
            order.say(f"  {kernel} failed: {error.found}")
            continue
        brought = [bring_home(order, kernel, pushed, told, each) for each in _numbers(told, order.run, "done")]
        left = {fold: (kept["step"], kernel) for fold, kept in told["folds"].items() if "step" in kept}
        farther = any(step > states.get(fold, (0, ""))[0] for fold, (step, _) in left.items())
        states |= left
        fault = _fault(order, kernel, told, farther or any(brought))
        if fault is not None and not over:
            raise fault
        if fault is not None:
            order.say(f"  {kernel}: {fault.found}")


def session_name(run: Run, number: int) -> str:
    """The slug, and title, of a run's session: at most 50 of a-z, 0-9 and single dashes."""
    recipe = re.sub(r"[^a-z0-9]+", "-", run.record["recipe_name"].lower())[:24].strip("-")
    return f"kit-train-{recipe}-{run.record['code_sha256'][:10]}-{number}"


def _push_session(order: Order, kernel: str, number: int, folds: Sequence[str], states: Mapping[str, State]) -> int:
    """Upload the code, push the session's notebook; returns its version."""
    minutes = _minutes_left(order)
    going_on = {fold: left_by for fold, (_, left_by) in states.items() if fold in folds}
    with tempfile.TemporaryDirectory(prefix="kit-session-") as scratch:
        wheel = pack_code(order, Path(scratch, "code"), folds)
        slug = f"kit-code-{sha256_of(wheel)[:16]}"
        store(order.owner, slug, {wheel.name: wheel}, say=order.say)
        job = Job(
            slug=order.ground.competition.slug,
            competition=order.folder.name,
            recipe=order.run.record["recipe_name"],
            settings=order.settings,
            scheme=order.ground.scheme,
            folds=folds,
            run=order.run.name,
            parts=shaping_hashes(order.run),
            number=number,
            states=sorted(going_on),
            minutes=minutes,
            gpu=order.accelerator is not None,
            requirements=requirements(order),
        )
        folder = Path(scratch, "notebook")
        sources = sorted(set(going_on.values()))
        render_session(folder, kernel, job, wheel, f"{order.owner}/{slug}", sources, order.accelerator)
        order.say(f"  {', '.join(folds)} of {order.run.name}, {minutes / 60:.1f} hours at most: {url_of(kernel)}")
        order.say("  Ctrl-C stops the waiting, not the session")
        return push_notebook(folder, round(60 * minutes), order.say)


def _minutes_left(order: Order) -> float:
    """How long a session can be. Tells the quota; raises KaggleError where it is not worth a start."""
    if order.accelerator is None:
        return order.minutes
    quota = ask(kaggle_child.quota)
    left = (quota["allowed"] - quota["used"]) / 60
    order.say(f"  GPU quota: {left / 60:.1f} of {quota['allowed'] / 3600:.1f} hours left until {quota['renewed']}")
    if left < LEAST_MINUTES:
        fix = f"after {quota['renewed']} {AGAIN}"
        raise KaggleError(f"{LEAST_MINUTES:.0f} minutes of GPU quota", f"{left:.0f} minutes", fix)
    return min(order.minutes, left)


def pack_code(order: Order, folder: Path, folds: Sequence[str]) -> Path:
    """Write what travels into the new folder `folder`, as a wheel, since Kaggle unpacks other archives.

    The package, the competition's sources and fold tables, the files that the recipe names; for a fit on all rows, what
    its folds say of themselves. No data, no cache, nothing else of the home. Raises BundleError for a secret among it.
    """
    assert kit.__file__ is not None
    package = Path(kit.__file__).parent
    paths = {
        f"kit/{path.relative_to(package).as_posix()}": path
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    sources = [order.folder / name for name in SOURCES if (order.folder / name).is_file()]
    if "all" in folds:
        sources += [order.run.fold(number) / "done.json" for number in order.run.folds]
    root = Path("competitions", order.folder.name)
    for path in (*sources, *sorted(order.folder.glob("folds*.csv"))):
        paths[(root / path.relative_to(order.folder)).as_posix()] = path
    paths |= {path.relative_to(order.home).as_posix(): path for path in _files_of_recipe(order)}
    number = version("kit")
    info = f"kit-{number}.dist-info"
    files = {name: path.read_bytes() for name, path in paths.items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: kit\nVersion: {number}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: kit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    folder.mkdir()
    wheel = folder / pack(folder, f"kit-{number}-0{{digest}}-py3-none-any", info, files)
    scan_code(wheel)
    return wheel


def _files_of_recipe(order: Order) -> Iterator[Path]:
    """Pretrained weights and soft labels that lie below home. Raises KitError for one elsewhere, or not there."""
    for name in (order.recipe.pretrained, order.recipe.pseudo):
        if isinstance(name, str):
            path = inside(order.home, name)
            if not path.exists():
                raise NotFound(f"{path}, which the recipe names", "no such file", "put it there")
            yield from sorted(path.iterdir()) if path.is_dir() else [path]


def requirements(order: Order) -> list[str]:
    """What pip makes sure of in a session: the kit's own, and the competition's packages as they are at home."""
    own = [line for line in requires("kit") or [] if re.split(r"[^\w-]", line)[0] in REQUIRED]
    competition = order.ground.competition.with_task(order.recipe.task)
    return [*own, *(_pinned(name) for name in sorted({*competition.wheels, *competition.task.wheels}))]


def _pinned(package: str) -> str:
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package


def render_session(
    folder: Path, kernel: str, job: Job, wheel: Path, dataset: str, kernels: Sequence[str], accelerator: str | None
) -> None:
    """Write a session's notebook and its kernel-metadata.json into the new folder `folder`.

    dataset: has the wheel. kernels: have the states that the session goes on with. Unlike a submission's notebook it
    has the internet: pretrained weights come from timm's hub.
    """
    values = {
        "run": job.run,
        "number": str(job.number),
        "folds": ", ".join(job.folds),
        "recipe": job.recipe,
        "competition": job.competition,
        "slug": job.slug,
        "dataset": dataset,
        "wheel": wheel.name,
        "wheel_sha256": sha256_of(wheel),
        "job": json.dumps(asdict(job), indent=1),  # in JSON three quotes never follow each other
    }
    metadata = {
        "id": kernel,
        "title": kernel.split("/")[1],
        "code_file": NOTEBOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": accelerator is not None,
        "enable_tpu": False,
        "enable_internet": True,
        "machine_shape": accelerator or "",
        "dataset_sources": [dataset],
        "competition_sources": [job.slug],
        "kernel_sources": list(kernels),
        "model_sources": [],
        "keywords": [],
        "docker_image_pinning_type": "original",
    }
    folder.mkdir()
    write_whole(folder / NOTEBOOK, rendered(TEMPLATE, values))
    write_json(folder / "kernel-metadata.json", metadata)


def _record(order: Order, kernel: str, pushed: int) -> dict[str, Any]:
    """What a session says of its folds. Raises KaggleError where it says nothing, or speaks of another run."""
    with tempfile.TemporaryDirectory(prefix="kit-session-") as scratch:
        path = _fetched(kernel, pushed, RECORD, Path(scratch))
        told: dict[str, Any] = json.loads(path.read_text())
    if (told["run"], told["parts"]) != (order.run.name, shaping_hashes(order.run)):
        raise KaggleError(f"{order.run.name} trained by {kernel}", told["run"], "delete that notebook on Kaggle")
    return told


def _fetched(kernel: str, pushed: int, name: str, folder: Path) -> Path:
    fetch_output(kernel, pushed, folder, f"^{re.escape(name)}$")
    if not (folder / name).is_file():
        raise KaggleError(f"{name} in the output of {kernel}", "no such file", f"look at its log: {url_of(kernel)}")
    return folder / name


def _numbers(told: Mapping[str, Any], run: Run, state: str) -> list[int]:
    """The folds, the fit on all rows among them, that a session tells to be in a state."""
    every = (*range(run.record["folds_of"]), ALL)
    return [number for number in every if told["folds"].get(run.fold(number).name, {}).get("state") == state]


def bring_home(order: Order, kernel: str, pushed: int, told: Mapping[str, Any], number: int) -> bool:
    """Put a fold that a session finished into the run at home, whole, and score the run; False where it was there.

    Its files must be those that the session packed, and the weights those that were trained. A fold that was begun at
    home gives way.
    """
    run, fold = order.run, order.run.fold(number)
    if run.is_done(number):
        return False
    run.folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".home-", dir=run.folder.parent) as scratch:
        packed = _fetched(kernel, pushed, packed_name(fold.name), Path(scratch))
        if sha256_of(packed) != told["folds"][fold.name]["sha256"]:
            raise KaggleError(f"{packed.name} of {kernel} as it was packed", "other bytes", AGAIN)
        unpack(packed, Path(scratch, "files"))
        files = Path(scratch, "files", fold.name)
        _require_as_trained(files, kernel)
        circumstances = {name: told[name] for name in ("started", "threads", "versions")}
        begin_run(Run(run.folder, {**run.record, **circumstances}), order.ground.competition, order.ground.table)
        with locked(run):
            shutil.rmtree(fold, ignore_errors=True)
            files.rename(fold)
            if number != ALL:
                summarise(read_run(run.folder), order.ground.competition, order.ground.frame)
    order.say(f"  {fold.name} is home: {fold}")
    return True


def _require_as_trained(files: Path, kernel: str) -> None:
    """Raise RunError unless the hashes in a fold's done.json are those of its files."""
    record = files / "done.json"
    known = json.loads(record.read_text())["sha256"] if record.is_file() else {record.name: ""}
    changed = [name for name in known if not (files / name).is_file() or sha256_of(files / name) != known[name]]
    if changed:
        raise RunError(
            f"{files.name} of {kernel} as it was trained",
            f"missing or changed: {', '.join(changed)}",
            "delete that notebook on Kaggle, and train the fold again",
        )


def _fault(order: Order, kernel: str, told: Mapping[str, Any], got_on: bool) -> RunError | None:
    """What went wrong in a session: the words of the first fold that failed; or nothing got on."""
    failed = [order.run.fold(number).name for number in _numbers(told, order.run, "failed")]
    for fold in failed[1:]:
        order.say(f"  {fold} failed, too: {last_line(told['folds'][fold]['error'])}")
    if failed:
        error = told["folds"][failed[0]]["error"]
        said = as_kit_error(error) or RunError("training to end well", last_line(error), "mend that")
        found = f"{said.found} ({failed[0]} in {kernel})"
        return RunError(said.expected, found, f"{said.fix}; the log: {url_of(kernel)}")
    if not got_on:
        expected = f"a fold to get on within the {told['seconds'] / 60:.0f} minutes of {kernel}"
        return RunError(expected, "no step was committed", f"look at its log: {url_of(kernel)}")
    return None
