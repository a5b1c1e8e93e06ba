"""Nothing that must not be published leaves in a bundle; what is found is named by file and line, never repeated."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from kit.offline.errors import BundleError
from kit.shipping import scan as scans
from kit.shipping.bundle import make_bundle
from kit.shipping.scan import scan
from tests.shipping.conftest import World

SECRETS = [
    "KGAT_" + "a1B2" * 8,
    '{"username": "me", "key": "' + "0123456789abcdef" * 2 + '"}',
    "hf_" + "a1B2" * 8,
    "ghp_" + "a1B2" * 8,
    "-----BEGIN RSA " + "PRIVATE KEY-----",
    "AKIA" + "ABCD1234" * 2,
    "Authorization: Basic " + "bWU6" * 8,
    "https://example.com/w?upload_id=" + "a1B2" * 5,
    "KAGGLE_KEY=" + "0123456789abcdef" * 2,
    "os.environ['WANDB_API_KEY'] = '" + "0123456789abcdef" * 2 + "'",
]
TRACES = [
    "/home/" + "somebody/data",
    "open('/Users/" + "somebody/x.csv')",
    r"C:\Users" + r"\somebody\x.csv",
    "'C:\\\\Users" + "\\\\somebody'",
    "/root" + "/kaggle/x.csv",
]
PICTURES = ["data:image/" + "png;base64,AAAA", "iVBORw0KGgo" + "AAAANSUhEUg"]


def wheel(folder: Path, name: str, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)


@pytest.mark.parametrize("text", [*SECRETS, *TRACES, *PICTURES])
@pytest.mark.parametrize("place", ["PROVENANCE.md", "kit-0.1.0-py3-none-any.whl", "gallery.safetensors"])
def test_what_must_not_leave_is_named_and_not_repeated(tmp_path: Path, text: str, place: str) -> None:
    """In a text, in a source inside the wheel, among the labels of a gallery: file and line, without the thing."""
    if place.endswith(".md"):
        (tmp_path / place).write_text(f"# fine\n\nfine\n{text}\n")
    elif place.endswith(".whl"):
        wheel(tmp_path, place, {"competitions/tiles/adapter.py": f"import kit\n\n\nX = {text!r}\n".encode()})
    else:
        save_file({"values": np.zeros((1, 2), np.float32)}, tmp_path / place, {"labels": text})
    with pytest.raises(BundleError) as caught:
        scan(tmp_path)
    said = str(caught.value)
    assert place in said and text not in said
    assert ("adapter.py, line 4" if place.endswith(".whl") else "line") in said
    if place.endswith(".md"):
        assert "line 4" in said


def test_the_user_is_named_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole word; everybody's names, short ones and words of the kit's own code are no trace of anybody."""
    for user, found in [("jozwiak", True), ("JOZ", False), ("runner", False), ("tensor", False), ("jozwia", False)]:
        (tmp_path / "notes.txt").write_text("made by jozwiak, JOZ, on a runner with a tensor\n")
        monkeypatch.setattr(scans.getpass, "getuser", lambda user=user: user)
        if found:
            with pytest.raises(BundleError, match=r"notes\.txt, line 1: the name of this machine's user"):
                scan(tmp_path)
        else:
            scan(tmp_path)

    def nobody() -> str:
        raise KeyError("uid not found: 1000")

    monkeypatch.setattr(scans.getpass, "getuser", nobody)
    scan(tmp_path)


