"""kit/training/presets.py"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm

from kit.training import augment, presets
from kit.training.fanout import train_run
from kit.training.recipe import Recipe, plain

# The figures as their sources print them, by hand: table 2 of arXiv 2110.00476; section 3.4 and appendix B of arXiv
# 2106.10270 with big_vision's configs/transfer.py; timm's training examples; torchvision's references/classification.
PRINTED = {
    "rsb_a1": {
        "epochs": 600, "optimizer": "lamb", "lr": 5e-3, "weight_decay": 0.01, "warmup_epochs": 5, "warmup_lr": 1e-4,
        "min_lr": 1e-6, "schedule": "cosine", "loss": "bce", "loss_arguments": {}, "label_smoothing": 0.1,
        "mixup": 0.2, "cutmix": 1.0, "mix_prob": 1.0, "repeats": 3, "drop_path": 0.05, "erasing": 0.0,
        "crop_pct": 0.95, "image_size": 224, "ema": None, "drop_rate": 0.0, "clip_grad": None,
    },
    "rsb_a2": {
        "epochs": 300, "optimizer": "lamb", "lr": 5e-3, "weight_decay": 0.02, "warmup_epochs": 5, "warmup_lr": 1e-4,
        "min_lr": 1e-6, "schedule": "cosine", "loss": "bce", "loss_arguments": {"target_threshold": 0.2},
        "label_smoothing": 0.0, "mixup": 0.1, "cutmix": 1.0, "repeats": 3, "drop_path": 0.05, "erasing": 0.0,
        "crop_pct": 0.95, "image_size": 224, "ema": None, "drop_rate": 0.0, "clip_grad": None,
    },
    "rsb_a3": {
        "epochs": 100, "optimizer": "lamb", "lr": 8e-3, "weight_decay": 0.02, "warmup_epochs": 5, "warmup_lr": 1e-4,
        "min_lr": 1e-6, "schedule": "cosine", "loss": "bce", "loss_arguments": {"target_threshold": 0.2},
        "label_smoothing": 0.0, "mixup": 0.1, "cutmix": 1.0, "repeats": 1, "drop_path": 0.0, "erasing": 0.0,
        "crop_pct": 0.95, "image_size": 160, "ema": None, "drop_rate": 0.0, "clip_grad": None,
    },
    "augreg_finetune": {
        "optimizer": "momentum", "lr": 3e-3, "weight_decay": 0.0, "clip_grad": 1.0, "clip_mode": "norm",
        "schedule": "cosine", "min_lr": 0.0, "head_init_scale": 0.0, "drop_rate": 0.0, "drop_path": 0.0, "mixup": 0.0,
        "cutmix": 0.0, "erasing": 0.0, "image_size": 384,
    },
    "wightman_erasing": {
        "epochs": 240, "optimizer": "sgd", "lr": 0.6, "weight_decay": 1e-4, "warmup_epochs": 5, "schedule": "cosine",
        "erasing": 0.4, "erasing_count": 3, "mixup": 0.0, "cutmix": 0.0,
    },
    "step90": {
        "epochs": 90, "optimizer": "momentum", "lr": 0.1, "weight_decay": 1e-4, "schedule": "step", "warmup_epochs": 0,
        "mixup": 0.0, "cutmix": 0.0, "erasing": 0.0, "label_smoothing": 0.0, "ema": None,
    },
    "kaggle_cnn": {
        "optimizer": "adamw", "lr": 3e-4, "batch_size": 64, "weight_decay": 0.05, "schedule": "cosine", "mixup": 0.2,
        "cutmix": 1.0, "mix_prob": 0.5, "erasing": 0.2,
    },
    "kaggle_vit": {
        "optimizer": "adamw", "lr": 5e-5, "layer_decay": 0.7, "weight_decay": 0.05, "clip_grad": 1.0,
        "schedule": "cosine",
    },
}  # fmt: skip
BATCHES = {
    "rsb_a1": 2048,
    "rsb_a2": 2048,
    "rsb_a3": 2048,
    "augreg_finetune": 512,
    "wightman_erasing": 1536,
    "step90": 256,
}
POLICIES = {
    "rsb_a1": "rand-m7-mstd0.5-inc1", "rsb_a2": "rand-m7-mstd0.5-inc1", "rsb_a3": "rand-m6-mstd0.5-inc1",
    "wightman_erasing": "rand-m7-mstd0.5-inc1",
}  # fmt: skip


def test_every_preset_is_listed_and_cites_its_source():
    """Each recipe of the file is in PRESETS, has a docstring below it, and its printed figures here."""
    there = {name for name, value in vars(presets).items() if isinstance(value, Recipe) and not name.startswith("_")}
    assert there == set(presets.PRESETS) == set(PRINTED)
    text = Path(presets.__file__).read_text()
    for name in there:
        after = text.split(f"\n{name} = ")[1]
        assert '\n"""' in after.split("\n\n")[0], f"{name} cites nothing"


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_values_are_those_of_the_source(name):
    """Each figure that the source prints stands in the recipe; batches multiply to the source's."""
    recipe = presets.PRESETS[name]
    assert {field: getattr(recipe, field) for field in PRINTED[name]} == PRINTED[name]
    if name in BATCHES:
        assert recipe.batch_size * recipe.accumulate == BATCHES[name]
    policy = getattr(recipe.augment, "keywords", {}).get("config")
    assert policy == POLICIES.get(name) or name == "kaggle_cnn"


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_presets_name_networks_that_timm_has_and_say_so_in_json(name):
    """A preset's backbone exists, with its tag; run.json keeps the recipe, the augmentation's settings too."""
    recipe = presets.PRESETS[name]
    assert timm.is_model(recipe.backbone)
    told = json.loads(json.dumps(plain(recipe)))
    assert told["augment"].startswith("augment.")
    if name in POLICIES:
        assert POLICIES[name] in told["augment"]


def test_the_procedures_of_strikes_back_do_not_erase():
    """A1 to A3 are told apart from the recipes with erasing, which are others."""
    assert [presets.PRESETS[name].erasing for name in ("rsb_a1", "rsb_a2", "rsb_a3")] == [0, 0, 0]
    assert presets.wightman_erasing.erasing > 0


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_a_preset_trains(world, name):
    """Swapping network, size and length is all it takes: one short epoch of every preset runs."""
    small = {"backbone": "test_vit" if "vit" in presets.PRESETS[name].backbone else "test_resnet", "pretrained": False}
    short = {"epochs": 2, "batch_size": 8, "accumulate": 2, "image_size": 32, "workers": 0, "mix_off_epochs": 0}
    recipe = replace(presets.PRESETS[name], **small, **short, precision="fp32")
    run = train_run(world.ground(), name, recipe, [0], world.home, say=lambda line: None)
    assert run.folds == [0]


def test_rand_augment_is_drawn_by_its_own_seed():
    """The same seed gives the same image whatever the global generators say, another another; masks are refused."""
    image = np.random.RandomState(0).randint(0, 255, (40, 48, 3), np.uint8)
    compose = augment.rand_augment((32, 32))
    seen = []
    for number, noise in ((3, 0), (3, 99), (4, 0)):
        random.seed(noise)
        np.random.seed(noise)
        compose.set_random_seed(number)
        seen.append(compose(image=image)["image"])
    assert seen[0].shape == (32, 32, 3)
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    with pytest.raises(presets.augment.RecipeError, match="masks"):
        compose(image=image, mask=image[:, :, :1])
