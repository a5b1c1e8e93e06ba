"""kit/training/code.py"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from kit.offline.errors import RecipeError
from kit.offline.places import load_module
from kit.training.augment import light, photo
from kit.training.code import code_hash, function_hash

ROOT = Path(__file__).parents[2]
FILE = '''
"""A file."""
from numpy import rint as rounded
SCALE = 3

def helper(x):
    """Doc."""
    return x * SCALE  # times three

def unrelated(x):
    return x

class Adapter:
    width = 40

    def read(self, row):
        return rounded(helper(row) + self.width)

    def score(self, a, b):
        return unrelated(a) == b
'''


def hash_of(tmp_path, text, **named):
    (tmp_path / "file.py").write_text(text)
    return code_hash(tmp_path / "file.py", **named)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A file."""', '"""Another text."""'),
        ("# times three", "# x3"),
        ('    """Doc."""\n', ""),
        ("x * S", "x  *  S"),
    ],
)
def test_words_about_code_do_not_count(tmp_path, old, new):
    """Docstrings, comments and layout leave the hash of a file and of a function as they were."""
    assert old in FILE
    for named in ({}, {"only": "read"}, {"without": ["score"]}):
        assert hash_of(tmp_path, FILE, **named) == hash_of(tmp_path, FILE.replace(old, new), **named)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("helper(row) +", "helper(row) -"),
        ("SCALE = 3", "SCALE = 4"),
        ("x * SCALE", "x / SCALE"),
        ("width = 40", "width = 41"),
        ("numpy import rint", "numpy import floor"),
    ],
)
def test_a_function_hangs_on_all_that_it_mentions(tmp_path, old, new):
    """Its own code, a helper, the helper's constant, an attribute of the class and an import change its hash."""
    assert hash_of(tmp_path, FILE, only="read") != hash_of(tmp_path, FILE.replace(old, new), only="read")


def test_a_function_does_not_hang_on_the_rest(tmp_path):
    """Another method, and a function that it does not mention, leave its hash; what is not there has none."""
    changed = FILE.replace("== b", "!= b").replace("    return x\n", "    return -x\n")
    assert changed.count("-x") == 1
    assert hash_of(tmp_path, FILE, only="read") == hash_of(tmp_path, changed, only="read")
    assert hash_of(tmp_path, FILE, only="write") == ""


def test_functions_can_be_left_out(tmp_path):
    """A change of a function that is left out is not seen; any other is."""
    changed = FILE.replace("== b", "!= b")
    assert hash_of(tmp_path, FILE, without=["score"]) == hash_of(tmp_path, changed, without=["score"])
    assert hash_of(tmp_path, FILE) != hash_of(tmp_path, changed)
    other = FILE.replace("SCALE = 3", "SCALE = 4")
    assert hash_of(tmp_path, FILE, without=["score"]) != hash_of(tmp_path, other, without=["score"])


def test_functions_of_a_recipe_are_told_apart():
    """Presets, lambdas and partial applications with other arguments differ; the same one is the same."""
    first = lambda size: light((size[0], 8))  # noqa: E731
    second = lambda size: light((size[0], 9))  # noqa: E731
    functions = [light, photo, first, second, functools.partial(light, 3), functools.partial(light, 4)]
    assert len({function_hash(function) for function in functions}) == len(functions)
    assert function_hash(functools.partial(light, 3)) == function_hash(functools.partial(light, 3))
    assert function_hash(len) != function_hash(max)


CARRYING = """
import functools

import numpy as np
import torch

def helper(size):
    return size

def heavy(share):
    def make(size):
        return helper(size), share
    return make

class Make:
    def __init__(self, share, inner=None):
        self.share, self.inner = share, inner

    def __call__(self, size):
        return helper(size), self.share

    def method(self, size):
        return self.share

closed, other_closed = heavy(0.1), heavy(0.9)
lambdas = [lambda size, share=share: (size, share) for share in (1,)]
called, other_called, nested = Make(0.1), Make(0.9), Make(0.1, Make(0.9))
bound, other_bound = Make(0.1).method, Make(0.9).method
array, tensor = np.zeros(5000), torch.zeros(3)
other_array, other_tensor = np.where(np.arange(5000) == 2500, 1.0, 0.0), torch.ones(3)
arrays, other_arrays = heavy(array), heavy(other_array)
tensors, other_tensors = heavy(tensor), heavy(other_tensor)
words, other_words = heavy({"one", "two", "three"}), heavy({"one", "two"})
module, other_module = heavy(np), heavy(torch)
within, other_within = functools.partial(helper, inner=closed), functools.partial(helper, inner=other_closed)
unstable = functools.partial(helper, object())
"""
HASHES = """
import sys
from pathlib import Path
from kit.offline.places import load_module
from kit.training.code import function_hash
for folder in sys.argv[1:3]:
    module = load_module(Path(folder), "carrying")
    print(*(function_hash(getattr(module, name)) for name in sys.argv[3:]))
"""
CARRIERS = [
    "closed", "other_closed", "called", "other_called", "nested", "bound", "other_bound", "within", "other_within",
    "arrays", "other_arrays", "tensors", "other_tensors", "words", "other_words", "module", "other_module",
]  # fmt: skip


def test_the_values_that_a_function_carries_count(tmp_path):
    """What it closes over (long arrays, sets and modules among it), an object's attributes, a method's object and a
    partial's functions: all differ, each is the same in another process; a helper that only the closure's maker
    mentions counts."""

    folders = [tmp_path / "first", tmp_path / "changed"]
    for folder, text in zip(
        folders, (CARRYING, CARRYING.replace("    return size\n", "    return -size\n")), strict=True
    ):
        folder.mkdir()
        (folder / "carrying.py").write_text(text)
    command = [sys.executable, "-c", HASHES, *map(str, folders), *CARRIERS]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    first, changed = (line.split() for line in told)
    module = load_module(folders[0], "carrying")
    assert [function_hash(getattr(module, name)) for name in CARRIERS] == first
    assert len(set(first)) == len(CARRIERS)
    assert all(one != other for one, other in zip(first, changed, strict=True))


def test_a_value_that_each_process_sees_otherwise_is_refused(tmp_path):
    """An object without attributes has nothing but its address: the same command would find another run."""
    (tmp_path / "carrying.py").write_text(CARRYING)
    with pytest.raises(RecipeError, match="plain values"):
        function_hash(load_module(tmp_path, "carrying").unstable)


QUOTED = """
def told(row, width, *more: int):
    text = f"{row['id']!r:>{width}} {width=} {{}}" "it's"
    match row:
        case {"a": 1, **rest} | [1, *_]:
            return f"{text}\\n{rest:%Y-%m}", -1 ** 2, b"\\x00", u"\u00e9", None
    return row[1:2, ::3], (lambda: 0.1)(), 2j, ...
"""


def test_the_hash_is_the_same_on_every_python(tmp_path):
    """The value was found by Python 3.11, 3.12 and 3.13: a run has one name at home and on Kaggle."""
    assert hash_of(tmp_path, QUOTED)[:16] == "034e6f67890fcb67"
    formatted, plain = 'x = f"{a:>{b}}"', 'x = f"{a:>{b}}" "c"'
    assert len({hash_of(tmp_path, text) for text in (formatted, plain, 'x = f"{a:>{b}}" ""')}) == 2
