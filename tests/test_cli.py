"""The command line: every user's mistake is three lines and exit 1, and the verbs do what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from kit import cli, scaffold
from tests.worlds import cassava


@dataclass
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


Kit = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a fork of cassava named leaves, and its tiny host files."""
    scaffold.new("leaves", "cassava", home=tmp_path)
    cassava(tmp_path / "competitions" / "leaves" / "data", rows=40)
    return tmp_path


@pytest.fixture
def kit(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kit:
    """Runs a `kit` command line in this process, at home."""

    def run(*arguments: str) -> Said:
        monkeypatch.setenv("KIT_HOME", str(home))
        monkeypatch.setattr(sys, "argv", ["kit", *arguments])
        # The command line's own alone: torch sets its handler for loader processes once a process.
        quiet = SimpleNamespace(SIGINT=signal.SIGINT, SIGTERM=signal.SIGTERM, signal=lambda *_: None)
        monkeypatch.setattr(cli, "signal", quiet)
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


def refused(said: Said, *words: str) -> None:
    """Exit 1, the three lines on standard error, no traceback, and each of `words` in it."""
    assert said.code == 1, said
    assert "expected:" in said.err and "found:" in said.err and "to do:" in said.err, said.err
    assert "Traceback" not in said.err + said.out
    for word in words:
        assert word in said.err, (word, said.err)


def table(home: Path) -> Path:
    return home / "competitions" / "leaves" / "data" / "train.csv"


FAST = ("--set", "image_size=32", "--set", "epochs=1", "--set", "batch_size=8")


def test_help_lists_every_verb_and_each_verb_has_help(kit: Kit) -> None:
    """`kit --help` names the verbs of this release, and each one explains itself."""
    verbs = (
        "list",
        "new",
        "check",
        "folds",
        "train",
        "runs",
        "blend",
        "bundle",
        "notebook",
        "rehearse",
        "fetch",
        "push",
        "submit",
        "doctor",
        "predict",
        "demo",
    )
    said = kit("--help")
    assert said.code == 0
    for verb in verbs:
        assert f"\n  {verb} " in said.out
        assert kit(verb, "--help").code == 0


def test_help_imports_nothing_heavy() -> None:
    """`kit --help` answers at once because torch, pandas and timm are imported by the verbs that need them."""
    code = "import sys; sys.argv=['kit','--help']\nfrom kit.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += (
        "print([name for name in ('torch','pandas','numpy','timm','albumentations','kaggle') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_wrong_usage_exits_with_2(kit: Kit) -> None:
    """A missing argument is wrong usage, told apart from a fault."""
    assert kit("train").code == 2
    assert kit("bundle", "leaves", "x", "--folds", "one").code in (1, 2)


def test_unknown_names_give_the_nearest(kit: Kit) -> None:
    """A misspelt competition, template, recipe, field, method, run or bundle is named with its nearest neighbour."""
    refused(kit("check", "leavs"), "'leaves'")
    refused(kit("new", "fresh", "--from", "casava"), "'cassava'")
    refused(kit("train", "leaves", "tinny"), "'tiny'")
    refused(kit("train", "leaves", "tiny", "--set", "epoch=3"), "'epochs'")
    refused(kit("train", "leaves", "tiny", "--set", "epochs=many"), "epochs", "many")
    refused(kit("blend", "leaves", "x", "--method", "clim"), "'climb'")
    refused(kit("blend", "leaves", "nothing"), "nothing")
    refused(kit("notebook", "nothing"), "nothing")


def test_a_misspelt_field_in_recipes_is_named(kit: Kit, home: Path) -> None:
    """A recipe with a field that does not exist is a clear error, not a traceback."""
    (home / "competitions" / "leaves" / "recipes.py").write_text(
        "from kit.training import Recipe\ntiny = Recipe(backbon='test_resnet')\n"
    )
    refused(kit("train", "leaves", "tiny"), "'backbone'")


@pytest.mark.parametrize("bug", ["return tabel", "return table[["], ids=["wrong name", "wrong syntax"])
def test_a_bug_in_the_adapter_is_told_with_its_line(kit: Kit, home: Path, bug: str) -> None:
    """An exception in the adapter's own code names type and line instead of a traceback through the kit."""
    adapter = home / "competitions" / "leaves" / "adapter.py"
    adapter.write_text(adapter.read_text().replace("return table.assign", bug + " #", 1))
    refused(kit("folds", "leaves"), "adapter.py, line", "Error")
    assert "FAIL" in kit("check", "leaves").out


def test_missing_host_files_are_told(kit: Kit, home: Path) -> None:
    """A missing data folder, a missing table and a table without a column each say what to do."""
    refused(kit("folds", "leaves", "--data", str(home / "nowhere")), "nowhere", "--data")
    pd.read_csv(table(home)).rename(columns={"label": "lable"}).to_csv(table(home), index=False)
    refused(kit("folds", "leaves"), "'label'", "'lable'", "train.csv")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda frame: pd.concat([frame, frame.iloc[[3]]]), ("repeated", "rows 4, 41")),
        (lambda frame: frame.assign(image_id=frame["image_id"].where(frame.index != 5, "")), ("row 6",)),
        (lambda frame: frame.assign(label=frame["label"].where(frame.index != 7, "9")), ("9",)),
    ],
    ids=["repeated id", "blank id", "label in no class"],
)
def test_bad_rows_are_named(
    kit: Kit, home: Path, spoil: Callable[[pd.DataFrame], pd.DataFrame], words: tuple[str, ...]
) -> None:
    """A repeated id, a blank id and a label outside the classes are named before anything is trained."""
    adapter = home / "competitions" / "leaves" / "adapter.py"
    listed = adapter.read_text().replace(
        'Multiclass("label")', 'Multiclass("label", classes=["0", "1", "2", "3", "4"])'
    )
    adapter.write_text(listed)
    spoil(pd.read_csv(table(home), dtype=str)).to_csv(table(home), index=False)
    refused(kit("train", "leaves", "tiny", *FAST), *words)
    assert not list((home / "competitions" / "leaves").glob("runs/*/fold*/weights.safetensors"))


