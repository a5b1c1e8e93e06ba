"""The walls of the rehearsal hold, both layouts are walked, and what goes wrong is told in the notebook's words."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from safetensors.torch import load, save

from kit.offline.errors import BundleError, KitError, SubmissionError
from kit.offline.frames import read_table
from kit.offline.manifest import open_bundle
from kit.offline.predict import predict_bundle
from kit.shipping.notebook import render_notebook
from kit.shipping.rehearse import Executed, Isolation, rehearse, run_notebook
from tests.shipping.conftest import World, reseal
from tests.shipping.gateways import adapter_that_serves, write_gateway

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


def test_every_case_passes_and_the_report_is_true(world: World, tmp_path: Path) -> None:
    """The given test set under the old mounts, staged train rows under the new, spoilt ones, none; files are kept."""
    lines: list[str] = []
    report = rehearse(world.bundle, world.data, world.home, rows=24, say=lines.append).require()
    kept = Path(report.folder)
    given, hidden, spoilt, empty = report.cases
    assert (given.name, given.layout, given.rows) == ("given", "old", 7)
    assert (hidden.name, hidden.layout, hidden.rows, hidden.unreadable) == ("hidden", "new", 24, 0)
    # Cut in half, without a byte, and of 16 bits, which `read` refuses; test_frame lists files, so none can lack.
    assert (spoilt.name, spoilt.rows, spoilt.unreadable) == ("spoilt", 24, 3)
    assert (empty.name, empty.rows) == ("empty", 0)
    assert (kept / "empty-submission.csv").read_text() == "tile,kind\n"
    predict_bundle(world.bundle, world.data, tmp_path / "home.csv")
    assert report.submission.read_bytes() == (tmp_path / "home.csv").read_bytes()
    assert json.loads((kept / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))
    said = {name: (kept / f"{name}.ipynb").read_text() for name in ("given", "hidden")}
    assert "predicted again: as at home" in said["given"] and "predicted again" not in said["hidden"]
    if report.isolation == "namespaces":
        assert "data in /kaggle/input/coloured-tiles" in said["given"]
        assert "data in /kaggle/input/competitions/coloured-tiles" in said["hidden"]
    truth = world.ground.frame.set_index("sample_id")["kind"]
    table = read_table(kept / "hidden-submission.csv").set_index("tile")["kind"]
    assert hidden.score == pytest.approx((table == truth.loc[table.index]).mean())
    assert report.oof_score == json.loads((world.run.folder / "score.json").read_text())["pooled"]
    assert report.estimate is not None and report.estimate.rows == 24 and report.estimate.minutes > 0
    assert sum(line.startswith("ok  ") for line in lines) == 4 and any("flatter" in line for line in lines)


def test_a_machine_without_namespaces(world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard walks the same road."""
    monkeypatch.setattr("kit.shipping.rehearse.predict_at_home", predict_bundle)
    report = rehearse(bundle, world.data, world.home, say=lambda _: None, isolation="guard", cases=("given",)).require()
    assert report.isolation in ("seccomp", "python")
    assert [(case.rows, case.score) for case in report.cases] == [(7, None)]


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
    """The cell's own error, or what its file lacks; the executed notebook stays, and the report says the same."""
    folder = render_notebook(bundle)
    notebook = nbformat.read(folder / "submit.ipynb", as_version=4)
    notebook.cells[1].source = "\n".join(["# " + line for line in notebook.cells[1].source.splitlines()] + [edit])
    for cell in notebook.cells[2:]:
        cell.source = "pass"
    nbformat.write(notebook, folder / "submit.ipynb")
    report = rehearse(bundle, world.data, world.home, say=lambda _: None, cases=("given",))
    with pytest.raises(SubmissionError) as caught:
        report.require()
    assert not report.ok and expected in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert (folder / "rehearsal" / "given.ipynb").is_file()
    assert not json.loads((folder / "rehearsal" / "report.json").read_text())["ok"]


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
        rehearse(bundle, world.data, world.home, say=lambda _: None, cases=("given",)).require()


