"""Tracking on request: TensorBoard or Weights & Biases. log.jsonl is written always, by the loop."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.offline.errors import NotFound

Track = Callable[[dict[str, Any]], None]
"""Is told each line of a fold's log."""
TRACKERS = ("tensorboard", "wandb")


@contextmanager
def tracking(name: str | None, folder: Path, run: str, settings: Mapping[str, Any]) -> Iterator[Track]:
    """What a fold's log is told to, while it trains; nothing for None.

    name: one of TRACKERS, which is imported here and nowhere else. folder: the fold's; TensorBoard writes to `tracked`
    in it (`tensorboard --logdir competitions/NAME/runs`), Weights & Biases as well where WANDB_MODE=offline. run:
    groups the folds of a run. settings: the recipe, plain. Raises NotFound where the package is not installed.
    """
    if name is None:
        yield lambda line: None
    elif name == "tensorboard":
        with _imported("torch.utils.tensorboard", name).SummaryWriter(str(folder / "tracked")) as writer:

            def write(line: dict[str, Any]) -> None:
                for measure, value in line.items():
                    if measure != "epoch" and value is not None:
                        writer.add_scalar(measure, value, line["epoch"])

            yield write
    else:
        folder.mkdir(parents=True, exist_ok=True)
        wandb = _imported("wandb", name)
        with wandb.init(
            project="kit", group=run, name=f"{run} {folder.name}", config=dict(settings), dir=str(folder)
        ) as tracked:
            yield lambda line: tracked.log(line, step=line["epoch"])


def _imported(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise NotFound(f"the package {name} for --track", "not installed", 'pip install "kit[tracking]"') from None