def test_ids_keep_their_leading_zeros(kit: Kit, home: Path) -> None:
    """Ids are text from the table to the fold file."""
    assert kit("folds", "leaves").code == 0
    frozen = (home / "competitions" / "leaves" / "folds.csv").read_text()
    ids = pd.read_csv(table(home), dtype=str)["image_id"]
    assert any(name.startswith("0") for name in ids)
    assert all(name in frozen for name in ids)


def test_missing_images_are_counted(kit: Kit, home: Path) -> None:
    """Listed files that are not there: up to three are named, all are counted."""
    images = sorted((home / "competitions" / "leaves" / "data" / "train_images").iterdir())
    for path in images[:5]:
        path.unlink()
    refused(kit("train", "leaves", "tiny"), images[0].name, "5 in all")


@pytest.mark.parametrize("spoil", ["truncated", "zero bytes", "not an image"])
def test_a_damaged_image_is_named_and_never_trained_as_grey(kit: Kit, home: Path, spoil: str) -> None:
    """A truncated, empty or foreign file stops training and is named."""
    path = min((home / "competitions" / "leaves" / "data" / "train_images").iterdir())
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "zero bytes": b"", "not an image": b"<html>"}[spoil])
    refused(kit("train", "leaves", "tiny", *FAST), path.name)
    said = kit("check", "leaves")
    assert said.code == 1 and path.name in said.out


def test_a_wrong_extension_is_read_by_content(kit: Kit, home: Path) -> None:
    """A PNG that is called .jpg is an image all the same."""
    path = min((home / "competitions" / "leaves" / "data" / "train_images").iterdir())
    Image.open(path).save(path, format="png")
    assert kit("train", "leaves", "tiny", *FAST, "--smoke").code == 0


