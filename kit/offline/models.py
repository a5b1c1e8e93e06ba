"""Networks: a frozen spec that rebuilds one anywhere, and the factory over timm."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import nn

from kit.offline.contract import Competition
from kit.offline.errors import RecipeError, WeightsError, did_you_mean, examples
from kit.offline.places import has_module, load_module

BAGS = ("mean", "max", "attention")
"""How the features of a row's images become one."""
OF_THE_HEAD = ("bag", "centres")
"""Arguments of a spec that are not timm's."""


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a network without its training code.

    backbone: timm architecture, its pretrained tag left away. outputs: size of the head. channels: of the input.
    size: input height and width in pixels. head: the task's kind of head. arguments: further timm arguments.
    targets: width of a row of targets, for heads that compare with every label in training (ArcFace); 0 if dense.
    table: how many numbers a row brings beside its image; where it brings any, the network is called with `table=`.
    aux: how many of the outputs, the last ones, are trained only: in evaluation the network leaves them out.
    """

    backbone: str
    outputs: int
    size: tuple[int, int]
    channels: int = 3
    head: str = "linear"
    drop_rate: float = 0.0
    drop_path: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    targets: int = 0
    table: int = 0
    aux: int = 0


@dataclass(frozen=True)
class InputConfig:
    """How a backbone wants its input, from timm's model config."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    interpolation: str = "bilinear"
    crop: float = 1.0


def build_model(spec: ModelSpec, competition: Competition) -> nn.Module:
    """An untrained network: `build(spec, task)` of the competition's model.py, if any, else timm with a head."""
    model = _built(spec, competition)
    if spec.aux:
        model.register_forward_hook(partial(_without_aux, spec.aux))
    return model


def _without_aux(aux: int, model: nn.Module, inputs: Any, outputs: torch.Tensor) -> torch.Tensor:
    """All outputs in training, the main ones in evaluation: what is predicted never knows of the others."""
    return outputs if model.training else outputs[:, :-aux]


def _built(spec: ModelSpec, competition: Competition) -> nn.Module:
    if competition.folder is not None and has_module(competition.folder, "model"):
        return load_module(competition.folder, "model").build(spec, competition.task)
    if spec.head == "retrieval":
        return Embedder(spec)
    if spec.head == "segmentation":
        from kit.offline.decoders import Segmenter

        return Segmenter(spec)
    if spec.head != "linear":
        raise RecipeError(
            f"a model.py with build(spec, task) for a {spec.head!r} head", "none", "write one beside adapter.py"
        )
    return Joined(spec) if spec.table or "bag" in spec.arguments else create_backbone(spec)


class Joined(nn.Module):
    """A timm network whose features are pooled over a row's images and joined with the row's numbers before the head.

    Images are N x C x H x W, or N x B x C x H x W bags, of which `mask` (N x B) marks the images that are there; table
    is N x T. `Recipe.model["bag"]` is "mean", "max" or "attention" (gated, Ilse et al. 2018). The numbers go through a
    small perceptron of 64 outputs. Padding never meets the backbone, whose batch-norm would learn from it.
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.how = str(spec.arguments.get("bag", "mean"))
        if self.how not in BAGS:
            raise RecipeError(f"a bag out of {', '.join(BAGS)}", repr(self.how), did_you_mean(self.how, BAGS))
        self.backbone = create_backbone(spec, num_classes=0, drop_rate=0.0)
        of: Any = self.backbone
        width = int(getattr(of, "head_hidden_size", None) or of.num_features)
        self.attention = GatedAttention(width) if self.how == "attention" else None
        self.table = _perceptron(spec.table) if spec.table else None
        self.drop = nn.Dropout(spec.drop_rate)
        self.head = nn.Linear(width + (64 if spec.table else 0), spec.outputs)

    def forward(
        self, images: torch.Tensor, table: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """N x outputs."""
        said = self.backbone(images) if images.ndim == 4 else self.pooled(images, mask)
        if self.table is not None:
            said = torch.cat([said, self.table(table)], dim=1)
        return self.head(self.drop(said))

    def pooled(self, images: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """N x F features of bags."""
        there = torch.ones(images.shape[:2], dtype=torch.bool, device=images.device) if mask is None else mask
        features = self.backbone(images[there])
        bags = features.new_zeros((*there.shape, features.shape[1]))
        bags[there] = features
        if self.how == "max":
            return bags.masked_fill(~there[:, :, None], torch.finfo(bags.dtype).min).amax(dim=1)
        if self.attention is not None:
            return self.attention(bags, there)
        return bags.sum(dim=1) / there.sum(dim=1, keepdim=True)

    def get_classifier(self) -> list[nn.Module]:
        """All that has no pretrained weights, as timm's networks name their head."""
        return [part for part in (self.head, self.table, self.attention) if part is not None]


