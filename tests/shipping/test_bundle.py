"""A bundle is flat, whole, hashed, the same for the same inputs, and says nothing about the machine that made it."""

from __future__ import annotations

import getpass
import json
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kit import Multiclass
from kit.offline import manifest as manifests
from kit.offline.errors import BundleError, RunError
from kit.offline.files import sha256_of, write_json
from kit.offline.manifest import open_bundle
from kit.offline.places import load_competition
from kit.offline.predict import competition_in
from kit.offline.tasks import settings_of
from kit.shipping.bundle import bundle_name, find_bundle, make_bundle, write_wheel
from kit.training.ensemble import blend_runs
from kit.training.fanout import open_ground, train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import Run
from tests.shipping.conftest import World


def test_a_bundle_is_flat_and_its_manifest_names_every_file(world: World) -> None:
    """Kaggle's client skips subfolders; what the manifest does not name could be swapped unseen."""
    manifest = open_bundle(world.bundle)
    assert all(path.is_file() for path in world.bundle.iterdir())
    there = {path.name for path in world.bundle.iterdir()} - {"manifest.json", "dataset-metadata.json"}
    assert set(manifest.files) == there
    assert all(sha256_of(world.bundle / name) == entry["sha256"] for name, entry in manifest.files.items())
    for member in manifest.members:
        assert manifest.files[member.file]["sha256"][:8] in member.file


def test_the_manifest_is_written_last_and_the_folder_appears_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that was cut short has no manifest anywhere and leaves the old bundle untouched."""
    before = sha256_of(world.bundle / "manifest.json")
    seen: list[str] = []

    def stopped(self: manifests.Manifest) -> str:
        folder = next(world.bundle.parent.glob(".*.making"))
        seen.extend(path.name for path in folder.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(manifests.Manifest, "to_json", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_bundle(world.run, world.competition, world.home)
    assert {"PROVENANCE.md", "dataset-metadata.json"} < set(seen)
    assert "manifest.json" not in seen
    assert sha256_of(world.bundle / "manifest.json") == before
    assert not list(world.bundle.parent.glob(".*.making"))


@pytest.mark.parametrize("damage", ["changed", "same size", "missing", "extra", "folder"])
def test_a_damaged_bundle_is_refused_before_anything_is_parsed(
    bundle: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor the members of the manifest are looked at while a file is not the one that was packed."""
    weights = next(bundle.glob("*.safetensors"))
    content = weights.read_bytes()
    if damage == "changed":
        weights.write_bytes(content[:-1])
    elif damage == "same size":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        weights.unlink()
    elif damage == "extra":
        (bundle / "sitecustomize.py").write_text("")
    else:
        weights.unlink()
        weights.mkdir()

    def parsed(raw: object) -> object:
        raise AssertionError("parsed before the files were compared")

    monkeypatch.setattr(manifests, "_manifest", parsed)
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle)
    assert (weights.name if damage != "extra" else "sitecustomize.py") in str(caught.value)


def test_a_changed_manifest_is_refused_by_its_hash(bundle: Path) -> None:
    """The notebook carries the hash of the manifest, so that not even the manifest can be swapped."""
    known = sha256_of(bundle / "manifest.json")
    open_bundle(bundle, known)
    (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text() + " ")
    with pytest.raises(BundleError, match=known[:12]):
        open_bundle(bundle, known)


def test_one_flipped_bit_anywhere_is_refused_with_the_files_name(bundle: Path) -> None:
    """In every file at its first, middle and last byte; in the manifest by the hash that the notebook carries."""
    known = sha256_of(bundle / "manifest.json")
    files = [path for path in bundle.iterdir() if path.name != "dataset-metadata.json"]
    assert len(files) == 5
    for path in files:
        content = path.read_bytes()
        for at in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
            with pytest.raises(BundleError, match=re.escape(path.name) if path.suffix != ".json" else "manifest"):
                open_bundle(bundle, known)
        path.write_bytes(content)
    open_bundle(bundle, known)


def test_the_same_run_makes_the_same_bundle(world: World, tmp_path: Path) -> None:
    """Byte for byte, whatever the clock says: a second upload of the same is none."""
    first = {path.name: path.read_bytes() for path in world.bundle.iterdir()}
    shutil.copytree(world.home, tmp_path / "home", ignore=shutil.ignore_patterns("offline_weights"))
    competition = load_competition("tiles", tmp_path / "home")
    run = Run(tmp_path / "home" / world.run.folder.relative_to(world.home), world.run.record)
    second = make_bundle(run, competition, tmp_path / "home", say=lambda _: None)
    assert {path.name: path.read_bytes() for path in second.iterdir()} == first


