"""Recipes with a source. Take one, `dataclasses.replace` the backbone and the size, and give baselines the same care.

Learning rates belong to the effective batch (batch_size x accumulate) that stands beside them: for another batch scale
them by the square root of the ratio for AdamW and LAMB, linearly for SGD (timm's train.py does so). Where a source says
nothing of a field, it is left at the kit's default.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from kit.training import augment
from kit.training.recipe import Recipe

kaggle_cnn = Recipe(
    backbone="convnext_tiny.fb_in22k_ft_in1k",
    image_size=224,
    epochs=15,
    batch_size=64,
    optimizer="adamw",
    lr=3e-4,
    weight_decay=0.05,
    warmup_epochs=1,
    ema=0.999,
    drop_path=0.1,
    augment=partial(augment.rand_augment, config="rand-m6-mstd0.5-inc1", smallest=0.5),
    mixup=0.2,
    cutmix=1.0,
    mix_prob=0.5,
    mix_off_epochs=2,
    erasing=0.2,
)
"""Fine-tuning convolutional networks, ConvNeXt and MaxViT: our choice, by what the published code of winners sets
(melanoma 2020, Happywhale 2022, RSNA breast 2023, RSNA abdominal 2023, BirdCLEF 2024)."""

kaggle_vit = Recipe(
    backbone="vit_small_patch16_224.augreg_in21k_ft_in1k",
    image_size=224,
    epochs=15,
    batch_size=32,
    optimizer="adamw",
    lr=5e-5,
    layer_decay=0.7,
    weight_decay=0.05,
    clip_grad=1.0,
    warmup_epochs=1,
    drop_path=0.1,
    augment=augment.photo,
)
"""Fine-tuning pretrained transformers: small rates, smaller towards the input (Clark et al. 2020; BEiT, Bao et al.
2021), clipped, with light augmentation. AutoGluon's default is of this kind."""

augreg_finetune = Recipe(
    backbone="vit_base_patch32_224.augreg_in21k",
    image_size=384,
    epochs=20,
    batch_size=32,
    accumulate=16,
    optimizer="momentum",
    lr=3e-3,
    weight_decay=0.0,
    clip_grad=1.0,
    warmup_epochs=1,
    head_init_scale=0.0,
    augment=augment.imagenet,
)
"""Fine-tuning after "How to train your ViT?" (Steiner et al. 2021, arXiv 2106.10270): SGD with momentum and no decay, a
batch of 512, a head that begins at zero, no dropout, mixup or RandAugment. Rates of 1e-3 to 3e-2 are tried there; 3e-3
was best for its B/32 on CIFAR-10, Pets and Flowers. It counts steps (500 on Pets and Flowers, 100 of them warm-up)."""

_strikes_back = Recipe(
    backbone="resnet50",
    pretrained=False,
    image_size=224,
    fit="crop",
    crop_pct=0.95,
    epochs=300,
    batch_size=256,
    accumulate=8,
    optimizer="lamb",
    lr=5e-3,
    weight_decay=0.02,
    warmup_epochs=5,
    warmup_lr=1e-4,
    min_lr=1e-6,
    loss="bce",
    loss_arguments={"target_threshold": 0.2},
    augment=partial(augment.rand_augment, config="rand-m7-mstd0.5-inc1"),
    mixup=0.1,
    cutmix=1.0,
    repeats=3,
    drop_path=0.05,
)

rsb_a2 = _strikes_back
"""Procedure A2 of "ResNet strikes back" (Wightman, Touvron, Jegou 2021, arXiv 2110.00476, table 2): ImageNet from
scratch with a batch of 2,048. No erasing: none of A1 to A3 uses it. For small data take its augmentation and loss,
hardly its rate and epochs."""

rsb_a1 = replace(_strikes_back, epochs=600, weight_decay=0.01, mixup=0.2, label_smoothing=0.1, loss_arguments={})
"""Procedure A1, the longest: more mixup, and smoothing, which a threshold on targets would undo."""

rsb_a3 = replace(
    _strikes_back,
    image_size=160,
    epochs=100,
    lr=8e-3,
    augment=partial(augment.rand_augment, config="rand-m6-mstd0.5-inc1"),
    repeats=1,
    drop_path=0.0,
)
"""Procedure A3, the shortest: trains at 160 pixels. The paper tests it at 224, where such networks do better."""

wightman_erasing = Recipe(
    backbone="resnext50_32x4d",
    pretrained=False,
    image_size=224,
    epochs=240,
    batch_size=192,
    accumulate=8,
    optimizer="sgd",
    lr=0.6,
    weight_decay=1e-4,
    warmup_epochs=5,
    augment=partial(augment.rand_augment, config="rand-m7-mstd0.5-inc1"),
    label_smoothing=0.1,  # the default of timm's script
    erasing=0.4,
    erasing_count=3,
)
"""Wightman's recipes with random erasing by per-pixel noise, here that of ResNeXt-50 in timm's training examples (SGD
with Nesterov's momentum, 8 GPUs x 192 images); his others set erasing from 0.2 to 0.4."""

step90 = Recipe(
    backbone="resnet50",
    pretrained=False,
    image_size=224,
    fit="crop",
    crop_pct=0.875,
    epochs=90,
    batch_size=32,
    accumulate=8,
    optimizer="momentum",
    lr=0.1,
    weight_decay=1e-4,
    schedule="step",
    warmup_epochs=0,
    augment=augment.imagenet,
)
"""The old baseline (He et al. 2015; torchvision's reference script): a batch of 256, the rate divided by ten after 30
and 60 of 90 epochs. A new idea that beats only this has beaten the schedule."""

PRESETS = {
    "kaggle_cnn": kaggle_cnn,
    "kaggle_vit": kaggle_vit,
    "augreg_finetune": augreg_finetune,
    "rsb_a1": rsb_a1,
    "rsb_a2": rsb_a2,
    "rsb_a3": rsb_a3,
    "wightman_erasing": wightman_erasing,
    "step90": step90,
}
