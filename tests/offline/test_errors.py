"""kit/offline/errors.py"""

from __future__ import annotations

import pickle

import pytest

from kit.offline import errors
from kit.offline.errors import DataError, KitError, did_you_mean, examples

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KitError)]


def test_an_error_says_what_was_expected_found_and_to_do_in_that_order():
    """The three parts appear in their order, each on a line of its own."""
    lines = str(DataError("a table", "none", "make one")).splitlines()
    assert lines == ["expected: a table", "found:    none", "to do:    make one"]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_the_way_back_from_a_worker(kind):
    """A loader process pickles its exception; type and parts must arrive."""
    copy = pickle.loads(pickle.dumps(kind("a", "b", "c")))
    assert type(copy) is kind
    assert (copy.expected, copy.found, copy.fix) == ("a", "b", "c")


def test_the_tree_in_the_docstring_names_every_error():
    """The module's docstring lists exactly the classes there are."""
    drawn = {line.split()[0] for line in (errors.__doc__ or "").splitlines() if "  " in line}
    assert drawn == {kind.__name__ for kind in KINDS}


def test_examples_show_a_few_and_count_all():
    """Up to three items are shown, beyond that their number is told."""
    assert examples([]) == "none"
    assert examples(["a", "b", "c"]) == "'a', 'b', 'c'"
    assert examples(str(n) for n in range(10)) == "'0', '1', '2' and 7 more (10 in all)"


def test_did_you_mean_gives_the_nearest_name_else_all():
    """A near name is proposed; a far one gets the list; no names are admitted."""
    assert did_you_mean("lable", ["label", "path"]) == "did you mean 'label'?"
    assert did_you_mean("zzz", ["path", "label"]) == "choose one of: label, path"
    assert did_you_mean("zzz", []) == "there is none yet"
