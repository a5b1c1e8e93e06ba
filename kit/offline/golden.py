"""Proofs that a member still answers as it did at home: golden inputs, and training rows that it once held back."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor, nn

from kit.offline.columns import table_width
from kit.offline.errors import BundleError
from kit.offline.forward import forward
from kit.offline.manifest import Golden, Member
from kit.offline.pixels import Preparation
from kit.offline.predictions import Maps, Predictions
from kit.offline.tasks import Task

GOLDEN_TOLERANCE = 1e-3
DRIFT = 0.05
"""Of rows predicted again: the mean difference that is borne, in standard deviations of what they were at home."""


def in_rerun() -> bool:
    """Whether this is Kaggle's rerun on the hidden test set, where stopping costs the submission."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


def refuse(fault: BundleError) -> None:
    """Raise a fault; in the rerun, say it and go on."""
    if not in_rerun():
        raise fault
    print(f"warning: {fault}", file=sys.stderr, flush=True)


def version_here(name: str) -> str | None:
    """The version of an installed package, or of Python itself; None for a package that is missing."""
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def tell_versions(home: Mapping[str, str | None]) -> None:
    """Print which versions are not those of home."""
    here = {name: version_here(name) for name in home}
    told = [
        f"{name} {here[name] or 'missing'} (at home {home[name] or 'missing'})"
        for name in home
        if here[name] != home[name]
    ]
    print("versions: " + (", ".join(told) or "all as at home"), flush=True)


def golden_inputs(golden: Golden, preparation: Preparation) -> Tensor:
    """Smooth random images that the seed draws (numpy's frozen legacy stream), fitted and normalised: N x C x H x W."""
    random = np.random.RandomState(golden.seed)
    top = {"uint8": 255, "uint16": 65535, "int16": 32767}.get(golden.dtype, 1)
    images = []
    for _ in range(golden.count):
        coarse = random.uniform(0, top, (*golden.shape[:-3], 4, 4, golden.shape[-1]))
        height, width = golden.shape[-3:-1]
        tall = np.repeat(coarse, -(-height // 4), axis=-3)[..., :height, :, :]
        image = np.repeat(tall, -(-width // 4), axis=-2)[..., :width, :]
        images.append(preparation.fit_size(image.astype(golden.dtype)))
    return preparation.to_input(torch.from_numpy(np.stack(images)))


def golden_table(golden: Golden, preparation: Preparation) -> Tensor:
    """Standard normal numbers that the seed draws, to go beside the golden images: N x T."""
    size = (golden.count, table_width(preparation.table))
    return torch.from_numpy(np.random.RandomState(golden.seed).standard_normal(size).astype(np.float32))


def golden_answers(
    model: nn.Module, golden: Golden, preparation: Preparation, task: Task, device: torch.device
) -> np.ndarray:
    """N x C: activated outputs for the golden inputs and table, dense ones averaged over the map."""
    inputs, table = golden_inputs(golden, preparation).to(device), golden_table(golden, preparation).to(device)
    beside = {"table": table} if table.shape[1] else {}
    said = forward(model.eval(), task, inputs, ("identity",), beside).cpu().numpy()
    return said.reshape(*said.shape[:2], -1).mean(axis=2)


def check_golden(model: nn.Module, member: Member, task: Task, device: torch.device) -> None:
    """Compare the member's answers to the golden inputs with those at home; the views play no part.

    Raises BundleError beyond the tolerance; in the rerun it only warns.
    """
    said = golden_answers(model, member.golden, member.preparation, task, device)
    drift = float(np.abs(said - np.asarray(member.golden.answers)).max())
    tolerance = GOLDEN_TOLERANCE if device.type == "cpu" else 10 * GOLDEN_TOLERANCE
    if not drift <= tolerance:
        refuse(
            BundleError(
                f"{member.file} to answer its golden inputs as at home, within {tolerance}",
                f"a difference of {drift:.2g}",
                "the libraries here prepare or compute otherwise: compare the manifest's versions with those here",
            )
        )


def check_remembered(member: Member, predictions: Predictions | Maps) -> float:
    """Compare held-back training rows, predicted again from the mounted files, with what the member said at home.

    Returns the mean difference in standard deviations. Raises BundleError beyond DRIFT: the files are decoded or read
    otherwise here. Golden inputs, which are no files, cannot show that.
    """
    assert member.remembered is not None
    kept = np.asarray(member.remembered.values, np.float32)
    said = means_of(predictions, member.remembered.ids)
    spread = np.maximum(kept.std(axis=0), 0.05 * np.abs(kept).max() + 1e-6)  # a column that hardly varies is no ruler
    drift = float((np.abs(said - kept) / spread).mean())
    if not drift <= DRIFT:
        worst = member.remembered.ids[int(np.abs(said - kept).max(axis=1).argmax())]
        refuse(
            BundleError(
                f"{member.file} to say of {len(kept)} held-back training rows what it said at home, within {DRIFT}",
                f"a difference of {drift:.2g} standard deviations, the greatest at {worst!r}",
                "the files are decoded, read or cut otherwise here: compare the manifest's versions with those here",
            )
        )
    return drift


def means_of(predictions: Predictions | Maps, ids: tuple[str, ...]) -> np.ndarray:
    """N x C values of `ids`; of maps, their means."""
    if isinstance(predictions, Maps):
        return np.stack([predictions.read(name).values.mean(axis=(1, 2)) for name in ids])
    return predictions.align(ids).values
