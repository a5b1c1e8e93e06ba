"""How much memory this process has had at its peak."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def peak_memory_mb() -> int:
    """Peak resident memory of this process in MB.

    Linux keeps it in /proc; getrusage, which serves elsewhere, counts there the memory of the process that this one was
    forked from as well.
    """
    try:
        told = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        told = None
    if told:
        return round(int(told[1]) * 1024 / 1e6)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
