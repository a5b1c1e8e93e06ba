"""Peak memory is that of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kit.offline.memory import peak_memory_mb

TELL = "del held\nfrom kit.offline.memory import peak_memory_mb\nprint(peak_memory_mb())"


def peak_of_child(megabytes: int) -> int:
    """What a fresh Python tells that holds so many megabytes for a moment."""
    code = f"held = bytearray({megabytes} * 10**6)\n" + TELL
    root = Path(__file__).parents[2]
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=root).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage says what it says")
def test_the_peak_is_kept_and_that_of_the_parent_is_not_counted() -> None:
    """Memory that was given back counts; what this process holds while it starts another is not the other's."""
    held = np.ones(400 * 10**6, np.uint8)
    assert peak_memory_mb() > held.nbytes / 1e6
    small, large = peak_of_child(0), peak_of_child(200)
    assert small < 200 <= large < small + 250
