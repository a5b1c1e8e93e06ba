"""Every member over every row: a source is decoded once for all members and views, batches go to all devices."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset

from kit.offline.batches import EvaluationSamples, FileSources, collate, default_workers, to_device
from kit.offline.clock import Clock, Plan
from kit.offline.columns import table_of
from kit.offline.contract import Competition
from kit.offline.errors import KitError
from kit.offline.forward import by_source, within_memory
from kit.offline.golden import check_golden
from kit.offline.loading import load
from kit.offline.manifest import Member
from kit.offline.models import build_model, load_weights
from kit.offline.pixels import Preparation
from kit.offline.predictions import Gallery, Map, Maps, MapWriter, Predictions, mean_map

BATCH_SIZE = 64


@dataclass(frozen=True)
class Seated:
    """A member whose network is in evaluation mode on each of the devices.

    competition: with the member's own task. columns: of its predictions.
    """

    member: Member
    competition: Competition
    models: Mapping[torch.device, nn.Module]
    columns: tuple[str, ...]
    gallery: Gallery | None


@dataclass
class Outcome:
    """predictions: sample predictions of each member, all rows. unreadable: id -> why a row got the prior.

    late: rows that got it since time was up. left_out: what was left out to be in time, in words.
    """

    predictions: list[Predictions | Maps] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    late: int = 0
    left_out: list[str] = field(default_factory=list)


def seat(member: Member, own: Competition, files: Mapping[str, Path], devices: Sequence[torch.device]) -> Seated:
    """Build a member's network, load its weights onto each device, and ask for its golden answers.

    own: the competition with the member's task.
    """
    models = {}
    for device in devices:
        models[device] = load_weights(build_model(member.spec, own), files[member.file]).to(device).eval()
        check_golden(models[device], member, own.task, device)
    gallery = Gallery.load(files[member.gallery]) if member.gallery else None
    return Seated(member, own, models, tuple(own.task.outputs(dict(member.learned))), gallery)


def plan_of(seated: Sequence[Seated], clock: Clock, rows: int) -> Plan:
    """All that the members do over so many rows, to begin with; see `Plan`."""
    retrieval = any(one.gallery for one in seated)  # embeddings of members say nothing of each other
    return clock.plan([one.member.views for one in seated], [one.member.weight for one in seated], rows, not retrieval)


@torch.inference_mode()
def predict_rows(
    seated: Sequence[Seated],
    frame: pd.DataFrame,
    data: Path,
    folder: Path,
    plan: Plan | None = None,
    tolerant: bool = False,
) -> Outcome:
    """What each member says of every row of `frame`, by sample_id; maps of dense tasks are streamed into `folder`.

    plan: leaves out views, then members, where time runs short; a row that is left over gets the prior. It may be one
    over several calls. tolerant: a row that cannot be read, or of which a network says no number, gets the prior, and
    is in `Outcome.unreadable`; else it raises.
    """
    frame = by_source(frame)
    ids, dense = frame["sample_id"].astype(str).to_numpy(), seated[0].competition.task.dense
    prepared = _distinct([one.member.preparation for one in seated])
    tables = [torch.from_numpy(table_of(frame, preparation.table)) for preparation in prepared]
    every = [one.member.views for one in seated]
    now, told = (plan.clock.now, len(plan.left_out)) if plan else (time.monotonic, 0)
    keepers = [
        _MapKeeper(one, folder / str(at), frame, ids) if dense else _TableKeeper(one, ids)
        for at, one in enumerate(seated)
    ]
    outcome = Outcome()

    def work(batch: Batch, device: torch.device) -> Answered:
        views: Sequence[Sequence[str]] = plan.views if plan else every
        if not batch.positions:
            return Answered(batch, views, [None] * len(seated), 0.0)
        inputs = [
            to_device(images, table[batch.positions], preparation, device)
            for (images, _, _), table, preparation in zip(batch.prepared, tables, prepared, strict=True)
        ]
        begun = now()
        said = [
            _answer(one, *inputs[prepared.index(one.member.preparation)], some, device)
            for one, some in zip(seated, views, strict=True)
        ]
        return Answered(batch, views, said, now() - begun)

    done = 0
    batches = () if plan and plan.is_over() else ensemble_batches(seated, frame, data, tolerant)
    with closing(_over_devices(batches, list(seated[0].models), work)) as answered:
        for each in answered:
            batch = each.batch
            bad = dict(batch.unreadable) | _without_number(each.said, batch.positions, ids, tolerant)
            outcome.unreadable |= {str(ids[position]): why for position, why in bad.items()}
            for at, position in enumerate(batch.positions):
                if position not in bad:
                    for keeper, answer in zip(keepers, _row_of(each, at, seated, prepared), strict=True):
                        keeper.keep(position, answer)
            done += batch.asked
            if plan:
                plan.note(batch.asked, each.views, each.seconds)
                if done < len(frame) and plan.is_over():
                    break
    outcome.late = len(frame) - done
    outcome.left_out = plan.left_out[told:] if plan else []
    outcome.predictions = [keeper.close() for keeper in keepers]
    return outcome


class Batch(NamedTuple):
    """positions: those of N rows. prepared: of each preparation (images, heights, widths) of those rows, where a row
    that could not be read shows another's image. unreadable: (position, why). asked: how many rows were."""

    positions: list[int]
    prepared: list[tuple[Any, Tensor, Tensor]]
    unreadable: list[tuple[int, str]]
    asked: int


