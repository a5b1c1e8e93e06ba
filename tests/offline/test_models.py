"""kit/offline/models.py"""

from __future__ import annotations

import copy
import json
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from kit.offline.contract import Competition
from kit.offline.errors import RecipeError, WeightsError
from kit.offline.models import (
    BAGS,
    ModelSpec,
    build_model,
    create_backbone,
    inference_spec,
    input_config,
    load_pretrained,
    load_weights,
    pick_device,
    require_backbone,
    require_current,
)
from kit.offline.tasks import Binary

TINY = ModelSpec("test_resnet", 3, (32, 32))


class Plain(Competition):
    """A competition without a folder, hence without a model.py."""

    slug = "plain"
    task = Binary("label")


def network(seed=0, spec=TINY):
    torch.manual_seed(seed)
    return create_backbone(spec)


def body(model):
    return {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def weights(tmp_path):
    """A file of weights as timm's hub has them: a thousand classes."""
    file = tmp_path / "offline_weights" / "pretrained" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(network(7, replace(TINY, outputs=1000)).state_dict(), file)
    return file


def saved(file: Path):
    from safetensors.torch import load_file

    return {name: value for name, value in load_file(file).items() if not name.startswith("fc.")}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_spec_builds_the_network_it_says(name, channels):
    """Convolutional networks and transformers take the size and channels of the spec and give its outputs."""
    spec = ModelSpec(name, 4, (64, 96), channels=channels)
    model = build_model(spec, Plain()).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, channels, 64, 96)).shape == (2, 4)


def test_rates_and_arguments_reach_timm():
    """Dropout, drop path and further arguments arrive; an argument that the network does not know is named."""
    model = create_backbone(ModelSpec("test_vit", 2, (32, 32), drop_rate=0.3, drop_path=0.2, arguments={"depth": 3}))
    assert model.head_drop.p == 0.3
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert len(model.blocks) == 3
    for name in ("test_resnet", "test_vit"):
        with pytest.raises(RecipeError, match="dephts"):
            create_backbone(ModelSpec(name, 2, (32, 32), arguments={"dephts": 3}))


@pytest.mark.parametrize("name", ["test_resnett", "hf-hub:timm/test_resnet.r160_in1k", "../test_resnet"])
def test_names_that_timm_does_not_have_are_refused(name):
    """Misspelt names and hub addresses are refused before anything is fetched."""
    with pytest.raises(RecipeError, match="timm"):
        require_backbone(name)


def test_a_name_that_timm_has_given_up_is_refused():
    """Its config is not that of the weights it stands for (0.5 and 0.9 here): images would be prepared otherwise."""
    old, new = "vit_base_patch16_224_in21k", "vit_base_patch16_224.augreg_in21k"
    configs = [input_config(name, 3, pretrained=False) for name in (old, new)]
    assert configs[0].mean != configs[1].mean and configs[0].crop != configs[1].crop
    with pytest.raises(RecipeError, match=f"set backbone='{re.escape(new)}'"):
        require_current(old)
    for name in (new, "resnet18", "test_vit"):
        require_current(name)


def test_a_misspelt_backbone_gets_the_nearest_name():
    """The remedy is the nearest of timm's names, its tag left aside."""
    with pytest.raises(RecipeError, match="did you mean 'test_resnet'"):
        require_backbone("test_resnett.r160_in1k")


def test_another_head_needs_the_competition_s_model(tmp_path):
    """Without model.py only a linear head is built; with it, its `build` gets the spec and the task."""
    with pytest.raises(RecipeError, match=r"model\.py"):
        build_model(replace(TINY, head="dense"), Plain())
    (tmp_path / "model.py").write_text(
        "from torch import nn\ndef build(spec, task): return nn.Linear(spec.outputs, len(task.columns))\n"
    )
    competition = Plain()
    competition.folder = tmp_path
    assert build_model(replace(TINY, head="dense"), competition).weight.shape == (1, 3)


@pytest.mark.parametrize("how", ["file", "folder", "relative file", "relative folder"])
def test_pretrained_weights_fill_the_body_and_leave_the_head(tmp_path, weights, how):
    """By file or folder, absolute or below home: every parameter but the head is the file's, the head its own."""
    (weights.parent / "config.json").write_text("{}")
    path = {
        "file": str(weights),
        "folder": str(weights.parent),
        "relative file": "offline_weights/pretrained/model.safetensors",
        "relative folder": "offline_weights/pretrained",
    }[how]
    model = network(1)
    head = model.fc.weight.clone()
    assert not same(body(model), saved(weights))
    load_pretrained(model, TINY, path, tmp_path)
    assert same(body(model), saved(weights))
    assert torch.equal(model.fc.weight, head)


