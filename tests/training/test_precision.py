"""kit/training/precision.py"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kit.training import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_named_precision_casts(name, dtype):
    """Products have the type of the name, and fp16 alone scales its gradients."""
    cast, scaler = precision.precision_of(name, CPU)
    with cast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert scaler.is_enabled() == (name == "fp16")


@pytest.mark.parametrize(("has", "gain", "chosen"), [(True, 1.4, "bf16"), (True, 1.1, "fp32"), (False, 9.0, "fp32")])
def test_auto_on_the_cpu_asks_for_instructions_and_a_gain(monkeypatch, has, gain, chosen):
    """Both are needed; a name is taken as it is."""
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has)
    monkeypatch.setattr(precision, "gain_of_bf16", lambda model, inputs: gain)
    assert precision.choose_precision("auto", CPU, nn.Identity(), torch.ones(1)) == chosen
    assert precision.choose_precision("bf16", CPU, nn.Identity(), torch.ones(1)) == "bf16"


@pytest.mark.parametrize(("real", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu_does_not_take_emulation_for_bf16(monkeypatch, real, chosen):
    """A T4 says that it supports bf16, unless it is asked to leave emulation out."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or real)
    assert precision.choose_precision("auto", torch.device("cuda"), nn.Identity(), torch.ones(1)) == chosen


def test_the_trial_leaves_the_network_as_it_was():
    """Weights, statistics of batch-norm and the training mode are those from before; the gain is a positive number."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert precision.gain_of_bf16(model, torch.randn(2, 3, 16, 16)) > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
