"""Images too large for a network: windows with overlap are the samples, whole images the units.

Training draws its windows by chance, half of them around the foreground; evaluation takes a grid and stitches it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kit.offline.contract import Row
from kit.offline.errors import DataError
from kit.offline.frames import require_columns
from kit.offline.predictions import Map, Maps, Predictions


@dataclass(frozen=True)
class Tiles:
    """A grid of square windows.

    size, overlap: of the windows, in pixels of the native image. foreground: share of training windows that are drawn
    around one of the row's `points`, where it has any; the others lie anywhere in the image.
    """

    size: int
    overlap: int = 0
    foreground: float = 0.5

    def rows(self, images: pd.DataFrame) -> pd.DataFrame:
        """A row per window out of a row per image with `sample_id`, `height` and `width`.

        `unit_id` and `source` are the image's id; `top` and `left` the window's corner. The last windows of a line end
        at the image's edge, so that all are of one size; images smaller than a window are one window.
        """
        require_columns(images, ["sample_id", "height", "width"], "the images to tile")
        corners = [
            [(top, left) for top in self._starts(int(height)) for left in self._starts(int(width))]
            for height, width in zip(images["height"], images["width"], strict=True)
        ]
        rows = images.assign(unit_id=images["sample_id"], source=images["sample_id"])
        rows = rows.loc[rows.index.repeat([len(of) for of in corners])].reset_index(drop=True)
        flat = np.asarray([corner for of in corners for corner in of], dtype=np.int64).reshape(-1, 2)
        names = [f"{unit}_{top}_{left}" for unit, (top, left) in zip(rows["unit_id"], flat, strict=True)]
        return rows.assign(sample_id=names, top=flat[:, 0], left=flat[:, 1])

    def _starts(self, length: int) -> list[int]:
        if self.overlap >= self.size or self.size < 1:
            raise DataError("tiles larger than their overlap", f"{self.size} and {self.overlap}", "mend Tiles")
        last = max(length - self.size, 0)
        return [*range(0, last, self.size - self.overlap), last]

    def cut(self, array: np.ndarray, row: Row, rng: np.random.Generator | None = None) -> np.ndarray:
        """The row's window of an array over the whole image; with `rng` a training window.

        The array may have been shrunk when it was read, by a whole number that divides `size`: windows shrink with it.
        """
        native = (int(row.height), int(row.width))
        corner = (row.top, row.left) if rng is None else self._drawn(native, row.get("points"), rng)
        places = [
            _scaled(at, at + self.size, whole, length)
            for at, whole, length in zip(corner, native, array.shape[:2], strict=True)
        ]
        return array[places[0], places[1]]

    def _drawn(self, native: tuple[int, int], points: np.ndarray | None, rng: np.random.Generator) -> tuple[int, int]:
        """The corner of a training window: around a point of the foreground, or anywhere."""
        free = [max(length - self.size, 0) for length in native]
        anywhere = [int(rng.integers(most + 1)) for most in free]
        shift, chance = rng.integers(self.size, size=2), rng.random()
        if points is None or not len(points) or chance >= self.foreground:
            return anywhere[0], anywhere[1]
        point = points[rng.integers(len(points))]
        top, left = (int(np.clip(at - by, 0, most)) for at, by, most in zip(point, shift, free, strict=True))
        return top, left

    def stitch(self, frame: pd.DataFrame, predictions: Predictions | Maps) -> Maps:
        """Maps of windows as maps of images, averaged where they overlap; each image is made when it is read.

        A map's grid is that of the array the windows were cut from: native, or shrunk as `read` did.
        """
        assert isinstance(predictions, Maps), "windows are stitched from maps"
        rows = {str(unit): of for unit, of in frame.groupby("unit_id", sort=False)}
        return Maps({unit: self._stitcher(of, predictions) for unit, of in rows.items()}, predictions.columns)

    def _stitcher(self, rows: pd.DataFrame, predictions: Maps) -> Callable[[], Map]:
        def load() -> Map:
            height, width = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
            total: np.ndarray = np.empty(0)
            count: np.ndarray = np.empty(0)
            for sample, top, left in zip(rows["sample_id"], rows["top"], rows["left"], strict=True):
                tile = predictions.read(sample)
                if not len(total):
                    grid = [
                        max(round(whole * seen / min(self.size, whole)), seen)
                        for whole, seen in ((height, tile.height), (width, tile.width))
                    ]
                    total = np.zeros((len(predictions.columns), *grid), np.float32)
                    count = np.zeros(grid, np.float32)
                y = _scaled(top, top + self.size, height, total.shape[1]).start
                x = _scaled(left, left + self.size, width, total.shape[2]).start
                place = slice(y, y + tile.height), slice(x, x + tile.width)
                total[:, *place] += tile.native()[:, : total.shape[1] - y, : total.shape[2] - x]
                count[place] += 1
            total /= count
            return Map(total, height, width)

        return load


def _scaled(start: int, stop: int, whole: int, length: int) -> slice:
    """Native pixels start to stop, of `whole`, on an axis of `length`: as many cells wherever it begins."""
    stop = min(stop, whole)
    cells = max(round((stop - start) * length / whole), 1)
    first = min(round(start * length / whole), length - cells)
    return slice(first, first + cells)
