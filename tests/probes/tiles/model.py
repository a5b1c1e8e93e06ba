"""A few convolutions; the map has half the input's height and width."""

from torch import nn


def build(spec, task):
    """C x h/2 x w/2 maps."""
    return nn.Sequential(
        nn.Conv2d(spec.channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, spec.outputs, 1),
    )  # fmt: skip
