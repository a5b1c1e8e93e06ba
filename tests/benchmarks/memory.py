"""Peak anonymous memory of training, and what an added image costs of it.

python tests/benchmarks/memory.py    the figures alone, printed

Anonymous memory is what no file backs: RssAnon + RssShmem of the process that trains and of all its children, read
every 20 ms from outside. Resident pages of the mapped cache are none of it. A page that forked loader processes share
with their parent is counted in each, and evaluation has loaders of its own beside training's: two workers are five
processes. The figure named `shared_out` divides such pages by the number of those that share them. What is seen in one
look alone is no peak: until a new process has become another program, it counts its parent's memory once more.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SAMPLING = 0.02
"""Seconds between two looks at a process."""
FEW, MANY = 10_000, 100_000

ADAPTER = '''
"""Images of 8 x 8 pixels, made from their row: memory is then the kit's and the frame's alone."""

import numpy as np
import pandas as pd

from kit import Competition, Folds, Multiclass, metrics


class Adapter(Competition):
    slug = "many-tiny-images"
    task = Multiclass("label", classes=["0", "1", "2", "3"])
    folds = Folds(5, stratify="label", group=None)
    greater_is_better = True

    def train_frame(self, data):
        count = int((data / "count.txt").read_text())
        numbers = np.random.default_rng(0).permutation(count)
        ids = [f"image_{number:06d}" for number in numbers]
        return pd.DataFrame({"sample_id": ids, "label": np.array(list("0123"), object)[numbers % 4]})

    def read(self, row, data, how):
        draw = np.random.default_rng(int(row.sample_id[-6:]))
        return draw.integers(64 * int(row.label), 64 * int(row.label) + 63, (8, 8, 3), np.uint8)

    def submission(self, answers, units):
        return answers.rename_axis("image").reset_index()

    def score(self, solution, submission):
        return metrics.accuracy(solution, submission, by="image", column="label")
'''


def bench_memory() -> dict[str, Any]:
    """Bytes that an added image costs: in the adapter's frame alone, where folds are frozen, in an epoch with the cache
    cold, then warm, and warm with two loader processes (the default on two cores is none)."""
    with tempfile.TemporaryDirectory() as scratch:
        homes = [write_home(Path(scratch) / str(images), images) for images in (FEW, MANY)]

        def peaks(what: str, workers: int = 0) -> np.ndarray:
            return np.array([peak_of(home, what, workers) for home in homes])

        frame, folds, cold = peaks("frame"), peaks("folds"), peaks("train")
        warm, two = (np.median([peaks("train", workers) for _ in range(3)], axis=0) for workers in (0, 2))
    return {
        "command": "python tests/benchmarks/bench.py --only memory",
        "bytes_per_image": per_image(warm)[0],
        "bytes_per_image_cold_cache": per_image(cold)[0],
        "bytes_per_image_frame_alone": per_image(frame)[0],
        "bytes_per_image_freezing_folds": per_image(folds)[0],
        "bytes_per_image_two_workers": per_image(two)[0],
        "bytes_per_image_two_workers_shared_out": per_image(two)[1],
        f"peak_mb_{FEW}_images": round(warm[0, 0] / 1e6),
        f"peak_mb_{MANY}_images": round(warm[1, 0] / 1e6),
    }


def per_image(peaks: np.ndarray) -> list[int]:
    """Growth of (few, many) x (anonymous, shared out) by image."""
    return np.round((peaks[1] - peaks[0]) / (MANY - FEW)).astype(int).tolist()


def write_home(home: Path, images: int) -> Path:
    """A home folder with the competition `tiny` of so many images."""
    folder = home / "competitions" / "tiny"
    (folder / "data").mkdir(parents=True)
    (folder / "adapter.py").write_text(ADAPTER)
    (folder / "data" / "count.txt").write_text(str(images))
    return home


def peak_of(home: Path, what: str, workers: int) -> tuple[int, int]:
    """Peaks of a process of its own and its children in bytes: (anonymous, the same with shared pages shared out)."""
    child = subprocess.Popen([sys.executable, __file__, what, str(home), str(workers)], stdout=subprocess.DEVNULL)
    anonymous, shared_out = [0], [0]

    def watch() -> None:
        while child.poll() is None:
            tree = tree_of(child.pid)
            anonymous.append(sum(kilobytes(process, "status", "RssAnon", "RssShmem") for process in tree))
            if len(anonymous) % 10 == 0:  # the kernel walks every page for it
                shared_out.append(sum(kilobytes(process, "smaps_rollup", "Pss_Anon", "Pss_Shmem") for process in tree))
            time.sleep(SAMPLING)

    watcher = threading.Thread(target=watch)
    watcher.start()
    watcher.join()
    if child.returncode:
        raise SystemExit(f"{what} of {home} failed")
    return lasting_peak(anonymous) * 1024, lasting_peak(shared_out) * 1024


def lasting_peak(looks: list[int]) -> int:
    """The most that two looks in a row saw."""
    return max(map(min, pairwise(looks)), default=0)


def tree_of(process: int) -> list[int]:
    """The process and all its children, and theirs."""
    found = [process]
    for parent in found:
        try:
            lists = [path.read_text() for path in Path(f"/proc/{parent}/task").glob("*/children")]
        except OSError:  # it has ended
            continue
        found += [int(child) for text in lists for child in text.split()]
    return found


def kilobytes(process: int, file: str, *names: str) -> int:
    """The sum of lines of a file in /proc/PROCESS; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{process}/{file}").read_text()
    except OSError:
        return 0
    return sum(int(count) for count in re.findall(rf"^(?:{'|'.join(names)}):\s+(\d+) kB", text, re.MULTILINE))


def child(what: str, home: Path, workers: int) -> None:
    """What is measured: the checked frame alone, the freezing of folds, or an epoch of fold 0."""
    sys.path.insert(0, str(ROOT))
    from kit.offline.places import load_competition
    from kit.training.augment import none
    from kit.training.fanout import open_ground, train_run, training_frame
    from kit.training.recipe import Recipe

    competition, data = load_competition("tiny", home), home / "competitions" / "tiny" / "data"
    recipe = Recipe(
        backbone="test_resnet", pretrained=False, image_size=32, epochs=1, batch_size=64, augment=none, workers=workers
    )
    if what == "frame":
        training_frame(competition, data)
        return
    if what == "folds":
        open_ground(competition, data)
        return
    shutil.rmtree(data.parent / "runs", ignore_errors=True)
    train_run(open_ground(competition, data), "tiny", recipe, [0], home)


if __name__ == "__main__":
    if sys.argv[1:]:
        child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(bench_memory(), indent=2))
