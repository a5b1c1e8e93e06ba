"""kit/offline/dense.py"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kit import ImageToImage, Segmentation
from kit.offline import metrics, rle
from kit.offline.dense import mask_of
from kit.offline.errors import DataError
from kit.offline.predictions import Map, Maps
from kit.offline.tasks import settings_of, task_from

NAMES = ["x9", "007", "b", "10"]


def blob(height, width, top, left, side):
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def world(order="columns", empty=""):
    """Masks of two columns on images of four sizes; the second column is empty in two of them."""
    sizes = [(20, 31), (25, 18), (40, 40), (19, 19)]
    masks = [[blob(h, w, 2, 3, 8 + at), blob(h, w, 9, 5, 6) & (at % 2 == 0)] for at, (h, w) in enumerate(sizes)]
    texts = [[rle.encode(mask, order) or empty for mask in of] for of in masks]
    units = pd.DataFrame(texts, columns=["large", "small"], index=NAMES)
    return units.assign(height=[h for h, _ in sizes], width=[w for _, w in sizes], sample_id=NAMES), masks


def maps_of(masks, inside=0.9, outside=0.1):
    values = [np.where(np.stack(of), inside, outside).astype(np.float32) for of in masks]
    return Maps({name: (lambda v=v: Map(v, *v.shape[1:])) for name, v in zip(NAMES, values, strict=True)}, ("a", "b"))


@pytest.mark.parametrize(("order", "empty"), [("columns", ""), ("rows", "-"), ("rows", "1 0")])
def test_truth_targets_and_answers_agree(order, empty):
    """Maps of the true masks decode to the very texts of the host, in its order and with its word for an empty mask."""
    task = Segmentation(["large", "small"], order=order, empty=empty)
    units, masks = world(order, empty)
    learned = task.learn(units)
    answers = task.decode(maps_of(masks), units.iloc[::-1], learned)
    assert list(answers.index) == NAMES[::-1]
    assert (answers.loc[NAMES] == task.truth(units, learned)).all(axis=None)
    for row, of in zip(units.to_dict("records"), masks, strict=True):
        target = task.read_target(row)
        assert target.dtype == np.uint8 and (target == np.stack(of, axis=2)).all()


def test_masks_in_files_are_truth_too(tmp_path):
    """With files=True cells are paths of mask images, whose texts are what the host would write."""
    units, masks = world()
    for name, of in zip(NAMES, masks, strict=True):
        for column, mask in zip(["large", "small"], of, strict=True):
            Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{name}-{column}.png")
    paths = units.assign(**{c: [str(tmp_path / f"{n}-{c}.png") for n in NAMES] for c in ("large", "small")})
    task = Segmentation(["large", "small"], files=True)
    assert (task.truth(paths, {}) == units[["large", "small"]]).all(axis=None)
    assert (task.read_target(paths.iloc[0].to_dict()) == np.stack(masks[0], axis=2)).all()


def test_settings_survive_json():
    """A task in a manifest is the task that was trained."""
    for task in (Segmentation(["a", "b"], bce=0.5, order="rows", empty="-"), ImageToImage("clean", 3, "l2")):
        again = task_from(json.loads(json.dumps(settings_of(task))))
        assert type(again) is type(task) and settings_of(again) == settings_of(task)
        assert again.columns == task.columns


def test_coarse_maps_come_back_at_native_size():
    """A map on another grid is brought to the unit's own height and width before it is cut at the threshold."""
    values = np.zeros((1, 10, 10), np.float32)
    values[0, :, 5:] = 1
    for height, width in ((40, 60), (5, 4), (101, 30)):
        mask = mask_of(Map(values, height, width), 0, 0.5)
        assert mask.shape == (height, width) and abs(mask.mean() - 0.5) < 0.51 / width + 1e-9


def test_threshold_area_and_gate_decide_as_said():
    """A pixel at the threshold is inside; parts below the area go and others stay; a weak map is empty."""
    values = np.zeros((1, 30, 30), np.float32)
    values[0, 2:4, 2:4], values[0, 10:20, 10:20] = 0.8, 0.6
    one = Map(values, 30, 30)
    assert mask_of(one, 0, 0.6).sum() == 104
    assert mask_of(one, 0, 0.7).sum() == 4
    assert mask_of(one, 0, 0.6, area=5).sum() == 100
    assert mask_of(one, 0, 0.6, area=4).sum() == 104
    assert mask_of(one, 0, 0.6, area=101).sum() == 0
    assert mask_of(one, 0, 0.6, gate=0.8).sum() == 104
    assert mask_of(one, 0, 0.6, gate=0.81).sum() == 0
    assert mask_of(Map(values, 60, 60), 0, 0.3, area=20).sum() == pytest.approx(400, rel=0.1), "native pixels count"


