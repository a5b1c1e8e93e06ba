"""kit/training/optim.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from timm.optim import list_optimizers

from kit.offline.errors import RecipeError
from kit.training.checkpoint import commit, resume
from kit.training.optim import make_optimizer, make_schedule, parameter_groups, scale_heads, set_frozen
from kit.training.recipe import Recipe

UPDATES = 10


def model():
    return timm.create_model("test_vit", num_classes=3, img_size=32)


def rates(recipe, updates, network=None):
    """Learning rate by parameter name when the schedule stands at that update."""
    network = network or model()
    optimizer = make_optimizer(recipe, network)
    make_schedule(recipe, optimizer, UPDATES).step_update(updates)
    rate = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    return {name: rate[id(one)] for name, one in network.named_parameters()}


def test_layer_decay_reaches_the_learning_rates():
    """After a step of the schedule, layers nearer to the input learn more slowly, by the factor of the recipe."""
    plain = rates(Recipe(lr=1e-3), 25)
    decayed = rates(Recipe(lr=1e-3, layer_decay=0.5), 25)
    assert len(set(plain.values())) == 1
    share = {name: decayed[name] / plain[name] for name in plain}
    assert share["head.weight"] == 1.0
    assert share["blocks.1.mlp.fc1.weight"] == pytest.approx(2 * share["blocks.0.mlp.fc1.weight"])
    assert share["patch_embed.proj.weight"] < share["blocks.0.mlp.fc1.weight"]


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_the_head_learns_faster(layer_decay):
    """After a step of the schedule, head_lr_scale multiplies the head's rate and no other, with layer decay too."""
    plain = rates(Recipe(lr=1e-3, layer_decay=layer_decay), 25)
    scaled = rates(Recipe(lr=1e-3, layer_decay=layer_decay, head_lr_scale=10.0), 25)
    for name in plain:
        assert scaled[name] / plain[name] == pytest.approx(10.0 if name.startswith("head.") else 1.0), name


def test_a_head_that_cannot_be_found_is_an_error():
    """A network without get_classifier refuses head_lr_scale instead of forgetting it."""
    with pytest.raises(RecipeError, match="get_classifier"):
        parameter_groups(Recipe(head_lr_scale=10.0), torch.nn.Linear(3, 2))
    assert len(parameter_groups(Recipe(), torch.nn.Linear(3, 2))) == 2


@pytest.mark.parametrize("more", [{}, {"layer_decay": 0.7}, {"head_lr_scale": 10.0}])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_norms_and_biases_do_not_decay(name, more):
    """Every parameter is in one group; vectors and what the network spares do not decay, matrices do."""
    network = timm.create_model(name, num_classes=3)
    optimizer = make_optimizer(Recipe(weight_decay=0.3, **more), network)
    decay = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    for key, one in network.named_parameters():
        spared = one.ndim <= 1 or key in ("pos_embed", "cls_token")
        assert decay[id(one)] == (0.0 if spared else 0.3), key


def test_warm_up_and_the_end_of_cosine():
    """The rate starts at a hundredth of lr, reaches nearly lr after the warm-up and ends near zero."""
    recipe = Recipe(lr=1e-3, epochs=10, warmup_epochs=1.0)
    course = [rates(recipe, update)["head.weight"] for update in (0, 5, 10, 50, 99)]
    assert course[0] == pytest.approx(1e-5)
    assert course[0] < course[1] < course[2]
    assert course[2] == pytest.approx(1e-3, rel=0.05)
    assert course[3] == pytest.approx(5e-4, rel=0.05)
    assert course[4] < 1e-6


def test_warm_up_stays_within_short_trainings():
    """With fewer epochs than the warm-up asks for, half of them warm up and lr is still reached."""
    recipe = Recipe(lr=1e-3, epochs=2, warmup_epochs=5.0)
    course = [rates(recipe, update)["head.weight"] for update in range(2 * UPDATES)]
    assert max(course) == course[UPDATES - 1] > 8e-4