def test_pretrained_weights_suit_other_channels(tmp_path, weights):
    """One and five input channels take the weights too: all but the first layer is the file's."""
    for channels in (1, 5):
        spec = replace(TINY, channels=channels)
        model = network(1, spec)
        before = model.conv1[0].weight.clone() if hasattr(model.conv1, "__getitem__") else model.conv1.weight.clone()
        load_pretrained(model, spec, str(weights), tmp_path)
        first = model.conv1[0].weight if hasattr(model.conv1, "__getitem__") else model.conv1.weight
        assert not torch.equal(first, before)
        assert torch.equal(model.layer4[0].conv1.weight, saved(weights)["layer4.0.conv1.weight"])


def test_a_head_of_the_weights_own_size_is_taken(tmp_path, weights):
    """A thousand outputs for a file of a thousand classes: nothing stays as it was drawn."""
    spec = replace(TINY, outputs=1000)
    model = network(1, spec)
    load_pretrained(model, spec, str(weights), tmp_path)
    assert same(model.state_dict(), network(7, spec).state_dict())


def test_loading_draws_no_random_numbers(tmp_path, weights):
    """What is drawn after loading does not depend on how much loading drew."""
    model = network(1)
    with torch.random.fork_rng(devices=[]):
        expected = torch.rand(3)
    load_pretrained(model, TINY, str(weights), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_without_pretrained_nothing_changes(tmp_path):
    """False leaves the network as it was drawn, and looks for nothing."""
    model = network(1)
    load_pretrained(model, TINY, False, tmp_path)
    assert same(model.state_dict(), network(1).state_dict())


@pytest.mark.parametrize("name", ["nowhere.safetensors", "offline_weights", "offline_weights/pretrained/absent"])
def test_missing_weights_name_the_place(tmp_path, weights, name):
    """A path that is not there, or a folder without the file, is an error with the very place."""
    with pytest.raises(WeightsError, match=str(tmp_path / name)) as caught:
        load_pretrained(network(), TINY, name, tmp_path)
    assert "pretrained=False" in caught.value.fix


@pytest.mark.parametrize("suffix", [".pth", ".bin", ""])
def test_pickled_weights_are_refused(tmp_path, weights, suffix):
    """Only safetensors are opened; another suffix is refused, naming the file."""
    other = weights.with_suffix(suffix)
    weights.rename(other)
    with pytest.raises(WeightsError, match=str(other)) as caught:
        load_pretrained(network(), TINY, str(other), tmp_path)
    assert "pickled" in caught.value.fix


def test_weights_of_another_network_are_refused(tmp_path, weights):
    """A file that lacks parameters of the backbone, or is damaged, is refused: never a network half random."""
    part = saved(weights)
    for name in ("layer1.0.conv1.weight", "layer3.0.conv2.weight"):
        del part[name]
    save_file(part, weights)
    with pytest.raises(WeightsError, match=r"none for 'layer1\.0\.conv1\.weight', 'layer3\.0\.conv2\.weight'"):
        load_pretrained(network(), TINY, str(weights), tmp_path)
    save_file(timm.create_model("test_vit").state_dict(), weights)
    with pytest.raises(WeightsError, match="this very backbone"):
        load_pretrained(network(), TINY, str(weights), tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="download them again"):
        load_pretrained(network(), TINY, str(weights), tmp_path)


def test_a_network_without_the_backbone_s_parameters_is_refused(tmp_path, weights):
    """A model.py that renames every parameter would stay random without a word."""
    with pytest.raises(WeightsError, match="none fits"):
        load_pretrained(torch.nn.Sequential(network()), TINY, str(weights), tmp_path)


def test_without_a_network_the_hub_fails_at_once(tmp_path, monkeypatch):
    """True without cache and network is an error after one try, and names the place where a file would serve."""
    tries = []

    def refuse(address, *arguments, **named):
        tries.append(address)
        raise OSError("no network")

    for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments, **named: None)
    monkeypatch.setattr(timm, "create_model", lambda *arguments, **named: pytest.fail("timm was asked"))
    with pytest.raises(WeightsError) as caught:
        load_pretrained(torch.nn.Identity(), replace(TINY, backbone="test_resnet.r160_in1k"), True, tmp_path)
    assert tries == [("huggingface.co", 443)]
    place = "offline_weights/pretrained/test_resnet.r160_in1k.safetensors"
    assert str(tmp_path / place) in caught.value.fix
    assert f"pretrained='{place}'" in caught.value.fix


