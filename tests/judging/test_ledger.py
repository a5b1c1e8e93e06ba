"""The ledger keeps every line whole, in order, and refuses what would break its table."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit.judging.ledger import COLUMNS, FILE, append, read
from kit.offline.errors import DataError

ROOT = Path(__file__).parents[2]


def test_lines_come_back_in_order_under_one_header(tmp_path: Path) -> None:
    """A header once, then a line an append, dated; what is None or not named is empty."""
    append(tmp_path, "submit", bundle="kit-é-1", submission=7, public=None, oof=0.5)
    append(tmp_path, "run", run="small-1a2b3c")
    assert (tmp_path / FILE).read_text().splitlines()[0] == "\t".join(COLUMNS)
    first, second = read(tmp_path)
    assert (first["event"], first["bundle"], first["submission"], first["public"]) == ("submit", "kit-é-1", "7", "")
    assert second["run"] == "small-1a2b3c" and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", second["date"])


def test_no_ledger_has_no_lines(tmp_path: Path) -> None:
    """A competition that was never submitted to has an empty ledger, not a fault."""
    assert read(tmp_path) == []


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\rb", "a\x0bb", "a\u2028b", "a\x85b"])
def test_a_cell_that_would_break_the_table_is_refused(tmp_path: Path, text: str) -> None:
    """Tabs and anything that a reader takes for the end of a line; nothing is written then."""
    with pytest.raises(DataError, match="'note'"):
        append(tmp_path, "submit", note=text)
    assert not (tmp_path / FILE).exists()


def test_a_column_that_is_not_there_is_named_with_its_neighbour(tmp_path: Path) -> None:
    """A misspelt column is an error, not a cell that is dropped."""
    with pytest.raises(DataError, match="'public'"):
        append(tmp_path, "submit", publik=1)


def test_another_table_is_not_appended_to(tmp_path: Path) -> None:
    """A file of that name with other columns is left as it is."""
    (tmp_path / FILE).write_text("date\tscore\n")
    for act in (lambda: append(tmp_path, "submit"), lambda: read(tmp_path)):
        with pytest.raises(DataError, match="columns"):
            act()
    assert (tmp_path / FILE).read_text() == "date\tscore\n"


def test_a_torn_line_is_named_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    """What a crash of the machine left of a line stays apart from the line that follows."""
    append(tmp_path, "submit", submission=1)
    with (tmp_path / FILE).open("a") as file:
        file.write("2026-11-2")
    append(tmp_path, "submit", submission=2)
    with pytest.raises(DataError, match="line 3"):
        read(tmp_path)
    assert (tmp_path / FILE).read_text().splitlines()[3].split("\t")[6] == "2"


APPENDING = """
import sys
from pathlib import Path
from kit.judging.ledger import append
print("ready", flush=True)
append(Path(sys.argv[1]), "run", run="second")
"""


def test_two_processes_write_one_header(tmp_path: Path) -> None:
    """A process that comes while another writes the first line waits for it."""
    handle = os.open(tmp_path / FILE, os.O_RDWR | os.O_CREAT)
    fcntl.lockf(handle, fcntl.LOCK_EX)
    command = [sys.executable, "-c", APPENDING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        os.write(handle, ("\t".join(COLUMNS) + "\n").encode())
        os.close(handle)
    assert [line["run"] for line in read(tmp_path)] == ["second"]
