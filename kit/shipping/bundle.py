"""A bundle: weights, the code that feeds them and a manifest that binds both, flat, ready to be a Kaggle dataset."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kit
from kit.offline.contract import Competition
from kit.offline.errors import BundleError, RunError, did_you_mean
from kit.offline.files import sha256_of, write_json, write_whole
from kit.offline.golden import golden_answers
from kit.offline.manifest import FILE, Golden, Manifest, Member, preparation_from, spec_from
from kit.offline.models import build_model, load_weights, pick_device
from kit.offline.places import competition_folder, home_folder
from kit.offline.tasks import settings_of
from kit.shipping.precision import Rows, Verdict, judged, open_rows, rounded_files
from kit.shipping.provenance import licence_of, provenance
from kit.shipping.remembered import prior_of, remembered_of
from kit.shipping.scan import scan
from kit.shipping.wheels import carry, pack
from kit.training.rundir import ALL, Run, competition_of, find_run, name_of_fold, require_same_code

GOLDEN_SEED = 20260
GOLDEN_COUNT = 4
TRAVELLING = ("adapter.py", "model.py")


@dataclass(frozen=True)
class Share:
    """One run of a bundle with its weight, and the reference for its ranks where ranks are averaged."""

    run: Run
    weight: float
    quantiles: list[list[float]] | None = None


def make_bundle(
    run: Run,
    competition: Competition,
    home: Path,
    folds: Sequence[int] | None = None,
    data: Path | None = None,
    full: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Bundle a run or a blend; returns `offline_weights/<bundle>/`, which appears whole, its manifest written last.

    folds: which folds' models go in (None: every fold that is done); [ALL] takes the fit on all rows instead, promised
    the score of its folds. data: host files [the competition's data/], from which `precision` re-predicts each fold to
    learn whether half precision will do; full: it is not tried. Raises RunError for a fold that is not done,
    BundleError for what must not be published.
    """
    own_folder = competition_folder(run.record["competition"], home)
    shares = _shares(run, own_folder)
    wanted = _wanted(run, shares, folds)
    for note in _notes(run, wanted):
        say(note)
    for share in shares:
        require_same_code(share.run, own_folder)
    _require_score(run)
    name = bundle_name(run, None if folds is None else wanted)
    folder = home / "offline_weights" / name
    aside = folder.with_name(f".{name}.making")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        wheel = write_wheel(aside, competition)
        carry(aside, packages_of(competition, shares))
        scan(aside)  # at once what would be found in the end, when every fold has been predicted
        rows = None if full else open_rows(competition, data or own_folder / "data")
        members, stored = [], {}
        for share, number in ((share, number) for share in shares for number in wanted):
            files, verdict = _files(share.run, number, competition, rows)
            member = _member(share, number, len(wanted), len(shares) * len(wanted), competition, aside, files)
            members.append(member)
            stored[member.file] = verdict.why
            say(f"{member.file}: {verdict.why}")
        _finish(aside, name, run, shares, members, wheel, competition, stored)
        scan(aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _wanted(run: Run, shares: Sequence[Share], folds: Sequence[int] | None) -> list[int]:
    """The folds to bundle, sorted. Raises RunError where a share lacks one of them."""
    done = sorted(set.intersection(*(set(share.run.folds) for share in shares)))
    wanted = done if folds is None else sorted(set(folds))
    for share in shares:
        lacking = [name_of_fold(number) for number in wanted if not share.run.is_done(number)]
        if lacking or not wanted:
            raise RunError(
                f"folds {', '.join(map(name_of_fold, wanted)) or 'at least one'} of {share.run.name} done",
                f"done: {share.run.folds}",
                f"kit train {run.record['competition']} {share.run.record['recipe_name']}, or name others with --folds",
            )
    return wanted


def _require_score(run: Run) -> None:
    scored = (run.read("score.json") or {"folds": {}})["folds"]
    if sorted(map(int, scored)) != run.folds:
        again = "the command that made it, once more: it scores what is done"
        raise RunError(
            f"a score of {run.name} over its folds {run.folds}", f"over {list(scored)}: training was stopped", again
        )


def bundle_name(run: Run, folds: Sequence[int] | None) -> str:
    """A name that is also a legal Kaggle dataset slug: 6 to 50 of a-z, 0-9 and single dashes."""
    part = f"-folds-{'-'.join(map(name_of_fold, folds))}" if folds is not None else ""
    text = re.sub(r"[^a-z0-9]+", "-", f"kit-{run.record['competition']}-{run.name}{part}".lower()).strip("-")
    if len(text) <= 50:
        return text
    return f"{text[:41].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def find_bundle(name: str, home: Path | None = None) -> Path:
    """A bundle's folder, by path or by name under `offline_weights/`. Raises BundleError with the nearest name."""
    folder = home_folder(home) / "offline_weights"
    for path in (Path(name), folder / name):
        if (path / FILE).is_file():
            return path.resolve()
    names = [path.parent.name for path in folder.glob(f"*/{FILE}")]
    raise BundleError(
        f"a bundle {name!r} in {folder}", f"bundles: {', '.join(sorted(names)) or 'none'}", did_you_mean(name, names)
    )


def _shares(run: Run, folder: Path) -> list[Share]:
    if not run.is_blend:
        return [Share(run, 1.0)]
    members = [member for member in run.record["members"] if member["weight"] > 0]
    return [Share(find_run(folder, member["run"]), member["weight"], member.get("quantiles")) for member in members]


def _files(run: Run, number: int, competition: Competition, rows: Rows | None) -> tuple[Mapping[str, bytes], Verdict]:
    """The weights of a fold, and its gallery where there is one, as they are stored. rows: None leaves them whole."""
    source = run.fold(number)
    run.require_whole(number)
    kept = run.read(f"{source.name}/done.json")["sha256"]
    verdict = Verdict(False, "full precision, as asked for")
    if rows is not None:
        rounded = rounded_files(source)
        verdict = judged(run, number, competition, rows, rounded)
        if verdict.half:
            return rounded, verdict
    return {name: (source / name).read_bytes() for name in kept if name.endswith(".safetensors")}, verdict


def _member(
    share: Share,
    number: int,
    folds: int,
    members: int,
    competition: Competition,
    out: Path,
    files: Mapping[str, bytes],
) -> Member:
    """Write one fold's files under names that carry their hashes, and note what they answer to the golden inputs.

    folds, members: how many of them the bundle has.
    """
    source = share.run.fold(number)
    named = {
        name: f"{share.run.name}-{source.name}{part}-{hashlib.sha256(files[name]).hexdigest()[:8]}.safetensors"
        for name, part in (("weights.safetensors", ""), ("gallery.safetensors", "-gallery"))
        if name in files
    }
    for name, file in named.items():
        write_whole(out / file, files[name])
    model = json.loads((source / "model.json").read_text())
    member = Member(
        file=named["weights.safetensors"],
        run=share.run.name,
        fold=number,
        weight=share.weight / folds,
        spec=spec_from(model["spec"]),
        preparation=preparation_from(model["preparation"]),
        views=tuple(share.run.record["recipe"]["tta"]),
        task=share.run.record["task"],
        learned=share.run.record["learned"],
        golden=Golden(GOLDEN_SEED, GOLDEN_COUNT, tuple(model["input"]["shape"]), model["input"]["dtype"], []),
        quantiles=share.quantiles,
        gallery=named.get("gallery.safetensors"),
        prior=prior_of(share.run, embeds="gallery.safetensors" in named),
        remembered=remembered_of(share.run, number, members),
    )
    return replace(
        member, golden=replace(member.golden, answers=_golden(member, competition_of(share.run, competition), out))
    )


def _golden(member: Member, competition: Competition, folder: Path) -> list[list[float]]:
    device = pick_device("cpu")
    model = load_weights(build_model(member.spec, competition), folder / member.file)
    return golden_answers(model, member.golden, member.preparation, competition.task, device).tolist()


def packages_of(competition: Competition, shares: Sequence[Share]) -> list[str]:
    """What Kaggle's image lacks of what the adapter, the members' tasks and their networks import."""
    tasks = [competition_of(share.run, competition).task for share in shares]
    return sorted({*competition.wheels, *(name for task in tasks for name in task.wheels)})


def write_wheel(folder: Path, competition: Competition) -> str:
    """One pure wheel: `kit/__init__.py`, `kit/offline`, the competition's adapter.py and model.py; returns its name."""
    assert competition.folder is not None and kit.__file__ is not None
    root = Path(kit.__file__).parent
    files = {
        f"kit/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in [root / "__init__.py", *sorted((root / "offline").glob("*.py"))]
    }
    for name in TRAVELLING:
        if (competition.folder / name).is_file():
            files[f"competitions/{competition.folder.name}/{name}"] = (competition.folder / name).read_bytes()
    info = f"kit-{version('kit')}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: kit\nVersion: {version('kit')}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: kit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return pack(folder, f"kit-{version('kit')}-0{{digest}}-py3-none-any", info, files)


def _finish(
    folder: Path,
    name: str,
    run: Run,
    shares: Sequence[Share],
    members: Sequence[Member],
    wheel: str,
    competition: Competition,
    stored: Mapping[str, str],
) -> None:
    runs = [share.run for share in shares]
    licences = {each.record["recipe"]["backbone"]: licence_of(each) for each in runs}
    write_whole(folder / "PROVENANCE.md", provenance(name, run, runs, members, stored).encode())
    files = {path.name: {"sha256": sha256_of(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())}
    folds = sorted({member.fold for member in members})
    score = run.read("score.json")
    first = shares[0].run.record
    manifest = Manifest(
        bundle=name,
        slug=run.record["slug"],
        competition=run.record["competition"],
        wheel=wheel,
        members=tuple(members),
        task=settings_of(competition_of(run, competition).task),
        learned=run.read("learned.json"),
        columns=tuple(run.record["columns"]),
        score=score,
        folds=run.record["folds"],
        commit=first["git"]["commit"],
        versions=first["versions"],
        licences=licences,
        files=files,
        notes=_notes(run, folds),
    )
    write_json(folder / "dataset-metadata.json", dataset_metadata(name))
    write_whole(folder / FILE, manifest.to_json().encode())


def _notes(run: Run, folds: Sequence[int]) -> tuple[str, ...]:
    """What a bundle of these folds is not, in words; nothing of a whole one."""
    if ALL in folds:
        return ("fitted on all rows; the score is that of the folds",)
    missing = sorted(set(range(run.record["folds_of"])) - set(folds))
    return (f"folds {list(folds)} of {run.record['folds_of']}, without {missing}",) if missing else ()


def dataset_metadata(name: str) -> dict[str, Any]:
    """What `kaggle datasets create` reads. Put your user name for OWNER; the licence claims nothing."""
    return {"id": f"OWNER/{name}", "title": name, "licenses": [{"name": "other"}]}
