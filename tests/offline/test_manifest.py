"""kit/offline/manifest.py"""

from __future__ import annotations

import hashlib
import json

import pytest

from kit.offline import manifest as module
from kit.offline.errors import BundleError
from kit.offline.manifest import FILE, Golden, Manifest, Member, open_bundle, open_mounted
from kit.offline.models import ModelSpec
from kit.offline.pixels import Preparation
from kit.offline.tasks import Multiclass, settings_of

CONTENT = {"weights-0.safetensors": b"weights", "kit.whl": b"wheel", "notes ü.md": b"notes"}


def manifest(**changes):
    member = Member(
        file="weights-0.safetensors",
        run="base-abc123",
        fold=0,
        weight=0.1 + 0.2,
        spec=ModelSpec("test_resnet", 3, (32, 48), arguments={"act_layer": "relu"}),
        preparation=Preparation(
            (32, 48),
            (0.485,) * 3,
            (0.229,) * 3,
            fit="crop",
            crop=0.875,
            interpolation="bicubic",
            cache_size=64,
            how={"slices": [1, 2]},
        ),
        views=("identity", "hflip"),
        task=settings_of(Multiclass("label")),
        learned={"classes": ["9", "10"]},
        golden=Golden(0, 1, (32, 48, 3), "uint8", [[0.1, 1 / 3]]),
        quantiles=[[0.0, 1.0]],
    )
    files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in CONTENT.items()}
    values = {
        "bundle": "demo",
        "slug": "demo-slug",
        "competition": "demo",
        "wheel": "kit.whl",
        "members": (member,),
        "task": {"kind": "Multiclass", "column": "label"},
        "learned": {"classes": ["9", "10"]},
        "columns": ("9", "10"),
        "score": {"oof": 0.5},
        "folds": "f" * 64,
        "commit": "c",
        "versions": {"torch": "2"},
        "licences": {"test_resnet": "apache-2.0"},
        "files": files,
        "notes": ("one fold",),
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def bundle(tmp_path):
    for name, data in CONTENT.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / FILE).write_text(manifest().to_json())
    return tmp_path


@pytest.fixture
def unparsed(monkeypatch):
    """Fail the test if anything but the list of files is parsed."""
    monkeypatch.setattr(module, "_manifest", lambda raw: pytest.fail("parsed before it was verified"))


def rewrite(bundle, change):
    raw = json.loads((bundle / FILE).read_text())
    change(raw)
    (bundle / FILE).write_text(json.dumps(raw))


def test_a_manifest_comes_back_as_it_was(bundle):
    """Written and opened: tuples are tuples, floats are exact, specs and preparations equal."""
    opened = open_bundle(bundle, hashlib.sha256((bundle / FILE).read_bytes()).hexdigest())
    assert opened == manifest()
    assert opened.members[0].weight == 0.1 + 0.2
    assert opened.to_json() == (bundle / FILE).read_text()


def test_the_json_does_not_depend_on_the_order_of_files():
    """The same bundle gives the same bytes, so that its hash means something."""
    files = dict(reversed(manifest().files.items()))
    assert manifest(files=files).to_json() == manifest().to_json()


@pytest.mark.parametrize("name", CONTENT)
def test_a_changed_file_of_the_same_size_is_refused(bundle, unparsed, name):
    """One flipped bit in any file is found by its hash, and the file is named."""
    data = bytearray(CONTENT[name])
    data[0] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle)


def test_a_truncated_file_is_refused_with_its_sizes(bundle, unparsed):
    """A partial download tells how much there is and how much there should be."""
    (bundle / "kit.whl").write_bytes(b"whe")
    with pytest.raises(BundleError, match="3 bytes instead of 5"):
        open_bundle(bundle)


def test_a_missing_file_is_refused(bundle, unparsed):
    """The missing file is named, whatever the others are."""
    (bundle / "kit.whl").unlink()
    with pytest.raises(BundleError, match=r"missing: 'kit.whl'; extra: none"):
        open_bundle(bundle)


