"""What the submission notebook does: prove that all is as at home, submit the prior first, predict within the time.

On the public run whatever is wrong stops the notebook, loudly. In the rerun on the hidden test set, whose output nobody
sees, stopping would cost the submission: a row that cannot be predicted gets the prior, and so does the whole table
where all else fails; `submission-log.json` counts it.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kit.offline.answers import validate
from kit.offline.clock import Clock, Plan
from kit.offline.contract import Competition
from kit.offline.ensemble import Outcome, Seated, plan_of, predict_rows
from kit.offline.errors import BundleError, DataError
from kit.offline.files import write_json
from kit.offline.frames import checked, read_table
from kit.offline.golden import check_remembered, in_rerun, tell_versions
from kit.offline.manifest import Manifest, open_mounted
from kit.offline.memory import peak_memory_mb
from kit.offline.models import pick_devices
from kit.offline.places import find_competition_data, input_folder
from kit.offline.predict import competition_in, predict_frame, prior_table, seat_members, write_table

LOG = "submission-log.json"
MANY = 0.05
"""Share of rows that could not be read from which on it is said most loudly."""


@dataclass
class Log:
    """How it went, written to LOG beside the table when all is done.

    seconds: when each step was done, since the notebook began. drift: of each member with remembered rows, how far it
    is from what it said at home, in standard deviations. fault: what stopped the rerun before the prior was replaced.
    """

    begun: float
    rows: int = 0
    units: int = 0
    devices: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    drift: dict[str, float] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    late: int = 0
    left_out: list[str] = field(default_factory=list)
    fault: str | None = None

    def done(self, step: str) -> None:
        """Note the time of a step."""
        self.seconds[step] = round(time.monotonic() - self.begun, 3)

    def note(self, outcome: Outcome) -> None:
        """Take over what became of rows; say it."""
        self.unreadable |= outcome.unreadable
        self.late += outcome.late
        self.left_out += outcome.left_out
        for name, why in list(outcome.unreadable.items())[:20]:
            _say(f"warning: {name} gets the prior: {' '.join(why.split())[:300]}")
        if outcome.unreadable:
            loud = "LOOK AT THIS: " if len(self.unreadable) > MANY * max(self.rows, 1) else ""
            _say(f"warning: {loud}{len(self.unreadable)} of {self.rows} rows could not be predicted and got the prior")

    def write(self, beside: Path) -> None:
        """Write it into the folder of the table."""
        content = {name: value for name, value in vars(self).items() if name != "begun"}
        write_json(beside.absolute().parent / LOG, {**content, "peak_memory_mb": peak_memory_mb()})


@dataclass(frozen=True)
class Session:
    """A verified bundle, where it runs and the time it has. seated: its members, loaded and tried when they are first
    asked for."""

    manifest: Manifest
    files: dict[str, Path]
    competition: Competition
    data: Path
    devices: list[torch.device]
    log: Log
    clock: Clock

    @cached_property
    def seated(self) -> list[Seated]:
        seated = seat_members(self.manifest, self.competition, self.files, self.devices)
        self.log.done("golden")
        return seated


def submit(
    bundle: Path,
    manifest_sha256: str,
    out: str = "submission.csv",
    minutes: float = 540,
    strict: bool = False,
    begun: float | None = None,
) -> pd.DataFrame:
    """Predict the mounted test set within `minutes` and write `out`; returns the table.

    begun: when the notebook began, of time.monotonic(). strict: no prior, neither first nor for a row: what is wrong
    stops the rerun, too. Raises KitError for whatever is not as at home.
    """
    session = _open(bundle, manifest_sha256, minutes, begun)
    try:
        frame = checked(session.competition.test_frame(session.data), "test_frame")
    except Exception as error:
        if strict or not in_rerun():
            raise
        return _submit_sample(session, error, Path(out))
    session.log.rows, session.log.units = len(frame), frame["unit_id"].nunique()
    first = None if strict else _write_prior(session, frame, Path(out))
    try:
        if not in_rerun():
            _predict_again(session)
        plan = plan_of(session.seated, session.clock, len(frame))
        tolerant = in_rerun() and not strict
        table, outcome = predict_frame(
            session.manifest, session.competition, session.seated, frame, session.data, plan, tolerant
        )
        session.log.done("predicted")
        session.log.note(outcome)
        validate(session.competition, frame, session.data, table)
        write_table(table, Path(out))
    except Exception as error:
        session.log.fault = f"{type(error).__name__}: {error}"
        if first is None or not in_rerun():
            raise
        traceback.print_exc()
        _say(f"LOOK AT THIS: the rerun failed, and {out} is the prior, which no network made")
        table = first
    finally:
        session.log.done("written")
        session.log.write(Path(out))
    return table


def serve(
    bundle: Path,
    manifest_sha256: str,
    out: str = "submission.parquet",
    minutes: float = 540,
    strict: bool = False,
    begun: float | None = None,
) -> None:
    """Answer the host's gateway batch by batch, for competitions whose `rules.kind` is "server".

    The host's package `kaggle_evaluation` lies in the competition's files. In the rerun this serves until the gateway
    is done; else the host's local gateway asks for the public test set and writes `out`. Networks are loaded on the
    first call: the host ends a notebook that does not serve within 15 minutes, and waits longer for the first answer.
    minutes: for all batches of the rerun together, where `rules.test_rows` tells how many rows will come; else there is
    no clock.
    """
    session = _open(bundle, manifest_sha256, minutes, begun)
    sys.path.insert(0, str(session.data))
    server = _server_class(session.competition)(answerer(session, strict))
    try:
        if in_rerun():
            server.serve()
        else:
            server.run_local_gateway((str(session.data),))
    finally:
        session.log.done("written")
        session.log.write(Path(out))


def answerer(session: Session, strict: bool) -> Callable[..., Any]:
    """The function that the host's server calls with each batch: see `Competition.serve_frame`."""
    return _Served(session, strict).predict


