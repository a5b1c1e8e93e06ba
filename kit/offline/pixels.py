"""Pixels: one strict way from a file to a network's input, the same at home and on Kaggle.

A file is read (`read_rgb` or the adapter's `read`), brought to its cached form (`Preparation.store`), cut by the
adapter, fitted to the input size (`Preparation.fit_size`) and, on the device, normalised (`Preparation.to_input`).
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kit.offline.columns import Column
from kit.offline.errors import DataError, ImageError

MAX_PIXELS = 100_000_000
"""Images with more pixels are refused from their header: a 48 KB PNG can hold 400 million (2.3 GB decoded)."""
MODES_16_BIT = ("I", "I;16", "I;16B", "I;16L", "F")
RAW_16_BIT = re.compile(r"\W*(L|RGB|CMYK)\w*;16")
"""Pillow's raw modes of 16-bit colour, which it would cut to 8 bits without a word."""
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, TypeError, struct.error)
"""What 90,000 randomly damaged files raised; the last two came from broken EXIF."""
CV2_DTYPES = (np.uint8, np.uint16, np.int16, np.float32)
JPEG_QUALITY = 95


def read_rgb(data: Path, name: str) -> np.ndarray:
    """`data/name` as H x W x 3 uint8 RGB.

    Strict: a truncated or damaged file raises ImageError, where OpenCV would return grey; bytes altered within a JPEG's
    data are beyond every decoder and are not noticed. EXIF orientation is applied.
    Transparency is composed on white, CMYK and palettes are converted, of animations the first frame is taken. 16-bit
    images are refused: how they are scaled is a decision that the adapter's `read` must take.
    """
    path = data / name
    with opened(path) as image:
        if image.mode in MODES_16_BIT or any(RAW_16_BIT.match(str(tile[3])) for tile in getattr(image, "tile", ())):
            raise _bad(
                path,
                f"a 16-bit or float image (mode {image.mode})",
                "override read in the adapter and declare its scale: pixels.read_gray16(data, row.path, scale=4095)",
            )
        return _to_rgb(ImageOps.exif_transpose(image))


