"""Where things lie: the home folder, its competitions, inputs on Kaggle; and how an adapter is loaded from its path."""

from __future__ import annotations

import glob
import importlib
import importlib.machinery
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from kit.offline.contract import Competition
from kit.offline.errors import DataError, NotFound, did_you_mean

NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")


def home_folder(home: Path | str | None = None) -> Path:
    """The folder that holds `competitions/`: `home`, else $KIT_HOME, else the working folder."""
    return Path(home or os.environ.get("KIT_HOME") or ".").resolve()


def list_competitions(home: Path | str | None = None) -> list[str]:
    """Names of the folders in `competitions/` that hold an adapter, sorted; folders of other names are none of ours."""
    names = [path.parent.name for path in (home_folder(home) / "competitions").glob("*/adapter.py")]
    return sorted(name for name in names if NAME.fullmatch(name))


def competition_folder(name: str, home: Path | str | None = None) -> Path:
    """The folder of one competition. Raises NotFound with the nearest name."""
    folder = home_folder(home) / "competitions" / name
    if not NAME.fullmatch(name) or not (folder / "adapter.py").is_file():
        raise NotFound(
            f"a competition {name!r} at {folder / 'adapter.py'}",
            "no such file",
            f"{did_you_mean(name, list_competitions(home))}; fork a template with kit new NAME --from TEMPLATE, "
            "or name the folder that has competitions/ with --home",
        )
    return folder


def load_competition(name: str, home: Path | str | None = None) -> Competition:
    """The adapter of competition `name` under `home`, ready to use."""
    return load_adapter(competition_folder(name, home))


def load_adapter(folder: Path | str) -> Competition:
    """An instance of the class `Adapter` in `folder/adapter.py`; `folder` may lie inside a wheel on disk.

    Running an adapter is running its author's code: load only what you trust.
    """
    module = load_module(folder, "adapter")
    adapter = getattr(module, "Adapter", None)
    if not (isinstance(adapter, type) and issubclass(adapter, Competition)):
        raise DataError(f"a class Adapter(Competition) in {folder}/adapter.py", repr(adapter), "name the class Adapter")
    instance = adapter()
    instance.folder = Path(folder)
    return instance


def load_module(folder: Path | str, stem: str) -> ModuleType:
    """Import `folder/<stem>.py` afresh by path, from a folder or a folder inside a zip; sys.path is not touched."""
    spec = _find(folder, stem)
    if spec is None or spec.loader is None:
        raise NotFound(f"a module {stem}.py in {folder}", "no such file", "check the folder")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and inspect look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def has_module(folder: Path | str, stem: str) -> bool:
    """Whether `folder/<stem>.py` is there, also inside a zip."""
    return _find(folder, stem) is not None


def _find(folder: Path | str, stem: str) -> importlib.machinery.ModuleSpec | None:
    """The spec under a dotted name that tells competitions apart; finders look for its last part."""
    importlib.invalidate_caches()
    return importlib.machinery.PathFinder.find_spec(f"kit_competition.{Path(folder).name}.{stem}", [str(folder)])


def input_folder() -> Path:
    """Where Kaggle mounts inputs; $KIT_INPUT moves it (rehearsals without mount rights)."""
    return Path(os.environ.get("KIT_INPUT", "/kaggle/input"))


def find_competition_data(slug: str, inputs: Path | None = None) -> Path:
    """The mounted folder of a competition: under either layout that Kaggle uses in 2026, else the first of that name,
    shallow first, at most five levels below `inputs`."""
    inputs = inputs or input_folder()
    name = glob.escape(slug)
    elsewhere = (path for depth in range(1, 5) for path in sorted(inputs.glob("*/" * depth + name)))
    for folder in itertools.chain((inputs / "competitions" / slug, inputs / slug), elsewhere):
        if folder.is_dir():
            return folder
    raise NotFound(
        f"the competition's files at {inputs}/competitions/{slug} or {inputs}/{slug}, or deeper",
        f"mounted: {', '.join(mounted(inputs)) or 'nothing'}",
        "add the competition as an input of the notebook",
    )


def mounted(inputs: Path) -> list[str]:
    """Folders at most three levels below `inputs`, for error messages; at most forty."""
    found = [
        str(path.relative_to(inputs))
        for depth in ("*", "*/*", "*/*/*")
        for path in sorted(inputs.glob(depth))
        if path.is_dir()
    ]
    return found[:40]


def inside(root: Path, name: str) -> Path:
    """`root/name`, refused where it would lie outside `root` (absolute paths, `..`, NUL)."""
    path = root / name
    if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"a path inside {root}", repr(name), "mend the row that names it")
    return path


def missing_files(root: Path, names: Iterable[str]) -> list[str]:
    """Those of `names` that are no file below `root`."""
    return [name for name in names if not inside(root, name).is_file()]
