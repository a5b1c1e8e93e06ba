"""Which bird sings in each two seconds of a recording? Several windows a file, a probability per bird, log loss."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pandas as pd

from kit import Competition, Folds, Multiclass, read_table

RATE, WINDOW, STEP, BANDS = 2000, 1600, 50, 32


class Adapter(Competition):
    slug = "probe-audio"
    task = Multiclass("bird", answer="probability")
    folds = Folds(2, group="file")
    metric = "log loss"
    greater_is_better = False

    def train_frame(self, data: Path) -> pd.DataFrame:
        return windows(read_table(data / "train.csv", ["row_id", "file", "start", "bird"]), "train")

    def test_frame(self, data: Path) -> pd.DataFrame:
        return windows(read_table(data / "test.csv", ["row_id", "file", "start"]), "test")

    def read(self, row, data, how):
        with wave.open(str(data / row.path)) as file:
            return np.frombuffer(file.readframes(file.getnframes()), np.int16)

    def cut(self, array, row, how, rng):
        start = int(row.start) if rng is None else int(rng.integers(len(array) - WINDOW + 1))
        sound = array[start : start + WINDOW].astype(np.float32) / 32768
        frames = np.lib.stride_tricks.sliding_window_view(sound, 2 * BANDS)[::STEP] * np.hanning(2 * BANDS)
        power = np.abs(np.fft.rfft(frames, axis=1))[:, :BANDS].T
        return np.log1p(how.get("gain", 1.0) * power).astype(np.float32)[:, :, None]

    def submission(self, answers: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
        return answers.rename_axis("row_id").reset_index()

    def score(self, solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        truth, said = solution.set_index("row_id"), submission.set_index("row_id")
        chances = said.loc[truth.index, truth.columns].to_numpy(float).clip(1e-6, 1)
        return float(-(truth.to_numpy(float) * np.log(chances)).sum(axis=1).mean())


def windows(table: pd.DataFrame, folder: str) -> pd.DataFrame:
    """A row per window; windows of one recording share their source."""
    return table.assign(sample_id=table["row_id"], path=f"{folder}/" + table["file"], source=table["file"])
