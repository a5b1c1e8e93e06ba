"""Run a notebook as Kaggle would: no network, inputs read-only, nothing of this checkout within reach.

`kit.shipping.rehearse` starts this file as a process of its own, with a job and a place for the result. It imports the
standard library alone until the walls stand: namespaces need a process with one thread, and the guard runs in the
notebook's kernel, where no module of this checkout may be loaded.

Linux namespaces are the real thing: another root, another network. Where they are refused, a seccomp filter denies
sockets and Python hooks in the kernel refuse writes to the inputs and imports from the checkout; code that is not
Python passes those hooks. It is a rehearsal, no prison for hostile code.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

MEMORY, CORES = 30 << 30, 4
"""What a session on Kaggle has: bytes of memory, and cores."""
NEWNS, NEWUSER, NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_UNBINDABLE = 1, 32, 4096, 16384, 1 << 18, 1 << 17
MS_RELATIME, ST_RELATIME = 1 << 21, 4096
LOCKED = 2 | 4 | 8 | 1024 | 2048
"""nosuid, nodev, noexec, noatime, nodiratime: alike in statvfs and mount, and kept by whoever remounts for others."""
MNT_DETACH = 2
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
SYSCALLS = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
"""Machine -> audit architecture, numbers of socket and of io_uring_setup (which could make sockets too)."""


def enter_namespaces(job: Mapping[str, Any], scratch: Path) -> None:
    """Move this process into a root and a network of its own. Raises OSError where the system refuses.

    job: "inputs" (path below /kaggle/input -> folder), "working", "hidden" (folders to empty), "kept" (what stays of
    them).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    _call(libc.unshare, NEWUSER | NEWNS | NEWNET)
    for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", file).write_text(text)
    _loopback_up()
    _mount(libc, None, "/", None, MS_REC | MS_PRIVATE)
    root = scratch / "root"
    root.mkdir()
    _mount(libc, "tmpfs", root, "tmpfs", 0, "mode=755")
    _mount(libc, None, root, None, MS_UNBINDABLE)  # or it would be bound into itself
    for entry in sorted(Path("/").iterdir()):
        if entry.name == "kaggle":
            continue
        if entry.is_symlink():
            (root / entry.name).symlink_to(entry.readlink())
        elif entry.is_dir():
            (root / entry.name).mkdir()
            if entry.name != "tmp":
                _mount(libc, entry, root / entry.name, None, MS_BIND | MS_REC)
            if entry.name not in ("dev", "proc", "sys", "tmp"):
                with contextlib.suppress(OSError):  # the inputs must be read-only; for the rest it is a courtesy
                    _read_only(libc, root / entry.name)
    for target, source, writable in _steps(job, scratch):
        place = root / target.relative_to("/")
        if source is None:
            if place.is_dir():
                _mount(libc, "tmpfs", place, "tmpfs", 0, "mode=755")
            continue
        place.mkdir(parents=True, exist_ok=True)
        _mount(libc, source, place, None, MS_BIND | MS_REC)
        if not writable:
            _read_only(libc, place)
    os.chdir(root)
    _call(libc.pivot_root, b".", b".")
    _call(libc.umount2, b".", MNT_DETACH)
    os.chdir("/kaggle/working")
    _drop_capabilities(libc)


def _steps(job: Mapping[str, Any], scratch: Path) -> list[tuple[Path, Path | None, bool]]:
    """(target, source or None to empty it, writable), shallow first, so that what is kept returns after its cover."""
    hidden = [path for path in map(Path, job["hidden"]) if len(path.parts) > 1]
    covers = [Path("/tmp"), *hidden]  # noqa: S108 - the notebook's own
    kept = [path for path in map(Path, job["kept"]) if any(cover in path.parents for cover in covers)]
    steps: list[tuple[Path, Path | None, bool]] = [(Path("/tmp"), scratch / "tmp", True)]  # noqa: S108
    steps += [(path, None, False) for path in hidden]
    steps += [(path, path, False) for path in kept]
    steps += [(Path("/kaggle/input", name), Path(source), False) for name, source in job["inputs"].items()]
    steps += [(Path("/kaggle/working"), Path(job["working"]), True)]
    return sorted(steps, key=lambda step: len(step[0].parts))


