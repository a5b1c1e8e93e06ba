"""Kaggle's image: what it has, by a dated file beside this one, and a replica of it to rehearse in.

To refresh the file, run this cell in a notebook on Kaggle:

    !python -c "import platform; print('# python', platform.python_version())" > freeze.txt
    !python -c "import platform; print('# glibc', platform.libc_ver()[1])" >> freeze.txt
    !python -m pip freeze >> freeze.txt

then, at home, `python -m kit.shipping.image --refresh freeze.txt`: it writes this month's file, and the newest is read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name

from kit.offline.errors import KitError, NotFound
from kit.offline.files import write_json

FOLDER = Path(__file__).parent
LEGACY = {17: "manylinux2014_x86_64", 12: "manylinux2010_x86_64", 5: "manylinux1_x86_64"}
"""Older names of platforms, by the minor version of their glibc."""
NEEDED = (
    "torch", "torchvision", "timm", "numpy", "pandas", "scipy", "scikit-learn", "opencv-python-headless", "pillow",
    "safetensors", "pyarrow", "pydicom", "soundfile", "tifffile", "tqdm", "ipykernel",
)  # fmt: skip
"""What a replica installs, with all that it needs: the inference path, adapters' readers and a notebook's kernel."""


@dataclass(frozen=True)
class Image:
    """What Kaggle's image has.

    name: year and month. source: where the list is from. python: its version, of CPython on 64-bit Linux. glibc: its
    version. packages: normalised name -> version, None where it is there in a version unknown. absent: packages that
    competitors often miss.
    """

    name: str
    source: str
    python: str
    glibc: str
    packages: Mapping[str, str | None]
    absent: tuple[str, ...] = ()

    @property
    def minor(self) -> tuple[int, int]:
        """Python's version as (3, 12)."""
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)

    @property
    def platforms(self) -> list[str]:
        """The platforms of wheels that run there, the newest first."""
        newest = int(self.glibc.split(".")[1])
        named = [[f"manylinux_2_{at}_x86_64", *([LEGACY[at]] if at in LEGACY else [])] for at in range(newest, 4, -1)]
        return [platform for names in named for platform in names]

    @property
    def tags(self) -> frozenset[Tag]:
        """The tags of wheels that can be installed there."""
        interpreter = "cp{}{}".format(*self.minor)
        compiled = cpython_tags(self.minor, abis=[interpreter], platforms=self.platforms)
        return frozenset([*compiled, *compatible_tags(self.minor, interpreter, self.platforms)])

    @property
    def environment(self) -> dict[str, str]:
        """What the markers of requirements are evaluated in."""
        return {
            **{name: str(value) for name, value in default_environment().items()},
            "implementation_name": "cpython",
            "implementation_version": self.python,
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": self.python,
            "python_version": "{}.{}".format(*self.minor),
            "sys_platform": "linux",
        }


def load_image(folder: Path = FOLDER) -> Image:
    """The newest image file in a folder."""
    content = json.loads(max(folder.glob("image_*.json")).read_text())
    return Image(**{**content, "absent": tuple(content["absent"])})


def refresh(freeze: str, name: str, source: str, folder: Path = FOLDER) -> Path:
    """Write `image_<year>_<month>.json` from what `pip freeze` said on Kaggle; returns its path.

    freeze: lines as in this module's docstring; without a version of Python or glibc the last file's is kept, as are
    its absent packages, as far as they still are. Raises NotFound for a text without packages.
    """
    last = load_image(folder)
    told = dict(re.findall(r"^# (python|glibc) (\d[\d.]*)$", freeze, re.MULTILINE))
    packages = dict(_frozen(freeze))
    if not packages:
        raise NotFound("lines of name==version", f"none in {len(freeze)} characters", "give what pip freeze printed")
    image = Image(
        name=name,
        source=source,
        python=told.get("python", last.python),
        glibc=told.get("glibc", last.glibc),
        packages=packages,
        absent=tuple(name for name in last.absent if name not in packages),
    )
    path = folder / f"image_{name.replace('-', '_')}.json"
    write_json(path, asdict(image))
    return path


