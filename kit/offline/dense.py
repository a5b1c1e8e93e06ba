"""Dense tasks: maps out of images. Masks with what OOF decides about them, and images out of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from kit.offline import rle
from kit.offline.frames import require_columns
from kit.offline.pixels import opened
from kit.offline.predictions import Gallery, Map, Maps, Predictions
from kit.offline.tasks import Learned, Task, weighted_mean


def at_size(outputs: Tensor, targets: Tensor) -> Tensor:
    """Maps (N x C x h x w) as float32 at the height and width of the targets, bilinear."""
    if outputs.shape[-2:] == targets.shape[-2:]:
        return outputs.float()
    return F.interpolate(outputs.float(), size=targets.shape[-2:], mode="bilinear", align_corners=False)


class Segmentation(Task):
    """Masks per unit, which may overlap: a text of run-lengths for each column.

    columns: of run-lengths in the frame, "" for an empty mask; with files=True of absolute paths of mask images, whose
    pixels over 0 are inside. The frame also has `height` and `width`, the native size. bce, dice: weights of binary
    cross-entropy and of soft Dice (over the batch) in the loss. order: how the host numbers pixels, down "columns" or
    along "rows". empty: how it writes an empty mask.

    OOF fits, per column: `threshold`, from which probability a pixel is inside; `area`, below how many native pixels a
    connected part is dropped; `gate`, below which greatest probability the mask is empty. Probabilities are compared in
    steps of 1/255, which is how maps are kept.
    """

    head = "segmentation"
    dense = True
    wheels = ("segmentation-models-pytorch",)

    def __init__(
        self,
        columns: Sequence[str],
        bce: float = 1.0,
        dice: float = 1.0,
        order: str = "columns",
        empty: str = "",
        files: bool = False,
    ):
        self.columns = tuple(columns)
        self.bce = bce
        self.dice = dice
        self.order = order
        self.empty = empty
        self.files = files

    def learn(self, frame: pd.DataFrame) -> Learned:
        require_columns(frame, [*self.columns, "height", "width"], "the training frame")
        count = len(self.columns)
        return {"threshold": [0.5] * count, "area": [0] * count, "gate": [0.0] * count}

    def read_target(self, row: Mapping[str, Any]) -> np.ndarray:
        """H x W x C uint8, 0 or 1."""
        return np.stack([self._mask(row[name], row) for name in self.columns], axis=2).astype(np.uint8)

    def _mask(self, cell: str, row: Mapping[str, Any]) -> np.ndarray:
        if self.files:
            with opened(Path(cell)) as image:
                return np.asarray(image.convert("L")) > 0
        text = "" if cell == self.empty else cell
        return rle.decode(text, int(row["height"]), int(row["width"]), self.order)

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        return targets * (1 - amount) + amount / 2

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        maps = at_size(outputs, targets)
        losses = F.binary_cross_entropy_with_logits(maps, targets, reduction="none").mean(dim=(1, 2, 3))
        inside, share = maps.sigmoid(), weight[:, None, None, None]
        both, sizes = ((one * share).sum(dim=(0, 2, 3)) for one in (inside * targets, inside + targets))
        return self.bce * weighted_mean(losses, weight) + self.dice * (1 - (2 * both + 1) / (sizes + 1)).mean()

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        if not self.files:
            return units[list(self.columns)]
        return units[list(self.columns)].map(lambda path: self._text(self._mask(path, {})))

    def _text(self, mask: np.ndarray) -> str:
        return rle.encode(mask, self.order) or self.empty

    def constant(self, first: pd.DataFrame, units: pd.DataFrame, learned: Learned) -> pd.DataFrame:
        """Empty masks, which are legal for images of any size."""
        return pd.DataFrame(self.empty, index=units.index, columns=list(self.columns), dtype=object)

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        assert isinstance(predictions, Maps), "this task predicts maps"
        decided = list(zip(*(learned[name] for name in ("threshold", "area", "gate")), strict=True))

        def texts(name: str) -> list[str]:  # one map at a time
            one = predictions.read(name)
            return [self._text(mask_of(one, at, *how)) for at, how in enumerate(decided)]

        rows = [texts(name) for name in units.index]
        return pd.DataFrame(rows, index=units.index, columns=list(self.columns), dtype=object)

    def tune(
        self, predictions: Predictions | Maps, units: pd.DataFrame, score: Callable[[Learned], float], learned: Learned
    ) -> Learned:
        """A coordinate search, each decision once: every score decodes all maps, so it is about 20 of them a column."""
        best = (score(learned), learned)
        sizes = self._sizes(units)
        for at, name in enumerate(self.columns):
            filled, some_empty = sizes[name][sizes[name] > 0], (sizes[name] == 0).any()
            typical = float(np.median(filled)) if len(filled) else 0.0
            best = self._best(best, score, "threshold", at, [0.2, 0.3, 0.4, 0.6, 0.7, 0.8])
            middle = best[1]["threshold"][at]
            best = self._best(best, score, "threshold", at, [round(middle - 0.05, 2), round(middle + 0.05, 2)])
            areas = sorted({round(typical * share) for share in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)} - {0})
            best = self._best(best, score, "area", at, areas)
            if some_empty:
                middle = best[1]["threshold"][at]
                gates = [round(middle + (1 - middle) * share, 3) for share in (0.2, 0.4, 0.6, 0.8, 0.9)]
                best = self._best(best, score, "gate", at, gates)
        return best[1]

    def _best(
        self,
        best: tuple[float, Learned],
        score: Callable[[Learned], float],
        what: str,
        at: int,
        values: Sequence[float],
    ) -> tuple[float, Learned]:
        """The better of what there is and what each value in one place of one decision gives."""
        start = best[1]
        for value in values:
            candidate = {**start, what: [*start[what][:at], value, *start[what][at + 1 :]]}
            best = max(best, (score(candidate), candidate), key=lambda pair: pair[0])
        return best

    def _sizes(self, units: pd.DataFrame) -> pd.DataFrame:
        """Pixels of each true mask."""
        if self.files:
            return self.truth(units, {}).map(lambda text: int(rle.runs(text, 2**62)[:, 1].sum()))
        texts = units[list(self.columns)].replace(self.empty, "")
        return texts.map(lambda text: int(rle.runs(text, 2**62)[:, 1].sum()))


def mask_of(one: Map, channel: int, threshold: float, area: float = 0, gate: float = 0.0) -> np.ndarray:
    """Height x width bool of one channel of a map; see `Segmentation` for what decides.

    Resized as bytes: of a gigapixel image, floats at native size would take gigabytes.
    """
    steps = np.round(one.values[channel] * 255).astype(np.uint8)
    if steps.max(initial=0) < gate * 255:
        return np.zeros((one.height, one.width), bool)
    if area:
        _, labels, stats, _ = cv2.connectedComponentsWithStats((steps >= threshold * 255).astype(np.uint8))
        small = stats[:, cv2.CC_STAT_AREA] * (one.height * one.width / steps.size) < area
        small[0] = False  # what lies outside
        steps[small[labels]] = 0
    if steps.shape != (one.height, one.width):
        steps = cv2.resize(steps, (one.width, one.height), interpolation=cv2.INTER_LINEAR)
    return steps >= threshold * 255


class ImageToImage(Task):
    """An image per unit, of the native size of what was shown: denoising, restoration.

    column: absolute path of the target image, as `train_frame` knows it; it is read as grey (channels=1) or RGB (3).
    loss_name: "l1" or "l2". Targets and outputs are in 0..1; targets meet the input size by their nearest pixel, so cut
    windows of the input's size rather than resize. An answer is the H x W (x 3) float32 array in column "image".
    """

    head = "segmentation"
    dense = True
    wheels = ("segmentation-models-pytorch",)

    def __init__(self, column: str, channels: int = 1, loss_name: str = "l1"):
        self.column = column
        self.channels = channels
        self.loss_name = loss_name

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def outputs(self, learned: Learned) -> tuple[str, ...]:
        return ("grey",) if self.channels == 1 else ("red", "green", "blue")

    def read_target(self, row: Mapping[str, Any]) -> np.ndarray:
        """H x W x C float32 in 0..1."""
        with opened(Path(row[self.column])) as image:
            pixels = np.asarray(image.convert("L" if self.channels == 1 else "RGB"), np.float32) / 255
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        of = F.l1_loss if self.loss_name == "l1" else F.mse_loss
        return weighted_mean(of(at_size(outputs, targets), targets, reduction="none").mean(dim=(1, 2, 3)), weight)

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.float().clamp(0, 1)

    def truth(self, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None) -> pd.DataFrame:
        return self._answers([self.read_target({self.column: name}) for name in units[self.column]], units.index)

    def constant(self, first: pd.DataFrame, units: pd.DataFrame, learned: Learned) -> pd.DataFrame:
        """White images of each unit's `height` and `width`."""
        require_columns(units, ["height", "width"], "the frame")
        sizes = zip(units["height"], units["width"], strict=True)
        return self._answers([np.ones((int(h), int(w), self.channels), np.float32) for h, w in sizes], units.index)

    def decode(
        self, predictions: Predictions | Maps, units: pd.DataFrame, learned: Learned, gallery: Gallery | None = None
    ) -> pd.DataFrame:
        assert isinstance(predictions, Maps), "this task predicts maps"
        return self._answers([predictions.read(name).native().transpose(1, 2, 0) for name in units.index], units.index)

    def _answers(self, images: Sequence[np.ndarray], index: pd.Index) -> pd.DataFrame:
        flat = [image[:, :, 0] if self.channels == 1 else image for image in images]
        return pd.DataFrame({"image": pd.Series(flat, index=index, dtype=object)})
