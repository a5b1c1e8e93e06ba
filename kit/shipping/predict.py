"""Predict at home with nothing but the bundle's own code: what the notebook will do, byte for byte."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kit.offline.errors import BundleError, KitError, NotFound
from kit.offline.manifest import open_bundle
from kit.shipping.wheels import install

QUIET = {"NO_ALBUMENTATIONS_UPDATE": "1", "HF_HUB_OFFLINE": "1"}
SECRET = re.compile(r"KAGGLE_.*|.*_(TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD)", re.IGNORECASE)
"""Names of variables that a bundle's code does not see: credentials, and what Kaggle's own machines set."""


def predict_at_home(bundle: Path, data: Path, out: Path, python: Path | None = None) -> str:
    """Write `out` from the test set in `data`; returns what the bundle's code said on the way.

    The code is the wheel's, in a process of its own without this one's credentials: the checkout may have moved on.
    python: an interpreter in the place of this one. Raises KitError, as that process said it.
    """
    bundle, data, out = Path(bundle).resolve(), Path(data).resolve(), Path(out).absolute()
    manifest = open_bundle(bundle)  # before any of its code runs
    if out.is_dir():
        raise NotFound(f"a file to write at {out}", "a folder", f"name a file in it: --out {out / 'submission.csv'}")
    if not out.parent.is_dir():
        raise NotFound(f"a folder {out.parent} to write {out.name} into", "no such folder", "make it first")
    wheels = sorted((name for name in manifest.files if name.endswith(".whl")), key=lambda name: name != manifest.wheel)
    pure, compiled = (
        [bundle / one for one in wheels if one.endswith("-none-any.whl") is kind] for kind in (True, False)
    )
    command = [str(python or sys.executable), "-P", "-m", "kit.offline.predict"]
    with tempfile.TemporaryDirectory(prefix="kit-wheels-") as folder:
        if python is not None:  # here compiled packages are installed; their wheels are for Kaggle's Python
            install(python, compiled, Path(folder))
        done = subprocess.run(
            [*command, str(bundle), "--data", str(data), "--out", str(out)],
            env={**harmless(os.environ), **QUIET, "PYTHONPATH": os.pathsep.join(map(str, [*pure, folder]))},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        sys.stderr.write(done.stderr)  # warnings: a GPU that does not work, little shared memory
        return done.stdout
    raise as_kit_error(done.stderr) or BundleError(
        f"{manifest.bundle} to predict {data}",
        last_line(done.stderr) or f"exit code {done.returncode}",
        "mend the adapter or model.py, bundle again; kit check names what is wrong",
    )


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that hold no secret, by their names."""
    return {name: value for name, value in environment.items() if not SECRET.fullmatch(name)}


def as_kit_error(text: str) -> KitError | None:
    """The last KitError whose three lines are in `text`, if any; a traceback puts its class before the first."""
    for begin in reversed(list(re.finditer(r"^([\w.]+: )?expected: ", text, re.MULTILINE))):
        said = re.match(r"(.*?)\nfound: +(.*?)\nto do: +(.*)", text[begin.end() :], re.DOTALL)
        if said:
            return KitError(*(part.strip() for part in said.groups()))
    return None


def last_line(text: str) -> str:
    """The last line with anything on it: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