class GatedAttention(nn.Module):
    """Gated attention over the features of a bag (Ilse, Tomczak, Welling 2018, arXiv 1802.04712)."""

    def __init__(self, width: int, hidden: int = 128):
        super().__init__()
        self.say, self.gate, self.weigh = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, 1)

    def forward(self, bags: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """N x B x F features and N x B mask -> N x F, their weighted mean."""
        scores = self.weigh(self.say(bags).tanh() * self.gate(bags).sigmoid())[:, :, 0].float()
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=1).to(bags.dtype)
        return (weights[:, :, None] * bags).sum(dim=1)


def _perceptron(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 128), nn.LayerNorm(128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU())


class Embedder(nn.Module):
    """timm features, generalised-mean pooling, an embedding; in training, cosines to the centres of all labels.

    N x C x H x W -> N x outputs in evaluation, N x targets in training. `Recipe.model["centres"]` is the number of
    sub-centres of a label, of which the nearest counts (Deng et al. 2020: three take up noisy labels). Tokens of
    transformers are pooled as timm pools them.
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        if spec.table or "bag" in spec.arguments:
            raise RecipeError("one image a row for a retrieval head", "a bag or a table", "write a model.py")
        self.centres_each = int(spec.arguments.get("centres", 1))
        self.backbone = create_backbone(spec, num_classes=0, drop_rate=0.0)
        width = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.pool = GeneralisedMean()
        self.embedding = nn.Sequential(
            nn.Dropout(spec.drop_rate), nn.Linear(width, spec.outputs, bias=False), nn.BatchNorm1d(spec.outputs)
        )
        self.centres = nn.Linear(spec.outputs, spec.targets * self.centres_each, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings, or in training N x targets cosines."""
        features = self.backbone.forward_features(images)  # type: ignore[operator]
        if features.ndim == 4:
            turned = str(getattr(self.backbone, "output_fmt", "NCHW")) == "NHWC"
            pooled = self.pool(features.permute(0, 3, 1, 2) if turned else features)
        else:
            pooled = self.backbone.forward_head(features, pre_logits=True)  # type: ignore[operator]
        said = self.embedding(pooled)
        if not self.training:
            return said
        with torch.autocast(
            images.device.type, enabled=False
        ):  # half a float holds no margin of 0.01 near a cosine of 1
            cosines = F.linear(F.normalize(said.float()), F.normalize(self.centres.weight.float()))
        return cosines.unflatten(1, (-1, self.centres_each)).amax(dim=2)

    def get_classifier(self) -> list[nn.Module]:
        """All that has no pretrained weights, as timm's networks name their head."""
        return [self.pool, self.embedding, self.centres]