def read_gray16(data: Path, name: str, scale: int) -> np.ndarray:
    """`data/name`, a grey PNG or TIFF of up to 16 bits, as H x W uint16 in which `scale` is 65535.

    scale: the value that is white, 4095 for 12 bits; it is declared, not measured, so that all images share it and each
    stored value keeps a level of its own. The network's input is then 0..1 before mean and std. Raises ImageError for a
    value above `scale` (nothing is clipped), for colour and floats, and for what `read_rgb` refuses.
    """
    path = data / name
    with opened(path) as image:
        if image.mode not in (*MODES_16_BIT[:-1], "L"):
            raise _bad(path, f"mode {image.mode}", "read it in the adapter by other means", "a grey image of 16 bits")
        values = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
    if values.min() < 0 or values.max() > scale:
        fix = "declare the scale that the host's files have"
        raise _bad(path, f"{values.min()} to {values.max()}", fix, f"values of 0 to {scale}")
    return ((values * 65535 + scale // 2) // scale).astype(np.uint16)


def size_of(data: Path, name: str) -> tuple[int, int]:
    """Height and width of the image `data/name` as it is read, from its header. Raises ImageError.

    A PNG is decoded for it: its EXIF, which may turn it, may stand at the end.
    """
    with opened(data / name) as image:
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations that lie on their side
        return (image.width, image.height) if turned else (image.height, image.width)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image by Pillow, of at most MAX_PIXELS; whatever goes wrong while it is open becomes an ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _bad(
                        path,
                        f"{image.width} x {image.height} pixels",
                        f"override read in the adapter for images over {MAX_PIXELS} pixels",
                    )
                yield image
    except ImageError:
        raise
    except FileNotFoundError:
        raise _bad(path, "no such file", "download it again") from None
    except (*PILLOW_ERRORS, Image.DecompressionBombError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise _bad(
            path, f"{str(error).replace(str(path), path.name)} ({size} bytes)", "download it again, or drop its row"
        ) from None


def _bad(path: Path, found: str, fix: str, expected: str = "a whole image of 8 bits a channel") -> ImageError:
    return ImageError(f"{expected} at {path}", found, fix)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image)
    return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class Preparation:
    """Every step from a file to the network's input. Travels in the manifest; training and inference both execute it.

    how: handed to the adapter's `read` and `cut`. cache_size: the shorter side of a cached image in pixels (never
    enlarged), None keeps it. jpeg: the cached form went through JPEG, so inference does too. size: input height and
    width. fit: "stretch" to the size, "pad" (whole image, grey border), "crop" (centre). crop: with "crop", the input's
    side over the resized image's shorter one. interpolation: "bilinear" or "bicubic", where an image is enlarged;
    shrinking averages areas. mean, std: per channel, of values in 0..1. table: what `columns.table_of` needs for the
    numbers that go beside the image.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "stretch"
    crop: float = 1.0
    interpolation: str = "bilinear"
    cache_size: int | None = None
    jpeg: bool = False
    how: Mapping[str, Any] = field(default_factory=dict)
    table: tuple[Column, ...] = ()

    def store(self, array: np.ndarray) -> np.ndarray:
        """A source as the cache keeps it."""
        if self.cache_size is not None:
            array = _shrink(array, self.cache_size)
        return decode_jpeg(encode_jpeg(array)) if self.jpeg else array

    def fit_size(self, image: np.ndarray, nearest: bool = False) -> np.ndarray:
        """H x W x C (or a bag N x H x W x C) -> the input size, same dtype. `nearest` for masks."""
        if image.ndim == 4:
            return np.stack([self.fit_size(one, nearest) for one in image])
        image = image if image.ndim == 3 else image[:, :, None]
        if self.fit == "stretch":
            return _resize(image, self.size, nearest, self.interpolation)
        inner, (top, left) = self._placed(*image.shape[:2])
        image = _resize(image, inner, nearest, self.interpolation)
        height, width = self.size
        if self.fit == "crop":
            return image[top : top + height, left : left + width]
        value = 0 if nearest else self._grey(image.dtype)
        out = np.full((height, width, image.shape[2]), value, image.dtype)
        out[top : top + inner[0], left : left + inner[1]] = image
        return out

    def unfit(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        """C x h x w values on the network's grid -> C x h' x w' over the whole native area.

        Padding is cut off; what a crop left out is 0. height, width: the native size. Values on a grid coarser than the
        input come back on the input's: cells that lie across the border of the image could not be cut otherwise.
        """
        if self.fit == "stretch":
            return values
        grid = (max(self.size[0], values.shape[1]), max(self.size[1], values.shape[2]))
        values = _resize(values.transpose(1, 2, 0), grid, nearest=False).transpose(2, 0, 1)
        inner, (top, left) = self._placed(height, width)
        scale_y, scale_x = values.shape[1] / self.size[0], values.shape[2] / self.size[1]
        rows = slice(round(top * scale_y), round(top * scale_y) + max(1, round(min(inner[0], self.size[0]) * scale_y)))
        cols = slice(
            round(left * scale_x), round(left * scale_x) + max(1, round(min(inner[1], self.size[1]) * scale_x))
        )
        if self.fit == "pad":
            return values[:, rows, cols]
        out = np.zeros(
            (values.shape[0], max(1, round(inner[0] * scale_y)), max(1, round(inner[1] * scale_x))), values.dtype
        )
        out[:, rows, cols] = values[:, : rows.stop - rows.start, : cols.stop - cols.start]
        return out

    def to_input(self, batch: Tensor) -> Tensor:
        """N x H x W x C (or N x B x H x W x C) of any cached dtype -> normalised float32, channels first."""
        scale = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.int16: 32767.0}.get(batch.dtype, 1.0)
        mean = torch.tensor(self.mean, device=batch.device) * scale
        std = torch.tensor(self.std, device=batch.device) * scale
        return ((batch.float() - mean) / std).movedim(-1, -3)

    def _grey(self, dtype: np.dtype) -> float:
        top = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.int16): 32767}.get(dtype, 1)
        return float(np.mean(self.mean)) * top

    def _placed(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """For "pad" and "crop": the resized image's size, and its corner in the input (pad) or the input's in it."""
        pick, crop = (min, 1.0) if self.fit == "pad" else (max, self.crop)
        scale = pick(self.size[0] / height, self.size[1] / width) / crop
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        return inner, (abs(self.size[0] - inner[0]) // 2, abs(self.size[1] - inner[1]) // 2)


def _shrink(array: np.ndarray, shorter: int) -> np.ndarray:
    if array.ndim not in (2, 3):
        raise DataError(
            "images (H x W or H x W x C) where cache_size is set",
            f"an array of shape {array.shape}",
            "drop cache_size from the recipe",
        )
    scale = shorter / min(array.shape[:2])
    if scale >= 1:
        return array
    size = (max(1, round(array.shape[0] * scale)), max(1, round(array.shape[1] * scale)))
    return _resize(array, size, nearest=False)


def _resize(image: np.ndarray, size: tuple[int, int], nearest: bool, interpolation: str = "bilinear") -> np.ndarray:
    if image.shape[:2] == size:
        return image
    if nearest:
        rows, columns = (_centres(*lengths) for lengths in zip(size, image.shape[:2], strict=True))
        return image[rows[:, None], columns]
    # As the augmentation presets do: another interpolation here than in training cost test_byobnet 4 points on digits.
    enlarging = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
    how = cv2.INTER_AREA if size[0] * size[1] < image.shape[0] * image.shape[1] else enlarging
    known = image if image.dtype in CV2_DTYPES else image.astype(np.float32)
    deep = known.reshape(*image.shape[:2], -1)
    fours = [np.ascontiguousarray(deep[:, :, at : at + 4]) for at in range(0, deep.shape[2], 4)]  # cv2 refuses more
    resized = [cv2.resize(four, (size[1], size[0]), interpolation=how).reshape(*size, -1) for four in fours]
    return np.concatenate(resized, axis=2).reshape(*size, *image.shape[2:]).astype(image.dtype, copy=False)


def _centres(size: int, length: int) -> np.ndarray:
    """For each of `size` cells over `length` pixels, the pixel under its centre."""
    return (np.arange(size) * 2 + 1) * length // (2 * size)


def encode_jpeg(image: np.ndarray) -> bytes:
    """H x W (x 3) uint8 -> JPEG bytes of quality 95."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise DataError(
            "8-bit grey or RGB images for a JPEG cache",
            f"{image.dtype} of shape {image.shape}",
            'set cache="raw" in the recipe',
        )
    coloured = image[:, :, ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    return cv2.imencode(".jpg", np.ascontiguousarray(coloured), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def decode_jpeg(content: bytes | np.ndarray) -> np.ndarray:
    """The inverse of `encode_jpeg`: H x W for grey, H x W x 3 RGB for colour."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ImageError("JPEG bytes of the cache", f"{len(content)} bytes that do not decode", "build the cache again")
    return np.ascontiguousarray(image[:, :, ::-1]) if image.ndim == 3 else image