class Answered(NamedTuple):
    """said: what each member says of the batch's rows, None where it was left out. seconds: of the networks."""

    batch: Batch
    views: Sequence[Sequence[str]]
    said: list[np.ndarray | None]
    seconds: float


def ensemble_batches(
    seated: Sequence[Seated], frame: pd.DataFrame, data: Path, tolerant: bool = False
) -> Iterable[Batch]:
    """The rows of `frame`, in order, as batches that hold what every member takes; each source is read once."""
    prepared = _distinct([one.member.preparation for one in seated])
    samples = EnsembleSamples(seated, frame, data, prepared, tolerant)
    workers = min(default_workers(), len(samples) // BATCH_SIZE)
    return load(samples, BatchSampler(range(len(samples)), BATCH_SIZE, drop_last=False), workers, _collate)


class EnsembleSamples(Dataset[tuple[Any, ...]]):
    """Position -> (position, None, then image, native height and width of the cut for each preparation).

    Where tolerant, a row that cannot be read is (position, why).
    """

    def __init__(
        self,
        seated: Sequence[Seated],
        frame: pd.DataFrame,
        data: Path,
        prepared: Sequence[Preparation],
        tolerant: bool,
    ):
        self.length, self.tolerant = len(frame), tolerant
        competition = seated[0].competition  # members differ in their task, which has no part in reading
        readings: dict[str, FileSources] = {}
        self.each: list[EvaluationSamples] = []
        for preparation in prepared:
            raw = readings.setdefault(
                repr(sorted(preparation.how.items())),
                FileSources(competition, data, replace(preparation, cache_size=None, jpeg=False)),
            )
            sources = FileSources(competition, data, preparation, read=raw)
            self.each.append(EvaluationSamples(competition, frame, sources, preparation))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, at: int) -> tuple[Any, ...]:
        try:
            return (at, None, *(part for samples in self.each for part in samples[at][1:]))
        except MemoryError:
            raise
        except Exception as error:
            if not self.tolerant:
                raise
            return at, f"{type(error).__name__}: {error}"

    def name_of(self, at: int) -> str:
        """The id of a row, for messages."""
        return self.each[0].name_of(at)


def _collate(samples: Sequence[tuple[Any, ...]]) -> Batch:
    """A batch of the same rows whether or not one can be read: another's image stands in, so that the rest of the batch
    is computed alike. Without any that can be read it is empty."""
    bad = [(sample[0], sample[1]) for sample in samples if sample[1] is not None]
    good = [sample for sample in samples if sample[1] is None]
    if not good:
        return Batch([], [], bad, len(samples))
    whole = [sample if sample[1] is None else (sample[0], None, *good[0][2:]) for sample in samples]
    prepared = []
    for first in range(2, len(good[0]), 3):
        _, images, heights, widths = collate([(sample[0], *sample[first : first + 3]) for sample in whole])
        prepared.append((images, heights, widths))
    return Batch([sample[0] for sample in whole], prepared, bad, len(samples))


def _answer(
    one: Seated, inputs: Tensor, beside: dict[str, Tensor], views: Sequence[str], device: torch.device
) -> np.ndarray | None:
    """float32 values of a batch; None for a member that is left out."""
    if not views:
        return None
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return within_memory(one.models[device], one.competition.task, inputs, views, beside)


