"""Five members over a thousand photographs: together, against what their parts take, and against one after another.

python tests/benchmarks/ensemble.py [--photos 1000]    the figures alone, printed

The members have two views each; the photographs have 1600 x 1200 pixels. `decode` is the loader alone, each photograph
once; `forward` the networks alone, on batches that lie in memory, as `kit bench` measures them. One after another, each
member decodes for itself, as `kit predict` of five bundles would, less the seconds that five processes take to start.
Each part of the photographs goes through all four before the next, so that a machine that grows slower meets them all.

What decoding once is worth depends on what a network takes beside it: on CPUs resnet18 at 224 px takes most of the
time, whoever decodes. So a tiny network is measured, too, beside which decoding weighs as it does beside a GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PHOTOS, DISTINCT, PARTS, MEMBERS = 1000, 100, 4, 5

TEST_FRAME = """
    def test_frame(self, data):
        names = [path.name for path in frames.list_files(data / "test", [".jpg"])]
        return pd.DataFrame({"sample_id": [name[:4] for name in names], "path": [f"test/{name}" for name in names]})
"""


def bench_ensemble(photos: int = PHOTOS) -> dict[str, Any]:
    """Seconds of decoding, of the forward passes, of the ensemble and of its members one by one, and their ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        data = write_test_photos(home, photos)
        large = compare(seated_members(home, data, "resnet18", 224), data, home / "large")
        tiny = compare(seated_members(home, data, "test_resnet", 96), data, home / "tiny")
    return {
        "command": "python tests/benchmarks/bench.py --only ensemble",
        "photos": photos,
        **{f"{name}_seconds": round(value, 1) for name, value in large.items()},
        **ratios(large),
        **{f"{name}_of_a_tiny_network": ratio for name, ratio in ratios(tiny).items()},
    }


def ratios(seconds: Counter[str]) -> dict[str, float]:
    """How far the ensemble is from its parts, and one after another from the ensemble."""
    together = seconds["together"]
    parts = seconds["decode"] + seconds["forward"]
    return {
        "together_over_parts": round(together / parts, 3),
        "one_by_one_over_together": round(seconds["one_by_one"] / together, 2),
    }


def write_test_photos(home: Path, photos: int) -> Path:
    """The competition of five_folds with DISTINCT training photographs, and `photos` like them to predict; its data."""
    from tests.benchmarks import five_folds

    folder = home / "competitions" / "photographs"
    data = five_folds.write_photos(folder, DISTINCT)
    adapter = five_folds.ADAPTER.replace("from kit import ", "import pandas as pd\n\nfrom kit import frames, ")
    (folder / "adapter.py").write_text(adapter + TEST_FRAME)
    (data / "test").mkdir()
    known = sorted((data / "images").iterdir())
    for number in range(photos):
        shutil.copyfile(known[number % len(known)], data / "test" / f"{7 * number % photos:04d}.jpg")
    pd.DataFrame({"photo": [f"{number:04d}" for number in range(photos)], "label": "0"}).to_csv(
        data / "sample_submission.csv", index=False
    )
    return data


def seated_members(home: Path, data: Path, backbone: str, size: int) -> list[Any]:
    """The members of a bundle of five folds, trained for one epoch, with their networks."""
    from kit.offline.manifest import open_bundle
    from kit.offline.places import load_competition
    from kit.offline.predict import competition_in, seat_members
    from kit.shipping.bundle import make_bundle
    from kit.training import augment
    from kit.training.fanout import open_ground, train_run
    from kit.training.recipe import Recipe

    recipe = Recipe(
        backbone=backbone, pretrained=False, image_size=size, cache_size=size, epochs=1, augment=augment.light,
        tta=("identity", "hflip"),
    )  # fmt: skip
    competition = load_competition("photographs", home)
    run = train_run(open_ground(competition, data), backbone, recipe, home=home)
    bundle = make_bundle(run, competition, home, full=True)
    manifest = open_bundle(bundle)
    files = {name: bundle / name for name in manifest.files}
    return seat_members(manifest, competition_in(bundle, manifest), files, [torch.device("cpu")])


def compare(seated: list[Any], data: Path, scratch: Path) -> Counter[str]:
    """Seconds of each way over all photographs."""
    from kit.offline.ensemble import BATCH_SIZE, predict_rows
    from kit.offline.frames import checked

    assert len(seated) == MEMBERS
    frame = checked(seated[0].competition.test_frame(data), "test_frame")
    seconds: Counter[str] = Counter()
    size = -(-len(frame) // PARTS)
    warm = frame.head(BATCH_SIZE)
    predict_rows(seated, warm, data, scratch / "warm")
    for first in range(0, len(frame), size):
        rows = frame.iloc[first : first + size].reset_index(drop=True)
        batches = decoded(seated, rows, data, seconds)
        forwarded(seated, batches, seconds)
        with counted(seconds, "together"):
            together = predict_rows(seated, rows, data, scratch / "together").predictions
        with counted(seconds, "one_by_one"):
            alone = [predict_rows([one], rows, data, scratch / "alone").predictions[0] for one in seated]
        assert all((one.values == other.values).all() for one, other in zip(together, alone, strict=True))
        print({name: round(value, 1) for name, value in seconds.items()}, flush=True)
    return seconds


def decoded(seated: list[Any], rows: pd.DataFrame, data: Path, seconds: Counter[str]) -> list[Any]:
    """The batches of the loader that `predict_rows` uses; no network takes any of the cores."""
    from kit.offline.ensemble import ensemble_batches

    with counted(seconds, "decode"):
        return list(ensemble_batches(seated, rows, data))


def forwarded(seated: list[Any], batches: list[Any], seconds: Counter[str]) -> None:
    """Every view of every member over batches that are decoded and normalised already."""
    from kit.offline.batches import to_device
    from kit.offline.forward import forward

    device, preparation = torch.device("cpu"), seated[0].member.preparation
    inputs = []
    for batch in batches:
        images, _ = to_device(batch.prepared[0][0], torch.zeros(len(batch.positions), 0), preparation, device)
        inputs.append(images.contiguous(memory_format=torch.channels_last))
    with counted(seconds, "forward"):
        for images in inputs:
            for one in seated:
                forward(one.models[device], one.competition.task, images, one.member.views)


@contextmanager
def counted(seconds: Counter[str], name: str, now: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Add what the block takes."""
    began = now()
    yield
    seconds[name] += now() - began  # type: ignore[assignment]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=PHOTOS)
    print(json.dumps(bench_ensemble(parser.parse_args().photos), indent=2))
