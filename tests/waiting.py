"""The client's processes, forked from one that has imported what the client imports: a third of a second less each.

The client itself is imported anew in each, under the environment that it is given; what is saved is its libraries.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = ("bleach", "google.protobuf.field_mask_pb2", "packaging.version", "requests", "slugify", "tqdm", "urllib3")
WAITING = """
import importlib, json, os, pkgutil, runpy, sys
import kagglesdk
for name in {libraries!r}:
    importlib.import_module(name)
for module in pkgutil.walk_packages(kagglesdk.__path__, "kagglesdk."):
    if ".types." in module.name or ".services." in module.name:
        importlib.import_module(module.name)
assert "kaggle" not in sys.modules
for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        said = os.open(job["said"], os.O_WRONLY)
        os.dup2(said, 1), os.dup2(said, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(job["env"])
        sys.argv = job["argv"]
        runpy.run_path(job["argv"][0], run_name="__main__")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print(flush=True)
"""


class Forks:
    """Stands for the module `subprocess` in `kit.shipping.kaggle`."""

    DEVNULL, PIPE, STDOUT = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WAITING.format(libraries=LIBRARIES)],
            env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tempfile.gettempdir(),
        )

    @contextmanager
    def Popen(self, command: list[str], env: dict[str, str], **_: Any) -> Iterator[Any]:
        """Runs `python -P FILE ARGUMENTS...` to its end; `stdout` is what it said."""
        assert command[:2] == [sys.executable, "-P"] and self.process.stdin and self.process.stdout
        with tempfile.NamedTemporaryFile("r", errors="replace") as said:
            job = {"argv": command[2:], "env": env, "said": said.name}
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            self.process.stdout.readline()
            yield type("Ended", (), {"stdout": Path(said.name).read_text(errors="replace").splitlines(keepends=True)})

    def end(self) -> None:
        with self.process:
            assert self.process.stdin
            self.process.stdin.close()