def test_weights_that_are_not_mounted_are_told_with_what_is(bundle, unparsed, tmp_path_factory):
    """A forgotten dataset is seen in the list of those that are there; at home, where nothing is mounted, there is
    none."""
    (bundle / "weights-0.safetensors").unlink()
    inputs = tmp_path_factory.mktemp("input")
    with pytest.raises(BundleError, match=r"missing: 'weights-0\.safetensors'; extra: none; mounted: nothing"):
        open_mounted(bundle, None, inputs)
    (inputs / "datasets" / "me" / "other").mkdir(parents=True)
    with pytest.raises(BundleError, match="mounted: datasets, datasets/me, datasets/me/other") as caught:
        open_mounted(bundle, None, inputs)
    assert "weights-0.safetensors" in caught.value.found
    with pytest.raises(BundleError, match="missing") as caught:
        open_bundle(bundle)
    assert "mounted" not in str(caught.value)


def test_an_extra_file_or_folder_is_refused(bundle, unparsed):
    """A stray module beside the wheel could be imported; only the client's metadata may stand there."""
    (bundle / "dataset-metadata.json").write_text("{}")
    (bundle / "torch.py").write_text("")
    (bundle / "sub").mkdir()
    with pytest.raises(BundleError, match=r"missing: none; extra: 'sub', 'torch.py'"):
        open_bundle(bundle)


def test_the_client_s_metadata_may_stand_beside(bundle):
    """dataset-metadata.json is needed at home and is not uploaded: with or without it the bundle is whole."""
    (bundle / "dataset-metadata.json").write_text("{}")
    assert open_bundle(bundle) == manifest()


def test_a_folder_in_place_of_a_file_is_refused(bundle, unparsed):
    """A folder with a file's name is not that file."""
    (bundle / "kit.whl").unlink()
    (bundle / "kit.whl").mkdir()
    with pytest.raises(BundleError, match="plain file"):
        open_bundle(bundle)


def test_a_changed_manifest_is_refused_before_it_is_parsed(bundle, monkeypatch):
    """With the hash at hand, another manifest is not even read as JSON."""
    sha256 = hashlib.sha256((bundle / FILE).read_bytes()).hexdigest()
    (bundle / FILE).write_text((bundle / FILE).read_text().replace('"fold": 0', '"fold": 1'))
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("parsed"))
    with pytest.raises(BundleError, match=sha256[:12]):
        open_bundle(bundle, sha256)


def test_a_bundle_without_a_manifest_was_not_finished(bundle):
    """The manifest is written last; without it the bundle is refused."""
    (bundle / FILE).unlink()
    with pytest.raises(BundleError, match="kit bundle again"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/kit.whl", "..", ".", "", "manifest.json", "a\0b"])
def test_names_that_leave_the_folder_are_refused(bundle, unparsed, name):
    """A manifest cannot point outside its folder, below it, or at itself, even with the right hash."""
    (bundle.parent / "outside").write_bytes(b"wheel")
    (bundle / "sub").mkdir()
    (bundle / "sub" / "kit.whl").write_bytes(b"wheel")
    rewrite(bundle, lambda raw: raw["files"].update({name: raw["files"]["kit.whl"]}))
    with pytest.raises(BundleError, match="missing"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1}', b'{"schema": 1, "files": {"a": 1}}', b'"x"']
)
def test_an_unreadable_manifest_is_refused(bundle, content):
    """Damaged, empty or foreign JSON raises BundleError, not a traceback."""
    (bundle / FILE).write_bytes(content)
    with pytest.raises(BundleError, match="readable manifest"):
        open_bundle(bundle)


def lose_members(raw):
    del raw["members"]


def unknown_field(raw):
    raw["surprise"] = 1


def unknown_member_field(raw):
    raw["members"][0]["surprise"] = 1


@pytest.mark.parametrize("change", [lose_members, unknown_field, unknown_member_field])
def test_missing_and_unknown_fields_are_refused(bundle, change):
    """A manifest of the right schema with other fields is refused, naming the field."""
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=r"members|surprise"):
        open_bundle(bundle)


def test_another_schema_is_refused_by_its_number(bundle):
    """A bundle of a later kit says so, even where its files are listed in another way."""
    rewrite(bundle, lambda raw: raw.update(schema=2, files=[]))
    with pytest.raises(BundleError, match=r"schema 1\nfound:    2"):
        open_bundle(bundle)
