"""The state of a fold in training: tensors in one safetensors file, and a record, written last, with its hash."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kit.offline.errors import RunError
from kit.offline.files import sha256_of, write_json, write_whole

RECORD = "state.json"
BEST = "best-{epoch}.safetensors"
"""The best epoch's weights, while later epochs train; the state's "best" has their hash."""


def require_room(folder: Path, model: nn.Module, averaged: bool) -> None:
    """Raise RunError unless the disk has room for what a fold writes: three times its state.

    The older state stays until the newer one is durable; weights, the best epoch's and OOF take the third. A state
    holds the model, two moments of each weight (AdamW's; others keep fewer) and the average. What the fold has written
    already counts as room.
    """
    state = sum(tensor.nbytes for tensor in model.state_dict().values()) * (4 if averaged else 3)
    need = 3 * state - sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise RunError(
            f"{need / 1e6:.0f} MB of free disk to train in {folder} (a state takes {state / 1e6:.0f} MB)",
            f"{free / 1e6:.0f} MB free",
            "free some space and run the same command again",
        )


def commit(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Make `state` (nested dicts and lists of tensors and plain values) the one to resume from; the older goes last."""
    tensors: dict[str, Tensor] = {}
    skeleton = _take_tensors(state, "state", tensors)
    content = save(tensors)
    file = f"state-{step}.safetensors"
    write_whole(folder / file, content)
    record = {"step": step, "file": file, "sha256": hashlib.sha256(content).hexdigest(), "state": skeleton}
    write_json(folder / RECORD, {**record, "record_sha256": _hash_of(record)})
    best = state.get("best")
    _remove_all_but(folder, file, *([BEST.format(**best)] if best else []))


def resume(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the last commit, or None where there is none. Raises RunError for a damaged file."""
    if not (folder / RECORD).is_file():
        return None
    remedy = f"delete {folder} and train the fold again"
    try:
        record = json.loads((folder / RECORD).read_text())
        whole = record.pop("record_sha256") == _hash_of(record)
    except (ValueError, KeyError):
        whole = False
    if not whole:
        raise RunError(f"{folder / RECORD} as it was committed", "changed", remedy)
    path = folder / record["file"]
    if not path.is_file() or sha256_of(path) != record["sha256"]:
        raise RunError(f"{path} as it was committed", "missing or changed", remedy)
    return record["step"], _put_tensors(record["state"], load_file(path))


def clear(folder: Path) -> None:
    """Remove the state of a finished fold."""
    (folder / RECORD).unlink(missing_ok=True)
    _remove_all_but(folder)


def _hash_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _remove_all_but(folder: Path, *files: str) -> None:
    """Delete older states and best epochs, and what killed writers left aside."""
    for pattern in ("state-*.safetensors", BEST.format(epoch="*"), ".*.tmp-*"):
        for old in folder.glob(pattern):
            if old.name not in files:
                old.unlink()


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, its tensors moved to `tensors`; keys stay what they are (an optimizer's are numbers)."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _take_tensors(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        items = [_take_tensors(item, f"{name}.{at}", tensors) for at, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    return {"value": value}


def _put_tensors(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    kind, content = next(iter(skeleton.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "items":
        return {key: _put_tensors(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_put_tensors(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    return getattr(torch, content) if kind == "dtype" else content
