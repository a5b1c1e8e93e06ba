"""The command line: verbs to functions, no logic. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import errno
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="kit",
    help="A starter kit for Kaggle image competitions: fork a template, train folds, blend, submit offline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

SHOWN = 20
"""Labels that the report on folds lists at most, the most frequent first."""

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A competition: a folder in competitions/.", show_default=False)
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home", envvar="KIT_HOME", help="The folder with competitions/ [default: here].", show_default=False
    ),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="The host's files [default: competitions/NAME/data].", show_default=False)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output, everything else on standard error.")
]
Bundle = Annotated[
    str,
    typer.Argument(metavar="BUNDLE", help="A bundle: its name in offline_weights/, or its folder.", show_default=False),
]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe: a name in recipes.py.", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="field=value of the recipe; repeat for several.", show_default=False),
]


@app.command("list")
def list_(home: Home = None) -> None:
    """Show the competitions and templates: family, metric, folds, slug."""
    from kit.offline.places import list_competitions

    rows = [_facts(name, home) for name in list_competitions(home)]
    _table(["name", "family", "metric", "folds", "slug"], rows)


def _facts(name: str, home: Path | None) -> list[str]:
    """A line of `kit list`; an adapter that is being written does not hide the others."""
    from kit.offline.contract import Folds
    from kit.offline.places import load_competition

    try:
        competition = load_competition(name, home)
        better = "higher" if competition.greater_is_better else "lower"
        schemes = "" if isinstance(competition.folds, Folds) else f" by {', '.join(competition.folds)}"
        metric = f"{getattr(competition, 'metric', '')} ({better} is better)"
        return [name, type(competition.task).__name__, metric, f"{competition.scheme().n}{schemes}", competition.slug]
    except Exception as error:  # noqa: BLE001 - whatever an unfinished adapter raises
        return [name, "?", f"{type(error).__name__}: kit check {name} tells more", "", ""]


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the new competition: a-z, 0-9 and _.", show_default=False)
    ],
    template: Annotated[str, typer.Option("--from", help="The competition to copy; see kit list.", show_default=False)],
    slug: Annotated[
        str | None, typer.Option(help="Kaggle's slug [default: NAME with dashes].", show_default=False)
    ] = None,
    home: Home = None,
) -> None:
    """Fork a template into competitions/NAME/."""
    from kit import scaffold

    folder = scaffold.new(name, template, slug, home)
    print(f"{folder} is yours. Put the host's files into {folder / 'data'}, write its facts into adapter.py, then:")
    for command in scaffold.next_commands(folder):
        print(f"  {command}")


@app.command()
def check(name: Name, data: Data = None, home: Home = None, as_json: AsJson = False) -> None:
    """Run the contract of an adapter as named checks."""
    from kit.check import run_checks

    results = run_checks(name, data, home)
    if as_json:
        _json({"competition": name, "ok": all(one.ok for one in results), "checks": [vars(one) for one in results]})
    else:
        for one in results:
            print(f"{'skip' if one.skipped else 'ok  ' if one.ok else 'FAIL'}  {one.name}")
            if one.message:
                print("      " + one.message.replace("\n", "\n      "))
    bad = [one.name for one in results if not one.ok]
    if bad:
        _say(f"{len(bad)} of {len(results)} checks failed")
        raise typer.Exit(1)


@app.command()
def folds(
    name: Name,
    scheme: Annotated[
        str | None, typer.Option(help="A named scheme of the adapter [default: its first].", show_default=False)
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Add rows that the table lacks; no row moves.")] = False,
    data: Data = None,
    home: Home = None,
) -> None:
    """Freeze the folds, or show the frozen ones."""
    from kit.offline.places import load_competition
    from kit.training import fanout
    from kit.training.folds import absences, balance, extend_folds, fold_file, load_folds, save_folds

    competition = load_competition(name, home)
    assert competition.folder is not None
    path = fold_file(competition.folder, competition.scheme_key(scheme))
    if extend and path.is_file():
        frame = fanout.training_frame(competition, _data(name, data, home))
        save_folds(extend_folds(competition, frame, load_folds(path), scheme), path)
    ground = fanout.open_ground(competition, _data(name, data, home), scheme, print)
    counts = ground.table.groupby("fold").agg(
        rows=("sample_id", "size"), units=("unit_id", "nunique"), groups=("group", "nunique")
    )
    _table(
        ["fold", "rows", "units", "groups"],
        [[int(fold), *map(int, row)] for fold, row in zip(counts.index, counts.to_numpy(), strict=True)],
    )
    for column, table in balance(competition, ground.frame, scheme).items():
        shown = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index[:SHOWN]]
        _table(
            [column, *(f"fold {fold}" for fold in shown.columns)],
            [[label, *map(int, row)] for label, row in zip(shown.index, shown.to_numpy(), strict=True)],
        )
        told = absences(table)
        lines = [*told[:SHOWN], *([f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else [])]
        print("\n".join([f"{len(table)} labels in {column}, {len(told)} of them absent from a fold", *lines]))
    print(f"{path}  hash {ground.folds_sha256[:12]}")


@app.command()
def train(
    name: Name,
    recipe: RecipeName,
    fold: Annotated[
        list[str] | None,
        typer.Option(
            "--fold",
            help='A fold to train; repeat for several [default: each]. "all": then a fit on all rows.',
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="As many runs, of the recipe's seed and the next.")] = 1,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="One short epoch on 64 rows, nothing kept: does it hang together?")
    ] = False,
    track: Annotated[
        str | None,
        typer.Option(help="Tell each epoch to tensorboard or wandb as well as to log.jsonl.", show_default=False),
    ] = None,
    scheme: Annotated[str | None, typer.Option(help="A named fold scheme.", show_default=False)] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", help="kaggle: on its GPUs, out of your quota [default: here].", show_default=False),
    ] = None,
    data: Data = None,
    home: Home = None,
) -> None:
    """Train the folds of a recipe. The same command goes on where it stopped."""
    from kit.offline.errors import RecipeError, did_you_mean
    from kit.offline.places import home_folder, load_competition
    from kit.training import fanout
    from kit.training.recipe import find_recipe, override
    from kit.training.rundir import table_of
    from kit.training.track import TRACKERS

    if on not in (None, "kaggle"):
        raise typer.BadParameter(f"{on!r} is no place to train; there is kaggle", param_hint="--on")
    if on and (smoke or track):
        raise typer.BadParameter("--smoke and --track are for training here", param_hint="--on")
    if track not in (None, *TRACKERS):
        raise RecipeError(f"--track out of {', '.join(TRACKERS)}", repr(track), did_you_mean(track, TRACKERS))
    competition = load_competition(name, home)
    assert competition.folder is not None
    chosen = override(find_recipe(competition.folder, recipe), settings or [])
    ground = fanout.open_ground(competition, _data(name, data, home), scheme)
    if smoke:
        fanout.smoke(ground, chosen, home_folder(home))
        print("it hangs together; nothing was kept")
        return
    each = [replace(chosen, seed=chosen.seed + at) for at in range(seeds)]
    wanted = _folds(fold, "--fold") if fold else None
    if on:
        from kit.shipping.remote import train_on_kaggle

        done = [train_on_kaggle(ground, recipe, one, settings or [], wanted, home_folder(home)) for one in each]
    else:
        done = fanout.train_seeds(ground, recipe, each, wanted, home_folder(home), track=track)
    _runs(table_of(done))


@app.command()
def bench(
    name: Name,
    recipe: RecipeName,
    settings: Settings = None,
    data: Data = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Measure images per second of the step, the loader, training and prediction: what bounds a run?"""
    from kit.offline.places import home_folder, load_competition
    from kit.training import bench, fanout
    from kit.training.recipe import find_recipe, override

    competition = load_competition(name, home)
    assert competition.folder is not None
    chosen = override(find_recipe(competition.folder, recipe), settings or [])
    ground = fanout.open_ground(competition, _data(name, data, home), say=_say)
    found = bench.bench(ground, chosen, home_folder(home), _say)
    if as_json:
        print(json.dumps(found))
        return
    _table(
        ["measure", "value"],
        [[each, f"{value:.2f}" if "ratio" in each else f"{value:.0f} images/s"] for each, value in found.items()],
    )
    print(bench.bound(found))


