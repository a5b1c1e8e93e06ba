"""`make bench`: measure what README states, side by side in one run, and write results.json and README's table.

python tests/benchmarks/bench.py [--only demo,help,signs,memory,five_folds,bare_step,ensemble,bf16]

The last five have modules of their own beside this one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).with_name("results.json")
MODULES = ("memory", "five_folds", "bare_step", "ensemble", "bf16")
MARK = "<!-- measured by make bench -->"


def main() -> None:
    """Measure, write, and put the table into README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="help,demo,signs,memory,five_folds,bare_step,ensemble,bf16")
    wanted = parser.parse_args().only.split(",")
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in wanted:
        print(f"--- {name}", flush=True)
        module = importlib.import_module(f"tests.benchmarks.{name}") if name in MODULES else sys.modules[__name__]
        results[name] = {**getattr(module, f"bench_{name}")(), **where()}
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    before, _, after = (ROOT / "README.md").read_text().split(MARK)
    (ROOT / "README.md").write_text(f"{before}{MARK}\n{measured(RESULTS)}{MARK}{after}")


def where() -> dict[str, Any]:
    """Commit, machine and command of a measurement."""
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, no GPU" if not _gpu() else f"{_gpu()}"
    return {"commit": commit.stdout.strip(), "machine": machine, "python": platform.python_version()}


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def bench_help() -> dict[str, Any]:
    """Median seconds of `kit --help` over seven starts, and of a bare Python start for comparison."""

    def seconds(*command: str) -> float:
        start = time.monotonic()
        subprocess.run(command, capture_output=True, check=True)
        return time.monotonic() - start

    kit = str(Path(sys.executable).with_name("kit"))
    helps = statistics.median(seconds(kit, "--help") for _ in range(7))
    bare = statistics.median(seconds(sys.executable, "-c", "pass") for _ in range(7))
    return {"command": "kit --help", "seconds": round(helps, 2), "bare_python_seconds": round(bare, 2)}


def bench_demo() -> dict[str, Any]:
    """`kit demo`: seconds, peak memory of the largest process, OOF, held-back score, seconds of the rehearsal."""
    with tempfile.TemporaryDirectory() as home:
        start = time.monotonic()
        done = subprocess.run(
            [str(Path(sys.executable).with_name("kit")), "demo", "--home", home],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        blend = next(Path(home).glob("competitions/digits/runs/blend-*/score.json"))
        line = next(line for line in done.stdout.splitlines() if "held-back labels" in line)
        rehearsal = next(line for line in done.stdout.splitlines() if "seconds: rehearse" in line)
        return {
            "command": "make demo",
            "seconds": round(seconds, 1),
            "peak_memory_gb": round(peak, 2),
            "oof_accuracy": round(json.loads(blend.read_text())["pooled"], 4),
            "held_back_accuracy": float(line.split("labels")[1].split()[0]),
            "rehearsal_seconds": float(rehearsal.split()[-1]),
        }


def bench_signs() -> dict[str, Any]:
    """Sign-digits: five folds by signer, a tiny network from scratch at 64 px, bundled, rehearsed."""
    from kit.offline.places import load_competition
    from kit.shipping.bundle import make_bundle
    from kit.shipping.rehearse import rehearse
    from kit.training.fanout import open_ground, train_run
    from kit.training.recipe import find_recipe
    from tests.signs import DATA, fork_signs, interval_by_groups

    if not DATA.is_dir():
        raise SystemExit(f"no data in {DATA}; set KIT_REAL_DATA, or leave out signs with --only help,demo")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        folder = fork_signs(home)
        competition = load_competition("signs", home)
        ground = open_ground(competition, DATA)
        run = train_run(ground, "resnet", find_recipe(folder, "resnet"), home=home)
        report = rehearse(make_bundle(run, competition, home), DATA, home).require()
        accuracy, low, high = interval_by_groups(run, ground.frame)
        folds = [run.read(f"fold{number}/done.json") for number in run.folds]
        return {
            "command": "python tests/benchmarks/bench.py --only signs",
            "oof_accuracy": round(accuracy, 4),
            "interval_by_signer": [round(low, 4), round(high, 4)],
            "fold_accuracy": [round(one["score"], 4) for one in folds],
            "seconds_per_fold": [round(one["seconds"], 1) for one in folds],
            "peak_memory_gb": round(max(one["peak_memory_mb"] for one in folds) / 1e3, 2),
            "rehearsal_seconds": round(report.seconds, 1),
        }


def measured(results: Path) -> str:
    """The table of README, out of results.json."""
    content = json.loads(results.read_text()) if results.is_file() else {}
    lines = ["", "| command | figures | machine, commit |", "|---|---|---|"]
    for name in sorted(content):
        said = dict(content[name])
        place = f"{said.pop('machine')}, Python {said.pop('python')}, `{said.pop('commit')}`"
        command = said.pop("command")
        figures = "; ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in said.items())
        lines.append(f"| `{command}` | {figures} | {place} |")
    return "\n".join(lines) + "\n\n"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