def test_a_backbone_without_pretrained_weights_says_so(tmp_path):
    """Where timm publishes none, the hub is not even asked."""
    bare = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(WeightsError, match="timm has none"):
        load_pretrained(torch.nn.Identity(), replace(TINY, backbone=bare), True, tmp_path)


def test_inputs_are_those_of_the_weights(tmp_path):
    """timm's config of the tag is read; a folder's own config.json wins over it, absolute or below home."""
    plain = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    config = input_config("test_resnet.r160_in1k", 3, False)
    assert (config.mean, config.std) == (plain.mean, plain.std)
    assert (config.crop, config.interpolation) == (plain.crop_pct, plain.interpolation) == (0.95, "bilinear")
    assert input_config("test_vit.r160_in1k", 3, False).interpolation == "bicubic"
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": "mit"}
    own |= {"interpolation": "bicubic", "crop_pct": 0.8}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps({"pretrained_cfg": own}))
    for config in (
        input_config("test_resnet", 3, str(tmp_path / "mine")),
        input_config("test_resnet", 3, "mine", tmp_path),
    ):
        assert (tuple(config.mean), tuple(config.std)) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        assert config.licence == "mit"
        assert (config.crop, config.interpolation) == (0.8, "bicubic")


@pytest.mark.parametrize(("channels", "want"), [(1, (0.1,)), (2, (0.1, 0.2)), (5, (0.1, 0.2, 0.3, 0.1, 0.2))])
def test_means_repeat_for_other_channels(tmp_path, channels, want):
    """mean and std have one entry per channel, cyclically."""
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}))
    config = input_config("test_resnet", channels, str(tmp_path))
    assert config.mean == want
    assert len(config.std) == channels


def test_a_folder_of_weights_without_its_config_is_refused(tmp_path):
    """Without config.json nobody knows how to feed the weights."""
    with pytest.raises(WeightsError, match=r"config\.json"):
        input_config("test_resnet", 3, str(tmp_path))