def _frozen(freeze: str) -> Iterator[tuple[str, str | None]]:
    """(name, version) of each line of a freeze; None where it names a place (name @ url) or nothing but the name."""
    for line in freeze.splitlines():
        found = re.match(r"([A-Za-z0-9][\w.-]*)(?:==([^\s;]+)|\s*@|$)", line.strip())
        if found:
            yield canonicalize_name(found[1]), found[2]


def image_python(cache: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """The Python of a virtual environment with the image's packages; built where there is none yet, then kept.

    cache: its folder [$KIT_CACHE, else ~/.cache/kit]. It appears whole. Raises NotFound where Python of the image's
    version is not on this machine, KitError where pip fails.
    """
    image = load_image()
    pins = _pins(image)
    named = hashlib.sha256("\n".join([image.python, *NEEDED, *pins]).encode()).hexdigest()[:8]
    root = cache or Path(os.environ.get("KIT_CACHE") or Path.home() / ".cache" / "kit")
    folder = root / f"image-{image.name}-{named}"
    if not folder.is_dir():
        base = _base_python(image)
        say(f"building the image of {image.name} in {folder}: some 8 GB and minutes, once")
        _build(folder, base, pins)
    return folder / "bin" / "python"


def _pins(image: Image) -> list[str]:
    """Every known version as a constraint of pip; builds for one kind of GPU have local parts that the index lacks."""
    return [f"{name}=={version.partition('+')[0]}" for name, version in image.packages.items() if version]


def _build(folder: Path, base: Path, pins: Sequence[str]) -> None:
    """Make the environment aside and rename it, so that what is there is whole."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        _run([base, "-m", "venv", aside])
        (aside / "constraints.txt").write_text("\n".join(pins) + "\n")
        options = ["--quiet", "--only-binary=:all:", "--constraint", str(aside / "constraints.txt")]
        _run([aside / "bin" / "python", "-m", "pip", "install", *options, *NEEDED])
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit code {done.returncode}"]
        fix = "connect to the package index and free some 16 GB of disk, or rehearse without --image"
        raise KitError("an environment with the packages of Kaggle's image", said[-1], fix)


def _base_python(image: Image) -> Path:
    """An interpreter of the image's version: this one, one on the PATH, or one of pyenv's."""
    wanted = "{}.{}".format(*image.minor)
    for candidate in _candidates(f"python{wanted}"):
        code = "import sys; print('{}.{}'.format(*sys.version_info)); print(sys.executable)"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.splitlines()[0] == wanted:
            return Path(done.stdout.splitlines()[1])
    raise NotFound(
        f"Python {wanted}, which Kaggle's image has, as python{wanted} on the PATH or in pyenv",
        f"Python {'{}.{}'.format(*sys.version_info)} alone",
        f"install it (pyenv install {wanted}, or your system's package), or rehearse without --image",
    )


def _candidates(name: str) -> Iterator[str]:
    yield sys.executable
    found = shutil.which(name)
    if found:
        yield found
    if shutil.which("pyenv"):  # whose shim refuses versions that are installed and not chosen
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False).stdout.strip()
        yield from sorted(map(str, Path(root or ".").glob(f"versions/*/bin/{name}")))


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m kit.shipping.image --refresh freeze.txt`: exit 0, or 1 with the fault on standard error."""
    parser = argparse.ArgumentParser(prog="kit.shipping.image", description="Refresh the list of Kaggle's packages.")
    parser.add_argument("--refresh", type=Path, required=True, metavar="FILE", help="what pip freeze printed on Kaggle")
    parser.add_argument("--name", default=time.strftime("%Y-%m"), help="year and month [default: this one]")
    options = parser.parse_args(arguments)
    try:
        print(refresh(options.refresh.read_text(), options.name, f"pip freeze on Kaggle, {options.name}", FOLDER))
    except (KitError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
