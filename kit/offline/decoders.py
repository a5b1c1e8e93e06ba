"""Networks of dense tasks: decoders of segmentation-models-pytorch over timm encoders.

Kaggle's image lacks that package, so a bundle carries its wheel; it is imported when a network is built and not before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kit.offline.errors import RecipeError, did_you_mean
from kit.offline.models import ModelSpec, require_backbone


class Segmenter(nn.Module):
    """N x C x H x W images -> N x outputs x H x W raw maps.

    `Recipe.model["decoder"]` is the package's name of a decoder ("unet", "fpn", "unetplusplus", "segformer" ...;
    default "unet"), the rest of it that decoder's arguments (encoder_depth, decoder_channels,
    decoder_attention_type ...). Raises RecipeError for a decoder or an argument it does not have, an encoder that gives
    no pyramid, and an input size it cannot halve as often as it must.
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        if spec.drop_rate:
            raise RecipeError("no drop_rate for a decoder", str(spec.drop_rate), "use drop_path or weight_decay")
        self.net = _network(spec)
        stride = int(self.net.encoder.output_stride)
        if any(side % stride for side in spec.size):
            fitting = tuple(-(-side // stride) * stride for side in spec.size)
            raise RecipeError(
                f"an image_size whose sides are multiples of {stride}", str(spec.size), f"set image_size={fitting}"
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps of the images' height and width."""
        return self.net(images)

    @property
    def backbone(self) -> nn.Module:
        """timm's network inside the encoder, which pretrained weights fill."""
        return self.net.encoder.model  # type: ignore[return-value]

    def get_classifier(self) -> list[nn.Module]:
        """All that has no pretrained weights, as timm's networks name their head."""
        return [self.net.decoder, self.net.segmentation_head]  # type: ignore[list-item]


def _network(spec: ModelSpec) -> Any:
    arguments = dict(spec.arguments)
    decoder = str(arguments.pop("decoder", "unet"))
    if spec.drop_path:
        arguments["drop_path_rate"] = spec.drop_path
    smp = _package()
    known = smp.MODEL_ARCHITECTURES_MAPPING
    if decoder.lower() not in known:
        raise RecipeError(f"a decoder out of {', '.join(known)}", repr(decoder), did_you_mean(decoder, known))
    name = f"tu-{require_backbone(spec.backbone)}"
    common = {"encoder_weights": None, "in_channels": spec.channels, "classes": spec.outputs}
    try:
        try:  # transformers must know the size; convolutions take any and know no such argument
            return smp.create_model(decoder, name, img_size=spec.size, **common, **arguments)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        return smp.create_model(decoder, name, **common, **arguments)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        found = f"{type(error).__name__}: {str(error)[:200]}"
        raise RecipeError(
            f"an encoder {spec.backbone} and arguments that {decoder} takes", found, "mend the recipe"
        ) from None


def _package() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise RecipeError(
            "the package segmentation-models-pytorch for networks of maps",
            str(error),
            "install it (pip install segmentation-models-pytorch); in a notebook, its wheel is in the bundle",
        ) from None
    return segmentation_models_pytorch
