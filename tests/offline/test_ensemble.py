"""kit/offline/ensemble.py; what needs a trained bundle is in tests/shipping/test_rerun.py"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kit import Competition, Folds, Segmentation
from kit.offline.clock import Clock, Plan
from kit.offline.ensemble import Seated, predict_rows
from kit.offline.manifest import Golden, Member
from kit.offline.models import ModelSpec
from kit.offline.pixels import Preparation
from kit.offline.predictions import Maps, blend
from kit.offline.tasks import settings_of

CPU = torch.device("cpu")
VIEWS = ("identity",)
SIZES = {"9": (40, 90), "010": (84, 36), "b": (48, 48)}


class Spots(Competition):
    slug = "spots"
    task = Segmentation(["spot"])
    folds = Folds(2, group=None)
    greater_is_better = True


class Brightness(nn.Module):
    """A network that finds what is bright, more or less sharply."""

    def __init__(self, gain: float):
        super().__init__()
        self.gain = gain

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * images.mean(dim=1, keepdim=True)


def seated(fit: str, gain: float, weight: float, size: tuple[int, int] = (48, 48)) -> Seated:
    """A member that fits images to its input in one way."""
    competition = Spots()
    member = Member(
        file=f"{fit}-{gain}.safetensors",
        run="spots-abc123",
        fold=0,
        weight=weight,
        spec=ModelSpec("test_resnet", 1, size, head="segmentation"),
        preparation=Preparation(size, (0.5,) * 3, (0.25,) * 3, fit=fit),
        views=VIEWS,
        task=settings_of(competition.task),
        learned={},
        golden=Golden(0, 1, (*size, 3), "uint8", []),
    )
    return Seated(member, competition, {CPU: Brightness(gain)}, ("spot",), None)


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """Three images, wide, high and square, each with one bright spot near a corner."""
    for name, (height, width) in SIZES.items():
        pixels = np.full((height, width, 3), 40, np.uint8)
        pixels[4:16, width - 20 : width - 6] = 220
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return pd.DataFrame({"sample_id": list(SIZES), "unit_id": list(SIZES), "path": [f"{name}.png" for name in SIZES]})


def said_of(members: Sequence[Seated], left_out: int | None, frame: pd.DataFrame, data: Path) -> list[Maps]:
    """What members say where one of them, by number, is left out."""
    views = [() if at == left_out else VIEWS for at in range(len(members))]
    plan = Plan(Clock(1e9, 0.0, lambda: 0.0), views, [one.member.weight for one in members], len(frame))
    maps = predict_rows(members, frame, data, data / f"maps-{left_out}", plan).predictions
    assert all(isinstance(each, Maps) for each in maps)
    return maps  # type: ignore[return-value]


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_member_that_is_left_out_changes_no_blend_of_maps(frame: pd.DataFrame, tmp_path: Path, left_out: int) -> None:
    """Whichever of three that stretch, pad to another size and stretch goes: the blend of all is that of the other two,
    to the rounding of stored maps, and each spot is where it was."""
    members = [seated("stretch", 1.0, 0.5), seated("pad", 3.0, 0.3, (64, 64)), seated("stretch", 2.0, 0.2)]
    weights = [one.member.weight for one in members]
    said = said_of(members, left_out, frame, tmp_path)
    there = [at for at in range(3) if at != left_out]
    whole, others = blend(said, weights), blend([said[at] for at in there], [weights[at] for at in there])
    full = said_of(members, None, frame, tmp_path)
    for name, size in SIZES.items():
        ours, theirs = whole.read(name).native(), others.read(name).native()
        np.testing.assert_allclose(ours, theirs, atol=1 / 255)
        for at in there:
            np.testing.assert_array_equal(said[at].read(name).values, full[at].read(name).values)
        rows, columns = np.nonzero(said[left_out].read(name).native()[0] > 0.5)
        np.testing.assert_allclose([rows.mean(), columns.mean()], [9.5, size[1] - 13.5], atol=1.5)
        assert ours.shape == (1, *size)
