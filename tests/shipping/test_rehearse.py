"""The walls of the rehearsal hold, both layouts are walked, and what goes wrong is told in the notebook's words."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from kit.offline.errors import DataError, KitError, SubmissionError
from kit.offline.frames import read_table
from kit.offline.predict import predict_bundle
from kit.shipping.notebook import render_notebook
from kit.shipping.rehearse import Executed, Isolation, Walk, _seconds_per_row, rehearse, run_notebook, stage_hidden
from tests.shipping.conftest import World

ROOT = Path(__file__).parents[2]

PROBE = """
import errno, importlib, json, os, socket
from pathlib import Path

said = {}

def tried(name, action):
    try:
        said[name] = str(action())
    except OSError as error:
        said[name] = "gaierror" if isinstance(error, socket.gaierror) else errno.errorcode.get(error.errno, str(error))
    except ImportError:
        said[name] = "ImportError"

inputs = Path(os.environ.get("KIT_INPUT", "/kaggle/input"))
held = inputs / "competitions" / "tiles"
tried("address", lambda: socket.create_connection(("192.0.2.1", 80), timeout=5))
tried("name", lambda: socket.getaddrinfo("example.com", 80))
tried("datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)))
tried("read", lambda: (held / "train.csv").read_text())
tried("overwrite", lambda: (held / "train.csv").write_text("x"))
tried("append", lambda: (held / "train.csv").open("a"))
tried("create", lambda: (held / "more.csv").write_text("x"))
tried("remove", lambda: (held / "train.csv").unlink())
tried("rename", lambda: (held / "train.csv").rename(held / "other.csv"))
tried("folder", lambda: (held / "more").mkdir())
for name in ("kit", "kit.offline.predict", "kit.training", "competitions"):
    tried(name, lambda: importlib.import_module(name))
tried("torch", lambda: importlib.util.find_spec("torch").name)
tried("work", lambda: Path("out.txt").write_text("kept"))
tried("home", lambda: (Path.home() / "cache").write_text("x"))
said["environment"] = sorted(os.environ)
said["checkout"] = os.listdir(ROOT) if os.path.isdir(ROOT) else []
print(json.dumps(said))
"""


def notebook_of(*cells: str) -> str:
    """A notebook's JSON."""
    return nbformat.writes(new_notebook(cells=[new_code_cell(cell) for cell in cells]))


def run_behind(isolation: Isolation, *arguments: object, **named: object) -> Executed:
    """run_notebook; skipped where the kernel gives no namespaces to anybody, util-linux's unshare included."""
    try:
        return run_notebook(*arguments, isolation=isolation, **named)  # type: ignore[arg-type]
    except KitError as error:
        theirs = subprocess.run(["sh", "-c", "unshare -rmn true"], capture_output=True, check=False).returncode == 0
        if isolation == "namespaces" and "Linux namespaces" in error.expected and not theirs:
            pytest.skip(f"no user namespaces here: {error.found}")
        raise


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A small input folder."""
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "train.csv").write_text("as it was")
    return tmp_path / "held"


@pytest.mark.parametrize("isolation", ["namespaces", "guard"])
def test_the_walls_hold(held: Path, tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no writing to inputs, no module of this checkout, no inherited setting or secret; work is kept."""
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    monkeypatch.setenv("KIT_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    working = tmp_path / "working"
    working.mkdir()
    cell = PROBE.replace("ROOT", repr(str(ROOT)))
    executed = run_behind(isolation, notebook_of(cell), {"competitions/tiles": held}, working, 100)
    assert executed.error is None, executed.error
    outputs = nbformat.reads(executed.notebook, as_version=4).cells[0].outputs
    said = json.loads(next(output.text for output in outputs if output.get("name") == "stdout"))
    assert said["address"] == said["datagram"] == "ENETUNREACH"
    assert said["name"] in ("gaierror", "ENETUNREACH")
    assert said["read"] == "as it was"
    for change in ("overwrite", "append", "create", "remove", "rename", "folder"):
        assert said[change] == "EROFS", change
    for module in ("kit", "kit.offline.predict", "kit.training", "competitions"):
        assert said[module] == "ImportError", module
    assert said["torch"] == "torch"
    assert said["work"] == "4" and (working / "out.txt").read_text() == "kept"
    assert not {"KAGGLE_KEY", "KIT_HOME"} & set(said["environment"])
    assert (held / "train.csv").read_text() == "as it was" and len(list(held.iterdir())) == 1
    if isolation == "namespaces":
        assert executed.isolation == "namespaces"
        assert set(said["checkout"]) <= {".venv", "venv"}
        assert "KIT_INPUT" not in said["environment"]
    else:
        assert executed.isolation in ("seccomp", "python")


def test_a_module_of_a_hidden_folder_is_out_of_reach_of_the_guard(tmp_path: Path, held: Path) -> None:
    """Even where it is on the import path; a wheel among the inputs is not, though it lies in a hidden home."""
    (tmp_path / "home" / "input").mkdir(parents=True)
    (tmp_path / "home" / "stays_home.py").write_text("")
    (tmp_path / "home" / "input" / "travels.py").write_text("")
    cell = f"""
import os, sys
sys.path[:0] = [{str(tmp_path / "home")!r}, os.environ["KIT_INPUT"] + "/bundle"]
import travels
import stays_home
"""
    working = tmp_path / "working"
    working.mkdir()
    inputs = {"bundle": tmp_path / "home" / "input"}
    executed = run_notebook(notebook_of(cell), inputs, working, 100, [tmp_path / "home"], isolation="guard")
    assert executed.error is not None and executed.error[0] == "ModuleNotFoundError"
    assert "stays_home" in executed.error[1]


@pytest.mark.parametrize("isolation", ["namespaces", "guard"])
def test_a_notebook_that_takes_too_long_is_ended(tmp_path: Path, isolation: Isolation) -> None:
    """The limit is one for all its cells; what it did before is kept, and its process is gone."""
    cells = ("import os, time\nprint(os.getpid(), flush=True)", "time.sleep(900)", "print('after')")
    executed = run_behind(isolation, notebook_of(*cells), {}, tmp_path, 6)
    assert executed.error is not None and executed.error[0] == "TimeoutError"
    first, _, last = nbformat.reads(executed.notebook, as_version=4).cells
    assert first.outputs and not last.outputs
    assert not Path("/proc", first.outputs[0].text.strip()).exists()


def test_a_dead_process_is_told(tmp_path: Path) -> None:
    """As when memory runs out."""
    executed = run_notebook(notebook_of("import os\nos._exit(9)"), {}, tmp_path, 100)
    assert executed.error is not None and executed.error[0] == "DeadKernelError"


def test_both_layouts_and_the_same_bytes_as_at_home(world: World, tmp_path: Path) -> None:
    """The given test set under the old mounts, staged train rows under the new; files are kept, the report is true."""
    lines: list[str] = []
    report = rehearse(world.bundle, world.data, world.home, rows=24, say=lines.append)
    kept = Path(report.folder)
    given, hidden = report.runs
    assert (given.name, given.layout, given.rows) == ("given", "old", 7)
    assert (hidden.name, hidden.layout, hidden.rows) == ("hidden", "new", 24)
    predict_bundle(world.bundle, world.data, tmp_path / "home.csv")
    assert (kept / "submission.csv").read_bytes() == (tmp_path / "home.csv").read_bytes()
    assert report.equal_to_home
    assert json.loads((kept / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))
    assert (kept / "given.ipynb").is_file() and (kept / "hidden.ipynb").is_file()
    said = {name: (kept / f"{name}.ipynb").read_text() for name in ("given", "hidden")}
    if report.isolation == "namespaces":
        assert "7 rows of /kaggle/input/coloured-tiles," in said["given"]
        assert "24 rows of /kaggle/input/competitions/coloured-tiles," in said["hidden"]
    truth = world.ground.frame.set_index("sample_id")["kind"]
    table = read_table(kept / "hidden-submission.csv").set_index("tile")["kind"]
    assert hidden.score == pytest.approx((table == truth.loc[table.index]).mean())
    assert report.oof_score == json.loads((world.run.folder / "score.json").read_text())["pooled"]
    assert any("flatters" in line for line in lines)
    assert report.seconds_per_row is not None and report.minutes_for_hidden == pytest.approx(
        report.seconds_per_row * 50_000 / 60
    )


def test_an_empty_test_set_and_a_machine_without_namespaces(
    world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public run of some competitions mounts no test rows: a header is written. The guard walks the same road."""
    monkeypatch.setattr("kit.shipping.rehearse.predict_at_home", predict_bundle)
    report = rehearse(bundle, world.data, world.home, rows=0, say=lambda _: None, isolation="guard")
    assert report.isolation in ("seccomp", "python")
    assert [walk.rows for walk in report.runs] == [7, 0]
    assert (Path(report.folder) / "hidden-submission.csv").read_text() == "tile,kind\n"
    assert report.runs[1].score is None


def test_where_no_test_row_is_shown_the_adapter_must_stage(world: World, tmp_path: Path) -> None:
    """The default stage_test copies into the folder of the host's test files, and here there is none to see."""
    data = Path(shutil.copytree(world.data, tmp_path / "data"))
    shutil.rmtree(data / "test")
    (data / "test").mkdir()
    with pytest.raises(DataError, match="override stage_test"):
        stage_hidden(world.competition, world.ground.frame, data, tmp_path / "staged", 5)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("pass", "submission.csv in the working folder"),
        ("open('submission.csv', 'w').write('tile,kind\\nx,red\\n')", "the 7 ids of sample_submission.csv"),
    ],
)
def test_a_broken_notebook_is_a_clear_error(world: World, bundle: Path, edit: str, expected: str) -> None:
    """The cell's own error, or what its file lacks; the executed notebook stays, a report does not."""
    folder = render_notebook(bundle)
    notebook = nbformat.read(folder / "submit.ipynb", as_version=4)
    notebook.cells[1].source = "\n".join(["# " + line for line in notebook.cells[1].source.splitlines()] + [edit])
    for cell in notebook.cells[2:]:
        cell.source = "pass"
    nbformat.write(notebook, folder / "submit.ipynb")
    with pytest.raises(SubmissionError) as caught:
        rehearse(bundle, world.data, world.home, say=lambda _: None)
    assert expected in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert (folder / "rehearsal" / "given.ipynb").is_file()
    assert not (folder / "rehearsal" / "report.json").exists()


def test_another_file_than_the_home_would_write_is_refused(
    world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submission that passes every check may still not be the bundle's."""
    folder = render_notebook(bundle)
    notebook = nbformat.read(folder / "submit.ipynb", as_version=4)
    notebook.cells[2].source = (
        "import pandas as pd\n"
        "sample = pd.read_csv(inputs / 'coloured-tiles' / 'sample_submission.csv', dtype=str)\n"
        "sample.assign(kind='violet').to_csv('submission.csv', index=False)"
    )
    for cell in notebook.cells[3:]:
        cell.source = "pass"
    nbformat.write(notebook, folder / "submit.ipynb")
    monkeypatch.setattr("kit.shipping.rehearse.predict_at_home", predict_bundle)
    with pytest.raises(SubmissionError, match="violet"):
        rehearse(bundle, world.data, world.home, say=lambda _: None)


def test_the_staged_test_set_tells_no_label(world: World, tmp_path: Path) -> None:
    """Only what a host mounts: images and a constant sample; the same rows each time, not in the order of train."""
    frame = world.ground.frame
    rows = stage_hidden(world.competition, frame, world.data, tmp_path / "one", 12)
    again = stage_hidden(world.competition, frame, world.data, tmp_path / "two", 12)
    pd.testing.assert_frame_equal(rows, again)
    assert len(rows) == 12
    files = {path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert files == {"sample_submission.csv", *(f"test/{name}.png" for name in rows["sample_id"])}
    assert read_table(tmp_path / "one" / "sample_submission.csv")["kind"].nunique() == 1
    positions = [frame["sample_id"].tolist().index(name) for name in rows["sample_id"]]
    assert positions != sorted(positions)
    everything = stage_hidden(world.competition, frame, world.data, tmp_path / "all")
    assert len(everything) == 40


def test_units_are_staged_whole(world: World, tmp_path: Path) -> None:
    """A study of several images is one unit for the host: half of it would be another test set."""
    pairs = world.ground.frame.assign(unit_id=[f"unit{at // 4}" for at in range(40)])
    competition = type(world.competition)()
    competition.stage_test = lambda rows, data, out: rows.to_csv(out / "rows.csv", index=False)  # type: ignore[method-assign]
    competition.test_frame = lambda data: read_table(data / "rows.csv")  # type: ignore[method-assign]
    rows = stage_hidden(competition, pairs, world.data, tmp_path / "staged", 10)
    assert len(rows) == 12 and (rows["unit_id"].value_counts() == 4).all()


def test_unscored_rows_are_not_staged(world: World, tmp_path: Path) -> None:
    """They train and are never scored, at home as in the rehearsal."""
    frame = world.ground.frame.assign(scored=[at >= 30 for at in range(40)])
    rows = stage_hidden(world.competition, frame, world.data, tmp_path / "staged")
    assert set(rows["sample_id"]) == set(frame["sample_id"].iloc[30:])


def test_staging_that_the_adapter_does_not_read_back_is_told(world: World, tmp_path: Path) -> None:
    """Else the rehearsal would score other rows than it staged."""
    competition = type(world.competition)()
    competition.stage_test = (
        lambda rows, data, out: type(competition).stage_test(  # type: ignore[method-assign]
            world.competition, rows.iloc[1:], data, out
        )
    )
    with pytest.raises(DataError, match="stage_test"):
        stage_hidden(competition, world.ground.frame, world.data, tmp_path / "staged", 5)


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [
        ((7, 2.0), (200, 5.86), 0.02),
        ((7, 2.0), (40, 4.0), 0.1),
        ((200, 9.0), (1000, 8.0), 0.008),
        ((0, 1.0), (0, 2.0), None),
    ],
)
def test_seconds_a_row(few: tuple[int, float], many: tuple[int, float], expected: float | None) -> None:
    """From the difference of the runs where it is large enough to tell, else the larger run's mean."""
    walks = [Walk("given", "old", rows, seconds + 9, seconds, "submission.csv") for rows, seconds in (few, many)]
    for first, second in (walks, walks[::-1]):
        found = _seconds_per_row(first, second)
        assert found is None if expected is None else found == pytest.approx(expected)
