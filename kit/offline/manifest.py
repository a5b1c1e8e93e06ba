"""The manifest beside the weights: how to feed and read them, what they answered at home, and every file's hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kit.offline.errors import BundleError, examples
from kit.offline.files import sha256_of
from kit.offline.models import ModelSpec
from kit.offline.pixels import Preparation

SCHEMA = 1
FILE = "manifest.json"
BESIDE = ("dataset-metadata.json",)
"""Files that Kaggle's client needs in the folder and does not upload."""


@dataclass(frozen=True)
class Golden:
    """Synthetic inputs drawn by a seed, as the adapter's cut leaves them, and what the network answered at home.

    shape: of one input (H x W x C, or a bag). dtype: its numpy name. answers: count x C activated outputs, one view.
    """

    seed: int
    count: int
    shape: tuple[int, ...]
    dtype: str
    answers: list[list[float]]


@dataclass(frozen=True)
class Member:
    """One set of weights.

    run, fold: where it comes from; fold -1 was fitted on all rows. weight: its share of the blend. task: settings, as
    `tasks.settings_of`.
    quantiles: C x Q reference distribution of its run's OOF where the blend averages ranks, else None.
    gallery: file of a retrieval task's gallery.
    """

    file: str
    run: str
    fold: int
    weight: float
    spec: ModelSpec
    preparation: Preparation
    views: tuple[str, ...]
    task: Mapping[str, Any]
    learned: Mapping[str, Any]
    golden: Golden
    quantiles: list[list[float]] | None = None
    gallery: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle knows.

    task: what reads answers off the blended members, with `learned`: a single run's own, else the competition's.
    files: name -> {"sha256", "size"} of every file beside the manifest.
    """

    bundle: str
    slug: str
    competition: str
    wheel: str
    members: tuple[Member, ...]
    task: Mapping[str, Any]
    learned: Mapping[str, Any]
    columns: tuple[str, ...]
    score: Mapping[str, Any]
    folds: str
    commit: str
    versions: Mapping[str, str]
    licences: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]
    schema: int = SCHEMA
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """Sorted, readable JSON; floats keep their shortest exact form."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def open_bundle(folder: Path, sha256: str | None = None) -> Manifest:
    """The manifest of a bundle, after every file was compared with it; nothing else is parsed before that.

    sha256: what the manifest itself must hash to (the notebook carries it). Raises BundleError for a manifest that is
    missing or changed, and for files that are missing, extra or changed.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise BundleError(
            f"a bundle with a {FILE} in {folder}", "no such file (the manifest is written last)", "run kit bundle again"
        )
    content = path.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(
            f"a manifest of sha256 {sha256[:12]}",
            hashlib.sha256(content).hexdigest()[:12],
            "attach the version of the dataset that the notebook was made for",
        )
    try:
        raw = json.loads(content)
        if raw["schema"] != SCHEMA:
            raise BundleError(
                f"a manifest of schema {SCHEMA}", str(raw["schema"]), "run kit bundle again with this version of kit"
            )
        files = {str(name): (str(entry["sha256"]), int(entry["size"])) for name, entry in raw["files"].items()}
        verify_files(Path(folder), files)
        return _manifest(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"a readable manifest in {path}", f"{type(error).__name__}: {error}", "run kit bundle again"
        ) from None


def verify_files(folder: Path, files: Mapping[str, tuple[str, int]]) -> None:
    """Compare a folder with {name: (sha256, size)}: all or nothing. Raises BundleError naming what differs."""
    there = {path.name for path in folder.iterdir()} - {FILE, *BESIDE}
    missing, extra = sorted(set(files) - there), sorted(there - set(files))
    if missing or extra:
        raise BundleError(
            f"the {len(files)} files of the manifest in {folder}",
            f"missing: {examples(missing)}; extra: {examples(extra)}",
            "run kit bundle again, or download the dataset again",
        )
    for name, (sha256, size) in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            raise BundleError(f"a plain file {path}", "something else", "run kit bundle again")
        found = sha256_of(path) if path.stat().st_size == size else f"{path.stat().st_size} bytes instead of {size}"
        if found != sha256:
            raise BundleError(
                f"{name} with sha256 {sha256[:12]}",
                found[:40],
                "the file has changed: run kit bundle again, or download the dataset again",
            )


def _manifest(raw: dict[str, Any]) -> Manifest:
    members = tuple(_member(dict(member)) for member in raw["members"])
    return Manifest(**{**raw, "members": members, "columns": tuple(raw["columns"]), "notes": tuple(raw["notes"])})


def _member(raw: dict[str, Any]) -> Member:
    golden = Golden(**{**raw["golden"], "shape": tuple(raw["golden"]["shape"])})
    typed = {"spec": spec_from(raw["spec"]), "preparation": preparation_from(raw["preparation"]), "golden": golden}
    return Member(**{**raw, **typed, "views": tuple(raw["views"])})


def spec_from(raw: Mapping[str, Any]) -> ModelSpec:
    """A ModelSpec out of its JSON."""
    return ModelSpec(**{**raw, "size": tuple(raw["size"])})


def preparation_from(raw: Mapping[str, Any]) -> Preparation:
    """A Preparation out of its JSON."""
    tuples = {name: tuple(value) for name, value in raw.items() if isinstance(value, list)}
    return Preparation(**{**raw, **tuples})
