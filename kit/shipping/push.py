"""A bundle on Kaggle: its datasets stored and looked at, its notebook run there, and the answers those of home."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kit.offline.errors import BundleError
from kit.offline.files import sha256_of, write_json
from kit.offline.manifest import FILE, open_bundle
from kit.offline.notebook import LOG
from kit.offline.predict import competition_in
from kit.shipping import kaggle_child
from kit.shipping.agreement import compare_with_home
from kit.shipping.datasets import datasets_of, store
from kit.shipping.kaggle import ask, owner_or_self, require_slug
from kit.shipping.kernels import GOING, await_run, fetch_output, push_notebook
from kit.shipping.notebook import notebook_folder, render_notebook

RECORD = "pushed.json"
QUEUE_MINUTES = 240
"""What a run may wait for a machine, beyond the time it may take."""


@dataclass(frozen=True)
class Pushed:
    """What of a bundle is on Kaggle; `pushed.json` beside its notebook.

    datasets: slug -> version. notebook_sha256: of the rendered notebook and its metadata. version: of the notebook.
    done: its run completed, with a table that agrees with the one at home if it was `compared`.
    """

    bundle: str
    manifest_sha256: str
    owner: str
    datasets: Mapping[str, int]
    notebook_sha256: str
    version: int
    done: bool = False
    compared: bool = False

    @property
    def kernel(self) -> str:
        """The notebook's name at Kaggle."""
        return f"{self.owner}/{self.bundle}"


def push(bundle: Path, data: Path, owner: str | None = None, say: Callable[[str], None] = print) -> Pushed:
    """Store a bundle's datasets, run its notebook on Kaggle, bring home what it wrote, compare it with `kit predict`'s.

    data: the host's files at home. owner: a Kaggle user (default: whose credentials are found). The same command goes
    on where it stopped, and does nothing where all is done. The notebook's output and log are put into
    `<bundle>-notebook/output/`. Without the host's files at home nothing is compared. Raises KaggleError, with the
    notebook's own last words where its run failed, and SubmissionError where it answers otherwise than at home.
    """
    bundle = Path(bundle).resolve()
    manifest = open_bundle(bundle)
    require_slug(manifest.bundle, "bundle")
    rules = competition_in(bundle, manifest).rules
    owner = owner_or_self(owner)
    folder = render_notebook(bundle, owner)
    say(f"datasets of {manifest.bundle}")
    versions = {
        each.slug: store(owner, each.slug, {name: bundle / name for name in each.files}, _proof(each.files), say=say)
        for each in datasets_of(manifest)
    }
    wanted = Pushed(manifest.bundle, sha256_of(bundle / FILE), owner, versions, _sha256_of_notebook(folder), version=0)
    there = pushed_of(bundle)
    if there is None or replace(there, version=0, done=False, compared=False) != wanted or _has_failed(there):
        say("notebook")
        there = replace(wanted, version=push_notebook(folder, say=say))
        shutil.rmtree(folder / "output", ignore_errors=True)  # another version's
        _record(folder, there)
    if there.done and (there.compared or not data.is_dir()):
        say(f"version {there.version} of {there.kernel} has run, {_agreement(there)}: nothing to do")
        return there
    there = _record(folder, replace(there, done=False))
    await_run(there.kernel, there.version, rules.minutes + QUEUE_MINUTES, say)
    output = folder / "output"
    fetch_output(there.kernel, there.version, output)
    _tell_devices(output, rules.accelerator, say)
    table = output / rules.file
    if not table.is_file():
        found = f"{', '.join(sorted(path.name for path in output.iterdir()))} in {output}"
        raise BundleError(
            f"{table.name} among what the notebook wrote", found, "look into log.txt there, and kit rehearse"
        )
    if data.is_dir():
        say(f"{table}: {compare_with_home(bundle, data, table)}, compared with kit predict")
    done = _record(folder, replace(there, done=True, compared=data.is_dir()))
    say(f"version {there.version} of {there.kernel} has run, {_agreement(done)}")
    return done


def _agreement(pushed: Pushed) -> str:
    return "and agrees with home" if pushed.compared else "and was not compared: the host's files are not at home"


def _tell_devices(output: Path, accelerator: str | None, say: Callable[[str], None]) -> None:
    """Say what the notebook ran on, as its own log has it."""
    try:
        devices = json.loads((output / LOG).read_text())["devices"]
    except (OSError, ValueError, KeyError):  # a notebook that was edited by hand may keep none
        return
    say(f"ran on {', '.join(devices)}")
    if accelerator and devices == ["cpu"]:
        say(f"warning: no {accelerator} worked there: see log.txt in {output}; the rerun would be many times slower")


def pushed_of(bundle: Path) -> Pushed | None:
    """What was pushed of a bundle, as it was recorded; None where nothing was, or of another bundle of that name."""
    path = notebook_folder(bundle) / RECORD
    try:
        found = Pushed(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise BundleError(
            f"a record of what was pushed in {path}", "something else", "delete it, and push again"
        ) from None
    return found if found.manifest_sha256 == sha256_of(bundle / FILE) else None


def _has_failed(there: Pushed) -> bool:
    """Whether the run of what was pushed ended without success: the same version would say the same again."""
    if there.done:
        return False
    state = ask(kaggle_child.kernel_status, kernel=there.kernel, version=there.version)["status"]
    return state not in (*GOING, "COMPLETE")


def _proof(files: tuple[str, ...]) -> str | None:
    """The manifest is what tells one bundle from another; weights have their hash in their dataset's name."""
    return FILE if FILE in files else None


def _sha256_of_notebook(folder: Path) -> str:
    return "-".join(sha256_of(folder / name)[:32] for name in ("submit.ipynb", "kernel-metadata.json"))


def _record(folder: Path, pushed: Pushed) -> Pushed:
    write_json(folder / RECORD, asdict(pushed))
    return pushed
