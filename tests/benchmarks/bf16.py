"""bf16 against fp32 on the CPU: is the score that precision="auto" gets the same, but for noise?

python tests/benchmarks/bf16.py [--seeds 3]    the figures alone, printed

Fold 0 of the sign-digits photographs (signers held out) with a tiny network at 96 px, each seed once in either
precision, in turns. What seeds make of the score is the noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SEEDS, EPOCHS = 3, 12


def bench_bf16(seeds: int = SEEDS) -> dict[str, Any]:
    """Accuracies by seed in each precision, their mean difference and its standard error, and the speeds."""
    from kit.offline.places import load_competition
    from kit.training.fanout import open_ground, train_run
    from kit.training.recipe import find_recipe
    from tests.signs import DATA, fork_signs

    if not DATA.is_dir():
        raise SystemExit(f"no data in {DATA}; set KIT_REAL_DATA, or leave out bf16 with --only")
    with tempfile.TemporaryDirectory() as scratch:
        folder = fork_signs(Path(scratch))
        ground = open_ground(load_competition("signs", scratch), DATA)
        recipe = replace(find_recipe(folder, "resnet"), image_size=96, epochs=EPOCHS)
        done: dict[str, list[dict[str, Any]]] = {"fp32": [], "bf16": [], "auto": []}
        speeds: dict[str, list[float]] = {name: [] for name in done}
        for seed in range(seeds):
            for name in done if seed == 0 else ("fp32", "bf16"):
                run = train_run(ground, name, replace(recipe, precision=name, seed=seed), [0], Path(scratch))
                done[name].append(run.read("fold0/done.json"))
                lines = (run.fold(0) / "log.jsonl").read_text().splitlines()
                speeds[name].append(statistics.median(json.loads(line)["images_per_second"] for line in lines))
    scores = {name: [round(one["score"], 4) for one in many] for name, many in done.items()}
    differences = [half - whole for half, whole in zip(scores["bf16"], scores["fp32"], strict=True)]
    return {
        "command": "python tests/benchmarks/bench.py --only bf16",
        "auto_chose": done["auto"][0]["precision"],
        "fp32_accuracy": scores["fp32"],
        "bf16_accuracy": scores["bf16"],
        "mean_difference": round(statistics.mean(differences), 4),
        "standard_error": round(statistics.stdev(differences) / len(differences) ** 0.5, 4),
        "times_faster": round(statistics.median(speeds["bf16"]) / statistics.median(speeds["fp32"]), 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=SEEDS)
    print(json.dumps(bench_bf16(parser.parse_args().seeds), indent=2))