def _over_devices(
    batches: Iterable[Batch],
    devices: Sequence[torch.device],
    work: Callable[[Batch, torch.device], Answered],
) -> Generator[Answered, None, None]:
    """Batches worked on in turn by each device, in order."""

    def safely(batch: Batch, device: torch.device) -> Answered:
        with torch.inference_mode():  # a thread has a mode of its own
            return work(batch, device)

    if len(devices) == 1:
        yield from (safely(batch, devices[0]) for batch in batches)
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        under_way: deque[Future[Answered]] = deque()
        for at, batch in enumerate(batches):
            under_way.append(pool.submit(safely, batch, devices[at % len(devices)]))
            if len(under_way) > len(devices):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _without_number(
    said: Sequence[np.ndarray | None], positions: Sequence[int], ids: np.ndarray, tolerant: bool
) -> dict[int, str]:
    """Position -> why, of rows of which a network says NaN or infinity; such a row raises unless tolerant."""
    bad = {
        position
        for values in said
        if values is not None
        for position, finite in zip(positions, np.isfinite(values.reshape(len(values), -1)).all(axis=1), strict=True)
        if not finite
    }
    if bad and not tolerant:
        raise KitError(
            "finite outputs of the network",
            f"NaN or infinity for {str(ids[min(bad)])!r}",
            "train the fold again, in fp32 if need be",
        )
    return dict.fromkeys(bad, "the network's output is no finite number")


def _row_of(
    answered: Answered, at: int, seated: Sequence[Seated], prepared: Sequence[Preparation]
) -> Sequence[np.ndarray | Map]:
    """What each member says of one row of a batch: a vector, or a map over the whole native area.

    A member that was left out repeats the mean of the others in their weights: so it changes no blend.
    """
    vectors = {number: values[at] for number, values in enumerate(answered.said) if values is not None}
    weights = [seated[number].member.weight for number in vectors]
    if not seated[0].competition.task.dense:
        if len(vectors) == len(seated):
            return list(vectors.values())
        others = np.average(list(vectors.values()), axis=0, weights=weights).astype(np.float32)
        return [vectors.get(number, others) for number in range(len(seated))]
    steps = [one.member.preparation for one in seated]
    sizes = [[int(side[at]) for side in answered.batch.prepared[prepared.index(step)][1:]] for step in steps]
    maps = {number: _whole(values, steps[number], *sizes[number]) for number, values in vectors.items()}
    if len(maps) == len(seated):
        return list(maps.values())
    mean = mean_map(maps.values(), weights).values
    return [maps[number] if number in maps else Map(mean, *size) for number, size in enumerate(sizes)]


def _whole(values: np.ndarray, preparation: Preparation, height: int, width: int) -> Map:
    return Map(preparation.unfit(values, height, width), height, width)


class _TableKeeper:
    """Collects vectors; rows of which nothing was said get the prior (zeros where there is none)."""

    def __init__(self, one: Seated, ids: np.ndarray):
        prior = one.member.prior or np.zeros(len(one.columns))
        self.ids, self.columns = ids, one.columns
        self.values = np.tile(np.asarray(prior, np.float32), (len(ids), 1))

    def keep(self, position: int, vector: Any) -> None:
        self.values[position] = vector

    def close(self) -> Predictions:
        return Predictions(self.ids, self.values, self.columns)


class _MapKeeper:
    """Streams maps to disk; rows of which nothing was said get zeros of the frame's height and width, if it has them,
    else of the input's."""

    def __init__(self, one: Seated, folder: Path, frame: pd.DataFrame, ids: np.ndarray):
        self.ids, self.frame, self.size = ids, frame, one.member.preparation.size
        self.writer, self.columns = MapWriter(folder, one.columns), one.columns
        self.left = dict.fromkeys(range(len(ids)))

    def keep(self, position: int, one: Any) -> None:
        self.writer.add(str(self.ids[position]), one)
        del self.left[position]

    def close(self) -> Maps:
        sizes = {"height", "width"} <= set(self.frame.columns)
        for position in self.left:
            row = self.frame.iloc[position]
            height, width = (int(row["height"]), int(row["width"])) if sizes else self.size
            self.writer.add(
                str(self.ids[position]), Map(np.zeros((len(self.columns), 1, 1), np.float32), height, width)
            )
        return self.writer.close()


def _distinct(preparations: Iterable[Preparation]) -> list[Preparation]:
    found: list[Preparation] = []
    return [one for one in preparations if one not in found and not found.append(one)]  # type: ignore[func-returns-value]