@dataclass
class _Served:
    """What lasts from one batch to the next. at: when the last one was answered. proved: whether all is as at home."""

    session: Session
    strict: bool
    at: float | None = None
    proved: bool = False

    @cached_property
    def plan(self) -> Plan | None:
        """One over all batches of the rerun; the public test set is small, and its answers are to be those of home."""
        rows = self.session.competition.rules.test_rows
        return plan_of(self.session.seated, self.session.clock, rows) if rows and in_rerun() else None

    def predict(self, *batch: Any) -> Any:
        """Answer a batch. Hosts call this function `predict`."""
        asked = self.session.clock.now()
        try:
            return self._answer(0.0 if self.at is None else asked - self.at, *batch)
        finally:
            self.at = self.session.clock.now()

    def _answer(self, waited: float, *batch: Any) -> Any:
        """waited: seconds between the last answer and this batch."""
        session, competition = self.session, self.session.competition
        raw, folder = competition.serve_frame(session.data, *batch)
        frame = checked(raw, "serve_frame")
        session.log.rows += len(frame)
        session.log.units += frame["unit_id"].nunique()
        try:
            if not self.proved and not in_rerun():
                _predict_again(session)
            self.proved = True
            if self.plan:
                self.plan.waited(waited)
            tolerant = in_rerun() and not self.strict
            table, outcome = predict_frame(
                session.manifest, competition, session.seated, frame, folder, self.plan, tolerant
            )
            session.log.note(outcome)
        except Exception as error:
            session.log.fault = f"{type(error).__name__}: {error}"
            if self.strict or not in_rerun():
                raise
            traceback.print_exc()
            table = prior_table(session.manifest, competition, frame, session.data)
        return competition.serve_answer(table, *batch)


def _open(bundle: Path, manifest_sha256: str, minutes: float, begun: float | None) -> Session:
    """The bundle, verified, with the competition's files and the devices; says what differs from home."""
    log = Log(time.monotonic() if begun is None else begun)
    manifest, files = open_mounted(Path(bundle), manifest_sha256, input_folder())
    tell_versions(manifest.versions)
    devices = pick_devices()
    log.devices = [torch.cuda.get_device_name(one) if one.type == "cuda" else "cpu" for one in devices]
    competition, data = competition_in(Path(bundle), manifest), find_competition_data(manifest.slug)
    print(f"{manifest.bundle}: {len(manifest.members)} members on {', '.join(log.devices)}; data in {data}", flush=True)
    log.done("opened")
    return Session(manifest, files, competition, data, devices, log, Clock(60 * minutes, log.begun))


def _submit_sample(session: Session, error: Exception, out: Path) -> pd.DataFrame:
    """The host's own sample submission, which is legal, where not even the rows are known; without one, `error`."""
    sample = session.competition.sample
    if not sample or not (session.data / sample).is_file():
        raise error
    traceback.print_exception(error)
    _say(f"LOOK AT THIS: test_frame failed, and {out} is the host's sample submission, which no network made")
    table = read_table(session.data / sample)
    write_table(table, out)
    session.log.fault = f"{type(error).__name__}: {error}"
    session.log.write(out)
    return table


def _write_prior(session: Session, frame: pd.DataFrame, out: Path) -> pd.DataFrame | None:
    """A legal table before anything can go wrong; None, said aloud, where there is none."""
    try:
        table = prior_table(session.manifest, session.competition, frame, session.data)
        validate(session.competition, frame, session.data, table)
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises, the networks may still do their part
        _say(f"warning: no prior to submit first: {type(error).__name__}: {error}")
        return None
    write_table(table, out)
    session.log.done("prior")
    return table


def _predict_again(session: Session) -> None:
    """Predict training rows that each member held back, and compare with home; says where they are not mounted."""
    remembering = [one for one in session.seated if one.member.remembered]
    if not remembering:
        return
    try:
        frame = checked(session.competition.train_frame(session.data), "train_frame").set_index("sample_id", drop=False)
    except (OSError, DataError) as error:
        _say(f"no training rows to predict again are mounted ({error})")
        return
    for one in remembering:
        assert one.member.remembered is not None
        ids = one.member.remembered.ids
        if not set(ids) <= set(frame.index):
            raise BundleError(
                f"the rows {list(ids[:3])} ... of {one.member.run} in the mounted train_frame",
                "some are not there",
                "attach the data that the run was trained on",
            )
        with tempfile.TemporaryDirectory() as scratch:
            rows = frame.loc[list(ids)].reset_index(drop=True)
            said = predict_rows([one], rows, session.data, Path(scratch)).predictions[0]
            session.log.drift[one.member.file] = round(check_remembered(one.member, said), 5)
    count = sum(len(one.member.remembered.ids) for one in remembering if one.member.remembered)
    print(f"{count} held-back training rows predicted again: as at home", flush=True)
    session.log.done("predicted again")


def _server_class(competition: Competition) -> Callable[..., Any]:
    """The host's class, by the name in the rules: "package.module.Class"."""
    module, _, name = str(competition.rules.server).rpartition(".")
    if not module:
        raise DataError(
            'rules with server="kaggle_evaluation.<module>.<Class>" in the adapter',
            repr(competition.rules.server),
            "copy the name from the host's example notebook",
        )
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
