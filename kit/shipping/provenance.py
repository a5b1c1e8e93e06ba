"""PROVENANCE.md: where a bundle's weights come from and how to make them again, read from the records of its runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm

from kit.offline.errors import KitError
from kit.offline.manifest import Member
from kit.training.folds import load_folds
from kit.training.recipe import load_recipes, plain
from kit.training.rundir import ALL, Run, name_of_fold


def provenance(name: str, run: Run, runs: Sequence[Run], members: Sequence[Member], stored: Mapping[str, str]) -> str:
    """What a winner hands in, as Markdown.

    run: the run or blend that was bundled. runs: whose networks it holds. stored: by a member's file, how it is stored
    and why.
    """
    sections = [
        _head(name, run, members),
        _score(run),
        _members(members, stored),
        *(_run(each) for each in runs),
        _pretrained(runs),
        _beyond(runs),
        _again(run, runs, members),
    ]
    return "\n\n".join(sections) + "\n"


def _head(name: str, run: Run, members: Sequence[Member]) -> str:
    slug = run.record["slug"]
    return f"# {name}\n\n{len(members)} networks for the Kaggle competition {slug}, read with the manifest beside them."


def _score(run: Run) -> str:
    score, record = run.read("score.json"), run.record
    folds = ", ".join(f"{fold}: {_number(value)}" for fold, value in score["folds"].items())
    fitted = ", ".join(score["fitted_on_scored_rows"]) or "nothing"
    lines = [
        "## Out of fold",
        "",
        f"- pooled: {_number(score['pooled'])} over {score['units']} units",
        f"- by fold: {folds}",
        f"- cross-fitted: {_number(score['cross_fitted'])}; chosen on scored rows: {fitted}",
        f"- folds: {record['folds_of']}, scheme {record['scheme'] or 'the first'}, sha256 {record['folds']}",
    ]
    if run.is_blend:
        weights = ", ".join(f"{member['run']} {member['weight']:.4f}" for member in record["members"])
        lines.append(f"- blend by {record['method']}: {weights}")
    return "\n".join(lines)


def _members(members: Sequence[Member], stored: Mapping[str, str]) -> str:
    lines = ["## Networks", ""]
    for member in members:
        lines += [
            f"- {member.file}: {member.run} fold {name_of_fold(member.fold)}, weight {member.weight:.4f}, "
            f"views {', '.join(member.views)}",
            f"  - {stored[member.file]}",
        ]
    return "\n".join(lines)


def _run(run: Run) -> str:
    record, git = run.record, run.record["git"]
    state = {True: "with changes that were not committed", False: "clean", None: "outside a repository"}[git["dirty"]]
    done = [(number, run.read(f"{run.fold(number).name}/done.json")) for number in _numbers(run)]
    trained = ", ".join(f"{name_of_fold(number)} ({each['epochs']} epochs, {each['device']})" for number, each in done)
    recipe = {field: _told(field, value) for field, value in record["recipe"].items()}
    code = ", ".join(f"{file} {digest[:12]}" for file, digest in record["code"].items())
    return "\n".join(
        [
            f"## {run.name}",
            "",
            f"- commit {git['commit']}, {state}; code {code}",
            f"- seed {record['seed']}, {record['threads']} threads, begun {record['started']}",
            f"- folds trained: {trained}",
            f"- with {', '.join(f'{package} {version}' for package, version in record['versions'].items())}",
            f"- recipe {record['recipe_name']}:",
            "",
            "```json",
            json.dumps(recipe, indent=1),
            "```",
        ]
    )


def _numbers(run: Run) -> list[int]:
    return [*run.folds, *([ALL] if run.is_done(ALL) else [])]


def _told(field: str, value: Any) -> Any:
    """A recipe's value; of a path outside the home folder, its name alone."""
    outside = field in ("pretrained", "pseudo") and isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if outside else value


def _pretrained(runs: Sequence[Run]) -> str:
    origins = [f"- {run.record['recipe']['backbone']}: {_origin(run)}" for run in runs]
    return "\n".join(["## Pretrained weights", "", *dict.fromkeys(origins)])


def licence_of(run: Run) -> str:
    """The licence of the weights that a run began with, by timm's own record at the time of training."""
    return str(run.read(f"{run.fold(_numbers(run)[0]).name}/model.json")["licence"])


def _origin(run: Run) -> str:
    """The licence of pretrained weights and where they are from: a file, or what timm has on record of their tag."""
    recipe, licence = run.record["recipe"], licence_of(run)
    if not recipe["pretrained"]:
        return licence
    if isinstance(recipe["pretrained"], str):
        file = _told("pretrained", recipe["pretrained"])
        return f"licence {licence}, from the file {file} of sha256 {run.record['pretrained']}"
    config = timm.get_pretrained_cfg(recipe["backbone"])
    known = {"tag": config.tag, "hub": config.hf_hub_id, "url": config.url, "by": config.origin_url} if config else {}
    return "; ".join([f"licence {licence}", *(f"{name} {value}" for name, value in known.items() if value)])


def _beyond(runs: Sequence[Run]) -> str:
    lines = ["## Data beyond scored rows", ""]
    for run in runs:
        scored = load_folds(run.folder / "source" / "folds.csv")["scored"]
        soft = run.record["recipe"].get("pseudo")
        pseudo = f"{_told('pseudo', soft)}, sha256 {run.record['pseudo']}" if soft else "none"
        lines.append(
            f"- {run.name}: {int((~scored).sum())} of {len(scored)} rows train unscored; soft labels: {pseudo}"
        )
    return "\n".join(lines)


def _again(run: Run, runs: Sequence[Run], members: Sequence[Member]) -> str:
    """The commands that make the bundle anew."""
    name, scheme = run.record["competition"], run.record["scheme"]
    chosen = f" --scheme {scheme}" if scheme else ""
    commands = [f"kit fetch {name}", f"kit folds {name}{chosen}  # sha256 {run.record['folds'][:12]}"]
    for each in runs:
        if each.record["git"]["dirty"] is not None:
            commands.append(f"git checkout {each.record['git']['commit']} && make venv")
        folds = "".join(f" --fold {name_of_fold(number)}" for number in _numbers(each))
        settings = "".join(f" --set {setting}" for setting in settings_of_run(each))
        commands.append(f"kit train {name} {each.record['recipe_name']}{chosen}{folds}{settings}  # {each.name}")
    if run.is_blend:
        commands.append(f"kit blend {name} {' '.join(each.name for each in runs)} --method {run.record['method']}")
    numbers = sorted({member.fold for member in members})
    some = "" if numbers == run.folds else f" --folds {','.join(map(name_of_fold, numbers))}"
    commands.append(f"kit bundle {name} {run.name}{some}")
    return "\n".join(["## To make it again", "", "```sh", *commands, "```"])


def settings_of_run(run: Run) -> list[str]:
    """What `--set` changed of the recipe that the run kept in its source, as `field=value` quoted for a shell."""
    try:
        recipe = plain(load_recipes(run.folder / "source")[run.record["recipe_name"]])
    except (KitError, ImportError, KeyError):
        return []
    named = json.loads(json.dumps(recipe))
    changed = {field: value for field, value in run.record["recipe"].items() if value != named.get(field)}
    return [shlex.quote(f"{field}={_as_text(_told(field, value))}") for field, value in changed.items()]


def _as_text(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value).removeprefix("augment.")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.5f}"