def test_the_same_code_makes_the_same_wheel(world: World, tmp_path: Path) -> None:
    """Byte for byte, whatever the clock says; other code makes another name."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    shutil.copytree(world.competition.folder or Path(), tmp_path / "tiles", ignore=shutil.ignore_patterns("runs"))
    first, second = write_wheel(tmp_path / "one", world.competition), write_wheel(tmp_path / "two", world.competition)
    assert first == second == open_bundle(world.bundle).wheel
    assert (tmp_path / "one" / first).read_bytes() == (tmp_path / "two" / second).read_bytes()
    other = type(world.competition)()
    other.folder = tmp_path / "tiles"
    (other.folder / "adapter.py").write_text((other.folder / "adapter.py").read_text() + "# more\n")
    assert write_wheel(tmp_path / "three", other) != first


def test_the_wheel_holds_only_what_travels(world: World) -> None:
    """Facts and the inference path; no recipes, no training code, no run, no compiled file."""
    with zipfile.ZipFile(world.bundle / open_bundle(world.bundle).wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    allowed = re.compile(r"kit/__init__\.py|kit/offline/\w+\.py|competitions/tiles/(adapter|model)\.py")
    assert [name for name in names if not allowed.fullmatch(name)] == []
    assert {"kit/__init__.py", "kit/offline/predict.py", "competitions/tiles/adapter.py"} <= set(names)


def test_the_wheel_imports_alone(world: World, tmp_path: Path) -> None:
    """From the zip itself, with no checkout in reach: nothing that stays at home is asked for."""
    code = "import sys; sys.modules['kit.training'] = None; import kit.offline.predict as it; print(it.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(world.bundle / open_bundle(world.bundle).wheel)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(world.bundle) in done.stdout


def test_some_folds_share_the_whole_weight_and_the_bundle_says_so(world: World) -> None:
    """Leaving folds out must not shrink the answers, nor go unnoticed."""
    whole = open_bundle(world.bundle)
    part = open_bundle(make_bundle(world.run, world.competition, world.home, folds=[1]))
    assert [member.fold for member in whole.members] == [0, 1] and whole.notes == ()
    assert [member.fold for member in part.members] == [1]
    assert sum(member.weight for member in whole.members) == pytest.approx(1)
    assert sum(member.weight for member in part.members) == pytest.approx(1)
    assert part.notes == ("folds [1] of 2, without [0]",)
    assert part.bundle != whole.bundle


def test_a_run_that_is_done_in_part_is_bundled_aloud(world: World, tmp_path: Path) -> None:
    """Nobody named folds: what is done goes in, and what is missing is said before anything takes time. A whole run has
    nothing to say."""
    ignored = shutil.ignore_patterns("runs", "offline_weights")
    home = Path(shutil.copytree(world.home, tmp_path / "home", ignore=ignored))
    folder = home / "competitions" / "tiles"
    competition = load_competition("tiles", home)
    ground = open_ground(competition, folder / "data", say=lambda _: None)
    run = train_run(ground, "small", find_recipe(folder, "small"), [1], home, say=lambda _: None)
    for bundled, adapter, place, note in (
        (run, competition, home, ["folds [1] of 2, without [0]"]),
        (world.run, world.competition, world.home, []),
    ):
        said: list[str] = []
        manifest = open_bundle(make_bundle(bundled, adapter, place, full=True, say=said.append))
        assert [line for line in said if not line.startswith("small-")] == note
        assert said[: len(note)] == list(manifest.notes) == note


@pytest.mark.parametrize("folds", [[2], [0, 7], []])
def test_folds_that_are_not_done_are_refused(world: World, folds: list[int]) -> None:
    """A missing fold would be a silently weaker ensemble."""
    with pytest.raises(RunError):
        make_bundle(world.run, world.competition, world.home, folds=folds)


@pytest.mark.parametrize(
    ("competition", "run"),
    [
        ("tiles", "small-abc123"),
        ("a", "b"),
        ("under_scored__name", "My_Recipe__2-abc123"),
        ("x" * 50, "y" * 50),
        ("n" * 35, "r---" * 10),
    ],
)
@pytest.mark.parametrize("folds", [None, [0], list(range(20))])
def test_a_bundle_name_is_a_legal_slug(competition: str, run: str, folds: list[int] | None) -> None:
    """6 to 50 of a-z, 0-9 and single dashes, never a dash at an end: the dataset's and the notebook's name."""
    name = bundle_name(Run(Path(run), {"competition": competition}), folds)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert 6 <= len(name) <= 50


def test_long_names_stay_apart() -> None:
    """Names that are cut carry a hash of the whole."""
    names = {bundle_name(Run(Path("r" * 60 + end), {"competition": "tiles"}), None) for end in "abc"}
    assert len(names) == 3


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", "gallery.safetensors"])
def test_what_changed_since_training_is_refused(world: World, tmp_path: Path, name: str) -> None:
    """The score belongs to what was trained: one flipped bit of weights, of how to feed them, or of a gallery, would
    travel under its name."""
    home = Path(shutil.copytree(world.home, tmp_path / "home"))
    run = Run(home / world.run.folder.relative_to(world.home), world.run.record)
    path, done = run.fold(1) / name, run.read("fold1/done.json")
    if name == "gallery.safetensors":
        path.write_bytes(b"0123")
        write_json(path.with_name("done.json"), {**done, "sha256": {**done["sha256"], name: sha256_of(path)}})
    else:
        assert name in done["sha256"]
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    shutil.rmtree(home / "offline_weights")
    with pytest.raises(RunError, match=f"{name} as it was trained"):
        make_bundle(run, world.competition, home)
    assert not list((home / "offline_weights").iterdir())


def test_a_rank_blend_carries_its_quantiles(world: World) -> None:
    """Ranks must work on a single row, so each run's reference distribution travels; it is that of the run's OOF."""
    folder = world.home / "competitions" / "tiles"
    other = train_run(world.ground, "other", find_recipe(folder, "other"), home=world.home, say=lambda _: None)
    blend = blend_runs([world.run, other], world.competition, world.ground.frame, method="rank")
    manifest = open_bundle(make_bundle(blend, world.competition, world.home))
    assert [member.run for member in manifest.members] == [world.run.name] * 2 + [other.name] * 2
    assert sum(member.weight for member in manifest.members) == pytest.approx(1)
    recorded = {member["run"]: member["quantiles"] for member in blend.record["members"]}
    for member in manifest.members:
        quantiles = np.asarray(member.quantiles)
        assert quantiles.shape[0] == len(manifest.columns) and quantiles.shape[1] > 2
        assert (np.diff(quantiles, axis=1) >= 0).all()
        assert member.quantiles == recorded[member.run]
    assert all(member.quantiles is None for member in open_bundle(world.bundle).members)


def test_a_bundle_tells_nothing_about_this_machine(world: World) -> None:
    """No path, host, user or setting in any text that travels, the wheel's files included."""
    texts = {path.name: path.read_bytes() for path in world.bundle.iterdir() if path.suffix in (".json", ".md")}
    with zipfile.ZipFile(world.bundle / open_bundle(world.bundle).wheel) as archive:
        texts |= {name: archive.read(name) for name in archive.namelist()}
    forbidden = [str(world.home), str(Path.home()), str(Path(__file__).parents[2]), sys.prefix, platform.node()]
    if len(getpass.getuser()) > 4:
        forbidden.append(getpass.getuser())
    for name, content in texts.items():
        for text in forbidden:
            assert text.encode() not in content, f"{text} in {name}"
    for weights in world.bundle.glob("*.safetensors"):
        length = int.from_bytes(weights.read_bytes()[:8], "little")
        assert "/" not in str(json.loads(weights.read_bytes()[8 : 8 + length]).get("__metadata__"))


