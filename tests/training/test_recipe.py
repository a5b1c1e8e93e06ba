"""Recipes: what is accepted, what is refused, and how the refusal reads."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from kit import Multiclass
from kit.offline.errors import NotFound, RecipeError
from kit.training import Recipe, augment
from kit.training.recipe import FIELDS, find_recipe, load_recipes, override, plain

BASE = Recipe(backbone="test_resnet", pretrained=False)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("backbone=test_vit", "test_vit"),
        ("pretrained=true", True),
        ("pretrained=False", False),
        ("pretrained=weights/mine", "weights/mine"),
        ("image_size=64", 64),
        ("image_size=64,96", (64, 96)),
        ("cache_size=128", 128),
        ("cache_size=none", None),
        ("cache=off", "off"),
        ("fit=pad", "pad"),
        ('read={"window": [40, 80]}', {"window": [40, 80]}),
        ("epochs=3", 3),
        ("lr=1e-3", 1e-3),
        ("lr = 2e-3", 2e-3),
        ("layer_decay=0.7", 0.7),
        ("layer_decay=None", None),
        ("schedule=poly", "poly"),
        ("augment=square", augment.square),
        ("tta=hflip", ("hflip",)),
        ("tta=identity,hflip", ("identity", "hflip")),
        ("precision=bf16", "bf16"),
        ("workers=0", 0),
        ("workers=none", None),
        ("keep=best", "best"),
        ("start_size=32", 32),
        ("start_size=32,64", (32, 64)),
        ("crop_pct=0.9", 0.9),
        ("crop_pct=none", None),
        ("sampling=balanced", "balanced"),
        ("loss=focal", "focal"),
        ("loss=none", None),
        ("class_weights=inv_freq", "inv_freq"),
        ("head_init_scale=0", 0.0),
        ("compile=true", True),
    ],
)
def test_an_override_has_the_type_of_its_field(setting: str, value: Any) -> None:
    """Texts of the command line become values of the field's type, and nothing else changes."""
    changed = override(BASE, [setting])
    name = setting.partition("=")[0].strip()
    assert getattr(changed, name) == value
    assert type(getattr(changed, name)) is type(value)
    assert {one for one in FIELDS if getattr(changed, one) != getattr(BASE, one)} <= {name}


@pytest.mark.parametrize(
    "setting",
    [
        "epochs=many",
        "epochs=2.5",
        "epochs=0",
        "epochs=none",
        "lr=-1",
        "lr=",
        "label_smoothing=1",
        "ema=1.5",
        "image_size=64,96,3",
        "image_size=4",
        "cache=gif",
        "fit=squeeze",
        "read=window",
        "read={window",
        "augment=foto",
        "tta=",
        "tta=sideways",
        "task=Binary",
        "start_size=4",
        "start_size=256",
        "crop_pct=0",
        "crop_pct=1.1",
        "sampling=rare",
        "loss=hinge",
        "loss_arguments={gamma",
        'loss_arguments={"gamma": 2}',
        "class_weights=0.5",
        "head_init_scale=-1",
    ],
)
def test_an_override_of_another_type_is_refused(setting: str) -> None:
    """A value that the field cannot take is a RecipeError, never a silent default and never another exception."""
    with pytest.raises(RecipeError):
        override(BASE, [setting])


@pytest.mark.parametrize(
    ("setting", "near"), [("epoch=3", "epochs"), ("batchsize=3", "batch_size"), ("mixupp=1", "mixup")]
)
def test_a_misspelt_override_names_the_nearest_field(setting: str, near: str) -> None:
    """`--set` with an unknown field is answered with the field that was meant."""
    with pytest.raises(RecipeError, match=f"did you mean '{near}'"):
        override(BASE, [setting])


def test_a_setting_without_equals_is_refused() -> None:
    """`--set epochs` says nothing."""
    with pytest.raises(RecipeError, match="field=value"):
        override(BASE, ["epochs"])


def test_the_last_of_two_overrides_holds() -> None:
    """As on any command line."""
    assert override(BASE, ["epochs=2", "epochs=3"]).epochs == 3


def write(folder: Path, body: str) -> Path:
    (folder / "recipes.py").write_text(f"from dataclasses import replace\nfrom kit.training import Recipe\n{body}\n")
    return folder


def test_every_module_level_recipe_is_found_by_its_name(tmp_path: Path) -> None:
    """Names with an underscore are the file's own affair."""
    write(tmp_path, "a = Recipe()\nb = replace(a, epochs=2)\n_hidden = a\nnumber = 3")
    assert {name: recipe.epochs for name, recipe in load_recipes(tmp_path).items()} == {"a": 10, "b": 2}


