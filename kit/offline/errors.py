"""What can go wrong, said so that a competitor can act on it.

KitError                 base: expected, found, what to do
  NotFound               a competition, template, recipe, run, bundle or folder that is not there
  DataError              host tables: columns, ids, labels, rows
  ImageError             one image that cannot be read as it must be
  AudioError             one recording that cannot be read as it must be
  FoldError              a fold table that leaks, is stale or cannot be made
  RecipeError            a recipe or an override that makes no sense
  WeightsError           pretrained or trained weights that cannot be had
  RunError               a run that is damaged or does not fit another
    Diverged             a fold whose loss or gradient is no number
    LockedError          a run that another process trains
  BundleError            a bundle whose files are not the ones its manifest names
  SubmissionError        a submission the host would refuse
  KaggleError            what Kaggle refused, or did not answer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KitError(Exception):
    """A fault with a remedy. Prints three lines: what was expected, what was found, what to do."""

    def __init__(self, expected: str, found: str, fix: str):
        self.expected, self.found, self.fix = expected, found, fix
        super().__init__(expected, found, fix)

    def __str__(self) -> str:
        return f"expected: {self.expected}\nfound:    {self.found}\nto do:    {self.fix}"


class NotFound(KitError):
    """A competition, template, recipe, run, bundle or folder that is not there."""


class DataError(KitError):
    """Host tables: columns, ids, labels, rows."""


class ImageError(KitError):
    """One image that cannot be read as it must be."""


class AudioError(KitError):
    """One recording that cannot be read as it must be."""


class FoldError(KitError):
    """A fold table that leaks, is stale or cannot be made."""


class RecipeError(KitError):
    """A recipe or an override that makes no sense."""


class WeightsError(KitError):
    """Pretrained or trained weights that cannot be had."""


class RunError(KitError):
    """A run that is damaged or does not fit another."""


class Diverged(RunError):
    """A fold whose loss or gradient is no number."""


class LockedError(RunError):
    """A run that another process trains."""


class BundleError(KitError):
    """A bundle whose files are not the ones its manifest names."""


class SubmissionError(KitError):
    """A submission the host would refuse."""


class KaggleError(KitError):
    """What Kaggle refused, or did not answer.

    status: of its HTTP answer, where it gave one. passing: the same call may succeed a little later; whether the call
    that failed was carried out is not known then.
    """

    def __init__(self, expected: str, found: str, fix: str, status: int | None = None, passing: bool = False):
        super().__init__(expected, found, fix)
        self.status, self.passing = status, passing


def examples(items: Iterable[object], most: int = 3) -> str:
    """Up to `most` items and the count of all: `'a', 'b', 'c' and 7 more (10 in all)`."""
    found = [repr(item) if isinstance(item, str) else str(item) for item in items]
    if len(found) <= most:
        return ", ".join(found) if found else "none"
    return f"{', '.join(found[:most])} and {len(found) - most} more ({len(found)} in all)"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The remedy for a misspelt name: the nearest one, else the whole list."""
    known = sorted(map(str, names))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose one of: {', '.join(known)}" if known else "there is none yet"
