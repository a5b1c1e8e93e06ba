"""Wheels that a bundle carries: packages that Kaggle's image lacks, packed from what is installed here.

Pure ones are imported from `sys.path` as they are. Others must fit Kaggle's Python; the notebook unpacks them.
"""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from kit.offline.errors import BundleError
from kit.offline.files import write_whole

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every entry of a wheel: the same files give the same bytes."""
KAGGLE = re.compile(r"(cp312-(cp312|abi3)|cp3\d+-abi3)-manylinux\S*x86_64|py3-none-any|py2\.py3-none-any")
"""Tags that Kaggle's image takes: Python 3.12 on 64-bit Linux."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
"""What Kaggle's Ubuntu 22.04 (glibc 2.35) runs and packages are built for; pip takes each as it is written."""
PIP = ("--no-deps", "--only-binary=:all:", "--python-version=3.12", *(f"--platform={name}" for name in PLATFORMS))
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


def carry(folder: Path, package: str) -> str:
    """Put the wheel of an installed package into `folder`; returns its name.

    Packed from the installed files where they fit Kaggle, else downloaded with pip at the installed version. Raises
    BundleError where the package is not installed, or not to be had.
    """
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise BundleError(
            f"the package {package}, which Kaggle lacks and the bundle must carry",
            "it is not installed",
            f"pip install {package}",
        ) from None
    tag = re.search(r"^Tag: (\S+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    if tag is None or not KAGGLE.fullmatch(tag[1]):
        return _downloaded(folder, package, found.version)
    name = re.sub(r"[-_.]+", "_", found.metadata["Name"])
    return pack(folder, f"{name}-{found.version}-{tag[1]}", f"{name}-{found.version}.dist-info", _files(found))


def _files(found: Distribution) -> dict[str, bytes]:
    """The files of a package, sorted, less scripts, bytecode and what the installer added."""
    names = {str(file): Path(str(found.locate_file(file))) for file in found.files or ()}
    kept = {name: path for name, path in names.items() if not name.startswith("..") and path.suffix != ".pyc"}
    return {
        name: path.read_bytes()
        for name, path in sorted(kept.items())
        if not (".dist-info/" in name and path.name in LEFT)
    }


def _downloaded(folder: Path, package: str, version: str) -> str:
    there = {path.name for path in folder.glob("*.whl")}
    command = [sys.executable, "-m", "pip", "download", "--quiet", *PIP, "--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    fresh = {path.name for path in folder.glob("*.whl")} - there
    if done.returncode or len(fresh) != 1:
        raise BundleError(
            f"a wheel of {package} {version} for Kaggle's Python 3.12",
            (done.stderr.strip().splitlines() or ["none"])[-1],
            "connect to the network, or bundle with Python 3.12 on Linux, where the installed one is packed",
        )
    return fresh.pop()