def test_more_folds_than_groups_is_refused(kit: Kit, home: Path) -> None:
    """Five folds over three groups cannot be, and the most that can is told."""
    adapter = home / "competitions" / "leaves" / "adapter.py"
    adapter.write_text(adapter.read_text().replace("group=None", 'group="farm"'))
    frame = pd.read_csv(table(home), dtype=str)
    frame.assign(farm=[f"f{row % 3}" for row in range(len(frame))]).to_csv(table(home), index=False)
    refused(kit("folds", "leaves"), "3", "5 folds")


def test_the_report_on_folds_shows_each_label_by_fold(kit: Kit, home: Path) -> None:
    """A table of labels by fold, and the labels that some fold lacks by name."""
    frame = pd.read_csv(table(home), dtype=str)
    frame.loc[frame.index[0], "label"] = "7"
    frame.to_csv(table(home), index=False)
    said = kit("folds", "leaves")
    assert said.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if line.strip()}
    assert rows["label"] == [word for fold in range(5) for word in ("fold", str(fold))]
    assert sorted(rows["7"]) == ["0", "0", "0", "0", "1"]
    assert "7: only in fold" in said.out
    assert "6 labels in label, 1 of them absent from a fold" in said.out


def test_fold_schemes_by_name(kit: Kit, home: Path) -> None:
    """The first scheme is folds.csv by name or without; another has a file of its own; an unknown one is refused."""
    adapter, folder = home / "competitions" / "leaves" / "adapter.py", home / "competitions" / "leaves"
    assert "leave --scheme away" in kit("folds", "leaves", "--scheme", "host").err
    schemes = 'folds = {"even": Folds(5, stratify="label", group=None), "host": Folds(3, group=None)}'
    adapter.write_text(adapter.read_text().replace('folds = Folds(5, stratify="label", group=None)', schemes))
    assert kit("folds", "leaves", "--scheme", "even").code == 0
    assert kit("folds", "leaves", "--scheme", "host").code == 0
    assert kit("folds", "leaves").code == 0
    assert [path.name for path in sorted(folder.glob("folds*.csv"))] == ["folds-host.csv", "folds.csv"]
    assert pd.read_csv(folder / "folds-host.csv")["fold"].max() == 2
    refused(kit("folds", "leaves", "--scheme", "hots"), "'hots'", "even")


