"""Recipes for cassava.

    kit train cassava baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 384 px takes 13 GMACs
an image, so `baseline` costs about 70 PFLOP over five folds, an hour where a device sustains 20 TFLOP/s.
The labels are noisy, which is why mixing and label smoothing are on; the
best teams blended unlike networks, hence three families.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k_384",
    image_size=384,
    cache_size=448,
    cache="jpeg",
    epochs=10,
    batch_size=32,
    lr=2e-4,
    head_lr_scale=10,
    augment=augment.photo,
    cutmix=1.0,
    label_smoothing=0.1,
    ema=0.999,
    tta=("identity", "hflip"),
)
efficientnet = replace(baseline, backbone="tf_efficientnet_b4.ns_jft_in1k", drop_rate=0.3, drop_path=0.2)
vit = replace(baseline, backbone="vit_base_patch16_384.augreg_in21k_ft_in1k", lr=1e-4, layer_decay=0.7, head_lr_scale=1)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = Recipe(backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