def test_schedules_that_hold_the_rate():
    """wsd is constant until the last fifth and then falls to min_lr; constant stays; layer decay reaches both."""
    epochs, updates = 20, range(0, 20 * UPDATES, 5)
    flat = Recipe(lr=1e-3, epochs=epochs, warmup_epochs=0, min_lr=1e-6)
    wsd = [rates(replace(flat, schedule="wsd"), update)["head.weight"] for update in updates]
    assert wsd[:31] == [1e-3] * 31
    assert wsd[33:] == sorted(wsd[33:], reverse=True) and 1e-6 <= wsd[-1] < 2e-4
    assert rates(replace(flat, schedule="constant"), 199)["head.weight"] == 1e-3
    decayed = rates(replace(flat, schedule="constant", layer_decay=0.5), 199)
    assert decayed["patch_embed.proj.weight"] < 0.1 * decayed["head.weight"]


def test_cosine_ends_at_min_lr():
    """The floor of the recipe is where the schedule ends."""
    assert rates(Recipe(lr=1e-3, epochs=10, min_lr=1e-4), 99)["head.weight"] == pytest.approx(1e-4, rel=0.05)


def test_a_frozen_backbone_learns_nothing_until_it_is_let_go():
    """In freeze_epochs a step changes the head alone, statistics of batch-norm included; then everything learns."""
    network, recipe = timm.create_model("test_resnet", num_classes=3), Recipe(epochs=4, freeze_epochs=2, lr=0.1)
    optimizer = make_optimizer(recipe, network)

    def changed(epoch):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        network.train()
        set_frozen(recipe, network, epoch)
        optimizer.zero_grad(set_to_none=True)
        network(torch.rand(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
        return {name for name, value in network.state_dict().items() if not value.equal(before[name])}

    assert changed(0) == changed(1) == {"fc.weight", "fc.bias"}
    assert {"conv1.0.weight", "bn1.running_mean"} < changed(2)
    with pytest.raises(RecipeError, match="freeze_epochs"):
        set_frozen(recipe, torch.nn.Linear(3, 2), 0)


@pytest.mark.parametrize("schedule", ["cosine", "step", "multistep", "poly", "tanh", "rsqrt", "wsd"])
def test_every_schedule_goes_down(schedule):
    """Late a schedule is below lr, at the end at most a tenth of it, and it never rises after the warm-up."""
    recipe = Recipe(lr=1e-3, epochs=9, schedule=schedule, warmup_epochs=0.0)
    course = [rates(recipe, update)["head.weight"] for update in range(0, 9 * UPDATES, 3)]
    assert course == sorted(course, reverse=True)
    assert course[len(course) * 9 // 10 if schedule == "wsd" else len(course) // 2] < 0.99e-3
    assert course[-1] < 1e-4


def updated(name, updates, states, at=None, found=None):
    """Weights after some updates with an optimiser; its state is committed to `states` after update `at`, or taken."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 4, 3))
    optimizer = make_optimizer(Recipe(optimizer=name, lr=1e-2), network)
    if found is not None:
        network.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
    for update in range(0 if found is None else at, updates):
        torch.manual_seed(update)
        optimizer.zero_grad()
        network(torch.randn(5, 3, 4, 4)).square().sum().backward()
        optimizer.step()
        if found is None and update + 1 == at:
            commit(states, at, {"model": network.state_dict(), "optimizer": optimizer.state_dict()})
    return network.state_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*map(str, list_optimizers()), "lookahead_radam"])
def test_every_optimizer_of_timm_trains_and_resumes_or_says_why_not(name, tmp_path):
    """To the bit, from a state on disk after 7 of 13 updates; what needs a GPU or second derivatives is refused."""
    try:
        whole = updated(name, 13, tmp_path, at=7)
    except RecipeError as error:
        assert name == "adahessian" or name.startswith(("bnb", "fused")), error
        return
    step, found = resume(tmp_path)
    assert step == 7
    again = updated(name, 13, tmp_path, at=7, found=found)
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    first = updated(name, 7, tmp_path)
    assert any((first[key] != whole[key]).any() for key in whole)


def test_the_recipe_names_the_optimizer():
    """timm's names, and those that wrap another one."""
    kinds = {
        name: type(make_optimizer(Recipe(optimizer=name), model())).__name__ for name in ("lamb", "lookahead_lamb")
    }
    assert kinds == {"lamb": "Lamb", "lookahead_lamb": "Lookahead"}


def test_the_warm_up_begins_with_warmup_lr():
    """Or with a hundredth of the rate."""
    assert rates(Recipe(lr=1e-3, warmup_lr=2e-4), 0)["head.weight"] == pytest.approx(2e-4)
    assert rates(Recipe(lr=1e-3), 0)["head.weight"] == pytest.approx(1e-5)


def test_an_unknown_optimizer_names_the_nearest():
    """A misspelt optimizer is an error that tells which one may be meant."""
    with pytest.raises(RecipeError, match="did you mean 'adamw'"):
        make_optimizer(Recipe(optimizer="adamww"), model())


def test_what_a_wrapper_adds_learns_at_the_full_rate():
    """Around a backbone, layers decay inside alone; biases and norms are spared, and the head's scale takes all new."""
    from kit.offline.models import Joined, ModelSpec

    network = Joined(ModelSpec("test_vit", 3, (32, 32), arguments={"bag": "attention"}, table=4))
    found = rates(Recipe(layer_decay=0.5, warmup_epochs=0), 3, network)
    assert found["head.weight"] == found["attention.say.weight"] == found["table.0.weight"] == max(found.values())
    assert found["backbone.patch_embed.proj.weight"] < found["backbone.blocks.5.mlp.fc1.weight"] <= max(found.values())
    groups = parameter_groups(Recipe(head_lr_scale=10), network)
    scale = {id(one): group.get("lr_scale", 1.0) for group in groups for one in group["params"]}
    decay = {id(one): group["weight_decay"] for group in groups for one in group["params"]}
    assert len(scale) == len(list(network.parameters()))
    for name, one in network.named_parameters():
        assert scale[id(one)] == (1.0 if name.startswith("backbone.") else 10.0), name
        assert (decay[id(one)] == 0) == (one.ndim <= 1 or "pos_embed" in name or "cls_token" in name), name


def scaled_by(network, scale):
    """The names whose values scale_heads changed, and that it multiplied them."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scale_heads(Recipe(head_init_scale=scale), network)
    changed = {name for name, value in network.state_dict().items() if not value.equal(before[name])}
    for name in changed:
        torch.testing.assert_close(network.state_dict()[name], before[name] * scale)
    return changed


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("test_resnet", {"fc"}),
        ("test_vit", {"head"}),
        ("test_convnext", {"head.fc"}),
        ("deit_tiny_distilled_patch16_224", {"head", "head_dist"}),
    ],
)
@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_head_begins_smaller(name, head, scale):
    """head_init_scale multiplies weights and biases of what gives the outputs, both of a distilled network, and no
    other parameter; 1 leaves all as they are."""
    network = timm.create_model(name, num_classes=3)
    for module in head:
        torch.nn.init.constant_(network.get_submodule(module).bias, 0.3)
        torch.nn.init.normal_(network.get_submodule(module).weight)
    assert scaled_by(network, scale) == {f"{module}.{part}" for module in head for part in ("weight", "bias")}
    assert scaled_by(network, 1.0) == set()


def test_a_head_of_zeros_learns_whatever_is_before_it():
    """Of a wrapper's head the last layer alone is scaled: numbers beside the image, attention and decoders still learn
    within two steps, where all at zero they never would."""
    from kit.offline.decoders import Segmenter
    from kit.offline.models import Joined, ModelSpec

    joined = Joined(ModelSpec("test_vit", 3, (32, 32), arguments={"bag": "attention"}, table=4))
    maps = Segmenter(ModelSpec("test_resnet", 2, (32, 32), head="segmentation"))
    assert scaled_by(joined, 0.0) == {"head.weight", "head.bias"}
    changed = scaled_by(maps, 0.0)
    assert changed and all(name.startswith("net.segmentation_head.") for name in changed)
    inputs = ((joined, torch.rand(4, 2, 3, 32, 32), torch.rand(4, 4)), (maps, torch.rand(4, 3, 32, 32)))
    for network, *shown in inputs:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            (network(*shown) - 1).square().mean().backward()
            optimizer.step()
        still = [name for name, one in network.named_parameters() if not one.requires_grad or not one.grad.any()]
        assert not [
            name for name in still if name.startswith(("table", "attention", "net.decoder")) and "bias" not in name
        ]
    with pytest.raises(RecipeError, match="head_init_scale"):
        scale_heads(Recipe(head_init_scale=0.0), torch.nn.Linear(3, 2))
