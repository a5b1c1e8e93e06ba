"""Kaggle datasets: which of them a bundle becomes, and how one is made to hold exactly the files that lie here."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.offline.errors import BundleError, KaggleError, examples
from kit.offline.files import sha256_of, write_json
from kit.offline.manifest import FILE, Manifest
from kit.shipping import kaggle_child
from kit.shipping.bundle import dataset_metadata
from kit.shipping.kaggle import AGAIN, TRIES, ask, call, missing, poll, require_slug, wait

WEIGHTS = ".safetensors"
MINUTES = 60
"""How long Kaggle may process what was uploaded."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""File names that arrive as they are sent: Kaggle says Ok to `@` and `&`, and drops the files afterwards."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
"""Kaggle unpacks them: the file is gone, and a folder of its name is there."""
PROCESSING = (
    *("NOT_YET_PERSISTED", "BLOBS_RECEIVED", "BLOBS_DECOMPRESSED", "BLOBS_COPIED_TO_SDS"),
    *("INDIVIDUAL_BLOBS_COMPRESSED", "REPROCESSING"),
)


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


def store(
    owner: str,
    slug: str,
    files: Mapping[str, Path],
    proof: str | None = None,
    notes: str = "",
    say: Callable[[str], None] = print,
) -> int:
    """Make the private dataset `owner/slug` hold `files` (name -> where it lies) and nothing else; returns its version.

    Uploads nothing where that is so already: names and sizes are compared, and the content of the small file `proof`,
    which names the content of the others. After an error Kaggle is asked what became of the call before it is repeated.
    Raises KitError for a name that Kaggle would not keep, before anything is sent, and KaggleError where Kaggle refuses
    the files, loses some, or is not done within MINUTES.
    """
    _require_names(slug, files)
    url = f"https://www.kaggle.com/datasets/{owner}/{slug}"
    size = sum(path.stat().st_size for path in files.values())
    uploaded, failures = False, 0
    while True:
        there = _settled(owner, slug, url, say)
        differs = None if there is None else _difference(owner, slug, files, proof, there)
        if there is not None and differs is None:
            say(f"  {url} holds the {len(files)} files: version {there['version']}")
            return int(there["version"])
        if uploaded:
            raise KaggleError(f"{url} to hold the {len(files)} files that were uploaded", str(differs), AGAIN)
        say(f"  uploading {len(files)} files, {size / 1e6:.1f} MB, to {url}")
        try:
            _upload(owner, slug, files, notes, new=there is None)
        except KaggleError as error:
            failures += 1
            if not error.passing or failures == TRIES:
                raise
            say(f"  {error.found}: asking Kaggle what became of it")
            wait(failures)
        else:
            uploaded = True
            _await_version(owner, slug, 1 if there is None else there["version"] + 1, url, say)


def look(owner: str, slug: str) -> dict[str, Any] | None:
    """{"status", "version"} of a dataset; None where there is none that we may see."""
    try:
        found: dict[str, Any] = ask(kaggle_child.dataset, owner=owner, slug=slug)
    except KaggleError as error:
        if missing(error):
            return None
        raise
    return None if found["status"] == "DELETED" else found


def _settled(owner: str, slug: str, url: str, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What there is of a dataset once Kaggle is done with it."""
    there = look(owner, slug)
    if there is None or there["status"] not in PROCESSING:
        return there
    return poll(lambda: look(owner, slug) or {"status": "DELETED"}, PROCESSING, MINUTES, slug, url, say)


def _await_version(owner: str, slug: str, version: int, url: str, say: Callable[[str], None]) -> None:
    """Wait until Kaggle is done with what was just uploaded, and not only with the version before."""

    def state() -> dict[str, Any]:
        there = look(owner, slug) or {"status": "NOT_YET_PERSISTED", "version": 0}
        return {"status": "BLOBS_RECEIVED"} if there["status"] == "READY" and there["version"] < version else there

    poll(state, PROCESSING, MINUTES, slug, url, say)


def _difference(
    owner: str, slug: str, files: Mapping[str, Path], proof: str | None, there: dict[str, Any]
) -> str | None:
    """How what Kaggle keeps differs from `files`; None where it does not."""
    if there["status"] != "READY":
        return f"Kaggle says {there['status']}: over the quota of private datasets, or a name that it does not take?"
    kept: dict[str, int] = ask(kaggle_child.dataset_files, owner=owner, slug=slug)
    ours = {name: path.stat().st_size for name, path in files.items()}
    if kept != ours:
        lost, more = sorted(set(ours) - set(kept)), sorted(set(kept) - set(ours))
        sizes = sorted(name for name in set(ours) & set(kept) if ours[name] != kept[name])
        return f"missing: {examples(lost)}; extra: {examples(more)}; of another size: {examples(sizes)}"
    if proof is None:
        return None
    with tempfile.TemporaryDirectory(prefix="kit-proof-") as folder:
        copy = ask(kaggle_child.download_dataset_file, owner=owner, slug=slug, name=proof, folder=folder)
        return None if sha256_of(Path(copy)) == sha256_of(files[proof]) else f"another {proof}"


def _upload(owner: str, slug: str, files: Mapping[str, Path], notes: str, new: bool) -> None:
    """Send `files` as a new dataset, or as the next version of one."""
    folder = _staged(owner, slug, files)
    if new:
        made = call(kaggle_child.create_dataset, folder=str(folder))
    else:
        made = call(kaggle_child.create_dataset_version, folder=str(folder), notes=notes or "kit push")
    if made["error"] or str(made["status"]).lower() != "ok":
        raise KaggleError(
            f"Kaggle to take the dataset {owner}/{slug}",
            made["error"] or f"status {made['status']!r}",
            "look whether a dataset of that title is there already, public or deleted, and rename or delete it",
        )
    shutil.rmtree(folder)


def _staged(owner: str, slug: str, files: Mapping[str, Path]) -> Path:
    """A folder of links to `files`, for the client to upload.

    The client goes on with an upload that broke off by path, size and time of change. So the folder stays where it is
    until all is sent, and its name is made of the content.
    """
    content = "".join(f"{name} {sha256_of(path)}\n" for name, path in sorted(files.items()))
    beside = next(iter(files.values())).resolve().parent.parent
    folder = beside / f".upload-{hashlib.sha256(f'{owner}/{slug} {content}'.encode()).hexdigest()[:16]}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, path in files.items():
        (folder / name).symlink_to(path.resolve())
    write_json(folder / "dataset-metadata.json", {**dataset_metadata(slug), "id": f"{owner}/{slug}"})
    return folder


def _require_names(slug: str, files: Mapping[str, Path]) -> None:
    require_slug(slug, "dataset")
    bad = [name for name in files if not NAME.fullmatch(name) or name.endswith(ARCHIVES)]
    if bad:
        fix = "rename them: letters, digits, and . _ + -; no archive, which Kaggle would unpack"
        raise BundleError("file names that Kaggle keeps as they are", examples(sorted(bad)), fix)
