"""`kit new`: fork a template."""

from __future__ import annotations

import re
from pathlib import Path

import kit
from kit.offline.errors import DataError, NotFound, did_you_mean
from kit.offline.files import write_whole
from kit.offline.places import NAME, competition_folder, home_folder, list_competitions

FILES = ("recipes.py", "model.py", "train.py", "adapter.py")
"""What a fork takes along, if the template has it; the adapter last, since it makes the folder a competition."""
SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
SLUG_LINE = re.compile(r"^(\s+slug\s*(?::\s*str\s*)?=\s*)([\"']).*?\2", re.MULTILINE)


def new(name: str, template: str, slug: str | None = None, home: Path | str | None = None) -> Path:
    """Copy the code of `template` to `competitions/<name>` below `home`, with its slug; returns the folder.

    Default slug: the name with dashes. Templates are looked up in `home` first, then beside the kit. Raises DataError
    for a bad name or slug and for code that is there already, NotFound with the nearest name for an unknown template.
    """
    slug = name.replace("_", "-") if slug is None else slug
    _require_names(name, slug)
    source = template_folder(template, home)
    folder = home_folder(home) / "competitions" / name
    present = [file for file in FILES if (folder / file).exists()]
    if present:
        raise DataError(
            f"no code yet in {folder}", f"{', '.join(present)}", "choose another name, or move that folder away"
        )
    taken = {file: (source / file).read_bytes() for file in FILES if (source / file).is_file()}
    taken["adapter.py"] = _with_slug(taken["adapter.py"].decode(), slug, source).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in taken.items():
        write_whole(folder / file, content)
    return folder


def template_folder(template: str, home: Path | str | None = None) -> Path:
    """Where a template lies: in `home`, else in the checkout beside the kit."""
    checkout = Path(kit.__file__).parents[1]
    known = {name: place for place in (checkout, home_folder(home)) for name in list_competitions(place)}
    if template not in known:
        raise NotFound(
            f"a template {template!r}",
            f"templates: {', '.join(sorted(known)) or 'none'}",
            did_you_mean(template, known),
        )
    return competition_folder(template, known[template])


def next_commands(folder: Path) -> list[str]:
    """What to run after a fork; the first of its recipes is the one to train."""
    recipe = re.search(r"^(\w+) = (?:Recipe|replace)\(", (folder / "recipes.py").read_text(), re.MULTILINE)
    name = folder.name
    return [f"kit check {name}", f"kit folds {name}", f"kit train {name} {recipe[1] if recipe else 'RECIPE'}"]


def _require_names(name: str, slug: str) -> None:
    if not NAME.fullmatch(name):
        raise DataError(
            "a name of small letters, digits and underscores that begins with a letter, 50 at most",
            repr(name),
            "it becomes a folder in competitions/",
        )
    if not SLUG.fullmatch(slug):
        raise DataError(
            "a slug of letters, digits and dashes",
            repr(slug),
            "take the last part of the competition's address on kaggle.com",
        )


def _with_slug(text: str, slug: str, source: Path) -> str:
    changed, count = SLUG_LINE.subn(lambda match: f'{match[1]}"{slug}"', text, count=1)
    if not count:
        raise DataError(f'a line slug = "..." in {source / "adapter.py"}', "none", "write the slug as a plain text")
    return changed