def test_decisions_are_fitted_for_each_column():
    """Where one column's maps are weak and the other's have specks, the search finds both decisions."""
    units, masks = world()
    draw = np.random.RandomState(0)
    values = []
    for large, small in masks:
        specks = (draw.rand(*small.shape) < 0.02) & ~small
        weak = np.where(large, 0.33, 0.05)
        values.append(np.stack([weak, np.where(small | specks, 0.9, 0.1)]).astype(np.float32))
    maps = Maps({n: (lambda v=v: Map(v, *v.shape[1:])) for n, v in zip(NAMES, values, strict=True)}, ("a", "b"))
    task, calls = Segmentation(["large", "small"]), []

    def score(learned):
        calls.append(learned)
        said = task.decode(maps, units, learned).assign(id=NAMES)
        truth = units.assign(id=NAMES)
        return np.mean([metrics.dice_per_image(truth, said, by="id", column=name) for name in ("large", "small")])

    start = task.learn(units)
    fitted = task.tune(maps, units, score, start)
    assert score(start) < 0.6 and score(fitted) > 0.99
    assert fitted["threshold"][0] <= 0.33 and fitted["threshold"][1] == 0.5
    assert fitted["area"][0] == 0 and fitted["area"][1] > 0
    assert len(calls) < 2 * 22
    assert start == task.learn(units), "what was learned before is left alone"


def test_empty_images_are_kept_empty_by_a_gate():
    """Where large but unsure blobs spoil empty images, the search asks for a surer pixel."""
    sure, unsure = blob(30, 30, 5, 5, 10), blob(30, 30, 8, 8, 10)
    units = pd.DataFrame({"m": [rle.encode(sure), "", rle.encode(sure), ""], "height": 30, "width": 30}, index=NAMES)
    values = [np.where(m, p, 0.0)[None].astype(np.float32) for m, p in ((sure, 0.6), (unsure, 0.7)) * 2]
    values[0][0, 6:9, 6:9] = values[2][0, 6:9, 6:9] = 0.95  # only a few pixels are sure: no threshold tells them apart
    maps = Maps({n: (lambda v=v: Map(v, 30, 30)) for n, v in zip(NAMES, values, strict=True)}, ("m",))
    task = Segmentation(["m"])

    def score(learned):
        said = task.decode(maps, units, learned).assign(id=NAMES)
        return metrics.iou_sweep(units.assign(id=NAMES), said, by="id", column="m")

    fitted = task.tune(maps, units, score, task.learn(units.assign(sample_id=NAMES)))
    assert fitted["gate"][0] >= 0.7 and score(fitted) == 1.0


def test_a_constant_answer_fits_any_image():
    """Empty masks in the host's word; white pages of each unit's size."""
    units, _ = world(empty="-")
    assert (Segmentation(["large"], empty="-").constant(units.iloc[:1], units, {}) == "-").all(axis=None)
    pages = ImageToImage("clean").constant(units.iloc[:1], units, {})["image"]
    assert [page.shape for page in pages] == list(zip(units["height"], units["width"], strict=True))
    assert all((page == 1).all() for page in pages)


def test_the_loss_wants_the_mask():
    """The true mask costs next to nothing, its opposite much; either part alone can be asked for; weights count."""
    targets = torch.from_numpy(np.stack([np.stack(of).astype(np.float32) for of in [world()[1][2]] * 2]))
    good, bad, one = (targets * 2 - 1) * 20, (1 - targets * 2) * 20, torch.ones(2)
    for task in (Segmentation(["a", "b"]), Segmentation(["a"], bce=0), Segmentation(["a"], dice=0)):
        assert task.loss(good, targets, one) < 1e-3 < 0.9 < task.loss(bad, targets, one)
    mixed = torch.cat([good[:1], bad[1:]])
    first, second = (Segmentation(["a"]).loss(mixed, targets, torch.tensor(w)) for w in ([1.0, 0.0], [0.0, 1.0]))
    assert first < 1e-3 < 0.9 < second


@pytest.mark.parametrize("task", [Segmentation(["a"]), ImageToImage("clean", loss_name="l2")])
def test_coarse_outputs_are_compared_at_the_size_of_the_targets(task):
    """A network whose map is half the input's size learns from the whole mask; gradients reach it."""
    outputs = torch.zeros(2, 1, 8, 8, requires_grad=True)
    loss = task.loss(outputs, torch.ones(2, 1, 16, 16), torch.ones(2))
    loss.backward()
    assert outputs.grad.abs().min() > 0


def test_images_out_of_images(tmp_path):
    """Targets are the file's pixels in 0..1, answers are native arrays, and what leaves 0..1 is cut off."""
    page = np.random.RandomState(0).randint(0, 256, (9, 14), np.uint8)
    Image.fromarray(page).save(tmp_path / "7.png")
    units = pd.DataFrame({"clean": [str(tmp_path / "7.png")]}, index=["7"])
    task = ImageToImage("clean")
    truth = task.truth(units, {})["image"]["7"]
    assert truth.dtype == np.float32 and np.allclose(truth, page / 255)
    assert task.read_target({"clean": str(tmp_path / "7.png")}).shape == (9, 14, 1)
    coloured = ImageToImage("clean", channels=3)
    assert coloured.read_target({"clean": str(tmp_path / "7.png")}).shape == (9, 14, 3)
    assert len(coloured.outputs({})) == 3
    maps = Maps({"7": lambda: Map(truth[None], 9, 14)}, ("grey",))
    assert (task.decode(maps, units, {})["image"]["7"] == truth).all()
    assert task.activate(torch.tensor([-1.0, 0.25, 3.0])).tolist() == [0, 0.25, 1]
    assert not task.decides


def test_a_frame_without_sizes_is_refused():
    """Masks need the native height and width of their image."""
    units, _ = world()
    with pytest.raises(DataError, match="height"):
        Segmentation(["large"]).learn(units.drop(columns="height"))
