"""Forks of templates for data of other shapes, as a competitor makes them."""

from __future__ import annotations

from pathlib import Path

from kit import scaffold


def fork_edited(name: str, template: str, slug: str, edits: dict[str, str], recipes: str, home: Path) -> Path:
    """`kit new NAME --from TEMPLATE --slug SLUG` with `edits` (old text -> new, each found once) and recipes."""
    folder = scaffold.new(name, template, slug, home)
    adapter = (folder / "adapter.py").read_text()
    for old, new in edits.items():
        assert adapter.count(old) == 1, old
        adapter = adapter.replace(old, new)
    (folder / "adapter.py").write_text(adapter)
    (folder / "recipes.py").write_text(recipes)
    return folder
