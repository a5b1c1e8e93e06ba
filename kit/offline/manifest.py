"""The manifest beside the weights: how to feed and read them, what they answered at home, and every file's hash."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kit.offline.errors import BundleError, examples
from kit.offline.files import sha256_of
from kit.offline.models import ModelSpec
from kit.offline.pixels import Preparation
from kit.offline.places import mounted

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
class Remembered:
    """Training rows that a member held back, and the N x C values it gave them at home, of maps their means."""

    ids: tuple[str, ...]
    values: list[list[float]]


@dataclass(frozen=True)
class Member:
    """One set of weights.

    run, fold: where it comes from; fold -1 was fitted on all rows. weight: its share of the blend. task: settings, as
    `tasks.settings_of`.
    quantiles: C x Q reference distribution of its run's OOF where the blend averages ranks, else None.
    gallery: file of a retrieval task's gallery. prior: the mean of its run's OOF by column, for a row that cannot be
    predicted; None where a mean says nothing (maps, embeddings). remembered: rows to predict again, if any.
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
    prior: list[float] | None = None
    remembered: Remembered | None = None


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
    versions: Mapping[str, str | None]
    licences: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]
    schema: int = SCHEMA
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """Sorted, readable JSON; floats keep their shortest exact form."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def open_bundle(folder: Path, sha256: str | None = None) -> Manifest:
    """The manifest of a bundle that is whole in its folder; see `open_mounted`."""
    return open_mounted(folder, sha256)[0]


def open_mounted(
    folder: Path, sha256: str | None = None, inputs: Path | None = None
) -> tuple[Manifest, dict[str, Path]]:
    """The manifest of a bundle and where each of its files lies, after all were compared with it.

    Nothing else is parsed before that. sha256: what the manifest itself must hash to (the notebook carries it). inputs:
    the folder below which files are looked for that are not beside the manifest: Kaggle mounts weights as datasets of
    their own. Raises BundleError for a manifest that is missing or changed, and for files that are missing, extra or
    changed.
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
        where = verify_files(Path(folder), files, inputs)
        return _manifest(raw), where
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"a readable manifest in {path}", f"{type(error).__name__}: {error}", "run kit bundle again"
        ) from None


def verify_files(folder: Path, files: Mapping[str, tuple[str, int]], inputs: Path | None = None) -> dict[str, Path]:
    """Compare files with {name: (sha256, size)}, all or nothing; returns where each lies.

    A file that is not in `folder` is taken from below `inputs`, if given. Raises BundleError naming what differs.
    """
    there = {path.name: path for path in folder.iterdir() if path.name not in (FILE, *BESIDE)}
    for name in set(files) - set(there) if inputs else ():
        assert inputs is not None
        path = next((path for path in _below(inputs, name) if path.stat().st_size == files[name][1]), None)
        if path:
            there[name] = path
    missing, extra = sorted(set(files) - set(there)), sorted(set(there) - set(files))
    if missing or extra:
        around = f"; mounted: {', '.join(mounted(inputs)) or 'nothing'}" if inputs else ""
        raise BundleError(
            f"the {len(files)} files of the manifest in {folder}" + (f" or below {inputs}" if inputs else ""),
            f"missing: {examples(missing)}; extra: {examples(extra)}{around}",
            "attach every dataset of the bundle (see its kernel-metadata.json), or run kit bundle again",
        )
    for name, (sha256, size) in sorted(files.items()):
        path = there[name]
        if not path.is_file():
            raise BundleError(f"a plain file {path}", "something else", "run kit bundle again")
        found = sha256_of(path) if path.stat().st_size == size else f"{path.stat().st_size} bytes instead of {size}"
        if found != sha256:
            raise BundleError(
                f"{name} with sha256 {sha256[:12]}",
                found[:40],
                "the file has changed: run kit bundle again, or download the dataset again",
            )
    return there


def _below(inputs: Path, name: str) -> Iterator[Path]:
    """Files of that name at most five folders below `inputs`, shallow first; a name holds the hash of its content."""
    for depth in range(1, 6):
        yield from (path for path in inputs.glob("*/" * depth + glob.escape(name)) if path.is_file())


def _manifest(raw: dict[str, Any]) -> Manifest:
    members = tuple(_member(dict(member)) for member in raw["members"])
    return Manifest(**{**raw, "members": members, "columns": tuple(raw["columns"]), "notes": tuple(raw["notes"])})


def _member(raw: dict[str, Any]) -> Member:
    golden = Golden(**{**raw["golden"], "shape": tuple(raw["golden"]["shape"])})
    remembered = raw.get("remembered") and Remembered(tuple(raw["remembered"]["ids"]), raw["remembered"]["values"])
    typed = {
        "spec": spec_from(raw["spec"]),
        "preparation": preparation_from(raw["preparation"]),
        "golden": golden,
        "remembered": remembered,
    }
    return Member(**{**raw, **typed, "views": tuple(raw["views"])})


def spec_from(raw: Mapping[str, Any]) -> ModelSpec:
    """A ModelSpec out of its JSON."""
    return ModelSpec(**{**raw, "size": tuple(raw["size"])})


def preparation_from(raw: Mapping[str, Any]) -> Preparation:
    """A Preparation out of its JSON."""
    tuples = {name: tuple(value) for name, value in raw.items() if isinstance(value, list)}
    return Preparation(**{**raw, **tuples})