@app.command()
def runs(name: Name, home: Home = None, as_json: AsJson = False) -> None:
    """Show the runs and blends of a competition, oldest first."""
    from kit.offline.places import competition_folder
    from kit.training.rundir import list_runs, table_of

    rows = table_of(list_runs(competition_folder(name, home)))
    if as_json:
        _json({"competition": name, "runs": rows})
    else:
        _runs(rows)


@app.command()
def blend(
    name: Name,
    members: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, or the beginnings of their names.", show_default=False)
    ],
    method: Annotated[
        str, typer.Option(help="mean, rank, climb (hill climbing with replacement) or convex (weights on a simplex).")
    ] = "climb",
    data: Data = None,
    home: Home = None,
) -> None:
    """Blend runs, with weights fitted on OOF, and say what cross-fitting makes of each method."""
    from kit.offline.errors import RunError, did_you_mean
    from kit.offline.places import load_competition
    from kit.training import fanout
    from kit.training.ensemble import METHODS, blend_runs
    from kit.training.rundir import find_run, table_of

    if method not in METHODS:
        raise RunError(f"--method out of {', '.join(METHODS)}", repr(method), did_you_mean(method, METHODS))
    competition = load_competition(name, home)
    assert competition.folder is not None
    found = [find_run(competition.folder, member) for member in members]
    ground = fanout.open_ground(competition, _data(name, data, home), found[0].record["scheme"])
    run = blend_runs(found, competition, ground.frame, method)
    _table(["member", "weight"], [[member["run"], f"{member['weight']:.3f}"] for member in run.record["members"]])
    _table(
        ["method", "cross-fitted score"],
        [[each, _number(score)] for each, score in run.record["cross_fitted_by_method"].items()],
    )
    _runs(table_of([*found, run]))


