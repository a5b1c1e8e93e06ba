"""Who may import whom, what the inference path may need, and what may stand nowhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KIT = sorted((ROOT / "kit").rglob("*.py"))
CODE = [*KIT, *sorted((ROOT / "competitions").rglob("*.py"))]
TRAVELS = {"torch", "timm", "numpy", "pandas", "scipy", "sklearn", "cv2", "PIL", "safetensors"}
HOME_ONLY = [
    "albumentations", "kaggle", "pydantic", "typer", "rich", "nbclient", "nbformat", "jinja2", "matplotlib",
    "segmentation_models_pytorch",
]  # fmt: skip


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """Every dotted name that a piece of code imports; `from kit import cli` gives kit and kit.cli."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).parts[: -node.level]) if node.level else ""
            base = ".".join(part for part in (package, node.module) if part)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def at_module_level(path: Path) -> set[str]:
    """What importing the module imports: everything outside functions and outside `if TYPE_CHECKING`."""

    def reached(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        yield node
        for child in ast.iter_child_nodes(node):
            yield from reached(child)

    tree = ast.Module([node for node in reached(ast.parse(path.read_text())) if isinstance(node, ast.stmt)], [])
    flat = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for node in flat for name in imports(node, path)}


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", [path for path in KIT if path.parent.name == "offline"], ids=name_of)
def test_the_inference_path_imports_only_what_kaggle_has(path):
    """At module level: the standard library, kit.offline and nine packages of Kaggle's image."""
    for name in at_module_level(path):
        top = name.partition(".")[0]
        allowed = (
            name == "kit" or within(name, "kit.offline") if top == "kit" else top in TRAVELS | sys.stdlib_module_names
        )
        assert allowed, f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", [path for path in KIT if path.parent.name == "offline"], ids=name_of)
def test_the_inference_path_imports_no_other_part_of_kit_anywhere(path):
    """Not even inside a function: the other packages stay at home."""
    for name in imports(ast.parse(path.read_text()), path):
        assert not within(name, "kit.training", "kit.judging", "kit.shipping", "kit.cli", "kit.check", "competitions")


@pytest.mark.parametrize("path", [path for path in KIT if path.parent.name == "training"], ids=name_of)
def test_training_does_not_know_who_uses_it(path):
    """kit.training imports neither shipping nor judging nor the command line."""
    for name in imports(ast.parse(path.read_text()), path):
        assert not within(name, "kit.shipping", "kit.judging", "kit.cli"), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", [path for path in KIT if path.parent.name == "judging"], ids=name_of)
def test_judging_does_not_know_kaggle(path):
    """kit.judging imports neither shipping nor the command line."""
    for name in imports(ast.parse(path.read_text()), path):
        assert not within(name, "kit.shipping", "kit.cli"), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_the_client_is_imported_in_its_own_process_alone(path):
    """kaggle_child.py, which is run and imports nothing of the kit; importing kaggle talks to Kaggle."""
    for name in imports(ast.parse(path.read_text()), path):
        if path.name == "kaggle_child.py":
            assert not within(name, "kit")
        else:
            assert not within(name, "kaggle", "kagglesdk"), f"{name_of(path)} imports {name}"
    if path.name == "kaggle_child.py":
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in at_module_level(path))


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_nothing_imports_the_command_line(path):
    """kit.cli sits on top; and kit reaches competitions by path alone."""
    for name in imports(ast.parse(path.read_text()), path):
        assert not within(name, "kit.cli"), f"{name_of(path)} imports {name}"
        if path in KIT:
            assert not within(name, "competitions"), f"{name_of(path)} imports {name}"


WITHOUT_HOME = """
import sys
BLOCKED = {blocked!r}
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{{name}} is not on Kaggle")
sys.meta_path.insert(0, Wall())
for name in BLOCKED:
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"the wall let {{name}} through")
import kit.offline.predict
import kit
for name in kit.__all__:
    getattr(kit, name)
from kit.offline.places import list_competitions, load_competition
for name in list_competitions():
    load_competition(name)
    print(name)
assert not set(BLOCKED) & set(sys.modules), set(BLOCKED) & set(sys.modules)
"""


def test_inference_and_every_adapter_run_without_the_packages_of_home():
    """Behind a wall that refuses home-only packages, the inference path, kit's vocabulary and all adapters import."""
    run = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", WITHOUT_HOME.format(blocked=HOME_ONLY)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == sorted(path.parent.name for path in (ROOT / "competitions").glob("*/adapter.py"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_images_are_read_without_a_display():
    """One OpenCV, the headless one: opencv-python needs libGL, which servers lack, and would overwrite the same cv2."""
    assert set(packages_distributions()["cv2"]) == {"opencv-python-headless"}
    code = "import kit.offline.pixels, pathlib; print(pathlib.Path('/proc/self/maps').read_text())"
    mapped = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "cv2" in mapped and not re.search(r"libGL|libX11", mapped)


FORBIDDEN_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
FORBIDDEN_CALLS = re.compile(
    r"(torch\.load|(builtins\.)?(eval|exec)|yaml\.(unsafe_|full_)?load(_all)?|os\.(system|popen)|(pd|pandas)\.read_pickle)"
)


def dangers(source: str) -> list[str]:
    """Ways to run what was only to be read: unpickling, eval, shells."""
    tree = ast.parse(source)
    found = [name for name in imports(tree, ROOT / "x.py") if within(name, *FORBIDDEN_MODULES)]
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        named = {word.arg: word.value for word in node.keywords}
        found += [ast.unparse(node.func)] if FORBIDDEN_CALLS.fullmatch(ast.unparse(node.func)) else []
        for word, harmless in (("shell", False), ("allow_pickle", False)):
            value = named.get(word)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is harmless):
                found.append(f"{word}={ast.unparse(value)}")
    return found


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_nothing_runs_what_it_reads(path):
    """No pickle, joblib, torch.load, eval, exec, shell or yaml.load, in kit or in any competition."""
    assert not dangers(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import pickle as p",
        "torch.load(path, weights_only=True)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(line, shell=True)",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_for_dangers_finds_them(source):
    """Each forbidden form is found, and their harmless cousins are not."""
    assert dangers(source)
    assert not dangers(
        "model.eval()\nnp.load(path, allow_pickle=False)\nsubprocess.run(line, shell=False)\njson.load(f)"
    )


def test_images_are_decoded_by_pillow_and_opencv_alone():
    """torchvision 0.29 dies (SIGSEGV) of a PNG with a bad checksum, which both others refuse with an error."""
    for path in CODE:
        for name in imports(ast.parse(path.read_text()), path):
            assert not within(name, "torchvision.io"), f"{name_of(path)} imports {name}"