def test_a_day_at_the_command_line(kit: Kit, home: Path) -> None:
    """list, check, folds, train one fold, skip it, runs, blend, bundle, predict: each works on the last."""
    shown = kit("list").out
    assert all(part in shown for part in ("leaves", "Multiclass", "accuracy (higher is better)"))
    assert kit("check", "leaves").code == 0
    first = kit("train", "leaves", "tiny", "--fold", "0", *FAST)
    assert first.code == 0 and "1/5" in first.out
    again = kit("train", "leaves", "tiny", "--fold", "0", *FAST)
    assert again.code == 0 and "skipped" in again.out
    assert kit("train", "leaves", "tiny", "--fold", "0", *FAST, "--set", "seed=3").code == 0
    rows = json.loads(kit("runs", "leaves", "--json").out)["runs"]
    names = [row["run"] for row in rows]
    assert len(names) == 2 and all(row["folds"] == "1/5" for row in rows)
    blended = kit("blend", "leaves", *names, "--method", "mean")
    assert blended.code == 0 and "blend-" in blended.out
    blend = json.loads(kit("runs", "leaves", "--json").out)["runs"][-1]["run"]
    packed = kit("bundle", "leaves", blend)
    assert packed.code == 0 and "fold0" in packed.err and "precision: " in packed.err
    bundle = packed.out.split()[0]
    out = home / "submission.csv"
    said = kit("predict", bundle, "--data", str(home / "competitions/leaves/data"), "--out", str(out))
    assert said.code == 0, said
    written = pd.read_csv(out, dtype=str)
    sample = pd.read_csv(home / "competitions/leaves/data/sample_submission.csv", dtype=str)
    assert set(written["image_id"]) == set(sample["image_id"])
    weights = next(Path(bundle).glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    refused(kit("predict", bundle, "--data", str(home), "--out", str(out)), weights.name, "sha256")


def test_runs_on_other_folds_do_not_blend(kit: Kit, home: Path) -> None:
    """Blending runs of two fold tables is refused with both hashes."""
    folder = home / "competitions" / "leaves"
    assert kit("train", "leaves", "tiny", "--fold", "0", *FAST).code == 0
    (folder / "folds.csv").unlink()
    adapter = folder / "adapter.py"
    adapter.write_text(adapter.read_text().replace("group=None", "group=None, seed=7"))
    assert kit("train", "leaves", "tiny", "--fold", "0", *FAST, "--set", "seed=1").code == 0
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/run.json"))]
    hashes = [record["folds"][:12] for record in records]
    assert len(set(hashes)) == 2
    refused(kit("blend", "leaves", *[path.parent.name for path in sorted(folder.glob("runs/*/run.json"))]), *hashes)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no folder /proc/self/fd")
def test_a_full_disk_keeps_what_was_written(kit: Kit, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk full while a run is written: a clear error, no done.json, and the next run with space goes through."""
    real = os.fsync

    def full(handle: int) -> None:
        if "weights.safetensors" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    refused(kit("train", "leaves", "tiny", "--fold", "0", *FAST), "free disk", "weights.safetensors")
    assert not list((home / "competitions" / "leaves").glob("runs/*/fold0/done.json"))
    monkeypatch.setattr(os, "fsync", real)
    assert kit("train", "leaves", "tiny", "--fold", "0", *FAST).code == 0


HELD = """
import fcntl, os, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(f"process {os.getpid()}")
file.flush()
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_run_that_another_process_trains_exits_with_3(kit: Kit, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script can tell it from a fault; what the other has done stays, and once it is killed the command goes on."""
    assert kit("train", "leaves", "tiny", "--fold", "0", *FAST).code == 0
    [run] = (home / "competitions" / "leaves" / "runs").iterdir()
    done = {path: path.read_bytes() for path in sorted(run.glob("fold0/*"))}
    monkeypatch.setattr("kit.training.rundir.time.sleep", lambda seconds: None)
    start = [sys.executable, "-c", HELD, str(run / "run.lock")]
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        said = kit("train", "leaves", "tiny", "--fold", "1", *FAST)
        other.kill()
    assert said.code == 3
    assert f"process {other.pid}" in said.err and "to do:" in said.err
    assert {path: path.read_bytes() for path in sorted(run.glob("fold*/*"))} == done
    assert kit("train", "leaves", "tiny", "--fold", "1", *FAST).code == 0


def test_the_real_kaggle_client_starts() -> None:
    """The `kaggle` command of this environment runs: 2.2.5 imports a package that it does not ask for."""
    kaggle = Path(sys.executable).with_name("kaggle")
    done = subprocess.run([kaggle, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "2." in done.stdout, done.stderr


def test_a_missing_file_in_the_adapter_is_told_with_its_line(kit: Kit, home: Path) -> None:
    """An adapter that opens a file for itself, which is not there: three lines, no traceback."""
    adapter = home / "competitions" / "leaves" / "adapter.py"
    text = adapter.read_text()
    assert "        table = read_table(" in text
    opened = '        open(data / "none.csv")\n        table = read_table('
    adapter.write_text(text.replace("        table = read_table(", opened, 1))
    said = kit("folds", "leaves")
    assert said.code == 1
    assert "none.csv" in said.err and "adapter.py" in said.err and "Traceback" not in said.err


def test_a_fault_in_a_loader_process_is_told(kit: Kit, home: Path) -> None:
    """A damaged image that a worker process meets is named as in this process."""
    image = sorted((home / "competitions" / "leaves" / "data" / "train_images").iterdir())[3]
    image.write_bytes(image.read_bytes()[:200])
    settings = ["cache=off", "workers=1", "pretrained=false", "image_size=32", "backbone=test_resnet", "epochs=1"]
    said = kit("train", "leaves", "tiny", *(word for one in settings for word in ("--set", one)))
    assert said.code == 1
    assert image.name in said.err and "Traceback" not in said.err


def test_the_demo_deletes_no_data_of_a_competitor(kit: Kit, home: Path) -> None:
    """A competition called digits that no demo made keeps its host files."""
    scaffold.new("digits", "cassava", home=home)
    kept = home / "competitions" / "digits" / "data" / "train.csv"
    kept.parent.mkdir()
    kept.write_text("image_id,label\n")
    said = kit("demo", "--home", str(home))
    assert said.code == 1 and "--home" in said.err
    assert kept.read_text() == "image_id,label\n"


def test_an_unfinished_adapter_hides_no_other(kit: Kit, home: Path) -> None:
    """`kit list` shows what it can, says which adapter is broken, and skips folders that are no competition's name."""
    for name in ("half", "my-notes"):
        folder = home / "competitions" / name
        folder.mkdir()
        (folder / "adapter.py").write_text("from kit import Competition\n\n\nclass Adapter(Competition):\n    pass\n")
    said = kit("list")
    assert said.code == 0 and "kit check half tells more" in said.out
    assert "cassava-leaf-disease" in said.out or "leaves" in said.out
    assert "my-notes" not in said.out


def test_a_group_that_is_declared_after_folds_were_frozen_is_refused(kit: Kit, home: Path) -> None:
    """Frozen folds that split the new group would train with a leak: folds and train say so, and what to do."""
    adapter = home / "competitions" / "leaves" / "adapter.py"
    assert kit("folds", "leaves").code == 0
    text = adapter.read_text().replace("group=None", 'group="label"')
    adapter.write_text(text)
    for said in (kit("folds", "leaves"), kit("train", "leaves", "tiny")):
        assert said.code == 1 and "in several" in said.err and "delete folds.csv" in said.err
    assert not (home / "competitions" / "leaves" / "runs").exists()


@pytest.mark.parametrize(
    ("folds", "words"),
    [('group="tree"', ("a column 'tree'", "the folds' group")), ('stratify="labels", group=None', ("'label'",))],
)
def test_folds_that_name_no_column_are_told_though_they_are_frozen(
    kit: Kit, home: Path, folds: str, words: tuple[str, ...]
) -> None:
    """The same words as before they were frozen, and no traceback."""
    adapter = home / "competitions" / "leaves" / "adapter.py"
    assert kit("folds", "leaves").code == 0
    text = adapter.read_text()
    assert 'stratify="label", group=None' in text
    adapter.write_text(text.replace('stratify="label", group=None', folds))
    for said in (kit("folds", "leaves"), kit("train", "leaves", "tiny")):
        assert said.code == 1 and all(word in said.err for word in words)
    adapter.write_text(text.replace("Folds(5,", "Folds(4,"))
    said = kit("folds", "leaves")
    assert said.code == 0 and "holds 5 folds, the adapter now says 4" in said.out + said.err


def test_a_training_that_cannot_begin_leaves_no_run(kit: Kit, home: Path) -> None:
    """A backbone or weights that cannot be had are told before a run appears in kit runs."""
    for setting in ("backbone=resnet5O", "pretrained=offline_weights/none.safetensors", "optimizer=adamx"):
        said = kit("train", "leaves", "tiny", "--set", setting)
        assert said.code == 1 and "Traceback" not in said.err
    assert not (home / "competitions" / "leaves" / "runs").exists()


def test_settings_are_told_in_words(kit: Kit) -> None:
    """A value of another type names the type as people write it; a field without a value asks for one."""
    assert "a value of type int\n" in kit("train", "leaves", "tiny", "--set", "epochs=abc").err
    assert "write epochs=VALUE" in kit("train", "leaves", "tiny", "--set", "epochs").err
