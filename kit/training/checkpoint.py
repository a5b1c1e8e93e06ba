"""The state of a fold while it trains: tensors in one safetensors file, and one record, replaced last, that names it by hash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from kit.offline.errors import RunError
from kit.offline.files import sha256_of, write_json, write_whole

RECORD = "state.json"


def commit(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Make `state` (nested dicts and lists of tensors and plain values) the one to resume from. The older goes once this is safe."""
    tensors: dict[str, Tensor] = {}
    skeleton = _take_tensors(state, "state", tensors)
    file = f"state-{step}.safetensors"
    write_whole(folder / file, save(tensors))
    write_json(folder / RECORD, {"step": step, "file": file, "sha256": sha256_of(folder / file), "state": skeleton})
    for old in folder.glob("state-*.safetensors"):
        if old.name != file:
            old.unlink()


def resume(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the last commit, or None where there is none. Raises RunError for a damaged file."""
    if not (folder / RECORD).is_file():
        return None
    record = json.loads((folder / RECORD).read_text())
    path = folder / record["file"]
    if not path.is_file() or sha256_of(path) != record["sha256"]:
        raise RunError(f"{path} as it was committed", "missing or changed", f"delete {folder} and train the fold again")
    return record["step"], _put_tensors(record["state"], load_file(path))


def clear(folder: Path) -> None:
    """Remove the state of a finished fold."""
    (folder / RECORD).unlink(missing_ok=True)
    for old in folder.glob("state-*.safetensors"):
        old.unlink()


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _take_tensors(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_take_tensors(item, f"{name}.{at}", tensors) for at, item in enumerate(value)]}
    return {"value": value}


def _put_tensors(skeleton: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    kind, content = next(iter(skeleton.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "items":
        return {key: _put_tensors(item, tensors) for key, item in content}
    return [_put_tensors(item, tensors) for item in content] if kind == "list" else content