@pytest.mark.parametrize("body", ["a = Recipe(epoch=3)", "a = replace(Recipe(), epoch=3)"])
def test_a_misspelt_field_names_file_and_nearest_field(tmp_path: Path, body: str) -> None:
    """In a constructor and in `replace` alike."""
    with pytest.raises(RecipeError, match=r"(?s)recipes\.py.*unknown field 'epoch'.*did you mean 'epochs'"):
        load_recipes(write(tmp_path, body))


def test_a_wrong_value_names_file_and_field(tmp_path: Path) -> None:
    """The field, what was found, and where."""
    with pytest.raises(RecipeError, match=r"(?s)a valid epochs in .*recipes\.py.*'many'"):
        load_recipes(write(tmp_path, "a = Recipe(epochs='many')"))


def test_an_unknown_recipe_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt recipe is answered with the one that was meant."""
    with pytest.raises(NotFound, match="did you mean 'baseline'"):
        find_recipe(write(tmp_path, "baseline = Recipe()"), "basline")


def test_a_folder_without_recipes_is_told(tmp_path: Path) -> None:
    """The path that was looked for stands in the message."""
    with pytest.raises(NotFound, match=r"recipes\.py"):
        load_recipes(tmp_path)


def test_a_recipe_cannot_be_changed() -> None:
    """Frozen: a variant is a new recipe."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.epochs = 3  # type: ignore[misc]


def test_a_variant_is_validated(tmp_path: Path) -> None:
    """`dataclasses.replace` refuses what the constructor would."""
    with pytest.raises(RecipeError, match="at least one view"):
        dataclasses.replace(BASE, tta=())


def test_a_plain_recipe_is_json_that_tells_recipes_apart() -> None:
    """Every field is in it; functions by their name, tasks by their settings."""
    record = plain(dataclasses.replace(BASE, task=Multiclass("label"), augment=augment.light, read={"window": (1, 2)}))
    assert list(record) == list(FIELDS)
    assert json.loads(json.dumps(record)) == record
    assert record["augment"] == "augment.light"
    assert record["task"] == {"kind": "Multiclass", "column": "label", "classes": None, "answer": "label"}
    assert plain(override(BASE, ["lr=1e-3"])) != plain(BASE)


def test_every_field_is_explained() -> None:
    """Each field of Recipe is followed by a line on its unit or reason."""
    body = ast.parse(inspect.getsource(Recipe)).body[0].body  # type: ignore[attr-defined]
    for field, after in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), f"{ast.unparse(field)} has no docstring"


@pytest.mark.parametrize("text", ["focal", "asl"])
def test_arguments_of_a_loss_need_a_loss(text: str) -> None:
    """`loss_arguments` alone would be forgotten; with a loss they are kept as numbers."""
    changed = override(BASE, [f"loss={text}", 'loss_arguments={"gamma": 1.5}'])
    assert changed.loss_arguments == {"gamma": 1.5}
    with pytest.raises(RecipeError, match="a loss for loss_arguments"):
        override(changed, ["loss=none"])


@pytest.mark.parametrize("setting", ["sampling=balanced", "sampling=weighted"])
def test_repeats_and_sampling_exclude_each_other(setting: str) -> None:
    """Both decide how often a row comes."""
    with pytest.raises(RecipeError, match="repeats"):
        override(BASE, ["repeats=2", setting])


@pytest.mark.parametrize("epochs", range(1, 18))
@pytest.mark.parametrize(
    ("start", "full"), [(64, 224), ((96, 128), (224, 160)), (8, 16), (40, 40), (100, 250), ((32, 224), (64, 224))]
)
def test_images_grow_from_start_size_to_image_size(epochs: int, start: Any, full: Any) -> None:
    """The first epoch has the start, the last quarter (and the last epoch, in short trainings too) the full size;
    between them sides never shrink, never leave those bounds, and are multiples of 32 where they are neither."""
    recipe = dataclasses.replace(BASE, start_size=start, image_size=full, epochs=epochs)
    sizes = [recipe.size_at(epoch) for epoch in range(epochs)]
    first = (start, start) if isinstance(start, int) else start
    assert sizes[0] == (first if epochs > 1 else recipe.size)
    assert all(size == recipe.size for epoch, size in enumerate(sizes) if epoch >= 0.75 * epochs or epoch == epochs - 1)
    for before, after in itertools.pairwise(sizes):
        assert all(one <= two for one, two in zip(before, after, strict=True))
    for size in sizes:
        for side, small, large in zip(size, first, recipe.size, strict=True):
            assert side in (small, large) or (small < side < large and side % 32 == 0)
    if epochs == 16 and start == 64:
        assert len(set(sizes)) == 6, "every multiple of 32 from 64 to 224"


def test_without_start_size_every_epoch_has_the_full_size() -> None:
    """As before there was such a field."""
    assert {dataclasses.replace(BASE, image_size=(64, 96)).size_at(epoch) for epoch in range(10)} == {(64, 96)}