class GeneralisedMean(nn.Module):
    """GeM (Radenovic et al. 2019): N x C x H x W -> N x C, the p-th root of the mean p-th power; p is learned."""

    def __init__(self, power: float = 3.0):
        super().__init__()
        self.power = nn.Parameter(torch.tensor([power]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Between the mean (p = 1) and the maximum (large p); negative features count as none."""
        with torch.autocast(features.device.type, enabled=False):
            return features.float().clamp_min(1e-6).pow(self.power).mean(dim=(2, 3)).pow(1 / self.power)


def create_backbone(spec: ModelSpec, **more: Any) -> nn.Module:
    """`timm.create_model` for a spec; `more` overrides its arguments. Downloads only if `pretrained` is among them."""
    arguments: dict[str, Any] = {
        "num_classes": spec.outputs,
        "in_chans": spec.channels,
        "drop_rate": spec.drop_rate,
        **{name: value for name, value in spec.arguments.items() if not _of_the_head(name, spec)},
        **more,
    }
    if spec.drop_path:
        arguments["drop_path_rate"] = spec.drop_path
    name = require_backbone(spec.backbone)
    try:
        return timm.create_model(name, img_size=spec.size, **arguments)
    except TypeError as error:
        # Convolutional networks take any size and know no img_size; other unknown arguments come up again below.
        if "img_size" not in str(error):
            raise RecipeError(f"arguments that {name} takes", str(error), "mend the recipe") from None
    try:
        return timm.create_model(name, **arguments)
    except TypeError as error:
        raise RecipeError(f"arguments that {name} takes", str(error), "mend the recipe") from None


def _of_the_head(argument: str, spec: ModelSpec) -> bool:
    return argument in OF_THE_HEAD or spec.head == "segmentation"


def require_backbone(name: str) -> str:
    """The timm name, if timm has it; URLs and hub addresses are refused. Raises RecipeError with the nearest name."""
    plain, _, tag = name.partition(".")
    if not timm.is_model(name):
        fix = did_you_mean(plain, timm.list_models())
        raise RecipeError(f"a timm model named {name!r}", "timm does not have it", fix)
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{plain}.*")]
    if tag and tag not in tags:
        raise RecipeError(f"pretrained weights {name!r} in timm", f"tags: {', '.join(tags)}", did_you_mean(tag, tags))
    return name


def require_current(name: str) -> None:
    """Raise RecipeError for a name that timm has given up: mean, std and crop under it are those of no weights."""
    now = timm.models.get_deprecated_models().get(name)
    if now:
        raise RecipeError(f"timm's name of today for {name!r}", f"it is {now!r} now", f"set backbone={now!r}")


def input_config(backbone: str, channels: int, pretrained: bool | str, home: Path | None = None) -> InputConfig:
    """mean, std, interpolation and centre crop that the backbone's weights were trained or evaluated with.

    mean and std repeat cyclically for other channel counts. pretrained, home: as in `load_pretrained`.
    """
    overlay = {}
    if isinstance(pretrained, str) and (folder := (home or Path()) / pretrained).is_dir():
        config = _folder_config(folder)
        known = ("mean", "std", "interpolation", "crop_pct", "license")
        overlay = {name: config[name] for name in known if name in config}
    cfg = timm.get_pretrained_cfg(backbone)
    plain = {**(cfg.to_dict() if cfg else {}), **overlay}
    resolved = resolve_model_data_config(nn.Identity(), pretrained_cfg=plain)
    repeat = [index % len(resolved["mean"]) for index in range(channels)]
    return InputConfig(
        tuple(resolved["mean"][index] for index in repeat),
        tuple(resolved["std"][index] for index in repeat),
        str(plain.get("license") or "unknown"),
        "bicubic" if resolved["interpolation"] == "bicubic" else "bilinear",
        float(resolved["crop_pct"]),
    )


def _folder_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"timm's config.json in {folder}",
            "no such file",
            "save the model with timm.models.save_for_hf, or name the file of weights",
        )
    return json.loads(path.read_text()).get("pretrained_cfg", {})


def load_pretrained(model: nn.Module, spec: ModelSpec, pretrained: bool | str, home: Path) -> None:
    """Fill the backbone's parameters with pretrained weights; the head keeps its own where the sizes differ.

    pretrained: True (timm's hub or its cache), or a path, absolute or below `home`: a safetensors file or a folder made
    by timm's save_for_hf. Raises WeightsError at once where they cannot be had, never falls back to random weights.
    """
    if pretrained is False:
        return
    weights = _pretrained_state(spec, pretrained, home)
    body = getattr(model, "backbone", model)  # where a wrapper keeps timm's network
    own = body.state_dict()
    # Encoders of a decoder are timm's feature extractors, which join the first parts of a name: stages_0 for stages.0.
    same = {name.replace(".", "_"): name for name in own}
    named = {same[flat]: value for name, value in weights.items() if (flat := name.replace(".", "_")) in same}
    fitting = {name: value for name, value in named.items() if own[name].shape == value.shape}
    if not fitting:
        raise WeightsError(
            f"a network with the parameters of {spec.backbone}",
            "none fits",
            "keep timm's network as `backbone` in model.py's, or its parameter names, or set pretrained=False",
        )
    body.load_state_dict({**own, **fitting})


def _pretrained_state(spec: ModelSpec, pretrained: bool | str, home: Path) -> dict[str, torch.Tensor]:
    """What the weights give: all parameters of the backbone, the classifier's only where its size is theirs.

    timm leaves parameters that a file lacks as they were drawn and only logs it. So the network is made twice: what
    differs was drawn, and that may be the classifier alone.
    """
    arguments = _pretrained_arguments(spec.backbone, pretrained, home)
    remedy = "name the weights of this very backbone, download them again, or set pretrained=False"
    try:
        with torch.random.fork_rng(devices=[]):
            source, again = create_backbone(spec, **arguments), create_backbone(spec, **arguments)
    except (OSError, RuntimeError, SafetensorError) as error:
        found = f"{type(error).__name__}: {str(error)[:300]}"
        raise WeightsError(f"weights of {spec.backbone} from pretrained={pretrained!r}", found, remedy) from None
    weights, others = source.state_dict(), again.state_dict()
    drawn = {name for name, value in weights.items() if not torch.equal(value, others[name])}
    classifier = getattr(source, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    lacking = sorted(name for name in drawn if not name.startswith(heads))
    if lacking:
        raise WeightsError(
            f"all weights of {spec.backbone} from pretrained={pretrained!r}", f"none for {examples(lacking)}", remedy
        )
    return {name: value for name, value in weights.items() if not (drawn and name.startswith(heads))}


def require_weights(backbone: str, pretrained: bool | str, home: Path) -> None:
    """Raise RecipeError for a name that timm lacks, WeightsError for weights that cannot be had."""
    require_backbone(backbone)
    if pretrained:
        _pretrained_arguments(backbone, pretrained, home)


def _pretrained_arguments(backbone: str, pretrained: bool | str, home: Path) -> dict[str, Any]:
    if pretrained is True:
        _require_hub(backbone, home)
        return {"pretrained": True}
    path = home / str(pretrained)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(
            f"pretrained weights at {file}",
            "no such file",
            f"put the model.safetensors of {backbone} there, or set pretrained=False",
        )
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"a .safetensors file at {file}",
            f"a {file.suffix or 'nameless'} file",
            "convert it: pickled weights can run code when loaded",
        )
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}


def _require_hub(backbone: str, home: Path) -> None:
    """Raise WeightsError unless the weights are cached or the hub answers within three seconds.

    timm itself would retry for a minute.
    """
    from huggingface_hub import try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(backbone)
    repository = cfg.hf_hub_id if cfg else None
    if not repository:
        raise WeightsError(
            f"pretrained weights of {backbone} in timm",
            "timm has none for this name",
            "choose a tag from timm.list_pretrained(), or set pretrained=False",
        )
    if any(
        isinstance(try_to_load_from_cache(repository, name), str) for name in ("model.safetensors", "pytorch_model.bin")
    ):
        return
    if {"HF_ENDPOINT", "HTTPS_PROXY", "https_proxy"} & set(os.environ):
        return  # reached by other ways, which the client knows
    with contextlib.suppress(OSError), socket.create_connection(("huggingface.co", 443), timeout=3):
        return
    place = home / "offline_weights" / "pretrained" / f"{backbone}.safetensors"
    raise WeightsError(
        f"the pretrained weights {repository}, in the hub's cache or from huggingface.co",
        "not cached, and the hub cannot be reached",
        f"put its model.safetensors at {place} and set pretrained={str(place.relative_to(home))!r}, "
        "or set pretrained=False",
    )


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load trained weights, strictly: every name and shape must fit. Raises WeightsError."""
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"the weights of this very network in {path}",
            f"{type(error).__name__}: {str(error)[:300]}",
            "train the fold again, or restore the file",
        ) from None
    return model


def without_tag(backbone: str) -> str:
    """The architecture without its pretrained tag: inference needs no name that timm may retire."""
    return backbone.split(".")[0]


def inference_spec(spec: ModelSpec) -> ModelSpec:
    """The spec that travels: no pretrained tag."""
    return replace(spec, backbone=without_tag(spec.backbone))


def pick_device(name: str | None = None) -> torch.device:
    """The named device; else the first GPU that passes one operation, else the CPU."""
    return torch.device(name) if name else next(_working_gpus(), torch.device("cpu"))


def pick_devices() -> list[torch.device]:
    """Every GPU that passes one operation, or the CPU."""
    return list(_working_gpus()) or [torch.device("cpu")]


def _working_gpus() -> Iterator[torch.device]:
    """A GPU that only reports itself (Kaggle's P100, for which its torch has no kernels) is told on standard error."""
    for number in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        try:
            (torch.zeros(1, device=f"cuda:{number}") + 1).item()
        except RuntimeError as error:
            print(_unusable(number, error), file=sys.stderr, flush=True)
        else:
            yield torch.device("cuda", number)


def _unusable(number: int, error: RuntimeError) -> str:
    """The line about a GPU that failed its one operation."""
    try:
        capability = "".join(map(str, torch.cuda.get_device_capability(number)))
        gpu = f"{torch.cuda.get_device_name(number)} (sm_{capability})"
    except RuntimeError:  # CUDA does not even start
        gpu = "the GPU"
    kernels = ", ".join(torch.cuda.get_arch_list())
    reason = str(error).partition("\n")[0]
    return (
        f"warning: {gpu} does not work with this torch, which has kernels for {kernels}: {reason}. "
        "Going on on the CPU, many times slower; on Kaggle choose GPU T4 x2"
    )
