"""kit/training/track.py"""

from __future__ import annotations

import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kit.offline.errors import NotFound
from kit.training.fanout import train_run
from kit.training.track import tracking


def trained(world, track):
    return train_run(world.ground(), "tiny", world.recipe(), [0], world.home, lambda line: None, track)


def test_tensorboard_is_told_what_the_log_says(world):
    """Each epoch's loss, score, rate and speed stand in an event file below the fold, and the run is the same one."""
    run = trained(world, "tensorboard")
    events = EventAccumulator(str(run.fold(0) / "tracked"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["images_per_second", "loss", "lr", "score"]
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert trained(world, None).name == run.name


def test_trackers_are_not_imported_unless_asked_for():
    """The loop and the command line bring neither package with them."""
    code = "import sys, kit.cli, kit.training.fanout; print({'tensorboard', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_tracker_says_how_to_get_it(monkeypatch, tmp_path, name):
    """Three lines with the extra's name, before anything is trained."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(NotFound, match=r"kit\[tracking\]"), tracking(name, tmp_path, "run", {}):
        raise AssertionError("went on")
