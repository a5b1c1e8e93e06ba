"""Recipes for hotel_id.

    kit train hotel_id baseline

Nothing here was measured on the competition's data. Reckoned from operation counts: ConvNeXt-T at 384 px takes 13 GMACs
an image, so with some 90,000 photographs `baseline` costs about 300 PFLOP over five folds, four hours where a device
sustains 20 TFLOP/s; that every epoch's score embeds the rows that train as well, the gallery, adds a third.
Large inputs, large embeddings and long training are what won; sub-centres take up photographs under a wrong hotel.
"""

from dataclasses import replace

from kit import Retrieval
from kit.training import Recipe, augment

baseline = Recipe(
    backbone="convnext_tiny.in12k_ft_in1k_384",
    image_size=384,
    cache_size=448,
    cache="jpeg",
    epochs=10,
    batch_size=64,
    lr=3e-4,
    head_lr_scale=10,
    weight_decay=0.05,
    drop_path=0.1,
    augment=augment.photo,
    ema=0.999,
    tta=("identity", "hflip"),
)
subcentres = replace(baseline, model={"centres": 3})
wide_margin = replace(subcentres, task=Retrieval("hotel_id", margin=0.5))
efficientnet = replace(baseline, backbone="tf_efficientnetv2_s.in21k_ft_in1k", drop_path=0.2)

# A minute on a laptop's processor: does the road hold from end to end?
tiny = Recipe(backbone="test_resnet", pretrained=False, image_size=64, cache_size=64, epochs=2, lr=3e-3)
