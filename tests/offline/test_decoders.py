"""kit/offline/decoders.py"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from kit.offline.contract import Competition
from kit.offline.errors import RecipeError
from kit.offline.models import ModelSpec, build_model, load_pretrained
from kit.training.optim import make_optimizer
from kit.training.recipe import Recipe

SMALL = {"decoder": "unet", "decoder_channels": (16, 8, 8, 8, 8)}
SPEC = ModelSpec("test_resnet", 2, (64, 96), head="segmentation", arguments=SMALL)


def network(**changes):
    return build_model(replace(SPEC, **changes), Competition())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_maps_are_as_large_as_the_images(backbone, channels):
    """Encoders of three families take the spec's channels and give a map a column at the input's size."""
    model = network(backbone=backbone, channels=channels).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, channels, 64, 96)).shape == (1, 2, 64, 96)


@pytest.mark.parametrize("decoder", ["unet", "fpn", "unetplusplus", "deeplabv3plus"])
def test_decoders_go_by_the_names_of_their_package(decoder):
    """Recipe.model names the decoder; without a name it is a U-Net."""
    model = network(arguments={"decoder": decoder} if decoder != "unet" else {}).eval()
    assert type(model.net).__name__.lower() == decoder
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 96)).shape[-2:] == (64, 96)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_pretrained_weights_fill_the_whole_encoder(backbone, tmp_path):
    """Every parameter of the encoder is that of the file, however timm spells its name there; the decoder stays."""
    source = timm.create_model(backbone, pretrained=False)
    save_file({name: value.contiguous() for name, value in source.state_dict().items()}, tmp_path / "w.safetensors")
    model = network(backbone=backbone)
    before = copy.deepcopy(model.net.decoder.state_dict())
    load_pretrained(model, replace(SPEC, backbone=backbone), "w.safetensors", tmp_path)
    wanted = {name.replace(".", "_"): value for name, value in source.state_dict().items()}
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, wanted[name.replace(".", "_")]), name
    assert all(torch.equal(value, before[name]) for name, value in model.net.decoder.state_dict().items())


def test_the_head_learns_at_its_own_rate():
    """head_lr_scale reaches decoder and last layer, and every parameter is in one group."""
    model = network()
    groups = make_optimizer(Recipe(pretrained=False, head_lr_scale=10), model).param_groups
    fast = {id(one) for group in groups if group.get("lr_scale", 1) == 10 for one in group["params"]}
    head = {id(one) for part in (model.net.decoder, model.net.segmentation_head) for one in part.parameters()}
    assert fast == head
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arguments": {"decoder": "unett"}}, "'unet'"),
        ({"arguments": {"decoder": "unet", "nonsense": 3}}, "nonsense"),
        ({"size": (70, 64)}, "(96, 64)"),
        ({"backbone": "test_vit"}, "downsampling"),
        ({"backbone": "test_resnett"}, "test_resnet"),
        ({"drop_rate": 0.1}, "drop_path"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_remedy(changes, said):
    """Misspelt decoders and encoders, unknown arguments, sizes that cannot be halved: each error says what would do."""
    with pytest.raises(RecipeError) as caught:
        network(**changes)
    assert said in str(caught.value)


def test_without_the_package_the_error_says_where_it_is_to_be_had(monkeypatch):
    """A notebook without the wheel is told so, not left with an ImportError."""
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(RecipeError, match="wheel"):
        network()
