"""From a bundle and the host's files to the host's table: `kit predict` and the notebook both take this road.

The code is that of the bundle's wheel.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kit.offline import answers
from kit.offline.answers import Part, part_of, submission_of, validate
from kit.offline.clock import Plan
from kit.offline.contract import Competition
from kit.offline.ensemble import Outcome, Seated, predict_rows, seat
from kit.offline.errors import KitError
from kit.offline.files import write_whole
from kit.offline.frames import checked
from kit.offline.manifest import Manifest, Member, open_bundle
from kit.offline.models import pick_device
from kit.offline.places import find_competition_data, load_adapter, load_module
from kit.offline.predictions import Gallery, Maps, Predictions
from kit.offline.tasks import task_from


def predict_bundle(
    bundle: Path, data: Path | None = None, out: Path | str = "submission.csv", manifest_sha256: str | None = None
) -> pd.DataFrame:
    """Verify the bundle, predict the mounted test set with every member, blend, decode, format, validate, write `out`.

    data: the competition's files; None finds them where Kaggle mounts inputs. Returns the table that was written. No
    clock and no tolerance: that is `kit.offline.notebook`'s.
    """
    bundle = Path(bundle)
    manifest = open_bundle(bundle, manifest_sha256)
    competition = competition_in(bundle, manifest)
    data = Path(data) if data is not None else find_competition_data(manifest.slug)
    frame = checked(competition.test_frame(data), "test_frame")
    device = pick_device()
    print(f"{manifest.bundle}: {len(frame)} rows of {data}, {len(manifest.members)} members, on {device}", flush=True)
    seated = seat_members(manifest, competition, {name: bundle / name for name in manifest.files}, [device])
    table, _ = predict_frame(manifest, competition, seated, frame, data)
    validate(competition, frame, data, table)
    write_table(table, Path(out))
    return table


def seat_members(
    manifest: Manifest, competition: Competition, files: Mapping[str, Path], devices: Sequence[torch.device]
) -> list[Seated]:
    """Every member with its network on every device; see `ensemble.seat`."""
    own = [with_own_task(competition, member) for member in manifest.members]
    return [seat(member, each, files, devices) for member, each in zip(manifest.members, own, strict=True)]


def predict_frame(
    manifest: Manifest,
    competition: Competition,
    seated: Sequence[Seated],
    frame: pd.DataFrame,
    data: Path,
    plan: Plan | None = None,
    tolerant: bool = False,
) -> tuple[pd.DataFrame, Outcome]:
    """The host's table for the units of `frame`, and how it went; see `ensemble.predict_rows`."""
    with tempfile.TemporaryDirectory() as scratch:
        outcome = predict_rows(seated, frame, data, Path(scratch), plan, tolerant)
        parts = [
            unit_part(one.member, one.competition, frame, predictions, one.gallery)
            for one, predictions in zip(seated, outcome.predictions, strict=True)
        ]
        return blended_table(manifest, competition, frame, parts), outcome


def prior_table(manifest: Manifest, competition: Competition, frame: pd.DataFrame, data: Path) -> pd.DataFrame:
    """A legal table that no network made: the members' priors on the same road, or else the task's constant answer."""
    if any(member.prior is None for member in manifest.members):
        return competition.constant_submission(answers.units_of(frame), data)
    parts = []
    for member in manifest.members:
        own = with_own_task(competition, member)
        values = np.tile(np.asarray(member.prior, np.float32), (len(frame), 1))
        said = Predictions(frame["sample_id"].to_numpy(), values, tuple(own.task.outputs(dict(member.learned))))
        parts.append(unit_part(member, own, frame, said, None))
    return blended_table(manifest, competition, frame, parts)


def unit_part(
    member: Member, own: Competition, frame: pd.DataFrame, predictions: Predictions | Maps, gallery: Gallery | None
) -> Part:
    """A member's sample predictions as its part in the blend: combined to units, ranked if its blend averages ranks."""
    part = part_of(own, frame, predictions, gallery)
    if member.quantiles is not None and isinstance(part.predictions, Predictions):
        return Part(part.predictions.ranked(np.asarray(member.quantiles)), gallery)
    return part


def blended_table(
    manifest: Manifest, competition: Competition, frame: pd.DataFrame, parts: Sequence[Part]
) -> pd.DataFrame:
    """The host's table of the members' parts in their weights."""
    blended = answers.blend_parts([[part] for part in parts], [member.weight for member in manifest.members])[0]
    return submission_of(competition, frame, blended, dict(manifest.learned))


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write the host's table, whole."""
    write_whole(out.absolute(), table.to_csv(index=False, float_format="%.9g", lineterminator="\n").encode())
    print(f"{len(table)} rows written to {out}", flush=True)


def competition_in(bundle: Path, manifest: Manifest) -> Competition:
    """The competition out of a bundle's wheel, with the task that reads answers off its members."""
    competition = load_adapter(bundle / manifest.wheel / "competitions" / manifest.competition)
    return competition.with_task(task_from(manifest.task, load_module(competition.folder, "adapter")))  # type: ignore[arg-type]


def with_own_task(competition: Competition, member: Member) -> Competition:
    """The competition with the member's own task."""
    adapter = load_module(competition.folder, "adapter") if competition.folder else None
    return competition.with_task(task_from(member.task, adapter))


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m kit.offline.predict BUNDLE --data DIR --out FILE`: exit 0, or 1 with the fault on standard error."""
    parser = argparse.ArgumentParser(prog="kit.offline.predict", description="Predict a test set with a bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("submission.csv"))
    options = parser.parse_args(arguments)
    try:
        predict_bundle(options.bundle, options.data, options.out)
    except KitError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
