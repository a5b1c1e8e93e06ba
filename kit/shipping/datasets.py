"""Kaggle datasets: which of them a bundle becomes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from kit.offline.errors import BundleError, examples
from kit.offline.manifest import FILE, Manifest

WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class Dataset:
    """A dataset that a bundle becomes: its slug, and which of the bundle's files it holds."""

    slug: str
    files: tuple[str, ...]


def datasets_of(manifest: Manifest) -> list[Dataset]:
    """What a bundle is split into when it is pushed: the weights of each run, then the bundle itself without them.

    The slug of weights is made of their content: runs that several bundles share are uploaded once, and a new blend of
    them uploads kilobytes. The bundle's own dataset keeps the bundle's name.
    """
    by_run: dict[str, set[str]] = {}
    for member in manifest.members:
        files = {member.file, *([member.gallery] if member.gallery else [])}
        by_run.setdefault(member.run, set()).update(files)
    weights = [Dataset(weights_slug(manifest, files), tuple(sorted(files))) for files in by_run.values()]
    rest = sorted(set(manifest.files) - set().union(*by_run.values()))
    loose = [name for name in rest if name.endswith(WEIGHTS)]
    if loose:
        raise BundleError("weights that belong to a member", examples(loose), "run kit bundle again")
    return [*weights, Dataset(manifest.bundle, (*rest, FILE))]


def weights_slug(manifest: Manifest, files: set[str]) -> str:
    """`kit-weights-` and 16 hex digits: the hash over the sorted hashes of the files."""
    hashes = sorted(manifest.files[name]["sha256"] for name in files)
    return f"kit-weights-{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:16]}"
