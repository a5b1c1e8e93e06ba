"""Recipes for dog_breed.

    kit train dog_breed baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 288 px takes 7.4
GMACs an image, so `baseline` costs about 12 PFLOP over five folds, ten minutes where a device sustains 20
TFLOP/s. Few images a breed and a backbone that has seen them: train briefly and gently. The best scores come from
features that ImageNet training already holds, which flatters; a photograph of your own tells what the model knows.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k",
    image_size=288,
    cache_size=336,
    cache="jpeg",
    epochs=6,
    batch_size=32,
    lr=1e-4,
    head_lr_scale=10,
    augment=augment.photo,
    label_smoothing=0.05,
    drop_path=0.1,
    ema=0.999,
    tta=("identity", "hflip"),
)
vit = replace(baseline, backbone="vit_base_patch16_224.augreg_in21k_ft_in1k", image_size=224, lr=5e-5, layer_decay=0.7)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
