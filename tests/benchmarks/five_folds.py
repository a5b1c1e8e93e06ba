"""Five folds by the kit against a plain loop that decodes its photographs anew in every epoch.

python tests/benchmarks/five_folds.py [--epochs 1] [--folds 2]    the seconds of a trial, printed

Both train test_resnet at 128 px, batch 32, by AdamW and a cosine schedule, on the same 400 photographs of 1600 px, and
look at the held-out fold after every epoch. The plain loop is what a competitor would write with torch and timm alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from timm.data import create_transform
from timm.scheduler import CosineLRScheduler
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PHOTOS, EPOCHS, FOLDS = 400, 10, 5
SIZE, BATCH, LR, DECAY = 128, 32, 3e-3, 0.02
COLOURS = np.array([[150, 110, 100], [110, 150, 100], [100, 110, 150], [125, 125, 110]], np.float32)
"""Mean red, green and blue of each class: apart by less than the noise within a photograph."""

ADAPTER = '''
"""Photographs whose colour is the class."""

from kit import Competition, Folds, Multiclass, metrics, read_table


class Adapter(Competition):
    slug = "photographs"
    task = Multiclass("label")
    folds = Folds(5, stratify="label", group=None)
    metric = "accuracy"
    greater_is_better = True

    def train_frame(self, data):
        table = read_table(data / "train.csv")
        return table.assign(path="images/" + table["sample_id"] + ".jpg")

    def submission(self, answers, units):
        return answers.rename_axis("photo").reset_index()

    def score(self, solution, submission):
        return metrics.accuracy(solution, submission, by="photo", column="label")
'''


def bench_five_folds(epochs: int = EPOCHS, folds: int = FOLDS) -> dict[str, Any]:
    """Seconds of the plain loop, of the kit with a cold and with a warm cache, and how many times faster the kit is."""
    with tempfile.TemporaryDirectory() as scratch:
        data = write_photos(Path(scratch) / "competitions" / "photographs")
        kit = kit_seconds(Path(scratch), data, epochs, folds)
        plain, accuracy = plain_loop(data, epochs, folds)
    return {
        "command": "python tests/benchmarks/bench.py --only five_folds",
        "plain_seconds": round(plain, 1),
        **kit,
        "plain_accuracy": round(accuracy, 4),
        "times_faster": round(plain / kit["kit_seconds"], 2),
    }


def write_photos(folder: Path, photos: int = PHOTOS) -> Path:
    """The competition's folder with its adapter and data, which is returned."""
    data = folder / "data"
    (data / "images").mkdir(parents=True)
    (folder / "adapter.py").write_text(ADAPTER)
    draw = np.random.default_rng(0)
    rows = [(f"{number:04d}", str(number % 4)) for number in draw.permutation(photos)]
    for name, label in rows:
        photo(int(name), COLOURS[int(label)]).save(data / "images" / f"{name}.jpg", quality=90)
    with (data / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sample_id", "label"), *rows])
    return data


def photo(seed: int, colour: np.ndarray) -> Image.Image:
    """1600 x 1200 pixels of noise at six scales around a mean colour: the bytes of a photograph, 0.5 to 1 MB."""
    draw = np.random.default_rng(seed)
    image = np.broadcast_to(colour, (1200, 1600, 3)).copy()
    for cell in (400, 100, 25, 8, 3, 1):
        noise = draw.standard_normal((1200 // cell, 1600 // cell, 3), np.float32) * (20 if cell > 3 else 5)
        image += cv2.resize(noise, (1600, 1200), interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def kit_seconds(home: Path, data: Path, epochs: int, folds: int) -> dict[str, float]:
    """Seconds of the first fold with the cache still to be made, of all folds from there, of all folds once it lies."""
    from kit.offline.places import load_competition
    from kit.training import augment
    from kit.training.fanout import open_ground, train_run
    from kit.training.recipe import Recipe

    recipe = Recipe(
        backbone="test_resnet", pretrained=False, image_size=SIZE, cache_size=160, epochs=epochs, batch_size=BATCH,
        lr=LR, weight_decay=DECAY, augment=augment.photo,
    )  # fmt: skip

    def seconds(name: str, some: range) -> float:
        start = time.monotonic()
        train_run(open_ground(load_competition("photographs", home), data), name, recipe, list(some), home)
        return time.monotonic() - start

    first = seconds("cold", range(1))
    rest = seconds("cold", range(1, folds))
    warm = seconds("warm", range(folds))
    score = next(home.glob("competitions/*/runs/cold-*/score.json"))
    return {
        "kit_seconds": round(first + rest, 1),
        "kit_first_fold_seconds": round(first, 1),
        "kit_warm_seconds": round(warm, 1),
        "kit_accuracy": round(json.loads(score.read_text())["pooled"], 4),
    }


class Photos(Dataset[tuple[torch.Tensor, int]]):
    """Decoded, resized and augmented each time that one is asked for."""

    def __init__(self, rows: list[tuple[Path, int]], transform: Callable[[Image.Image], torch.Tensor]):
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        path, label = self.rows[at]
        return self.transform(Image.open(path).convert("RGB")), label


def plain_loop(data: Path, epochs: int, folds: int) -> tuple[float, float]:
    """(seconds, mean accuracy of the held-out folds after the last epoch)."""
    start = time.monotonic()
    with (data / "train.csv").open() as file:
        rows = [(data / "images" / f"{row['sample_id']}.jpg", int(row["label"])) for row in csv.DictReader(file)]
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    parts = list(splitter.split(rows, [label for _, label in rows]))[:folds]
    accuracies = [plain_fold([rows[at] for at in train], [rows[at] for at in held], epochs) for train, held in parts]
    return time.monotonic() - start, float(np.mean(accuracies))


def plain_fold(train: list[tuple[Path, int]], held: list[tuple[Path, int]], epochs: int) -> float:
    """Train on `train` and return the accuracy on `held` after the last epoch."""
    torch.manual_seed(0)
    loader = DataLoader(
        Photos(train, create_transform(SIZE, is_training=True)), BATCH, shuffle=True, num_workers=2, drop_last=True
    )
    shown = DataLoader(Photos(held, create_transform(SIZE)), BATCH, num_workers=2)
    model = timm.create_model("test_resnet", num_classes=len(COLOURS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    schedule = CosineLRScheduler(
        optimizer, t_initial=epochs * len(loader), warmup_t=len(loader), warmup_lr_init=LR / 100, t_in_epochs=False
    )
    update = 0
    for epoch in range(epochs):
        model.train()
        for images, labels in loader:
            schedule.step_update(update)
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update += 1
        model.eval()
        with torch.inference_mode():
            right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in shown)
        print(f"plain epoch {epoch + 1}/{epochs} accuracy {right / len(held):.4f}", flush=True)
    return right / len(held)


def main() -> None:
    """A trial of another length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--folds", type=int, default=FOLDS)
    print(json.dumps(bench_five_folds(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
