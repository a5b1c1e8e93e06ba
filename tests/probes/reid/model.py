"""An embedding network; in training it answers with its cosine to a centre per name (ArcFace without margin)."""

import torch.nn.functional as F
from torch import nn


class Embedder(nn.Module):
    """N x C x H x W -> N x outputs, in training N x targets."""

    def __init__(self, spec):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(spec.channels, 16, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(64, spec.outputs),
        )  # fmt: skip
        self.centres = nn.Linear(spec.outputs, spec.targets, bias=False)

    def forward(self, images):
        said = self.body(images)
        return F.linear(F.normalize(said), F.normalize(self.centres.weight)) if self.training else said


def build(spec, task):
    """The network of a spec."""
    return Embedder(spec)
