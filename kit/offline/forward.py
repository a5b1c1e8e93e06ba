"""From batches to predictions: a network's activated outputs, averaged over views, by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kit.offline.batches import source_of, to_device
from kit.offline.columns import table_of
from kit.offline.contract import Competition
from kit.offline.errors import Diverged
from kit.offline.pixels import Preparation
from kit.offline.predictions import Map, Maps, Predictions, write_maps
from kit.offline.tasks import Task
from kit.offline.views import view_of


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


def within_memory(
    model: nn.Module, task: Task, images: Tensor, views: Sequence[str], beside: Mapping[str, Tensor]
) -> np.ndarray:
    """`forward` as a float32 array; a batch that a GPU's memory does not hold is halved. Raises
    torch.OutOfMemoryError for a single row."""
    try:
        return forward(model, task, images, views, beside).cpu().numpy()
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # outside of the handler, which holds what filled the memory
    parts = []
    for rows in (slice(len(images) // 2), slice(len(images) // 2, None)):
        of_rows = {name: value[rows] for name, value in beside.items()}
        parts.append(within_memory(model, task, images[rows], views, of_rows))
    return np.concatenate(parts)


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
        values = within_memory(model, task, inputs, views, beside)
        if not np.isfinite(values).all():
            raise Diverged(
                "finite outputs of the network",
                f"NaN or infinity near row {positions[0].item()}",
                "train the fold again, with a lower lr, clip_grad or precision='fp32'",
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


def by_source(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of one source put next to each other, sources in order of appearance, so that each is read once."""
    if "source" not in frame.columns:
        return frame
    names = frame.apply(source_of, axis=1) if len(frame) else frame["source"]
    return frame.iloc[np.argsort(pd.factorize(names)[0], kind="stable")].reset_index(drop=True)
