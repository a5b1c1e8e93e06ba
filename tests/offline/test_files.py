"""kit/offline/files.py"""

from __future__ import annotations

import errno
import json
import os

import pytest

from kit.offline.errors import RunError
from kit.offline.files import sha256_of, write_json, write_whole


def fail_with(number):
    def fsync(handle):
        raise OSError(number, os.strerror(number))

    return fsync


def test_what_is_written_is_read_back(tmp_path):
    """The content arrives whole, over an old file too, and nothing else stays in the folder."""
    path = tmp_path / "a.bin"
    write_whole(path, b"old and longer")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path, monkeypatch, number):
    """On a full disk or quota the old content stays, no scrap is left, and the error tells the size and the remedy."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail_with(number))
    with pytest.raises(RunError) as caught:
        write_whole(path, b"n" * 1_500_000)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]
    assert "1.5 MB" in caught.value.expected
    assert str(path) in caught.value.expected
    assert "disk is full" in caught.value.found
    assert "free some space" in caught.value.fix


def test_other_faults_of_the_disk_keep_their_own_name(tmp_path, monkeypatch):
    """An input/output error is not called a full disk, and leaves no scrap either."""
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_whole(tmp_path / "a.bin", b"x")
    assert not list(tmp_path.iterdir())


def test_content_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    """The rename comes after the sync of the content: at the first sync the name still holds the old file."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(path.read_bytes()))
    write_whole(path, b"new")
    assert seen == [b"old", b"new"]


def test_json_does_not_depend_on_the_order_of_keys(tmp_path):
    """The same content gives the same bytes, whatever order it was built in."""
    write_json(tmp_path / "a.json", {"b": 1, "a": [0.1, None]})
    write_json(tmp_path / "b.json", {"a": [0.1, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [0.1, None], "b": 1}


def test_the_hash_is_sha256(tmp_path):
    """The hash of "abc" is the one in FIPS 180."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
