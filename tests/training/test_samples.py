"""kit/training/samples.py"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import replace

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from kit import Binary, Competition, Multiclass, Multilabel, Ordinal, Regression, Retrieval
from kit.offline.batches import FileSources
from kit.offline.errors import RecipeError
from kit.offline.pixels import Preparation
from kit.training import samples
from kit.training.augment import none, photo, square
from kit.training.cache import cached_sources
from kit.training.loop import training_loader
from kit.training.recipe import Recipe
from kit.training.samples import Steps, Targets, TrainingSamples, chances_of, resized_alike

ROWS = 11
FRAME = pd.DataFrame({"sample_id": [f"{number * 37 % 101:03d}" for number in range(ROWS)], "label": "x"})
PREPARATION = Preparation((16, 24), (0.5,), (0.5,))


class Shapes(Competition):
    """A gradient whose place is its value, the same for every row; crops are drawn."""

    slug = "shapes"
    task = Multiclass("label")

    def read(self, row, data, how):
        grid = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
        return np.stack([grid // 8, grid % 251, grid % 13], axis=2).astype(np.uint8)

    def cut(self, array, row, how, rng):
        top, left = rng.integers(0, 10, 2)
        return array[top : top + 30, left : left + 36]

    def read_target(self, row, data, how):
        return self.read(row, data, how)


class Masks(Multiclass):
    dense = True


def samples_of(recipe, competition=None, tmp_path=None, fold=0):
    """Of a recipe whose image_size is left at the default, at 16 x 24 pixels."""
    competition = competition or Shapes()
    recipe = replace(recipe, image_size=PREPARATION.size) if recipe.image_size == 224 else recipe
    sources = FileSources(competition, tmp_path, PREPARATION)
    return TrainingSamples(competition, FRAME, sources, PREPARATION, recipe, fold, tmp_path)


def drawn(recipe, tmp_path, epochs=(0, 1), first=0, samples=None, start=None):
    """{(position, epoch, how often seen before): pixels} of whole epochs through the loader."""
    samples = samples or samples_of(recipe, tmp_path=tmp_path)
    steps = Steps(recipe, 0, len(samples))
    loader = training_loader(samples, steps, recipe)
    loader.multiprocessing_context = start
    found = {}
    for epoch in epochs:
        steps.epoch, steps.first = epoch, first
        for positions, images, _ in loader:
            for at, image in zip(positions.tolist(), images, strict=True):
                number = sum(key[:2] == (at, epoch) for key in found)
                found[at, epoch, number] = image.numpy().tobytes()
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_restarts_change_no_pixel(tmp_path):
    """No worker, two, three and an epoch begun at its second step give the same pixels for the same draw.

    Rows have the same pixels, so that workers or epochs that draw alike would give two samples alike.
    """
    plain = drawn(Recipe(augment=square, batch_size=4, workers=0), tmp_path)
    assert len(set(plain.values())) == len(plain) == 2 * ROWS
    for workers in (2, 3):
        assert plain == drawn(Recipe(augment=square, batch_size=4, workers=workers), tmp_path)
    late = drawn(Recipe(augment=square, batch_size=4, workers=0), tmp_path, epochs=(1,), first=1)
    assert len(late) == ROWS - 4
    assert all(plain[key] == late[key] for key in late)


@pytest.mark.parametrize("start", multiprocessing.get_all_start_methods())
def test_workers_may_start_in_any_way(world, start):
    """Forked, spawned or from a fork server (Python 3.14's choice), an adapter's samples travel to loader processes.

    The adapter is loaded by its path, and its sources are memory-mapped: neither may be lost on the way.
    """
    ground, recipe = world.ground(), world.recipe(workers=0, batch_size=24)
    preparation = Preparation(recipe.size, (0.5,), (0.5,))
    sources = cached_sources(
        ground.competition, ground.frame, ground.data, preparation, world.home / "cache", "raw", str.strip
    )
    samples = TrainingSamples(ground.competition, ground.frame, sources, preparation, recipe, 0, ground.data)
    plain = drawn(recipe, None, samples=samples)
    assert len(plain) == 2 * len(ground.frame)
    assert drawn(replace(recipe, workers=1), None, samples=samples, start=start) == plain


def test_order_changes_no_pixel(tmp_path):
    """A sample asked for last is the one asked for first, whatever came in between."""
    samples = samples_of(Recipe(augment=square), tmp_path=tmp_path)
    keys = [(at, 0, 0) for at in range(ROWS)]
    there, back = [samples[key][1] for key in keys], [samples[key][1] for key in reversed(keys)]
    assert all((a == b).all() for a, b in zip(there, reversed(back), strict=True))


def test_every_draw_is_another(tmp_path):
    """Rows with the same pixels, epochs, repeats, folds and seeds each draw another crop or augmentation."""
    found = drawn(Recipe(augment=square, batch_size=4, workers=0), tmp_path)
    assert len(set(found.values())) == len(found) == 2 * ROWS
    repeated = drawn(Recipe(augment=square, batch_size=4, workers=0, repeats=3), tmp_path)
    assert len(set(repeated.values())) == len(repeated)
    assert {number for _, _, number in repeated} == {0, 1, 2}
    other_seed = samples_of(Recipe(augment=square, seed=1), tmp_path=tmp_path)
    other_fold = samples_of(Recipe(augment=square), tmp_path=tmp_path, fold=1)
    for other in (other_seed, other_fold):
        assert other[0, 0, 0][1].numpy().tobytes() != found[0, 0, 0]


def test_mask_and_image_share_their_geometry(tmp_path):
    """A mask that is the image itself stays so through the drawn crop, the symmetries and the fitting (all nearest)."""

    def exact(size):
        return A.Compose([A.SquareSymmetry(p=1.0), A.Resize(*size, interpolation=0)])

    competition = Shapes()
    competition.task = Masks("label")
    samples = samples_of(Recipe(augment=exact), competition, tmp_path)
    seen = set()
    for at in range(ROWS):
        _, image, mask = samples[at, 0, 0]
        assert mask.shape == image.shape == (16, 24, 3)
        assert (mask == image).all()
        seen.add(mask.numpy().tobytes())
    assert len(seen) == ROWS


def test_a_sample_has_the_input_size_whatever_the_augmentation_gives(tmp_path):
    """Grey sources, bags and augmentations of another size come out as H x W x C (a bag: N x H x W x C), own dtype."""

    def other_size(size):
        return A.Compose([A.Resize(9, 9)])

    class Grey(Shapes):
        def cut(self, array, row, how, rng):
            return array[:, :, 0].astype(np.uint16)

    class Bag(Shapes):
        def cut(self, array, row, how, rng):
            return np.stack([array, array, array])

    _, image, mask = samples_of(Recipe(augment=other_size), tmp_path=tmp_path)[0, 0, 0]
    assert image.shape == (16, 24, 3)
    assert mask.shape == (0,)
    grey = samples_of(Recipe(augment=none), Grey(), tmp_path)[0, 0, 0][1]
    assert (grey.shape, grey.dtype) == ((16, 24, 1), torch.uint16)
    bag = samples_of(Recipe(augment=square), Bag(), tmp_path)[0, 0, 0][1]
    assert bag.shape == (3, 16, 24, 3)
    assert (bag[0] != bag[1]).any(), "the images of a bag are drawn one by one"


def test_read_only_sources_make_no_noise(tmp_path):
    """A source that cannot be written (a cached one) becomes a tensor that can, without a warning of torch's."""

    class Fixed(Shapes):
        def read(self, row, data, how):
            array = np.zeros((16, 24, 3), np.uint8)
            array.flags.writeable = False
            return array

        def cut(self, array, row, how, rng):
            return array

    image = samples_of(Recipe(augment=none), Fixed(), tmp_path)[0, 0, 0][1]
    image += 1
    assert (image == 1).all()


@pytest.mark.parametrize("rows", [2, 3, 8, 9, 16, 17, 23])
@pytest.mark.parametrize("repeats", [1, 2])
def test_steps_cover_an_epoch(rows, repeats):
    """Batches have batch_size draws but the last, none has one, and together they are the epoch, less a tail of one."""
    steps = Steps(Recipe(batch_size=8, repeats=repeats), 0, rows)
    batches = list(steps)
    sizes = [len(batch) for batch in batches]
    draws = [key for batch in batches for key in batch]
    assert len(batches) == len(steps) > 0
    assert set(sizes[:-1]) <= {8}
    assert min(sizes) > 1
    assert len(set(draws)) == len(draws)
    whole = max(1, rows // repeats) * repeats
    assert len(draws) == whole - (whole % 8 == 1)
    if repeats == 1 and rows % 8 != 1:
        assert sorted(at for at, _, _ in draws) == list(range(rows))


def test_steps_can_begin_anywhere():
    """Beginning at step k gives the batches from k on of that epoch; other epochs have another order."""
    steps = Steps(Recipe(batch_size=4), 2, 23)
    steps.epoch = 3
    whole = list(steps)
    for first in range(len(whole) + 1):
        steps.first = first
        assert list(steps) == whole[first:]
    steps.epoch, steps.first = 4, 0
    assert [[at for at, _, _ in batch] for batch in steps] != [[at for at, _, _ in batch] for batch in whole]


def test_targets_are_those_of_the_rows_asked_for(monkeypatch) -> None:
    """Kept without zeros and made in pieces, targets are the task's own, whichever rows a batch asks for."""
    monkeypatch.setattr(samples, "TARGET_ROWS", 4)
    labels = [str(at * 7 % 5) for at in range(11)]
    frame = pd.DataFrame({"sample_id": [f"{at:03d}" for at in range(11)], "label": labels})
    task = Multiclass("label")
    learned = task.learn(frame)
    whole, picked = torch.from_numpy(task.targets(frame, learned)), torch.tensor([10, 0, 4, 4])
    found = Targets(task, frame, learned)[picked]
    assert found.dtype == torch.float32 and torch.equal(found, whole[picked])
    assert Targets(task, frame.head(0), learned).rows.shape == (0, 0)


def test_targets_of_thousands_of_labels_stay_small() -> None:
    """One number a row is kept, not one a label."""
    frame = pd.DataFrame({"sample_id": [f"{at}" for at in range(3000)], "label": [f"h{at // 2}" for at in range(3000)]})
    task = Multiclass("label")
    assert Targets(task, frame, task.learn(frame)).rows.nnz == 3000


def chances(task, frame, sampling="balanced"):
    return chances_of(Recipe(sampling=sampling), task, frame, task.learn(frame))


def drawn_rows(chance, epoch=0, batch_size=16):
    """The positions of an epoch."""
    steps = Steps(Recipe(batch_size=batch_size, sampling="balanced"), 0, len(chance), chance)
    steps.epoch = epoch
    return [key for keys in steps for key in keys]


def rare_classes(rows=600):
    """One row in twelve is rare, one in thirty rarer; ids unsorted."""
    label = ["rarer" if at % 30 == 7 else "rare" if at % 12 == 3 else "often" for at in range(rows)]
    return pd.DataFrame({"sample_id": [f"{at * 421 % 601:03d}" for at in range(rows)], "label": label})


@pytest.mark.parametrize(
    "task", [Multiclass("label"), Retrieval("label"), Ordinal("label", ["rarer", "rare", "often"])]
)
def test_balanced_sampling_draws_every_class_as_often(task):
    """An epoch has as many draws as rows, a third of each of three classes, and rows of one class alike."""
    frame = rare_classes()
    chance = chances(task, frame)
    assert chance.sum() == pytest.approx(1)
    keys = drawn_rows(chance)
    assert len(keys) == len(frame)
    found = Counter(frame["label"][at] for at, _, _ in keys)
    for label in ("often", "rare", "rarer"):
        assert found[label] / len(frame) == pytest.approx(1 / 3, abs=0.06), found
        assert len(set(chance[frame["label"] == label])) == 1


def test_balanced_sampling_of_yes_and_no():
    """The rare side of a binary task is half of an epoch."""
    frame = rare_classes().assign(label=lambda of: (of["label"] == "rare").astype(int).astype(str))
    keys = drawn_rows(chances(Binary("label"), frame))
    assert np.mean([frame["label"][at] == "1" for at, _, _ in keys]) == pytest.approx(0.5, abs=0.06)


def test_rows_of_several_labels_are_drawn_as_their_rarest():
    """A row with a rare and a common label is as likely as one with the rare label alone; rows without any label are a
    class of their own; further heads do not count."""
    frame = pd.DataFrame({"sample_id": [str(at) for at in range(100)], "common": "1", "rare": "0", "more": "0"})
    frame.loc[[3, 40], "rare"] = "1"
    frame.loc[40, "common"] = "0"
    frame.loc[50:59, "common"] = "0"
    frame.loc[7, "more"] = "1"
    labels = Multilabel(["common", "rare"])
    chance = chances(labels, frame)
    assert chance[3] == chance[40] == pytest.approx(chance[0] * 89 / 2)
    assert chance[50:60].sum() == pytest.approx(chance[0] * 89)
    assert (chances(labels.with_aux(beside=(Multilabel(["more"]), 1.0)), frame) == chance).all()


def test_a_row_drawn_again_is_another_draw(tmp_path):
    """Repeats in an epoch count up from 0, so that each is cut and augmented on its own; no key comes twice."""
    keys = drawn_rows(chances(Multiclass("label"), rare_classes()))
    assert len(set(keys)) == len(keys)
    numbers = {}
    for at, _, number in keys:
        numbers.setdefault(at, []).append(number)
    assert all(found == list(range(len(found))) for found in numbers.values())
    assert max(map(len, numbers.values())) > 3
    some = samples_of(Recipe(augment=square), tmp_path=tmp_path)
    assert (some[4, 0, 0][1] != some[4, 0, 1][1]).any()


def test_drawn_epochs_go_on_anywhere():
    """Beginning at a later step gives the rest of that very epoch; another epoch has other draws."""
    chance = chances(Multiclass("label"), rare_classes(90))
    steps = Steps(Recipe(batch_size=16, sampling="balanced"), 0, 90, chance)
    steps.epoch = 2
    whole = list(steps)
    for first in range(len(whole) + 1):
        steps.first = first
        assert list(steps) == whole[first:]
    assert drawn_rows(chance, 1) != drawn_rows(chance, 2)


def test_weighted_sampling_follows_the_column():
    """Rows are drawn in proportion to `weight`, those of weight 0 never."""
    frame = rare_classes().assign(weight=lambda of: of["label"].map({"often": 1.0, "rare": 0.0, "rarer": 29.0}))
    found = Counter(frame["label"][at] for at, _, _ in drawn_rows(chances(Regression("weight"), frame, "weighted")))
    share = frame.groupby("label")["weight"].sum() / frame["weight"].sum()
    assert found["rare"] == 0
    assert found["rarer"] / len(frame) == pytest.approx(share["rarer"], abs=0.06)


@pytest.mark.parametrize(
    ("sampling", "task", "weight", "said"),
    [
        ("balanced", Regression("label"), None, "Regression"),
        ("weighted", Multiclass("label"), None, "sample_id, label"),
        ("weighted", Multiclass("label"), [1.0, -1.0, 3.0], "-1 to 3"),
        ("weighted", Multiclass("label"), [0.0, 0.0, 0.0], "0 to 0"),
    ],
)
def test_sampling_without_classes_or_weights_is_refused(sampling, task, weight, said):
    """What cannot be drawn is told before training: no classes, no column, weights below 0 or none above."""
    frame = pd.DataFrame({"sample_id": ["b", "a", "c"], "label": ["1", "2", "1"]})
    frame = frame if weight is None else frame.assign(weight=weight)
    with pytest.raises(RecipeError, match=f'sampling="{sampling}"') as caught:
        chances_of(Recipe(sampling=sampling), task, frame, {"classes": ["1", "2"]})
    assert said in caught.value.found


GROWING = Recipe(augment=square, image_size=(64, 96), start_size=(24, 40), epochs=8, batch_size=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_and_masks_grow_with_the_epochs(tmp_path, workers):
    """A batch has the size of its epoch, its masks too, whatever processes make it, and the pixels are the same."""
    competition = Shapes()
    competition.task = Masks("label")
    recipe = replace(GROWING, workers=workers)
    steps, alone = Steps(recipe, 0, ROWS), samples_of(recipe, competition, tmp_path)
    loader = training_loader(samples_of(recipe, competition, tmp_path), steps, recipe)
    for epoch, size in ((0, (24, 40)), (3, (32, 64)), (5, (64, 96)), (7, (64, 96)), (0, (24, 40))):
        assert recipe.size_at(epoch) == size
        steps.epoch = epoch
        for positions, images, masks in loader:
            assert images.shape[1:3] == masks.shape[1:3] == size
            for at, image, mask in zip(positions.tolist(), images, masks, strict=True):
                _, wanted, beside = alone[at, epoch, 0]
                assert (image == wanted).all() and (mask == beside).all()


def test_training_enlarges_as_evaluation_does():
    """Presets follow the backbone's bicubic; an interpolation that was chosen otherwise is left alone."""
    chosen = A.Compose([A.Resize(8, 8, interpolation=cv2.INTER_NEAREST)])
    for interpolation, preset in (("bicubic", cv2.INTER_CUBIC), ("bilinear", cv2.INTER_LINEAR)):
        assert resized_alike(none((8, 8)), interpolation).transforms[0].interpolation == preset
        assert resized_alike(photo((8, 8)), interpolation).transforms[0].interpolation == preset
        assert resized_alike(chosen, interpolation).transforms[0].interpolation == cv2.INTER_NEAREST