def test_this_machines_home_is_found_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Homes need not be below /home; the home of a container is often just a root."""
    monkeypatch.setenv("HOME", "/data/people/jo")
    (tmp_path / "a.json").write_text('{"x": "/data/people/jo/weights"}')
    with pytest.raises(BundleError, match="this machine's home folder"):
        scan(tmp_path)
    (tmp_path / "a.json").write_text('{"x": "/data/people/joan", "y": "/weights"}')
    scan(tmp_path)
    monkeypatch.setenv("HOME", "/")
    scan(tmp_path)


@pytest.mark.parametrize("place", ["kit-0.1.0-py3-none-any.whl", "foreign-1-py3-none-any.whl", "PROVENANCE.md"])
def test_this_machines_own_credentials_are_found_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """By their values, whatever they are called: the key in kaggle.json, and how HTTP Basic spells it."""
    home, bundle = tmp_path / "home", tmp_path / "bundle"
    (home / ".kaggle").mkdir(parents=True)
    bundle.mkdir()
    key = "0a1b2c3d4e5f60718293"
    basic = base64.b64encode(f"ann:{key}".encode()).decode()
    (home / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": "ann", "key": key}))
    for text, found in [(key, True), (basic, True), ("0a1b2c3d4e5f60718294", False)]:
        line = f"\nPASSWORD = '{text}'\n"
        if place.endswith(".whl"):
            wheel(bundle, place, {"adapter.py": line.encode()})
        else:
            (bundle / place).write_text(line)
        monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
        scan(bundle)
        monkeypatch.setenv("HOME", str(home))
        if not found:
            scan(bundle)
            continue
        with pytest.raises(BundleError, match="line 2: a credential of this machine") as caught:
            scan(bundle)
        assert text not in str(caught.value)


def images() -> dict[str, bytes]:
    """One image or video of each kind that hosts use."""
    found = {}
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "JPEG2000"):
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, kind)
        found[kind] = buffer.getvalue()
    return {
        **found,
        "DICOM": bytes(128) + b"DICM" + bytes(20),
        "NIfTI": b"\\\x01\0\0" + bytes(340) + b"n+1\0",
        "MP4": b"\0\0\0\x18ftypmp42",
        "Matroska": b"\x1a\x45\xdf\xa3" + bytes(20),
        "AVI": b"RIFF\0\0\0\0AVI LIST",
    }


@pytest.mark.parametrize(("kind", "content"), images().items(), ids=images())
def test_images_of_the_competition_are_found_by_their_bytes(tmp_path: Path, kind: str, content: bytes) -> None:
    """Whatever they are called, in the folder or inside our wheel: hosts forbid to publish them."""
    for name in ("sample.bin", "golden.npy", "notes.txt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BundleError, match=f"{name}: an? .*(image|video)"):
            scan(tmp_path)
        (tmp_path / name).unlink()
    wheel(tmp_path, "kit-0.1.0-py3-none-any.whl", {"competitions/tiles/mean.txt": content})
    with pytest.raises(BundleError, match=r"mean\.txt: an? .*(image|video)"):
        scan(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["kaggle.json", ".env", "access_token", "credentials.json", "weights.pt", "run.sh", "a@b.json", "odd name.txt"],
)
def test_only_known_kinds_of_files_travel(tmp_path: Path, name: str) -> None:
    """Not keys, not pickles, not what Kaggle's upload would choke on."""
    (tmp_path / name).write_text("{}")
    with pytest.raises(BundleError) as caught:
        scan(tmp_path)
    assert name in caught.value.found


@pytest.mark.parametrize("name", ["weights.safetensors", "table.npy", "extra-1-py3-none-any.whl", "x.json", "x.csv"])
def test_a_name_is_not_believed(tmp_path: Path, name: str) -> None:
    """A pickle stays one under another name; so does an array of objects."""
    (tmp_path / name).write_bytes(b"\x80\x04\x95\xff" + bytes(40))
    with pytest.raises(BundleError, match="not of the kind that its name says"):
        scan(tmp_path)
    if name == "table.npy":
        np.save(tmp_path / name, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(BundleError, match="not of the kind"):
            scan(tmp_path)


def test_links_and_folders_are_refused(tmp_path: Path) -> None:
    """A link would bring what it points to."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "passwords.txt").write_text("x")
    (tmp_path / "bundle" / "notes.txt").symlink_to(tmp_path / "passwords.txt")
    with pytest.raises(BundleError, match="no plain file"):
        scan(tmp_path / "bundle")
    (tmp_path / "bundle" / "notes.txt").unlink()
    (tmp_path / "bundle" / ".git").mkdir()
    with pytest.raises(BundleError, match=r"\.git"):
        scan(tmp_path / "bundle")


def test_packages_from_elsewhere_may_name_their_authors_homes(tmp_path: Path) -> None:
    """Their pictures and homes are public already; a token is a token."""
    name = "segments-1-py3-none-any.whl"
    public = {"segments/doc.py": TRACES[0].encode(), "segments/logo.png": images()["PNG"]}
    wheel(tmp_path, name, public)
    scan(tmp_path)
    for entry, content in [("segments/x.py", SECRETS[0].encode()), ("segments/.ipynb_checkpoints/x.py", b"")]:
        wheel(tmp_path, name, {**public, entry: content})
        with pytest.raises(BundleError, match=entry.rpartition("/")[2]):
            scan(tmp_path)


def test_a_token_in_an_adapter_stops_the_bundle(world: World, tmp_path: Path) -> None:
    """Its comments travel too: refused at once, before any fold is predicted, and nothing is left behind."""
    home = Path(shutil.copytree(world.home, tmp_path / "home", ignore=shutil.ignore_patterns("offline_weights")))
    adapter = home / "competitions" / "tiles" / "adapter.py"
    adapter.write_text(adapter.read_text() + f"# {SECRETS[0]}\n")
    competition = type(world.competition)()
    competition.folder = adapter.parent
    lines: list[str] = []
    with pytest.raises(BundleError, match=r"adapter.py, line \d+: a Kaggle token"):
        make_bundle(world.run, competition, home, say=lines.append)
    assert not lines and not list((home / "offline_weights").iterdir())


def test_a_whole_bundle_passes(world: World) -> None:
    """What the kit itself writes trips over nothing: its code, manifest, records, weights."""
    scan(world.bundle)
