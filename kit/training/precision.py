"""Arithmetic of training: which precision a device is good at, and what a step needs for it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

GAIN = 1.3
"""How much faster bf16 has to be on the CPU before it is worth its coarser numbers."""
TRIALS = 5


def choose_precision(name: str, device: torch.device, model: nn.Module, inputs: Tensor, **beside: Tensor) -> str:
    """What "auto" means here; other names as they are.

    bf16 on GPUs that have it (a T4 only emulates it), fp16 on older ones. On a CPU with instructions for it bf16, if
    some forward passes of `inputs` are faster so by GAIN; else fp32.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_has_bf16() and gain_of_bf16(model, inputs, **beside) >= GAIN else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 by instructions of its own."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def gain_of_bf16(model: nn.Module, inputs: Tensor, **beside: Tensor) -> float:
    """How many times faster forward passes on the CPU are in bf16 than in fp32; the model stays as it is."""
    tried = copy.deepcopy(model).eval()
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(TRIALS + 1):  # by turns, so that other work on the cores slows both; the first prepares kernels
        for name, taken in seconds.items():
            cast, _ = precision_of(name, inputs.device)
            start = time.perf_counter()
            with torch.no_grad(), cast():
                tried(inputs, **beside)
            taken.append(time.perf_counter() - start)
    return min(seconds["fp32"][1:]) / min(seconds["bf16"][1:])


def precision_of(
    name: str, device: torch.device
) -> tuple[Callable[[], AbstractContextManager[Any]], torch.amp.GradScaler]:
    """(autocast, gradient scaler) of "bf16", "fp16" or "fp32"."""
    scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
    if name == "fp32":
        return nullcontext, scaler
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    return lambda: torch.autocast(device.type, dtype), scaler
