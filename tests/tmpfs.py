"""Small filesystems for tests: a program of its own, in a namespace where one of its folders is little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MOUNTED = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@"'

PROBE = ("unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/tmp")
"""What the kernel must allow, whatever the test asks for: a test that asks wrongly fails, and is not skipped."""


def run_on_tmpfs(place: Path, size: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python `code` with a new tmpfs of `size` (as "10m") at `place`; skip where unshare or mount is refused."""

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        walls = ["unshare", "-rm", "sh", "-c", MOUNTED, "sh", size, str(place)]
        return subprocess.run([*walls, *command], capture_output=True, text=True, timeout=300)

    try:
        allowed = subprocess.run(PROBE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if allowed.returncode:
        pytest.skip(f"no user namespaces here: {allowed.stderr.strip()}")
    return run(sys.executable, "-c", code, *arguments)