@app.command()
def bundle(
    name: Name,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run or a blend.", show_default=False)],
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds",
            help='As 0,1; or "all", the fit on all rows [default: the folds that are done].',
            show_default=False,
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Full precision without trying whether half will do.")] = False,
    data: Data = None,
    home: Home = None,
) -> None:
    """Pack weights, code and manifest as an offline Kaggle dataset in offline_weights/."""
    from kit.offline.places import home_folder, load_competition
    from kit.shipping.bundle import make_bundle
    from kit.training.rundir import find_run

    competition = load_competition(name, home)
    assert competition.folder is not None
    wanted = _folds(folds.split(","), "--folds") if folds else None
    folder = make_bundle(find_run(competition.folder, run), competition, home_folder(home), wanted, data, full, _say)
    size = sum(path.stat().st_size for path in folder.iterdir())
    members = [path for path in folder.glob("*.safetensors") if "-gallery-" not in path.name]
    print(f"{folder}  {len(members)} members, {size / 1e6:.1f} MB")
    print(f"next: kit rehearse {folder.name}")


@app.command()
def notebook(
    name: Bundle,
    owner: Annotated[str, typer.Option(help="Your Kaggle user name.")] = "OWNER",
    strict: Annotated[
        bool, typer.Option("--strict", help="Submit no prior first, nor for a row that cannot be predicted.")
    ] = False,
    home: Home = None,
) -> None:
    """Render the offline submission notebook of a bundle."""
    from kit.shipping.bundle import find_bundle
    from kit.shipping.notebook import render_notebook

    print(render_notebook(find_bundle(name, home), owner, strict))


