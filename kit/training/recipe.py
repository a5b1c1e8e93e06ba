"""A recipe: every choice of the competitor, flat, frozen and validated. Variants by `dataclasses.replace`."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from kit.offline.errors import NotFound, RecipeError, did_you_mean
from kit.offline.places import has_module, load_module
from kit.offline.tasks import Task, settings_of
from kit.offline.views import view_of
from kit.training import augment as presets
from kit.training.augment import Augment

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Recipe:
    """One way to train. A misspelt field is an error; `kit train --set field=value` overrides one for a run."""

    backbone: str = "resnet18.a1_in1k"
    """timm name, with its pretrained tag if it has one. The first thing to swap."""
    pretrained: bool | str = True
    """True: timm's hub or its cache. A path below home: a safetensors file or a save_for_hf folder. False: random."""

    image_size: int | tuple[int, int] = 224
    """Network input in pixels: a side, or height and width."""
    cache_size: Count | None = None
    """Shorter side of cached images in pixels: read once at that size. None keeps the native size."""
    cache: Literal["raw", "jpeg", "off"] = "raw"
    """How decoded sources are kept: as they are, as JPEG of quality 95 (a tenth of the disk, 8-bit), or not at all."""
    start_size: int | tuple[int, int] | None = None
    """Size of the first epochs' images, which then grow evenly to image_size and reach it for the last quarter. None:
    image_size from the start. Transformers need model={"dynamic_img_size": true}."""
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    """How an image meets the input size in evaluation: stretched whole, padded to keep the aspect, or its centre."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    """With fit="crop", the input's side over the resized image's shorter one; None takes the backbone's own."""
    read: Mapping[str, Any] = field(default_factory=dict)
    """Settings handed to the adapter's read and cut (mel bands, windows, channels)."""
    task: Task | None = None
    """Another task over the competition's columns (another loss or head); members with the same outputs blend."""

    pseudo: str | None = None
    """A file of `kit predict RUN --frame F --out FILE.npz`, below home: its rows train too, each fold with the soft
    labels of its own teacher."""
    sampling: Literal["all", "balanced", "weighted"] = "all"
    """Rows of an epoch: each once; or drawn with replacement, every class as often (rows of several labels as their
    rarest), or as the column `weight` says, which the loss then leaves out."""

    epochs: Count = 10
    """Passes over the training rows. Long cosine schedules win: train longer before you change the model."""
    batch_size: Count = 32
    """Images a step."""
    accumulate: Count = 1
    """Steps per update; batch_size x accumulate is the effective batch."""
    repeats: Count = 1
    """Repeated augmentation: each epoch shows 1/repeats of the rows, each that often."""
    optimizer: str = "adamw"
    """A name that timm.optim knows, also with its prefix "lookahead_"; none that needs second derivatives."""
    lr: Positive = 3e-4
    """Peak learning rate at this batch size. AdamW on convolutional networks: 3e-4 x sqrt(batch / 64) is a start."""
    head_lr_scale: Positive = 1.0
    """The head's learning rate over the backbone's; 10 is common for fine-tuning."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning-rate factor per layer towards the input; 0.65 to 0.75 for pretrained ViTs."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """Decay of weights; norms and biases are exempt."""
    schedule: Literal["cosine", "step", "multistep", "poly", "tanh", "wsd", "rsqrt", "constant"] = "cosine"
    """A timm schedule, stepped on every update. step: a tenth after each third of the epochs; multistep: after half and
    three quarters. wsd: constant, then a fall over the last fifth; rsqrt: 1 / sqrt of the time in the constant's place.
    timm's plateau, which would fit the rate to the rows that score, is none of them."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of a schedule that falls."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Linear warm-up, within `epochs`."""
    warmup_lr: Annotated[float, Field(ge=0)] | None = None
    """Learning rate that the warm-up begins with; None: a hundredth of lr."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the moving average of weights that is then evaluated and shipped; warmed up. None: no average."""
    loss: Literal["ce", "bce", "focal", "asl"] | None = None
    """Another loss than the task's, for tasks of classes: softmax or binary cross-entropy (timm's), focal (Lin et al.
    2017), asymmetric (timm's; Ben-Baruch et al. 2020)."""
    loss_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of that loss: target_threshold of bce; gamma (2) of focal; gamma_neg, gamma_pos, clip of asl."""
    class_weights: Literal["neg_pos", "inv_freq", "effective_num"] | None = None
    """timm's class weights, from the rows that train. neg_pos: a class's negatives over its positives, for bce and asl.
    inv_freq, effective_num (Cui et al. 2019): rare classes count more."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a target spread over all classes."""
    clip_grad: Positive | None = None
    """Largest gradient: global norm, value or ratio to the weights, as clip_mode says."""
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    """How timm clips; agc: adaptive, by unit (Brock et al. 2021)."""
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """First epochs in which the head alone learns and batch-norm of the backbone keeps its statistics."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the network: timm's create_model (global_pool="max"), or the head's (bag, centres)."""
    head_init_scale: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the head's initial weights; 0 begins without an opinion, as AugReg's fine-tuning does."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the head."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass: slower, with less memory."""
    compile: bool = False
    """Train through torch.compile: minutes at the start of a fold, faster steps on newer GPUs."""

    augment: Augment = presets.photo
    """A function: size (height, width) -> albumentations Compose."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of Mixup; 0 is off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of CutMix; 0 is off. With both, each batch takes one by the toss of a coin."""
    erasing: Fraction = 0.0
    """Chance that a rectangle becomes noise, pixel by pixel, which keeps the statistics that batch-norm sees."""
    erasing_count: Count = 1
    """Rectangles of an erased image at most, which share the area."""
    mix_prob: Fraction = 1.0
    """Share of batches that are mixed at all."""
    mix_off_epochs: Annotated[int, Field(ge=0)] = 0
    """Last epochs without mixup, cutmix and erasing: the network ends on images as they are."""

    tta: tuple[str, ...] = ("identity",)
    """Views averaged in evaluation; see kit.offline.views."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Arithmetic of training: auto is bf16 on GPUs that really have it and fp16 on older ones; on the CPU bf16 where it
    has instructions for it and a short trial with this network shows a gain, else fp32."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Loader processes; None chooses by the cores."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Changes every draw: initial weights, order, augmentation."""
    patience: Count | None = None
    """Epochs without a better score after which a fold stops; runs say that the epoch was chosen, as for `keep`."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights stay. "best" is chosen on the rows that score it, so the score flatters; runs say so."""

    def __post_init__(self) -> None:
        """Refuse what would fail late."""
        for name in self.tta:
            view_of(name)
        if not self.tta:
            raise RecipeError("at least one view in tta", "none", 'use tta=("identity",)')
        for name in ("read", "model", "loss_arguments"):
            try:
                json.dumps(dict(getattr(self, name)))
            except TypeError as error:
                fix = "name classes and functions by text, as timm's arguments allow"
                raise RecipeError(f"plain values in {name}, which run.json keeps", str(error), fix) from None
        if self.epochs <= max(self.freeze_epochs, self.mix_off_epochs):
            found = f"freeze_epochs={self.freeze_epochs}, mix_off_epochs={self.mix_off_epochs} of {self.epochs}"
            raise RecipeError("fewer freeze_epochs and mix_off_epochs than epochs", found, "mend the recipe")
        if min(*self.size, *self.size_at(0)) < 8:
            raise RecipeError("an image_size of at least 8 pixels", str(self.image_size), "mend the recipe")
        if any(start > full for start, full in zip(self.size_at(0), self.size, strict=True)):
            raise RecipeError(
                f"a start_size within image_size={self.image_size}", str(self.start_size), "mend the recipe"
            )
        if self.loss is None and self.loss_arguments:
            raise RecipeError("a loss for loss_arguments", str(dict(self.loss_arguments)), "set loss, or drop them")
        if self.pseudo and self.sampling == "balanced":
            raise RecipeError("labels of all rows for sampling='balanced'", "pseudo", "use sampling='weighted'")
        if self.repeats > 1 and self.sampling != "all":
            raise RecipeError('sampling="all" with repeats', self.sampling, "drop one of them")

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width in pixels."""
        return _pair(self.image_size)

    def size_at(self, epoch: int) -> tuple[int, int]:
        """Height and width of training images in an epoch (from 0), multiples of 32 pixels while they grow."""
        growing = self.epochs * 3 // 4
        if self.start_size is None or epoch >= growing:
            return self.size
        start = _pair(self.start_size)
        if epoch == 0:
            return start
        sides = zip(start, self.size, strict=True)
        height, width = (min(full, max(small, _between(small, full, epoch / growing))) for small, full in sides)
        return height, width


def _between(small: int, full: int, share: float) -> int:
    """The multiple of 32 nearest to a share of the way."""
    return round((small + share * (full - small)) / 32) * 32


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


FIELDS = {item.name: item for item in dataclasses.fields(Recipe)}  # type: ignore[arg-type]


def load_recipes(folder: Path) -> dict[str, Recipe]:
    """Every module-level Recipe of `folder/recipes.py`, by name. Raises RecipeError naming the nearest field."""
    if not has_module(folder, "recipes"):
        raise NotFound(
            f"recipes in {folder / 'recipes.py'}", "no such file", "write one; see competitions/cassava/recipes.py"
        )
    try:
        module = load_module(folder, "recipes")
    except (ValidationError, TypeError) as error:
        raise _explained(error, folder / "recipes.py") from None
    return {
        name: value for name, value in vars(module).items() if isinstance(value, Recipe) and not name.startswith("_")
    }


def find_recipe(folder: Path, name: str) -> Recipe:
    """The recipe `name`. Raises NotFound with the nearest name."""
    recipes = load_recipes(folder)
    if name not in recipes:
        raise NotFound(
            f"a recipe {name!r} in {folder / 'recipes.py'}",
            f"recipes: {', '.join(sorted(recipes)) or 'none'}",
            did_you_mean(name, recipes),
        )
    return recipes[name]


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with `field=value` texts applied, each converted to the field's type.

    Lists are comma-separated (tta=identity,hflip), mappings are JSON, "none" is None, augment takes a preset's name.
    Raises RecipeError with the nearest field.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or name not in FIELDS:
            fix = f"write {name}=VALUE" if name in FIELDS else did_you_mean(name, FIELDS)
            raise RecipeError("--set field=value with a field of Recipe", repr(setting), fix)
        changes[name] = _parsed(name, text.strip())
    try:
        return dataclasses.replace(recipe, **changes)  # type: ignore[type-var]
    except ValidationError as error:
        raise _explained(error, "--set") from None


def _parsed(name: str, text: str) -> Any:
    if name == "task":
        raise RecipeError("--set of a plain value", "task is an object", "write a recipe in recipes.py")
    if name == "augment":
        if text not in presets.PRESETS:
            raise RecipeError(
                f"a preset of kit.training.augment: {', '.join(presets.PRESETS)}",
                repr(text),
                did_you_mean(text, presets.PRESETS),
            )
        return presets.PRESETS[text]
    hint = typing.get_type_hints(Recipe, include_extras=True)[name]
    value: Any = text
    if name in ("read", "model", "loss_arguments"):
        value = _mapping(text)
    elif text.lower() == "none" and type(None) in typing.get_args(hint):
        return None
    elif _takes_tuple(hint) and ("," in text or name == "tta"):
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif text.lower() in ("true", "false") and hint in (bool, bool | str):
        return text.lower() == "true"
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        reasons = "; ".join(sorted({item["msg"] for item in error.errors()}))
        raise RecipeError(
            f"--set {name}= with a value of type {_readable(name)}", f"{text!r}: {reasons}", "mend the value"
        ) from None


def _mapping(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError('--set read={"name": value} in JSON', f"{text!r}: {error}", "mend the value") from None


def _takes_tuple(hint: Any) -> bool:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(typing.get_origin(kind) is tuple for kind in kinds)


def _readable(name: str) -> str:
    """A field's type as people write it, without its bounds: the reasons tell those."""
    return re.sub(r"(typing\.|<class '|'>)", "", str(typing.get_type_hints(Recipe)[name]))


def _explained(error: Exception, where: object) -> RecipeError:
    """A RecipeError out of pydantic's or dataclasses' complaint, with the nearest field for an unknown one."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        if name in FIELDS:
            return RecipeError(
                f"a valid {name} in {where}", f"{first.get('input')!r}: {first['msg']}", "mend the recipe"
            )
    else:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not unknown:
            raise error
        name = unknown.group(1)
    return RecipeError(f"fields of Recipe in {where}", f"an unknown field {name!r}", did_you_mean(name, FIELDS))


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON holds it: functions by name, the task by its settings."""
    return {name: _plain(getattr(recipe, name)) for name in FIELDS}


def _plain(value: Any) -> Any:
    if isinstance(value, Task):
        return settings_of(value)
    if isinstance(value, Callable):  # type: ignore[arg-type]
        settings = getattr(value, "keywords", {})  # of a functools.partial
        value = getattr(value, "func", value)
        given = ", ".join(f"{name}={re.sub(' at 0x[0-9a-fA-F]+', '', repr(item))}" for name, item in settings.items())
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__.removeprefix('kit.training.')}.{named.__qualname__}{f'({given})' if given else ''}"
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
