"""kit/training/bench.py"""

from __future__ import annotations

import pytest

from kit.training.bench import bench, bound
from kit.training.recipe import find_recipe


def test_a_bench_tells_four_speeds_and_keeps_nothing(world):
    """Step, loader, training and prediction are measured by the loop itself; no run appears, and no state."""
    found = bench(world.ground(), find_recipe(world.folder, "tiny"), world.home, lambda line: None)
    assert list(found) == ["step", "loader", "train", "predict", "train_ratio", "predict_ratio"]
    assert all(value > 0 for value in found.values())
    assert found["train_ratio"] == pytest.approx(found["train"] / found["step"])
    assert not (world.folder / "runs").exists()


def test_what_bounds_is_told_by_the_ratio():
    """A loader slower than the step bounds; one that is faster and yet costs shares the cores."""
    assert "the network bounds" in bound({"train_ratio": 0.95, "loader": 900.0, "step": 80.0})
    assert "loading bounds" in bound({"train_ratio": 0.5, "loader": 60.0, "step": 120.0})
    assert "share the cores" in bound({"train_ratio": 0.7, "loader": 900.0, "step": 600.0})
