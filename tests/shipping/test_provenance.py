"""PROVENANCE.md holds what a winner hands in, and commands that make the very runs again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from kit.offline.files import sha256_of
from kit.shipping.bundle import make_bundle
from kit.shipping.provenance import provenance, settings_of_run
from kit.training.ensemble import blend_runs
from kit.training.fanout import train_run
from kit.training.folds import load_folds
from kit.training.recipe import find_recipe, override
from kit.training.rundir import Run
from tests.shipping.conftest import World

SETTINGS = ["lr=1e-3", "tta=identity", "augment=square", 'read={"window": "bone marrow"}', "seed=3", "clip_grad=none"]


@pytest.fixture
def tuned(world: World) -> Iterator[Run]:
    """One fold of the recipe `other` with settings of the command line."""
    recipe = override(find_recipe(world.home / "competitions" / "tiles", "other"), SETTINGS)
    run = train_run(world.ground, "other", recipe, [1], home=world.home, say=lambda _: None)
    yield run
    shutil.rmtree(run.folder)


def told(run: Run, *runs: Run) -> str:
    return provenance("a-bundle", run, runs or [run], [], {})


def test_what_a_bundle_is_made_of(world: World) -> None:
    """Scores by fold, the hash of the folds, each file with its precision, versions, seed, recipe."""
    text = (world.bundle / "PROVENANCE.md").read_text()
    score, record = world.run.read("score.json"), world.run.record
    assert f"pooled: {score['pooled']:.5f} over 40 units" in text
    assert ", ".join(f"{fold}: {value:.5f}" for fold, value in score["folds"].items()) in text
    assert f"sha256 {record['folds']}" in text
    for path in world.bundle.glob("*.safetensors"):
        assert re.search(rf"- {path.name}: .*views identity, hflip\n  - (half|full) precision: .+", text)
    assert all(f"{package} {version}" in text for package, version in record["versions"].items())
    recipe = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]
    assert recipe == record["recipe"]
    assert "test_resnet: trained from scratch" in text


def test_the_commands_make_the_same_runs(world: World, tuned: Run) -> None:
    """Read back from the file, options name the same recipe: what the command line changed is there, and no more."""
    lines = [shlex.split(line, comments=True) for line in told(tuned).splitlines() if line.startswith("kit train")]
    (words,) = lines
    assert words[:4] == ["kit", "train", "tiles", "other"] and words[4:6] == ["--fold", "1"]
    settings = [after for before, after in pairwise(words) if before == "--set"]
    assert {setting.partition("=")[0] for setting in settings} == {"lr", "tta", "augment", "read", "seed"}
    recipe = override(find_recipe(world.home / "competitions" / "tiles", "other"), settings)
    again = train_run(world.ground, "other", recipe, [1], home=world.home, say=lambda _: None)
    assert again.name == tuned.name
    assert settings_of_run(world.run) == []


def test_a_blend_tells_of_all_its_runs(world: World) -> None:
    """Weights and method, each run's recipe, and the command that blends them."""
    other = train_run(
        world.ground, "other", find_recipe(world.home / "competitions" / "tiles", "other"), home=world.home
    )
    blend = blend_runs([world.run, other], world.competition, world.ground.frame, "mean")
    text = (make_bundle(blend, world.competition, world.home, say=lambda _: None) / "PROVENANCE.md").read_text()
    assert f"blend by mean: {world.run.name} 0.5000, {other.name} 0.5000" in text
    assert f"kit blend tiles {world.run.name} {other.name} --method mean\nkit bundle tiles {blend.name}\n" in text
    assert text.count("```json") == 2 and f"## {other.name}" in text
    part = make_bundle(blend, world.competition, world.home, [1], say=lambda _: None)
    assert f"kit bundle tiles {blend.name} --folds 1\n" in (part / "PROVENANCE.md").read_text()


def test_weights_of_others_come_with_their_licence(world: World) -> None:
    """By timm's record of the tag, or by the hash of a file, of which only the name is told where it lies elsewhere."""

    def of(backbone: str, pretrained: object) -> str:
        recipe = {**world.run.record["recipe"], "backbone": backbone, "pretrained": pretrained}
        return told(replace(world.run, record={**world.run.record, "recipe": recipe, "pretrained": "ab" * 32}))

    text = of("efficientnet_b0.ra_in1k", True)
    assert re.search(r"- efficientnet_b0.ra_in1k: licence .*; tag ra_in1k; hub timm/efficientnet_b0.ra_in1k", text)
    text = of("test_resnet", "/data/people/jo/weights.safetensors")
    assert f"from the file weights.safetensors of sha256 {'ab' * 32}" in text and "/data/people" not in text
    assert "from the file offline_weights/x.safetensors of" in of("test_resnet", "offline_weights/x.safetensors")


def test_data_beyond_the_scored_rows_is_told(world: World, tmp_path: Path) -> None:
    """External rows are counted, soft labels named with their hash; so is a commit, and whether it was dirty."""
    run = Run(Path(shutil.copytree(world.run.folder, tmp_path / world.run.name)), world.run.record)
    table = load_folds(run.folder / "source" / "folds.csv")
    table["scored"] = [at >= 6 for at in range(len(table))]
    table.to_csv(run.folder / "source" / "folds.csv", index=False)
    soft = tmp_path / "labels.npz"
    soft.write_bytes(b"labels")
    recipe = {**run.record["recipe"], "pseudo": "soft/labels.npz"}
    git = {"commit": "c0ffee", "dirty": True}
    record = {**run.record, "recipe": recipe, "pseudo": sha256_of(soft), "git": git, "scheme": "by box"}
    text = told(replace(run, record=record))
    assert "6 of 40 rows train unscored; soft labels: soft/labels.npz, sha256 " + sha256_of(soft) in text
    assert "commit c0ffee, with changes that were not committed" in text
    assert "git checkout c0ffee && make venv" in text and "git checkout" not in told(run)
    (run.folder / "source" / "recipes.py").unlink()
    assert "kit train" in told(run)