def test_trained_weights_are_loaded_strictly(tmp_path):
    """The same network takes every value; one more output, a missing file or a damaged one is WeightsError."""
    save_file(network(3).state_dict(), tmp_path / "w.safetensors")
    assert same(load_weights(network(4), tmp_path / "w.safetensors").state_dict(), network(3).state_dict())
    with pytest.raises(WeightsError, match="fc"):
        load_weights(network(4, replace(TINY, outputs=4)), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="absent"):
        load_weights(network(4), tmp_path / "absent.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(WeightsError, match="Safetensor"):
        load_weights(network(4), tmp_path / "w.safetensors")


def test_what_travels_needs_no_tag():
    """The pretrained tag is left away, the rest stays, and the network is the same."""
    spec = replace(TINY, backbone="test_resnet.r160_in1k", drop_rate=0.1)
    assert inference_spec(spec) == replace(TINY, drop_rate=0.1)
    assert create_backbone(spec).state_dict().keys() == create_backbone(inference_spec(spec)).state_dict().keys()


@pytest.mark.parametrize("starts", [True, False])
def test_a_gpu_that_only_claims_to_work_is_told_and_not_picked(monkeypatch, capsys, starts):
    """CUDA that reports itself and then fails leaves the CPU, with one line on standard error; a named device is taken
    at its word. Nor may the line fail where CUDA does not start at all."""

    def broken(*arguments, **named):
        raise RuntimeError("no kernel image is available for execution on the device\nand much more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_120"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (6, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", (lambda number: "Tesla P100-PCIE-16GB") if starts else broken)
    monkeypatch.setattr(torch, "zeros", broken)
    assert pick_device("meta").type == "meta"
    assert not capsys.readouterr().err
    assert pick_device().type == "cpu"
    [line] = capsys.readouterr().err.splitlines()
    for word in ("Tesla P100-PCIE-16GB (sm_60)" if starts else "the GPU", "sm_75, sm_120", "no kernel", "GPU T4 x2"):
        assert word in line


def test_outputs_that_are_trained_only_are_left_out_in_evaluation():
    """The last `aux` outputs are there in training and gone in evaluation; state, copies and other outputs stay."""
    plain, aided = network(), build_model(replace(TINY, aux=2), Plain())
    aided.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert aided.train()(images).shape == plain.train()(images).shape == (2, TINY.outputs)
    assert list(aided.state_dict()) == list(plain.state_dict())
    for model in (aided, copy.deepcopy(aided)):
        assert torch.equal(model.eval()(images), plain.eval()(images)[:, :-2])


JOINED = pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])


@JOINED
@pytest.mark.parametrize("how", BAGS)
def test_padding_and_order_change_no_bag(name, how):
    """A bag says the same alone, padded whatever the padding holds, beside a longer one, and in another order."""
    torch.manual_seed(0)
    model = build_model(ModelSpec(name, 3, (32, 32), arguments={"bag": how}, table=2), Plain()).eval()
    images, table = torch.randn(2, 3, 3, 32, 32), torch.randn(2, 2)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    with torch.inference_mode():
        alone = model(images[:1, :2], table=table[:1])
        padded = model(images, table=table, mask=mask)
        images[0, 2] = 1e6
        again = model(images, table=table, mask=mask)
        turned = model(images[:1, [1, 0]], table=table[:1])
    assert padded.shape == (2, 3)
    assert torch.equal(padded, again)
    torch.testing.assert_close(padded[:1], alone)
    torch.testing.assert_close(turned, alone)


def test_bags_are_pooled_as_they_are_named():
    """Mean and maximum are those of the images' features, and attention is a weighted mean of them."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, 3, 32, 32)
    for how in BAGS:
        model = build_model(ModelSpec("test_resnet", 3, (32, 32), arguments={"bag": how}), Plain()).eval()
        with torch.inference_mode():
            features = model.backbone(images[0])
            pooled = model.pooled(images, None)[0]
        if how == "mean":
            torch.testing.assert_close(pooled, features.mean(dim=0))
        elif how == "max":
            torch.testing.assert_close(pooled, features.amax(dim=0))
        else:
            assert (pooled >= features.amin(dim=0) - 1e-5).all()
            assert (pooled <= features.amax(dim=0) + 1e-5).all()
    with pytest.raises(RecipeError, match="did you mean 'mean'"):
        build_model(ModelSpec("test_resnet", 3, (32, 32), arguments={"bag": "maen"}), Plain())


def test_batch_norm_learns_from_images_and_not_from_padding():
    """In training the statistics are those of the images that are there."""
    images = torch.randn(2, 3, 3, 32, 32)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    seen = []
    for filler in (0.0, 1e3):
        torch.manual_seed(0)
        model = build_model(ModelSpec("test_resnet", 3, (32, 32), arguments={"bag": "mean"}), Plain()).train()
        model(torch.where(mask[:, :, None, None, None], images, filler), mask=mask)
        seen.append({name: value for name, value in model.state_dict().items() if "running" in name})
    assert same(*seen)


@pytest.mark.parametrize("channels", [1, 3, 5, 9])
def test_a_wrapped_network_takes_pretrained_weights(tmp_path, weights, channels):
    """Beside a table, in a bag and for stacks of channels the backbone is the file's, its first layer timm's of it."""
    spec = ModelSpec("test_resnet", 3, (32, 32), channels=channels, arguments={"bag": "max"}, table=4)
    model = build_model(spec, Plain())
    load_pretrained(model, spec, str(weights), tmp_path)
    file = saved(weights)
    loaded = body(model.backbone)
    adapted = timm.create_model(
        "test_resnet", in_chans=channels, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}
    )
    assert same(loaded, body(adapted))
    different = {name for name in loaded if not torch.equal(loaded[name], file[name])} if channels == 3 else set()
    assert not different


def test_numbers_reach_the_answer():
    """Other numbers beside the same image give another answer, and the image still counts."""
    torch.manual_seed(0)
    model = build_model(ModelSpec("test_resnet", 3, (32, 32), table=2), Plain()).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        said = [model(image, table=torch.tensor([[x, 0.0]])) for image in (images, -images) for x in (0.0, 2.0)]
    assert all(not torch.allclose(said[0], other) for other in said[1:])


def test_a_tag_that_timm_lacks_is_told():
    """Weights by a misspelt tag get the nearest one, before any image is read."""
    with pytest.raises(RecipeError) as caught:
        require_backbone("resnet18.a1_in1kk")
    assert "a1_in1k" in caught.value.fix
    assert require_backbone("resnet18.a1_in1k") == "resnet18.a1_in1k"