def planted(world: World, bundle: Path, code: str, model: str = "") -> None:
    """Put code into the adapter of a bundle, and a model.py beside it."""
    adapter = (world.home / "competitions" / "tiles" / "adapter.py").read_text()
    files = {"competitions/tiles/adapter.py": adapter + code}
    reseal(bundle, {**files, "competitions/tiles/model.py": model} if model else files)


DIALS = """
    def read(self, row, data, how):
        from urllib.request import urlopen

        urlopen("http://192.0.2.1/weights", timeout=5)
        return super().read(row, data, how)
"""
KNOWS_ITS_WAY = """
    def test_frame(self, data):
        import os
        from pathlib import Path

        if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
            data = Path("/kaggle/input/coloured-tiles")
        names = [path.stem for path in frames.list_files(data / "test", [".png"])]
        return pd.DataFrame({"sample_id": names, "path": [f"test/{name}.png" for name in names]})
"""
COUNTS = """
    def test_frame(self, data):
        files = frames.list_files(data / "test", [".png"])
        pairs = zip(read_table(data / "sample_submission.csv")["tile"], files)
        return pd.DataFrame([(name, f"test/{file.name}") for name, file in pairs], columns=["sample_id", "path"])
"""
SORTS = """
    def test_frame(self, data):
        names = read_table(data / "sample_submission.csv")["tile"]
        return pd.DataFrame({"sample_id": names, "path": "test/" + names + ".png"})

    def submission(self, answers, units):
        return pd.DataFrame({"tile": sorted(units.index), "kind": answers["kind"].to_numpy()})
"""
IMPORTS = """
    def read(self, row, data, how):
        import segmentation_models_pytorch

        return super().read(row, data, how)
"""


@pytest.mark.parametrize(
    ("code", "cases", "failing", "said"),
    [
        (DIALS, ("given",), "given", "unreachable"),
        (KNOWS_ITS_WAY, ("hidden",), "hidden", "/kaggle/input/coloured-tiles/test"),
        (COUNTS, ("spoilt",), "spoilt", "match by id in test_frame, never by position"),
        (SORTS, ("hidden", "spoilt"), "spoilt", "match by id in `submission`"),
        (IMPORTS, ("given",), "given", "`wheels` of the adapter"),
    ],
    ids=["a call to the network", "a hard-coded path", "files by number", "answers by number", "a missing wheel"],
)
def test_a_planted_defect_is_found(
    world: World, bundle: Path, code: str, cases: tuple[str, ...], failing: str, said: str
) -> None:
    """In the case that shows it, and in words that name it. What goes by number passes until the sample submission
    comes in another order."""
    planted(world, bundle, code)
    report = rehearse(bundle, world.data, world.home, rows=24, say=lambda _: None, cases=cases)
    [(name, fault)] = [(case.name, case.fault) for case in report.cases if case.fault]
    assert not report.ok and name == failing and said in str(fault), fault


def test_a_changed_weight_is_found(world: World, bundle: Path) -> None:
    """One bit is refused by the name of its file before anything runs; with a manifest that was made to fit, by the
    golden inputs."""
    weights = bundle / open_bundle(bundle).members[0].file
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x40
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=weights.name):
        rehearse(bundle, world.data, world.home, say=lambda _: None)
    content[-2] ^= 0x40
    weights.write_bytes(save({name: 1.5 * value for name, value in load(bytes(content)).items()}))
    reseal(bundle)
    [case] = rehearse(bundle, world.data, world.home, say=lambda _: None, cases=("given",)).cases
    assert weights.name in str(case.fault) and "golden" in str(case.fault)


NAP = 0.4
"""Seconds of each forward pass: two members with two views each take four for the seven rows."""
SLOW = f"""
import time

from kit.offline.models import create_backbone


def build(spec, task):
    network = create_backbone(spec)
    network.register_forward_pre_hook(lambda *_: time.sleep({NAP}))
    return network
"""


