"""Wheels that a bundle carries: packages that Kaggle's image lacks, packed from what is installed here.

Pure ones are imported from `sys.path` as they are. Others must fit Kaggle's Python; the notebook installs them.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    distributions,
    packages_distributions,
)
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import parse_tag, sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from kit.offline.errors import BundleError
from kit.offline.files import write_whole
from kit.shipping.image import Image, load_image

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every entry of a wheel: the same files give the same bytes."""
TORCH = re.compile(r"torch(vision|audio)?|triton|nvidia-.*")
"""Packages that the image has in builds of its own, and that no bundle brings."""
LEFT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What an installer adds."""


def pack(folder: Path, stem: str, info: str, files: Mapping[str, bytes]) -> str:
    """Write a wheel of `files` (name -> content) with its RECORD; returns its name. stem: the name less ".whl"."""
    lines = [f"{name},sha256={hashlib.sha256(files[name]).hexdigest()},{len(files[name])}\n" for name in files]
    whole = {**files, f"{info}/RECORD": f"{''.join(lines)}{info}/RECORD,,\n".encode()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in whole.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    name = f"{stem.format(digest=hashlib.sha256(content).hexdigest()[:8])}.whl"
    write_whole(folder / name, content)
    return name


def missing(wanted: Iterable[str], image: Image) -> list[str]:
    """What must travel of `wanted` and of all that it requires in turn: the names that the image lacks, sorted.

    wanted: requirements, as "package" or "package>=2". Their own are read from what is installed here, for the image's
    Python. Raises BundleError for a package that is not installed, and for a requirement that the image's version of a
    package does not meet.
    """
    found: dict[str, Distribution] = {}
    waiting = [(_parsed(text), "the competition") for text in wanted]
    while waiting:
        requirement, asker = waiting.pop()
        name = canonicalize_name(requirement.name)
        if _has(image, requirement, asker) or (name in found and not requirement.extras):
            continue
        found[name] = _installed(requirement, asker)
        label = f"{name} {found[name].version}"
        waiting += [(one, label) for one in _requirements(found[name], requirement.extras, image)]
    return sorted(found)


def _parsed(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        fix = 'write the names of packages into `wheels`, as "python-gdcm" or "python-gdcm>=3"'
        raise BundleError("the name of a package, or a requirement", f"{text!r}: {error}", fix) from None


def _has(image: Image, requirement: Requirement, asker: str) -> bool:
    """Whether the image meets a requirement. Raises BundleError where it has another version."""
    name = canonicalize_name(requirement.name)
    if name not in image.packages:
        return bool(TORCH.fullmatch(name))
    version = image.packages[name]
    if version is not None and not requirement.specifier.contains(version, prereleases=True):
        raise BundleError(
            f"{requirement}, as {asker} asks",
            f"{name} {version} in Kaggle's image of {image.name}, and two copies of a package break each other",
            f"install a release of {asker.partition(' ')[0]} that takes {name} {version}, and train with that",
        )
    return True


def _installed(requirement: Requirement, asker: str) -> Distribution:
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        found = None
    if found is None or not requirement.specifier.contains(found.version, prereleases=True):
        raise BundleError(
            f"the package {requirement}, which {asker} needs and Kaggle lacks, to put it into the bundle",
            f"version {found.version}" if found else "it is not installed",
            f"pip install '{requirement}'" if requirement.specifier else f"pip install {requirement.name}",
        )
    return found


def _requirements(found: Distribution, extras: Iterable[str], image: Image) -> Iterator[Requirement]:
    """What a package requires on the image, with some of its extras."""
    for text in found.requires or ():
        requirement = Requirement(text)
        environments = [{**image.environment, "extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in environments):
            yield requirement


def modules_lacking(image: Image) -> list[str]:
    """Top-level modules that can be imported here and, unless a bundle brings them, not in Kaggle's image; sorted.

    What its packages require here is none of them: the image has those packages in releases that require other things.
    """
    here = {canonicalize_name(one.metadata["Name"]): one for one in distributions()}
    there: set[str] = set()
    waiting = [name for name in here if name in image.packages or TORCH.fullmatch(name)]
    while waiting:
        name = waiting.pop()
        if name in here and name not in there:
            there.add(name)
            waiting += [canonicalize_name(one.name) for one in _requirements(here[name], (), image)]
    return sorted(
        module for module, names in packages_distributions().items() if not there & set(map(canonicalize_name, names))
    )


def stand_ins(wheels: Iterable[str]) -> dict[str, list[str]]:
    """Name of a wheel that this interpreter cannot install -> top-level modules of the installed copy of its package.

    wheels: names of files. A package that is not installed here has no modules.
    """
    here: dict[str, list[str]] = {}
    for module, names in packages_distributions().items():
        for name in set(map(canonicalize_name, names)):
            here.setdefault(name, []).append(module)
    parsed = {wheel: parse_wheel_filename(wheel) for wheel in wheels}
    return {
        wheel: sorted(here.get(name, []))
        for wheel, (name, _, _, tags) in sorted(parsed.items())
        if tags.isdisjoint(sys_tags())
    }


def carry(folder: Path, wanted: Iterable[str], image: Image | None = None) -> list[str]:
    """Put the wheels of all that is `missing` into `folder`; returns their names.

    Packed from the installed files where they fit the image, else downloaded with pip at the installed version. Raises
    BundleError for what cannot be had as a wheel.
    """
    image = image or load_image()
    return [_carried(folder, package, image) for package in missing(wanted, image)]


def _carried(folder: Path, package: str, image: Image) -> str:
    found = distribution(package)
    if json.loads(found.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        fix = f"install it as a copy: pip install the folder of {package} without -e"
        raise BundleError(f"the files of {package}", "an editable install, which has none", fix)
    tags = re.findall(r"^Tag: (\S+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    tag = next((tag for tag in tags if fits(tag, image)), None)
    if tag is None:
        return _downloaded(folder, package, found.version, image)
    name = re.sub(r"[-_.]+", "_", found.metadata["Name"])
    return pack(folder, f"{name}-{found.version}-{tag}", f"{name}-{found.version}.dist-info", _files(found))


def fits(tag: str, image: Image) -> bool:
    """Whether a wheel of that tag (as "cp312-cp312-manylinux_2_28_x86_64") can be installed on the image."""
    return not parse_tag(tag).isdisjoint(image.tags)


def _files(found: Distribution) -> dict[str, bytes]:
    """The files of a package, sorted, less scripts, bytecode and what the installer added."""
    names = {str(file): Path(str(found.locate_file(file))) for file in found.files or ()}
    kept = {name: path for name, path in names.items() if not name.startswith("..") and path.suffix != ".pyc"}
    return {
        name: path.read_bytes()
        for name, path in sorted(kept.items())
        if not (".dist-info/" in name and path.name in LEFT)
    }


def _downloaded(folder: Path, package: str, version: str, image: Image) -> str:
    """Fetch a wheel for the image's Python; never a source archive, never what it requires."""
    there = {path.name for path in folder.glob("*.whl")}
    options = ["--no-deps", "--only-binary=:all:", "--python-version={}.{}".format(*image.minor)]
    options += [f"--platform={name}" for name in image.platforms]  # pip takes each as it is written
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", str(folder)]
    done = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True, check=False)
    fresh = {path.name for path in folder.glob("*.whl")} - there
    if done.returncode or len(fresh) != 1:
        raise BundleError(
            f"a wheel of {package} {version} for Kaggle's Python {'{}.{}'.format(*image.minor)}",
            (done.stderr.strip().splitlines() or ["none"])[-1],
            "connect to the network, or bundle with that Python on Linux, where the installed one is packed",
        )
    return fresh.pop()


def install(python: Path, wheels: Sequence[Path], folder: Path) -> None:
    """Unpack compiled wheels into `folder` with the pip of an interpreter, which refuses those of other ones.

    As the notebook does it: without an index, without what they require. Raises BundleError.
    """
    if not wheels:
        return
    options = ["--quiet", "--no-index", "--no-deps", "--target", str(folder)]
    command = [str(python), "-m", "pip", "install", *options, *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(
            f"wheels that {python} can install: {', '.join(wheel.name for wheel in wheels)}",
            (done.stderr.strip().splitlines() or ["no word"])[-1],
            "bundle again, so that wheels for Kaggle's Python are fetched",
        )
