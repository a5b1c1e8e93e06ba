"""From a bundle and the host's files to submission.csv.

The notebook and `kit predict` both run this file, from the bundle's wheel.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kit.offline import answers
from kit.offline.answers import Part, part_of, submission_of, validate
from kit.offline.batches import EvaluationSamples, FileSources, evaluation_batches, source_of, to_device
from kit.offline.columns import table_of, table_width
from kit.offline.contract import Competition
from kit.offline.errors import BundleError, KitError
from kit.offline.files import write_whole
from kit.offline.frames import checked
from kit.offline.manifest import Golden, Manifest, Member, open_bundle
from kit.offline.models import build_model, load_weights, pick_device
from kit.offline.pixels import Preparation
from kit.offline.places import find_competition_data, load_adapter, load_module
from kit.offline.predictions import Gallery, Map, Maps, Predictions, write_maps
from kit.offline.tasks import Task, task_from
from kit.offline.views import view_of

GOLDEN_TOLERANCE = 1e-3
BATCH_SIZE = 64


@torch.inference_mode()
def forward(
    model: nn.Module, task: Task, images: Tensor, views: Sequence[str], beside: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Activated outputs of normalised images (N x C x H x W), averaged over views: N x K, or N x K x h x w if dense.

    beside: what else the network gets, by name (see `batches.to_device`). Full precision on the CPU, fp16 autocast on a
    GPU. The model is in evaluation mode.
    """
    cast = torch.autocast("cuda", torch.float16) if images.device.type == "cuda" else nullcontext()
    total: Tensor | None = None
    with cast:
        for view in map(view_of, views):
            inputs = view.apply(images)
            said = task.activate(model(inputs, **(beside or {}))).float()
            if task.dense:
                grid = tuple(
                    round(side * full / seen)
                    for side, full, seen in zip(said.shape[-2:], images.shape[-2:], inputs.shape[-2:], strict=True)
                )
                said = view.undo(said, (grid[0], grid[1]) if total is None else tuple(total.shape[-2:]))  # type: ignore[arg-type]
            total = said if total is None else total + said
    assert total is not None, "a recipe has at least one view"
    return total / len(views)


def predict_batches(
    model: nn.Module,
    task: Task,
    batches: DataLoader,
    table: Tensor,
    preparation: Preparation,
    views: Sequence[str],
    device: torch.device,
) -> Iterator[tuple[list[int], np.ndarray, list[tuple[int, int]]]]:
    """(positions, values, native sizes) batch by batch; values as `forward` gives them, as float32 arrays.

    table: the numbers of every row, by position, N x T.
    """
    model.eval()
    for positions, images, heights, widths in batches:
        inputs, beside = to_device(images, table[positions], preparation, device)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        values = forward(model, task, inputs, views, beside).cpu().numpy()
        if not np.isfinite(values).all():
            raise KitError(
                "finite outputs of the network",
                f"NaN or infinity near row {positions[0].item()}",
                "train the fold again, in fp32 if need be",
            )
        yield positions.tolist(), values, list(zip(heights.tolist(), widths.tolist(), strict=True))


def predict_samples(
    model: nn.Module, competition: Competition, frame: pd.DataFrame, batches: DataLoader, preparation: Preparation,
    views: Sequence[str], columns: Sequence[str], device: torch.device, folder: Path,
) -> Predictions | Maps:  # fmt: skip
    """Predictions of every row of `frame`, by sample_id. Maps of dense tasks are streamed into `folder`."""
    ids = frame["sample_id"].to_numpy()
    table = torch.from_numpy(table_of(frame, preparation.table))
    stream = predict_batches(model, competition.task, batches, table, preparation, views, device)
    if competition.task.dense:
        return write_maps(folder, _maps(stream, ids, preparation), columns)
    values = np.empty((len(frame), len(columns)), np.float32)
    for positions, some, _ in stream:
        values[positions] = some
    return Predictions(ids, values, tuple(columns))


def _maps(
    stream: Iterator[tuple[list[int], np.ndarray, list[tuple[int, int]]]], ids: np.ndarray, preparation: Preparation
) -> Iterator[tuple[str, Map]]:
    for positions, values, sizes in stream:
        for at, one, (height, width) in zip(positions, values, sizes, strict=True):
            yield str(ids[at]), Map(preparation.unfit(one, height, width), height, width)