def test_a_slow_member_is_found(world: World, bundle: Path) -> None:
    """Every case passes; the hidden set's 50,000 rows would take longer than the host's 30 minutes."""
    planted(world, bundle, "", SLOW)
    report = rehearse(bundle, world.data, world.home, say=lambda _: None, cases=("given",))
    assert [case.fault for case in report.cases] == [None] and not report.ok
    assert report.estimate is not None and report.estimate.seconds_per_row > 4 * NAP / 7
    with pytest.raises(SubmissionError, match="a rerun within 30 minutes"):
        report.require()


def test_modules_that_kaggle_lacks_are_found_in_the_bundle_alone(tmp_path: Path) -> None:
    """As on Kaggle: not among what is installed here; where a wheel brings them, first or last on the path, there.
    Those that stand in for a wheel are left alone."""
    brought = tmp_path / "brought"
    (brought / "segmentation_models_pytorch").mkdir(parents=True)
    (brought / "segmentation_models_pytorch" / "__init__.py").write_text("from . import inner\nwho = inner.who")
    (brought / "segmentation_models_pytorch" / "inner.py").write_text("who = 'the bundle'")
    working = tmp_path / "working"
    working.mkdir()
    cells = (
        "try:\n    import segmentation_models_pytorch\nexcept ImportError as error:\n    print(error)",
        "import sys\nsys.path.append(BROUGHT)\nimport segmentation_models_pytorch as smp\nprint(smp.who)",
        "import gdcm",
    )
    where = "import os\nBROUGHT = os.environ.get('KIT_INPUT', '/kaggle/input') + '/brought'"
    executed = run_notebook(notebook_of(where, *cells), {"brought": brought}, working, 100, here=("gdcm", "_gdcm"))
    assert executed.error is None, executed.error
    _, first, second, _ = nbformat.reads(executed.notebook, as_version=4).cells
    assert "Kaggle's image lacks" in first.outputs[0].text
    assert second.outputs[0].text.strip() == "the bundle"


def test_a_wheel_for_another_python_is_stood_in_for(
    world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip of this Python refuses it, and Kaggle's would not: the installed copy is imported, which is said."""
    wheel = "python_gdcm-3.2.6-cp36-cp36m-manylinux2014_x86_64.whl"
    with zipfile.ZipFile(bundle / wheel, "w"):
        pass
    planted(world, bundle, IMPORTS.replace("segmentation_models_pytorch", "gdcm"))
    monkeypatch.setattr("kit.shipping.rehearse.predict_at_home", predict_bundle)
    lines: list[str] = []
    report = rehearse(bundle, world.data, world.home, say=lines.append, cases=("given",)).require()
    assert report.untried == (wheel,)
    assert f"{wheel} is for another Python: the installed copy (_gdcm, gdcm) stands in" in "\n".join(lines)


def test_a_server_is_asked_by_the_hosts_own_gateway(world: World, bundle: Path, tmp_path: Path) -> None:
    """On the given test set alone; and what it was told is compared with kit predict: here every answer is another."""
    run_behind("namespaces", notebook_of("1"), {}, tmp_path, 60)  # the guard lets no notebook ask itself over sockets
    data = write_gateway(Path(shutil.copytree(world.data, tmp_path / "data")))
    wrong = "\n    def serve_answer(self, table, *batch):\n        return table.assign(kind='violet')\n"
    reseal(bundle, {"competitions/tiles/adapter.py": adapter_that_serves(world) + wrong})
    lines: list[str] = []
    report = rehearse(bundle, data, world.home, say=lines.append, isolation="namespaces")
    [case] = report.cases
    assert case.name == "given" and any("gateway" in line for line in lines)
    assert any("no clock" in line for line in lines)
    assert "to answer as kit predict does" in str(case.fault) and "7 of 7 rows differ" in str(case.fault)
    assert set(read_table(Path(report.folder) / "submission.csv")["kind"]) == {"violet"}
