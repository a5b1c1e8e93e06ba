"""What a trained fold says of any rows, read from the host's files by the very code that runs on Kaggle."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kit.offline.batches import EvaluationSamples, FileSources, evaluation_batches
from kit.offline.contract import Competition
from kit.offline.forward import by_source, predict_samples
from kit.offline.manifest import preparation_from, spec_from
from kit.offline.models import build_model, load_weights, pick_device
from kit.offline.predictions import Maps, Predictions
from kit.training.rundir import Run

BATCH_SIZE = 64


def predict_rows(
    run: Run,
    number: int,
    competition: Competition,
    frame: pd.DataFrame,
    data: Path,
    folder: Path,
    weights: Path | None = None,
) -> Predictions | Maps:
    """Predictions of the rows of `frame` by one fold of a run, with the recipe's views.

    competition: with the task that the run trained. folder: where maps go. weights: other ones than the fold's own.
    """
    if weights is None:
        run.require_whole(number)
    record = run.read(f"{run.fold(number).name}/model.json")
    preparation, device = preparation_from(record["preparation"]), pick_device()
    weights = weights or run.fold(number) / "weights.safetensors"
    model = load_weights(build_model(spec_from(record["spec"]), competition), weights).to(device)
    frame = by_source(frame)
    samples = EvaluationSamples(competition, frame, FileSources(competition, data, preparation), preparation)
    batches = evaluation_batches(samples, BATCH_SIZE)
    views, columns = run.record["recipe"]["tta"], run.record["columns"]
    return predict_samples(model, competition, frame, batches, preparation, views, columns, device, folder)
