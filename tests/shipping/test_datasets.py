"""Datasets hold exactly what lies here, uploaded once, whatever fails on the way; and how a bundle is split."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kit.offline.errors import BundleError, KaggleError, KitError
from kit.offline.manifest import Manifest, open_bundle
from kit.shipping import datasets
from kit.shipping.datasets import datasets_of, store
from tests.fake_kaggle import FakeKaggle, Trouble
from tests.shipping.conftest import World

SLUG = "toy-data"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A manifest, weights of odd content and an empty file, in a folder with another file and a subfolder."""
    folder = tmp_path / "bundles" / "toy"
    (folder / "sub").mkdir(parents=True)
    (folder / "left-out.txt").write_text("stays at home")
    contents = {"manifest.json": b"{}", "fold0-1a2b3c4d.safetensors": bytes(range(256)) * 40, "empty.txt": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def stored(server: FakeKaggle) -> list[dict[str, bytes]]:
    """The files of each version at Kaggle."""
    return [version.files for version in server.datasets["tester", SLUG].versions]


def contents(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files.items()}


def put(files: dict[str, Path]) -> int:
    return store("tester", SLUG, files, "manifest.json", say=lambda line: None)


def test_a_dataset_is_made_private_and_holds_the_files(kaggle_server: FakeKaggle, files: dict[str, Path]) -> None:
    """Those that were named, an empty one too, and no others; the licence claims nothing."""
    assert put(files) == 1
    made = kaggle_server.datasets["tester", SLUG]
    assert (made.private, made.licence, made.title) == (True, "other", SLUG)
    assert stored(kaggle_server) == [contents(files)]
    assert [path.name for path in files["manifest.json"].parent.parent.iterdir()] == ["toy"]


@pytest.mark.parametrize("wraps", [False, True], ids=["plain", "zipped"])
def test_nothing_is_uploaded_twice(kaggle_server: FakeKaggle, files: dict[str, Path], wraps: bool) -> None:
    """The second time Kaggle is asked, and sent nothing."""
    kaggle_server.wraps = wraps
    put(files)
    before = len(kaggle_server.called("StartBlobUpload"))
    assert put(files) == 1
    assert len(kaggle_server.called("StartBlobUpload")) == before == 3


def test_a_manifest_of_the_same_size_is_another_version(kaggle_server: FakeKaggle, files: dict[str, Path]) -> None:
    """Names and sizes alone would call it the same; and an upload is not gone on with from another content."""
    put(files)
    clock = files["manifest.json"].stat().st_mtime
    files["manifest.json"].write_text("[]")
    os.utime(files["manifest.json"], (clock, clock))
    assert put(files) == 2
    assert stored(kaggle_server)[1]["manifest.json"] == b"[]"


def test_changed_content_of_the_same_size_and_time_is_sent_anew(
    kaggle_server: FakeKaggle, files: dict[str, Path]
) -> None:
    """An upload that broke off is known to the client by path, size and time; the bytes on Kaggle are the new ones."""
    path = files["fold0-1a2b3c4d.safetensors"]
    one = {path.name: path}
    clock = path.stat().st_mtime
    kaggle_server.trouble["PUT"] += [Trouble(500, keep=5000)]
    with pytest.raises(KaggleError, match="Upload unsuccessful"):
        store("tester", SLUG, one, say=lambda line: None)
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, (clock, clock))
    store("tester", SLUG, one, say=lambda line: None)
    assert stored(kaggle_server) == [contents(one)]


@pytest.mark.parametrize(
    "trouble",
    [[Trouble(503, keep=1000)], [Trouble(keep=10)], [Trouble(503, keep=0), Trouble(503, keep=4000)]],
    ids=["503 resumed", "dropped", "503 twice"],
)
def test_an_interrupted_upload_goes_on(
    kaggle_server: FakeKaggle, files: dict[str, Path], trouble: list[Trouble]
) -> None:
    """What was stored is not sent again, and what arrives is whole."""
    kaggle_server.trouble["PUT"] += trouble
    assert put(files) == 1
    assert stored(kaggle_server) == [contents(files)]