def test_a_bundle_is_found_by_name_and_by_path(world: World) -> None:
    """And a misspelt name is answered with the nearest."""
    assert find_bundle(world.bundle.name, world.home) == world.bundle.resolve()
    assert find_bundle(str(world.bundle), Path("/nowhere")) == world.bundle.resolve()
    with pytest.raises(BundleError, match=world.bundle.name):
        find_bundle(world.bundle.name[:-1], world.home)


def test_a_single_run_ships_with_the_task_that_it_trained(world: World, tmp_path: Path) -> None:
    """A recipe's own task reads the answers off on Kaggle too, as it did when OOF was scored."""
    task = Multiclass("kind", classes=["red", "green", "blue"])
    odd = replace(find_recipe(world.competition.folder, "small"), task=task)  # type: ignore[type-var,arg-type]
    run = train_run(world.ground, "odd", odd, [0], world.home)
    try:
        bundle = make_bundle(run, world.competition, world.home, [0])
        shipped = [settings_of(competition_in(one, open_bundle(one)).task) for one in (bundle, world.bundle)]
        assert shipped == [settings_of(task), settings_of(world.competition.task)]
    finally:
        shutil.rmtree(run.folder)
        shutil.rmtree(bundle)


def test_a_run_of_other_code_is_not_bundled(world: World) -> None:
    """Old weights with today's reading would answer to other pixels; golden inputs do not pass `read`."""
    adapter = world.competition.folder / "adapter.py"  # type: ignore[operator]
    before = adapter.read_text()
    try:
        adapter.write_text(before + "\n    def cut(self, array, row, how, rng):\n        return array[:16]\n")
        with pytest.raises(RunError, match=r"^expected: cut in") as caught:
            make_bundle(world.run, world.competition, world.home)
        assert "source" in caught.value.fix
        adapter.write_text(
            before.replace("[path.stem for", "[str(path.stem) for")
        )  # of test_frame, which may be mended
        make_bundle(world.run, world.competition, world.home)
    finally:
        adapter.write_text(before)


def test_a_run_without_a_score_is_not_bundled(world: World) -> None:
    """Training that was killed before it fitted its decisions has none to ship; the same command makes them."""
    score = world.run.folder / "score.json"
    content = score.read_bytes()
    score.unlink()
    try:
        with pytest.raises(RunError, match="a score of"):
            make_bundle(world.run, world.competition, world.home)
        train_run(world.ground, "small", find_recipe(world.competition.folder, "small"), home=world.home)  # type: ignore[arg-type]
        assert score.read_bytes() == content
    finally:
        score.write_bytes(content)
