"""Test-time augmentation: each view is applied to a batch of images and undone on dense outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from kit.offline.errors import RecipeError, did_you_mean


@dataclass(frozen=True)
class View:
    """apply: N x C x H x W -> the view. turn_back: maps N x K x h x w of the view -> maps the right way round."""

    name: str
    apply: Callable[[Tensor], Tensor]
    turn_back: Callable[[Tensor], Tensor]

    def undo(self, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """Maps of the view -> maps of the image as it was, on a grid of that height and width."""
        maps = self.turn_back(maps)
        return maps if maps.shape[-2:] == grid else F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)


def _same(x: Tensor) -> Tensor:
    return x


def _turn(quarters: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.rot90(quarters, (-2, -1))


def _flip(*dims: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.flip(dims)


def _transpose(x: Tensor) -> Tensor:
    return x.transpose(-2, -1)


def _transverse(x: Tensor) -> Tensor:
    return x.transpose(-2, -1).flip((-2, -1))


_FIXED = {
    view.name: view
    for view in (
        View("identity", _same, _same),
        View("hflip", _flip(-1), _flip(-1)),
        View("vflip", _flip(-2), _flip(-2)),
        View("rot90", _turn(1), _turn(-1)),
        View("rot180", _turn(2), _turn(-2)),
        View("rot270", _turn(3), _turn(-3)),
        View("transpose", _transpose, _transpose),
        View("transverse", _transverse, _transverse),
    )
}
SQUARE = tuple(_FIXED)
"""The eight symmetries of the square."""


def view_of(name: str) -> View:
    """A view by name: one of SQUARE, or "scale0.75" for an input of 0.75 times the size (a multiple of 32 pixels).

    Raises RecipeError with the nearest name.
    """
    if name in _FIXED:
        return _FIXED[name]
    try:
        factor = float(name.removeprefix("scale")) if name.startswith("scale") else 0.0
    except ValueError:
        factor = 0.0
    if not 0.1 <= factor <= 4:
        raise RecipeError(
            f"a view out of {', '.join(SQUARE)}, or scale0.1 to scale4",
            repr(name),
            did_you_mean(name, [*SQUARE, "scale0.75", "scale1.25"]),
        )
    return View(name, lambda x: _rescale(x, factor), _same)


def _rescale(x: Tensor, factor: float) -> Tensor:
    size = [max(32, round(side * factor / 32) * 32) for side in x.shape[-2:]]
    images = x.flatten(0, -4)  # bags are images too
    scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=factor < 1)
    return scaled.unflatten(0, x.shape[:-3])