@app.command()
def rehearse(
    name: Bundle,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Rows of the hidden test set: as many training rows play it [default: 200 at most].",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        float | None, typer.Option(help="Minutes a run may take [default: the host's].", show_default=False)
    ] = None,
    image: Annotated[
        bool,
        typer.Option("--image", help="With the Python and the packages of Kaggle's image, built once: some 8 GB."),
    ] = False,
    data: Data = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run the notebook without a network on the test set and on hidden-like ones; validate what it writes and takes."""
    from kit.offline.manifest import open_bundle
    from kit.offline.places import home_folder
    from kit.shipping.bundle import find_bundle
    from kit.shipping.image import image_python
    from kit.shipping.rehearse import rehearse as run_rehearsal

    folder, say = find_bundle(name, home), _say if as_json else print
    found = _data(open_bundle(folder).competition, data, home)
    python = image_python(say=say) if image else None
    report = run_rehearsal(folder, found, home_folder(home), rows, limit, say, python=python)
    if as_json:
        _json(report.to_json())
    report.require()


@app.command()
def fetch(name: Name, data: Data = None, home: Home = None) -> None:
    """Download and unpack the host's files; the same command goes on where it stopped."""
    from kit.offline.places import load_competition
    from kit.shipping.fetch import fetch as fetch_files

    folder = fetch_files(load_competition(name, home).slug, _data(name, data, home))
    print(f"{folder}  next: kit check {name}")


@app.command()
def push(
    name: Bundle,
    owner: Annotated[
        str | None, typer.Option(help="A Kaggle user name [default: whose credentials are found].", show_default=False)
    ] = None,
    data: Data = None,
    home: Home = None,
) -> None:
    """Store a bundle's datasets on Kaggle, run its notebook there, and compare what it wrote with kit predict."""
    from kit.offline.manifest import open_bundle
    from kit.shipping.bundle import find_bundle
    from kit.shipping.push import push as push_bundle

    folder = find_bundle(name, home)
    pushed = push_bundle(folder, _data(open_bundle(folder).competition, data, home), owner)
    print(f"{pushed.kernel} version {pushed.version}  next: kit submit {folder.name}")


@app.command()
def submit(
    name: Annotated[
        str,
        typer.Argument(metavar="BUNDLE|NAME", help="A pushed bundle; a competition with --file.", show_default=False),
    ],
    file: Annotated[
        Path | None, typer.Option("--file", help="A table, where the host takes files.", show_default=False)
    ] = None,
    message: Annotated[str | None, typer.Option(help="A description for the host's list.", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Spend a submission without asking.")] = False,
    data: Data = None,
    home: Home = None,
) -> None:
    """Submit a pushed notebook, or a file, follow it to its score and write that into LEDGER.tsv."""
    from kit.offline.places import home_folder, load_competition
    from kit.shipping.bundle import find_bundle
    from kit.shipping.submit import submit_bundle, submit_file

    if file is None:
        submit_bundle(find_bundle(name, home), home_folder(home), message, yes)
    else:
        submit_file(load_competition(name, home), _data(name, data, home), file, message, yes)


@app.command()
def doctor(home: Home = None, as_json: AsJson = False) -> None:
    """Look at credentials (never shown), the kaggle client, device, disk and versions."""
    from kit.offline.places import home_folder
    from kit.shipping.doctor import examine

    found = examine(home_folder(home))
    if as_json:
        _json({"ok": all(one.ok for one in found), "checks": [vars(one) for one in found]})
    else:
        for one in found:
            print(f"{'ok  ' if one.ok else 'FAIL'}  {one.name}")
            print("      " + one.message.replace("\n", "\n      "))
    if not all(one.ok for one in found):
        raise typer.Exit(1)


@app.command()
def predict(
    name: Annotated[
        str, typer.Argument(metavar="BUNDLE|RUN", help="A bundle, or a run with --frame.", show_default=False)
    ],
    data: Data = None,
    frame: Annotated[
        str | None,
        typer.Option(help='Rows for a run to label softly: a CSV with sample_id, or "test".', show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file that is written.")] = Path("submission.csv"),
    home: Home = None,
) -> None:
    """Predict a test set with a bundle, byte for byte as its notebook does; or label rows with each fold of a run."""
    if frame is None:
        from kit.offline.manifest import open_bundle
        from kit.shipping.bundle import find_bundle
        from kit.shipping.predict import predict_at_home

        folder = find_bundle(name, home)
        print(predict_at_home(folder, _data(open_bundle(folder).competition, data, home), out), end="")
        return
    from kit.offline.places import load_competition
    from kit.training import pseudo
    from kit.training.rundir import find_run_anywhere

    run = find_run_anywhere(name, home)
    competition = load_competition(run.record["competition"], home)
    place = _data(run.record["competition"], data, home)
    pseudo.label(run, competition, pseudo.frame_to_label(frame, competition, place), place, print).save(out)
    print(f"{out}  next: a recipe with pseudo={str(out)!r}")


@app.command()
def demo(
    home: Annotated[
        Path | None, typer.Option("--home", help="Where to walk [default: a scratch folder].", show_default=False)
    ] = None,
) -> None:
    """Walk the whole road on the embedded digits: folds, two recipes, blend, bundle, rehearsal, submission.csv."""
    from kit.demo import walk

    walk(home)


def main() -> None:
    """Run a verb. Exit 0 when done, 1 with a clear error (3: another process is at it), 2 for wrong usage, 130 or 143
    after an interrupt."""
    signal.signal(signal.SIGINT, lambda *_: _interrupted(130))
    signal.signal(signal.SIGTERM, lambda *_: _interrupted(143))
    try:
        app()
    except Exception as error:
        from kit.offline.errors import KitError, LockedError
        from kit.shipping.predict import as_kit_error

        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            found = f"{error.strerror} ({error.filename})"
            _fail(f"expected: free disk\nfound:    {found}\nto do:    free some space and run the same command again")
        # A loader process tells its fault as the text of a RuntimeError.
        told = error if isinstance(error, KitError) else as_kit_error(str(error)) or _fault_of_adapter(error)
        if told is None:
            raise
        _fail(str(told), 3 if isinstance(told, LockedError) else 1)


def _fault_of_adapter(error: Exception) -> Exception | None:
    """What went wrong in a competition's own code, as the checks tell it; None where the kit itself is at fault."""
    from kit.check import explained

    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    files += [error.filename] if isinstance(error, SyntaxError) and error.filename else []
    own = [Path(file).parent for file in files if Path(file).parent.parent.name == "competitions"]
    return explained(error, own[-1]) if own else None


def _interrupted(code: int) -> None:
    _say("interrupted: the same command goes on from the last commit, where it trains, else begins again")
    sys.exit(code)


def _fail(message: str, code: int = 1) -> None:
    _say(message)
    sys.exit(code)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _json(content: Any) -> None:
    print(json.dumps(content, sort_keys=True, default=str))


def _data(name: str, data: Path | None, home: Path | None) -> Path:
    from kit.offline.places import competition_folder

    return data if data is not None else competition_folder(name, home) / "data"


def _folds(texts: Sequence[str], option: str) -> list[int]:
    from kit.training.rundir import ALL

    try:
        return [ALL if text == "all" else int(text) for text in texts]
    except ValueError:
        told = f"{','.join(texts)!r} holds something else than fold numbers like 0,1 or all"
        raise typer.BadParameter(told, param_hint=option) from None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _runs(rows: Sequence[dict[str, Any]]) -> None:
    header = ["run", "folds", "pooled", "spread", "cross-fitted", "by fold", "minutes"]
    cells = []
    for row in rows:
        by_fold = " ".join("-" if score is None else f"{score:.4f}" for score in row["by_fold"].values())
        flattery = row["optimism_of_epoch"]
        by_about = "" if flattery is None else f", which flatters an epoch's score by {flattery:.4f}"
        note = f" (fitted on scored rows: {', '.join(row['fitted'])}{by_about})" if row["fitted"] else ""
        pooled, spread, crossed = (_number(row[name]) for name in ("pooled", "spread", "cross_fitted"))
        cells.append([row["run"], row["folds"], pooled + note, spread, crossed, by_fold, row["minutes"]])
    _table(header, cells)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table that stays whole where the terminal is narrow or there is none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=200)).print(table)


if __name__ == "__main__":
    main()