def golden_inputs(golden: Golden, preparation: Preparation) -> Tensor:
    """Smooth random images that the seed draws (numpy's frozen legacy stream), fitted and normalised: N x C x H x W."""
    random = np.random.RandomState(golden.seed)
    top = {"uint8": 255, "uint16": 65535, "int16": 32767}.get(golden.dtype, 1)
    images = []
    for _ in range(golden.count):
        coarse = random.uniform(0, top, (*golden.shape[:-3], 4, 4, golden.shape[-1]))
        height, width = golden.shape[-3:-1]
        tall = np.repeat(coarse, -(-height // 4), axis=-3)[..., :height, :, :]
        image = np.repeat(tall, -(-width // 4), axis=-2)[..., :width, :]
        images.append(preparation.fit_size(image.astype(golden.dtype)))
    return preparation.to_input(torch.from_numpy(np.stack(images)))


def check_golden(model: nn.Module, member: Member, task: Task, device: torch.device) -> None:
    """Compare the member's answers to the golden inputs with those at home; the views play no part.

    Raises BundleError beyond the tolerance; in the rerun, where stopping would cost the submission, it only warns.
    """
    said = golden_answers(model, member.golden, member.preparation, task, device)
    drift = float(np.abs(said - np.asarray(member.golden.answers)).max())
    tolerance = GOLDEN_TOLERANCE if device.type == "cpu" else 10 * GOLDEN_TOLERANCE
    if drift <= tolerance:
        return
    fault = BundleError(
        f"{member.file} to answer its golden inputs as at home, within {tolerance}",
        f"a difference of {drift:.2g}",
        "the libraries here prepare or compute otherwise: compare the manifest's versions with the installed ones",
    )
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
        warnings.warn(str(fault), stacklevel=2)
    else:
        raise fault


def golden_table(golden: Golden, preparation: Preparation) -> Tensor:
    """Standard normal numbers that the seed draws, to go beside the golden images: N x T."""
    size = (golden.count, table_width(preparation.table))
    return torch.from_numpy(np.random.RandomState(golden.seed).standard_normal(size).astype(np.float32))


def golden_answers(
    model: nn.Module, golden: Golden, preparation: Preparation, task: Task, device: torch.device
) -> np.ndarray:
    """N x C: activated outputs for the golden inputs and table, dense ones averaged over the map."""
    inputs, table = golden_inputs(golden, preparation).to(device), golden_table(golden, preparation).to(device)
    beside = {"table": table} if table.shape[1] else {}
    said = forward(model.eval(), task, inputs, ("identity",), beside).cpu().numpy()
    return said.reshape(*said.shape[:2], -1).mean(axis=2)


def predict_member(
    bundle: Path,
    manifest: Manifest,
    member: Member,
    competition: Competition,
    frame: pd.DataFrame,
    data: Path,
    device: torch.device,
    scratch: Path,
) -> Part:
    """What one member says of every unit of `frame`."""
    adapter = load_module(competition.folder, "adapter") if competition.folder else None
    own = competition.with_task(task_from(member.task, adapter))
    model = load_weights(build_model(member.spec, own), bundle / member.file).to(device)
    check_golden(model, member, own.task, device)
    frame = by_source(frame)
    samples = EvaluationSamples(own, frame, FileSources(own, data, member.preparation), member.preparation)
    columns = own.task.outputs(dict(member.learned))
    predictions = predict_samples(
        model,
        own,
        frame,
        evaluation_batches(samples, BATCH_SIZE),
        member.preparation,
        member.views,
        columns,
        device,
        scratch / member.file,
    )
    gallery = Gallery.load(bundle / member.gallery) if member.gallery else None
    part = part_of(own, frame, predictions, gallery)
    if member.quantiles is not None and isinstance(part.predictions, Predictions):
        return Part(part.predictions.ranked(np.asarray(member.quantiles)), gallery)
    return part


def predict_bundle(
    bundle: Path, data: Path | None = None, out: Path | str = "submission.csv", manifest_sha256: str | None = None
) -> pd.DataFrame:
    """Verify the bundle, predict the mounted test set with every member, blend, decode, format, validate, write `out`.

    data: the competition's files; None finds them where Kaggle mounts inputs. Returns the table that was written.
    """
    bundle = Path(bundle)
    manifest = open_bundle(bundle, manifest_sha256)
    competition = competition_in(bundle, manifest)
    data = Path(data) if data is not None else find_competition_data(manifest.slug)
    frame = checked(competition.test_frame(data), "test_frame")
    device = pick_device()
    print(f"{manifest.bundle}: {len(frame)} rows of {data}, {len(manifest.members)} members, on {device}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        parts = []
        for member in manifest.members:
            parts.append(predict_member(bundle, manifest, member, competition, frame, data, device, Path(scratch)))
            print(f"  {member.run} fold {member.fold if member.fold >= 0 else 'all'}: done", flush=True)
        blended = answers.blend_parts([[part] for part in parts], [member.weight for member in manifest.members])[0]
        table = submission_of(competition, frame, blended, dict(manifest.learned))
    validate(competition, frame, data, table)
    write_whole(Path(out).absolute(), table.to_csv(index=False, float_format="%.9g", lineterminator="\n").encode())
    print(f"{len(table)} rows written to {out}", flush=True)
    return table


def competition_in(bundle: Path, manifest: Manifest) -> Competition:
    """The competition out of a bundle's wheel, with the task that reads answers off its members."""
    competition = load_adapter(bundle / manifest.wheel / "competitions" / manifest.competition)
    return competition.with_task(task_from(manifest.task, load_module(competition.folder, "adapter")))  # type: ignore[arg-type]


def by_source(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of one source put next to each other, sources in order of appearance, so that each is read once."""
    if "source" not in frame.columns:
        return frame
    names = frame.apply(source_of, axis=1) if len(frame) else frame["source"]
    return frame.iloc[np.argsort(pd.factorize(names)[0], kind="stable")].reset_index(drop=True)


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
