"""Training killed at its n-th file operation, for every n: children of a process that has imported all it takes.

python crashes.py HOME SCRATCH SETTINGS prints, for each n until a run ends unharmed, one line of JSON:
{"at": n, "operation": what the n-th was, "went_on": exit code of the same command given again,
"different": {file: why it is not that of a run never killed}}. A file operation is an opening for writing (killed just
after it, with the file empty), an fsync, a replace or an unlink (killed just before).
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = (
    True  # a cache of the adapter's code would be one more file, written by the first to import it
)
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from conftest import World  # noqa: E402

from kit.training import checkpoint, loop  # noqa: E402

CHANCING = {
    "run.json": ("started",),
    "done.json": ("seconds", "peak_memory_mb"),
    "log.jsonl": ("images_per_second",),
}
"""What differs from run to run, by file."""
NOTES = "reads.txt"
"""What the test's adapter writes by itself."""


def kill_at(number: int, note: Path) -> None:
    """Let this process die at its file operation of that number (from 1), whose name is written to `note`."""
    done = 0
    real_open = io.open

    def count(name: str, path: object) -> None:
        nonlocal done
        done += 1
        if done == number:
            handle = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(handle, f"{name} {Path(str(path)).name}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(path: Any, *rest: Any, **named: Any) -> Any:
            count(name, path)
            return real(path, *rest, **named)

        setattr(os, name, call)

    def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        handle = real_open(file, mode, *rest, **named)
        if set(mode) & set("wax+") and Path(file).name != NOTES:
            count("open", file)
        return handle

    for name in ("fsync", "replace", "unlink"):
        counted(name)
    io.open = opened  # what pathlib calls


def keep_last_state(to: Path) -> None:
    """Copy the last committed state there before it is cleared away."""
    clear = checkpoint.clear

    def kept(folder: Path) -> None:
        if (folder / "state.json").is_file():
            to.mkdir(exist_ok=True)
            for name in ("state.json", json.loads((folder / "state.json").read_text())["file"]):
                shutil.copy(folder / name, to)
        clear(folder)

    checkpoint.clear = kept


def forked(work: Callable[..., object], *given: Any) -> int:
    """The status of a child that does the work: 0, 1 after an exception, or minus a signal."""
    child = os.fork()
    if child == 0:
        try:
            work(*given)
        except BaseException:  # noqa: BLE001 - a child never returns
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def told(path: Path) -> Any:
    """A file's content, without what differs from run to run."""
    if path.name == "state.json":
        record = json.loads(path.read_text())
        state = [item for item in record["state"]["items"] if item[0] != "seconds"]
        return {"step": record["step"], "sha256": record["sha256"], "state": state}
    leave = CHANCING.get(path.name)
    if leave is None:
        return path.read_bytes()
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [{name: value for name, value in json.loads(line).items() if name not in leave} for line in lines]


def files_of(home: Path) -> dict[str, Any]:
    """The content of all files, by path below `home`."""
    files = [path for path in sorted(home.rglob("*")) if path.is_file() and path.name not in ("run.lock", NOTES)]
    return {str(path.relative_to(home)): told(path) for path in files}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, str]:
    """Why files are not those of the run never killed. The last state may be gone where the kill came after it."""
    said = dict.fromkeys(found.keys() - wanted.keys(), "left over")
    said |= {name: "missing" for name in wanted.keys() - found.keys() if not name.startswith("last-state/")}
    return said | {name: "other content" for name in found.keys() & wanted.keys() if found[name] != wanted[name]}


def main(home: Path, scratch: Path, settings: dict[str, Any]) -> None:
    """All of it; see the module."""
    torch.set_num_threads(1)
    loop.COMMIT_SECONDS = 0.0
    note = scratch / "operation.txt"

    def killed(where: Path, at: int) -> None:
        kill_at(at, note)
        World(where).train([0], **settings)

    def unharmed(where: Path) -> None:
        keep_last_state(where / "last-state")
        World(where).train([0], **settings)

    whole = Path(shutil.copytree(home, scratch / "whole"))
    if forked(unharmed, whole):
        raise SystemExit("the run that is never killed failed")
    wanted = files_of(whole)
    for at in itertools.count(1):
        where = Path(shutil.copytree(home, scratch / f"killed-{at}"))
        status = forked(killed, where, at)
        if status != -signal.SIGKILL:
            break
        line = {"at": at, "operation": note.read_text(), "went_on": forked(unharmed, where)}
        print(json.dumps({**line, "different": differences(files_of(where), wanted)}), flush=True)
        shutil.rmtree(where)
    raise SystemExit(f"the run that was to be killed at {at} failed by itself" if status else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