def test_a_failed_upload_names_the_file_and_makes_no_dataset(kaggle_server: FakeKaggle, files: dict[str, Path]) -> None:
    """Older clients made the dataset without it; the same command then sends what is lacking."""
    del files["empty.txt"], files["manifest.json"]
    kaggle_server.trouble["PUT"] += [Trouble(500)]
    with pytest.raises(KaggleError, match=r"Upload unsuccessful: fold0-1a2b3c4d\.safetensors"):
        store("tester", SLUG, files, say=lambda line: None)
    assert kaggle_server.datasets == {}
    assert store("tester", SLUG, files, say=lambda line: None) == 1


@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("status", [500, 0])
@pytest.mark.parametrize("method", ["CreateDataset", "CreateDatasetVersion"])
def test_after_an_error_kaggle_is_asked_before_it_is_sent_again(
    kaggle_server: FakeKaggle, files: dict[str, Path], method: str, status: int, after: bool
) -> None:
    """An error after success makes no second version, and one before it is made good."""
    first = method == "CreateDataset"
    if not first:
        put(files)
        files["manifest.json"].write_text('{"changed": true}')
    kaggle_server.trouble[method] += [Trouble(status, after=after)]
    assert put(files) == len(stored(kaggle_server)) == (1 if first else 2)
    assert stored(kaggle_server)[-1] == contents(files)
    assert len(kaggle_server.called(method)) == (1 if after else 2)


