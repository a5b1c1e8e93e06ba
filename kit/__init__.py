"""The adapter author's whole vocabulary. Names are imported on first use, so that `import kit` costs nothing."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Binary": "tasks",
    "Competition": "contract",
    "Folds": "contract",
    "Gallery": "predictions",
    "ImageToImage": "dense",
    "KitError": "errors",
    "Maps": "predictions",
    "Multiclass": "tasks",
    "Multilabel": "tasks",
    "Ordinal": "tasks",
    "Predictions": "predictions",
    "Regression": "tasks",
    "Retrieval": "tasks",
    "Rules": "contract",
    "Segmentation": "dense",
    "Task": "tasks",
    "Tiles": "tiles",
    "audio": "",
    "dicom": "",
    "frames": "",
    "list_competitions": "places",
    "load_competition": "places",
    "metrics": "",
    "pixels": "",
    "read_table": "frames",
    "rle": "",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kit' has no attribute {name!r}")
    if not _HOMES[name]:
        return importlib.import_module(f"kit.offline.{name}")
    return getattr(importlib.import_module(f"kit.offline.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
