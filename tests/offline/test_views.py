"""kit/offline/views.py"""

from __future__ import annotations

import pytest
import torch

from kit.offline.errors import RecipeError
from kit.offline.views import SQUARE, view_of


@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 3, 5)])
def test_undo_is_the_inverse_on_dense_maps(name, shape):
    """A view of a map, undone, is the map, bit for bit, square or not."""
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    view = view_of(name)
    assert torch.equal(view.undo(view.apply(maps), shape[-2:]), maps)


def test_the_eight_views_differ():
    """No two names of the square do the same, and `identity` does nothing."""
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    seen = {tuple(view_of(name).apply(image).flatten().tolist()) for name in SQUARE}
    assert len(seen) == len(SQUARE) == 8
    assert torch.equal(view_of("identity").apply(image), image)


def test_names_mean_what_they_say():
    """hflip mirrors left and right, vflip up and down, rot90 turns counter-clockwise, transpose swaps axes."""
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    want = {
        "hflip": [[2, 1], [4, 3]],
        "vflip": [[3, 4], [1, 2]],
        "rot90": [[2, 4], [1, 3]],
        "transpose": [[1, 3], [2, 4]],
        "transverse": [[4, 2], [3, 1]],
    }
    assert {name: view_of(name).apply(image)[0, 0].int().tolist() for name in want} == want


@pytest.mark.parametrize(("name", "size"), [("scale0.5", (32, 64)), ("scale1.5", (96, 192)), ("scale0.1", (32, 32))])
def test_scale_gives_a_multiple_of_32_and_comes_back(name, size):
    """A scaled view has sides of whole 32s, its maps come back to the grid, and a constant stays what it is."""
    view = view_of(name)
    inputs = view.apply(torch.full((2, 3, 64, 128), 0.25))
    assert inputs.shape == (2, 3, *size)
    back = view.undo(inputs[:, :1, ::4, ::4], (16, 32))
    assert back.shape == (2, 1, 16, 32)
    torch.testing.assert_close(back, torch.full_like(back, 0.25))


def test_scale_takes_bags():
    """Bags are scaled image by image, like the same images in a batch."""
    bags = torch.rand((2, 3, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    view = view_of("scale0.5")
    assert torch.equal(view.apply(bags).flatten(0, 1), view.apply(bags.flatten(0, 1)))


@pytest.mark.parametrize(
    ("name", "near"), [("hfilp", "hflip"), ("rotate90", "rot90"), ("scale9", "scale"), ("scalenan", "scale")]
)
def test_an_unknown_view_gives_the_nearest(name, near):
    """A misspelt or senseless view is refused with the nearest name."""
    with pytest.raises(RecipeError, match=f"did you mean '{near}"):
        view_of(name)