def test_the_last_try_counts(
    kaggle_server: FakeKaggle, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What succeeds at last is looked at as at first; what fails so often is told."""
    monkeypatch.setattr(datasets, "TRIES", 2)
    kaggle_server.trouble["CreateDataset"] += [Trouble(500)]
    assert put(files) == 1
    files["manifest.json"].write_text("[]")
    kaggle_server.trouble["CreateDatasetVersion"] += [Trouble(500)] * 2
    with pytest.raises(KaggleError, match="HTTP 500"):
        put(files)


def test_processing_is_waited_for(kaggle_server: FakeKaggle, files: dict[str, Path]) -> None:
    """A slow READY, and a version that is still in the works when the next is due."""
    kaggle_server.dataset_polls = 3
    said: list[str] = []
    assert store("tester", SLUG, files, "manifest.json", say=said.append) == 1
    assert any("blobs_received" in line and f"datasets/tester/{SLUG}" in line for line in said)
    kaggle_server.datasets["tester", SLUG].versions[-1].polls = 2
    files["manifest.json"].write_text("[]")
    assert put(files) == 2


def test_a_version_that_is_seen_late_is_waited_for(kaggle_server: FakeKaggle, files: dict[str, Path]) -> None:
    """READY of the version before is not taken for that of the one just sent."""
    put(files)
    kaggle_server.lag = 3
    files["manifest.json"].write_text("[]")
    assert put(files) == 2
    assert len(stored(kaggle_server)) == 2


def test_waiting_ends(kaggle_server: FakeKaggle, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that is never READY is told with its address, and the same command goes on with it."""
    monkeypatch.setattr(datasets, "MINUTES", 0)
    kaggle_server.dataset_polls = 10**6
    with pytest.raises(KaggleError, match=f"https://www.kaggle.com/datasets/tester/{SLUG}"):
        put(files)
    kaggle_server.datasets["tester", SLUG].versions[-1].polls = 0
    assert put(files) == 1


def test_failed_after_ok_is_told(kaggle_server: FakeKaggle, files: dict[str, Path]) -> None:
    """Over the quota Kaggle says Ok, and FAILED afterwards; with room again, the same command makes a version."""
    kaggle_server.quota = 10
    with pytest.raises(KaggleError, match=r"FAILED.*quota"):
        put(files)
    kaggle_server.quota = 10**9
    assert put(files) == 2


def test_a_file_that_kaggle_lost_is_told(kaggle_server: FakeKaggle, files: dict[str, Path]) -> None:
    """Names and sizes of what Kaggle keeps are compared with what was sent, past the first page of the list."""
    kaggle_server.page = 2
    put(files)
    kept = kaggle_server.datasets["tester", SLUG].versions
    add = kaggle_server._add_version

    def lossy(*arguments: object) -> object:
        made = add(*arguments)  # type: ignore[arg-type]
        kept[-1].files.pop("manifest.json")
        kept[-1].files["empty.txt"] = b"not any more"
        return made

    kaggle_server._add_version = lossy  # type: ignore[method-assign]
    files["manifest.json"].write_text("[]")
    with pytest.raises(KaggleError, match=r"missing: 'manifest\.json'; extra: none; of another size: 'empty\.txt'"):
        put(files)


def test_an_error_in_the_answer_is_an_error(kaggle_server: FakeKaggle, files: dict[str, Path]) -> None:
    """The client itself returns, and its command ends with 0."""
    kaggle_server.CreateDataset = lambda user, body: {  # type: ignore[method-assign]
        "status": "Error",
        "error": "The requested title is already in use by a dataset.",
    }
    with pytest.raises(KaggleError, match="already in use"):
        put(files)


@pytest.mark.parametrize("name", ["a@b.csv", "a&b.csv", "a b.csv", "weights.zip", "wheels.tar.gz", ".hidden", "ü.csv"])
def test_names_that_kaggle_would_change_are_refused_first(
    kaggle_server: FakeKaggle, files: dict[str, Path], name: str
) -> None:
    """Kaggle says Ok to some and drops them, and unpacks archives; nothing is sent."""
    path = files["empty.txt"].with_name(name)
    path.write_text("x")
    with pytest.raises(BundleError, match="names"):
        store("tester", SLUG, {**files, name: path})
    with pytest.raises(KitError, match="6 to 50"):
        store("tester", "No_Slug", files)
    assert kaggle_server.calls == []


def test_a_bundle_is_its_weights_by_run_and_the_rest(world: World) -> None:
    """Every file once: weights under a name made of their content, all else under the bundle's."""
    manifest = open_bundle(world.bundle)
    weights, thin = datasets_of(manifest)
    assert thin.slug == manifest.bundle and "manifest.json" in thin.files
    assert not [name for name in thin.files if name.endswith(".safetensors")]
    assert set(weights.files) == {member.file for member in manifest.members}
    assert sorted([*weights.files, *thin.files]) == sorted([*manifest.files, "manifest.json"])
    assert sum((world.bundle / name).stat().st_size for name in thin.files) < 1_000_000


def test_weights_are_named_by_content_alone(world: World) -> None:
    """Another blend of the same runs needs the same datasets; another fold, or another file, another name."""
    manifest = open_bundle(world.bundle)
    first, second = manifest.members
    slug = datasets_of(manifest)[0].slug

    def slugs(changed: Manifest) -> list[str]:
        return [each.slug for each in datasets_of(changed)[:-1]]

    assert slugs(replace(manifest, bundle="kit-another", members=(second, first))) == [slug]
    two = replace(manifest, members=(first, replace(second, run="other-000000")))
    assert len({*slugs(two), slug}) == 3
    changed = json.loads(json.dumps(dict(manifest.files)))
    changed[first.file]["sha256"] = "0" * 64
    assert slugs(replace(manifest, files=changed)) != [slug]
    assert len(slug) == len("kit-weights-") + 16


def test_a_gallery_travels_with_its_weights_and_a_loose_file_is_refused(world: World) -> None:
    """Galleries are safetensors too; weights that no member names belong nowhere."""
    manifest = open_bundle(world.bundle)
    more = {**manifest.files, "g-1.safetensors": {"sha256": "1" * 64, "size": 1}}
    with pytest.raises(BundleError, match=r"g-1\.safetensors"):
        datasets_of(replace(manifest, files=more))
    owned = replace(manifest.members[0], gallery="g-1.safetensors")
    found = datasets_of(replace(manifest, files=more, members=(owned, manifest.members[1])))
    assert "g-1.safetensors" in found[0].files
