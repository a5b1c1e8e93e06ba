"""Recipes for siim_melanoma: the photograph, and age, sex and place beside it.

    kit train siim_melanoma baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 384 px takes 13 GMACs
an image, so `baseline` costs about 80 PFLOP over five folds of 33,000 photographs (a count from memory), a bit over an
hour where a device sustains 20 TFLOP/s. The first place blended eighteen networks by rank (`kit blend
--method rank`) and found several sizes worth it. With one positive in fifty, a fold's score wavers with a few moles.
"""

from dataclasses import replace

from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k_384",
    image_size=384,
    cache_size=448,
    cache="jpeg",
    epochs=8,
    batch_size=32,
    lr=1e-4,
    head_lr_scale=10,
    augment=augment.square,
    drop_rate=0.3,
    drop_path=0.1,
    ema=0.999,
    tta=("identity", "hflip", "vflip", "rot180"),
)
efficientnet = replace(baseline, backbone="tf_efficientnet_b4.ns_jft_in1k", drop_path=0.2)
large = replace(baseline, image_size=512, cache_size=576, batch_size=16, accumulate=2)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = replace(baseline, backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
