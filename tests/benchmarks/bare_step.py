"""The kit's training against a bare loop on one batch: what the kit adds to a step, and loading to training.

python tests/benchmarks/bare_step.py    the figures alone, printed

The bare loop is resnet18 at 128 px, batch 32, in channels_last and bf16, AdamW and cross-entropy, on a batch that lies
on the device: nothing can be left out of it. `kit bench` measures its `step` on the like. They take turns, so that a
machine that grows slower meets both.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SIZE, BATCH, TURNS = 128, 32, 3

ADAPTER = '''
"""Noise of 160 x 214 pixels, as a cache_size of 160 keeps photographs; its colour is the class."""

import numpy as np
import pandas as pd

from kit import Competition, Folds, Multiclass, metrics


class Adapter(Competition):
    slug = "noise"
    task = Multiclass("label")
    folds = Folds(5, stratify="label", group=None)
    metric = "accuracy"
    greater_is_better = True

    def train_frame(self, data):
        numbers = np.random.default_rng(0).permutation(1700)
        return pd.DataFrame({"sample_id": [f"{number:04d}" for number in numbers], "label": (numbers % 4).astype(str)})

    def read(self, row, data, how):
        shade = 48 * int(row.label)
        return np.random.default_rng(int(row.sample_id)).integers(shade, shade + 96, (160, 214, 3), np.uint8)

    def submission(self, answers, units):
        return answers.rename_axis("image").reset_index()

    def score(self, solution, submission):
        return metrics.accuracy(solution, submission, by="image", column="label")
'''


def bench_bare_step() -> dict[str, Any]:
    """Medians over turns: images per second of the bare loop, the kit's step and its training, and their ratios."""
    from kit.offline.places import load_competition
    from kit.training import augment
    from kit.training.bench import bench
    from kit.training.fanout import open_ground
    from kit.training.recipe import Recipe

    recipe = Recipe(
        backbone="resnet18", pretrained=False, image_size=SIZE, batch_size=BATCH, precision="bf16",
        augment=augment.photo,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "competitions" / "noise"
        (folder / "data").mkdir(parents=True)
        (folder / "adapter.py").write_text(ADAPTER)
        ground = open_ground(load_competition("noise", scratch), folder / "data")
        turns = [(bare_speed(), bench(ground, recipe, Path(scratch))) for _ in range(TURNS)]
    for bare, kit in turns:
        print(f"bare {bare:.1f}  " + "  ".join(f"{name} {value:.2f}" for name, value in kit.items()), flush=True)

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 3)

    return {
        "command": "python tests/benchmarks/bench.py --only bare_step",
        "bare_images_per_second": median([bare for bare, _ in turns]),
        "step_images_per_second": median([kit["step"] for _, kit in turns]),
        "train_images_per_second": median([kit["train"] for _, kit in turns]),
        "step_over_bare": median([kit["step"] / bare for bare, kit in turns]),
        "train_ratio": median([kit["train_ratio"] for _, kit in turns]),
        "turns": TURNS,
    }


def bare_speed() -> float:
    """Images per second of the bare loop's second epoch, as long as that of `kit bench`; the first warms up."""
    from kit.training.bench import STEPS

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = timm.create_model("resnet18", num_classes=4).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.02)
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(4, (BATCH,), device=device)
    speed = 0.0
    for _ in range(2):
        started = time.monotonic()
        for _ in range(STEPS):
            with torch.autocast(device.type, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        speed = STEPS * BATCH / (time.monotonic() - started)
    return speed


if __name__ == "__main__":
    print(json.dumps(bench_bare_step(), indent=2))