def _call(function: Any, *arguments: Any) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}: {os.strerror(number)}")


def _mount(
    libc: Any, source: Path | str | None, target: Path | str, kind: str | None, flags: int, data: str = ""
) -> None:
    def text(value: Path | str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    _call(libc.mount, text(source), text(target), text(kind), ctypes.c_ulong(flags), data.encode() or None)


def _read_only(libc: Any, place: Path) -> None:
    """Remount `place` and every mount below it read-only, with the flags that each came with."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for point in {line.split()[4].encode().decode("unicode_escape") for line in lines}:
        if Path(point) == place or place in Path(point).parents:
            flags = os.statvfs(point).f_flag
            same = (flags & LOCKED) | (MS_RELATIME if flags & ST_RELATIME else 0)
            _mount(libc, None, point, None, MS_REMOUNT | MS_BIND | MS_RDONLY | same)


def _loopback_up() -> None:
    """A new network has a loopback interface that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        asked = fcntl.ioctl(handle, 0x8913, struct.pack("16sh14x", b"lo", 0))  # SIOCGIFFLAGS
        flags = struct.unpack("16sh14x", asked)[1]
        fcntl.ioctl(handle, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))  # SIOCSIFFLAGS, IFF_UP


def _drop_capabilities(libc: Any) -> None:
    """None now and none after exec, so that no mount can be undone."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails beyond the last one
    _call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(libc.capset, struct.pack("Ii", 0x20080522, 0), bytes(24))


def deny_sockets() -> bool:
    """Let this process and its children make local sockets only; False where the filter is not to be had.

    Local are unix ones, and netlink, by which ZeroMQ asks for the interfaces. Others answer "Network is unreachable".
    """
    if sys.platform != "linux" or platform.machine() not in SYSCALLS:
        return False
    architecture, socket_number, io_uring = SYSCALLS[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.ENETUNREACH
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 7, architecture),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 5, 0, 0x40000000),  # x32, another way to the same calls
        (equal, 4, 0, io_uring),
        (equal, 0, 4, socket_number),
        (load, 0, 0, 16),  # the family
        (equal, 2, 0, socket.AF_UNIX),
        (equal, 1, 0, socket.AF_NETLINK),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(PR_SET_SECCOMP, 2, filter_, 0, 0) == 0)


LACKING = "Kaggle's image lacks, and the bundle does not bring, the module"
WRITES = {
    "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "os.utime",
}  # fmt: skip


def guard(protected: Sequence[str], hidden: Sequence[str], kept: Sequence[str]) -> None:
    """Hooks for the kernel: no outside addresses, no writes below `protected`, no imports from `hidden` less `kept`."""

    def below(path: Any, roots: Sequence[str]) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        real = os.path.realpath(os.fsdecode(path))
        return any(real == root or real.startswith(root + os.sep) for root in roots)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
            host = host[0] if isinstance(host, tuple) else host
            if isinstance(host, str) and not host.startswith(("127.", "::1", "localhost", "/")) and host:
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
        elif event == "open":
            path, mode, flags = arguments
            writing = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            if writing and below(path, protected):
                raise OSError(errno.EROFS, "Read-only file system", os.fsdecode(path))
        elif event in WRITES and any(below(path, protected) for path in arguments[:2]):
            raise OSError(errno.EROFS, "Read-only file system", os.fsdecode(arguments[0]))

    class Hidden:
        """Looks first, and refuses what another finder finds in the checkout."""

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            refused = False
            for finder in [other for other in sys.meta_path if other is not self]:
                spec = finder.find_spec(name, path, target)
                if spec is not None and (not below(spec.origin, hidden) or below(spec.origin, kept)):
                    return spec
                refused = refused or spec is not None
            if refused:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None

    sys.addaudithook(hook)
    sys.meta_path.insert(0, Hidden())  # type: ignore[arg-type]


def without(modules: Sequence[str]) -> None:
    """A hook for the kernel: top-level modules of these names are found where a bundle brings them, not among the
    packages that are installed."""

    class Lacking:
        """Looks first."""

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            if path is not None or name not in modules:
                return None
            brought = [entry for entry in sys.path if Path(entry).name not in ("site-packages", "dist-packages")]
            spec = PathFinder.find_spec(name, brought)
            if spec is None:
                raise ModuleNotFoundError(f"{LACKING} {name!r}", name=name)
            return spec

    sys.meta_path.insert(0, Lacking())  # type: ignore[arg-type]


def _hook_kernel(scratch: Path, seen_as: Path, calls: Sequence[str]) -> None:
    """Put `calls` of this module into the start of every Python that is started from here on.

    scratch: the notebook's /tmp on this side of the walls, seen_as: on the other.
    """
    (scratch / "start").mkdir()
    (scratch / "start" / "walls.py").write_text(Path(__file__).read_text())
    (scratch / "start" / "sitecustomize.py").write_text("\n".join(["import walls", *calls]) + "\n")
    os.environ["PYTHONPATH"] = str(seen_as / "start")


def _enter_guard(job: Mapping[str, Any], scratch: Path) -> tuple[str, str]:
    """The fallback: inputs as links in $KIT_INPUT, no sockets; returns what holds, and the call of `guard`."""
    for name, source in job["inputs"].items():
        link = scratch / "input" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    here = [*(str(Path(source).resolve()) for source in job["inputs"].values()), str((scratch / "input").resolve())]
    os.environ["KIT_INPUT"] = str(scratch / "input")
    os.chdir(job["working"])
    call = f"walls.guard({here!r}, {list(job['hidden'])!r}, {[*job['kept'], *here]!r})"
    return "seccomp" if deny_sockets() else "python", call


def _execute(job: Mapping[str, Any], temporary: Path) -> dict[str, Any]:
    """Run the notebook with nbclient in a fresh kernel of the job's interpreter, below one limit for all its cells."""
    places = {
        "HOME": "home",
        "TMPDIR": "t",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "run",
    }
    for variable, name in places.items():
        (temporary / name).mkdir()
        os.environ[variable] = str(temporary / name)
    kernel = temporary / "data" / "kernels" / "rehearsal"
    kernel.mkdir(parents=True)
    command = [job["python"], "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python", "language": "python"}))

    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    begun = time.monotonic()
    notebook = nbformat.reads(job["notebook"], as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="rehearsal",
        timeout_func=lambda cell: max(1, int(job["limit"] - (time.monotonic() - begun))),
        startup_timeout=300,
        config=Config(ConnectionFileMixin={"transport": "ipc"}),
        resources={"metadata": {"path": os.getcwd()}},  # noqa: PTH109
    )
    error = None
    try:
        client.execute()
    except CellExecutionError as fault:
        error = [fault.ename, fault.evalue]
    except CellTimeoutError:
        error = ["TimeoutError", f"not done after {job['limit']:.0f} seconds"]
    except DeadKernelError:
        error = ["DeadKernelError", "the notebook's process died: out of memory?"]
    return {"notebook": nbformat.writes(notebook), "error": error, "seconds": time.monotonic() - begun}


def limit_resources() -> None:
    """Kaggle's memory and cores, at most: private memory, since address space counts what is only reserved."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def main(job_file: str, result_file: str) -> int:
    """Read the job, raise the walls, run the notebook, write the result; {"refused": why} without namespaces."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    job = json.loads(Path(job_file).read_text())
    scratch = Path(job_file).parent
    limit_resources()
    (scratch / "tmp").mkdir(exist_ok=True)
    calls = [f"walls.without({job['lacking']!r})"]
    with Path(result_file).open("w") as result:  # opened now: behind the walls there is no such path
        if job["namespaces"]:
            _hook_kernel(scratch / "tmp", Path("/tmp"), calls)  # noqa: S108
            try:
                enter_namespaces(job, scratch)
            except (OSError, AttributeError) as error:
                json.dump({"refused": str(error)}, result)
                return 0
            isolation, temporary = "namespaces", Path("/tmp")  # noqa: S108
        else:
            isolation, call = _enter_guard(job, scratch)
            _hook_kernel(scratch / "tmp", scratch / "tmp", [*calls, call])
            temporary = scratch / "tmp"
        json.dump({**_execute(job, temporary), "isolation": isolation}, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
