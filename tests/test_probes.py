"""Three kinds of competition that no template shows walk from host files to a submission, with no special case in kit.

Tiles of ragged images under a dense task, re-identification with galleries, audio windows of shared recordings.
"""

from __future__ import annotations

import json
import shutil
import tracemalloc
import wave
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kit import load_competition, pixels
from kit.offline import rle
from kit.offline.answers import Part, blend_parts, host_tables, part_of, score_of, submission_of, tuned, validate
from kit.offline.batches import EvaluationSamples, FileSources, evaluation_batches
from kit.offline.contract import Competition
from kit.offline.errors import RecipeError
from kit.offline.forward import predict_samples
from kit.offline.frames import checked, read_table, units_of
from kit.offline.pixels import Preparation
from kit.offline.places import load_module
from kit.offline.predict import predict_bundle
from kit.offline.predictions import Gallery, Map, Maps, Predictions
from kit.shipping.bundle import make_bundle
from kit.training.ensemble import blend_runs
from kit.training.fanout import Ground, open_ground, train_run
from kit.training.recipe import find_recipe
from kit.training.rundir import Run, parts_of
from kit.training.samples import TrainingSamples

PROBES = Path(__file__).parent / "probes"


@dataclass
class Walk:
    """A probe that has walked: its home, its ground, a run of two folds, and which files were read on the way."""

    home: Path
    ground: Ground
    run: Run
    reads: list[str]

    @property
    def competition(self) -> Competition:
        return self.ground.competition

    def ship(self, run: Run | None = None) -> pd.DataFrame:
        """The submission of a bundle of the run, as the host reads it."""
        bundle = make_bundle(run or self.run, self.competition, self.home, full=True)
        predict_bundle(bundle, self.ground.data, self.home / "submission.csv")
        return read_table(self.home / "submission.csv")


def walk(home: Path, name: str, world, watched: tuple[object, str]) -> Walk:
    """From host files to a run, through the public code. watched: the function that opens the host's files."""
    folder = home / "competitions" / name
    shutil.copytree(PROBES / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    world(folder / "data")
    reads: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, watched, reads)
        ground = open_ground(load_competition(name, home), folder / "data", say=lambda line: None)
        run = train_run(ground, "tiny", find_recipe(folder, "tiny"), home=home, say=lambda line: None)
    return Walk(home, ground, run, reads)


def watch(patch: pytest.MonkeyPatch, watched: tuple[object, str], reads: list[str]) -> None:
    """Note the file name of every call of the function that opens host files."""
    owner, name = watched
    real = getattr(owner, name)

    def noted(*arguments, **named):
        reads.append(Path(arguments[-1]).name)
        return real(*arguments, **named)

    patch.setattr(owner, name, noted)


def assert_walked(one: Walk) -> None:
    """A finite score of both folds that covers every scored unit exactly once."""
    score = json.loads((one.run.folder / "score.json").read_text())
    assert np.isfinite([score["pooled"], score["spread"], score["cross_fitted"], *score["folds"].values()]).all()
    assert list(score["folds"]) == ["0", "1"]
    parts = parts_of(one.run, one.competition, one.ground.frame).values()
    covered = [name for part in parts for name in part.predictions.ids]
    assert sorted(covered) == sorted(one.ground.frame["unit_id"].unique())


# Tiles


def blob(height: int, width: int, draw: np.random.RandomState) -> np.ndarray:
    """H x W bool: one rectangle of tissue."""
    top, left = draw.randint(2, height // 2), draw.randint(2, width // 2)
    mask = np.zeros((height, width), bool)
    mask[top : top + draw.randint(8, 18), left : left + draw.randint(8, 18)] = True
    return mask


def sections(data: Path) -> None:
    """Ten sections, no two of one size, two a patient; the tissue is bright. Three to be predicted."""
    draw, rows = np.random.RandomState(0), []
    for number in range(13):
        mask = blob(26 + 3 * number % 17, 24 + 5 * number % 19, draw)
        image = (mask * 150)[:, :, None] + draw.randint(0, 60, (*mask.shape, 3))
        folder = data / ("train" if number < 10 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:03d}.png")
        rows.append({"id": f"{number:03d}", "patient": f"p{number // 2}", "rle": rle.encode(mask)})
    pd.DataFrame(rows[:10]).to_csv(data / "train.csv", index=False)
    pd.DataFrame(rows[10:])[["id", "rle"]].assign(rle="").to_csv(data / "sample_submission.csv", index=False)
    pd.DataFrame(rows[10:]).to_csv(data.parent / "hidden.csv", index=False)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return walk(tmp_path_factory.mktemp("tiles"), "tiles", sections, (pixels, "read_rgb"))


def test_tiles_walk_to_a_submission_at_native_size(tiles, monkeypatch):
    """Tiles train, whole images are scored, and masks of each image's own size, whatever it is, fit the truth."""
    assert_walked(tiles)
    reads: list[str] = []
    watch(monkeypatch, (pixels, "read_rgb"), reads)
    said = tiles.ship()
    hidden = read_table(tiles.run.folder.parent.parent / "hidden.csv")
    assert list(said.columns) == ["id", "rle"]
    assert list(said["id"]) == list(hidden["id"]) == ["010", "011", "012"]
    dice = load_module(tiles.competition.folder, "adapter").dice
    for row in hidden.itertuples():
        with Image.open(tiles.ground.data / "test" / f"{row.id}.png") as image:
            width, height = image.size
        assert dice(row.rle, said.set_index("id")["rle"][row.id], height, width) > 0.8
    assert sorted(reads) == sorted(f"{name}.png" for name in said["id"]), "two members read a file once"


def test_tiles_of_an_image_share_one_read(tiles):
    """At home a file with a dozen tiles is decoded once for all folds and epochs."""
    assert sorted(tiles.reads) == [f"{number:03d}.png" for number in range(10)]


def test_dense_targets_teach(tiles):
    """The loss on maps falls from epoch to epoch in each fold."""
    for number in tiles.run.folds:
        log = (tiles.run.fold(number) / "log.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in log]
        assert losses[-1] < 0.7 * losses[0]


def test_decisions_on_maps_are_fitted_and_cross_fitted(tiles):
    """The mask's threshold is chosen on OOF, and what it chose is what ships."""
    learned = json.loads((tiles.run.folder / "learned.json").read_text())
    assert learned["threshold"] in (0.3, 0.4, 0.5, 0.6, 0.7)
    parts = list(parts_of(tiles.run, tiles.competition, tiles.ground.frame).values())
    scores = [score_of(tiles.competition, tiles.ground.frame, parts, {"threshold": t}) for t in (0.3, 0.5, 0.7)]
    assert json.loads((tiles.run.folder / "score.json").read_text())["pooled"] >= max(scores)


class Mirror(torch.nn.Module):
    """Answers with its own first channel, so that a map must be the image."""

    def __init__(self, preparation: Preparation):
        super().__init__()
        self.mean, self.std = preparation.mean[0], preparation.std[0]

    def forward(self, images):
        return (images[:, :1] * self.std + self.mean).clamp(1e-6, 1 - 1e-6).logit()


def mirrored(one: Walk, data: Path, frame: pd.DataFrame, folder: Path, fit: str) -> Maps:
    """The stitched maps of a network that answers with its input."""
    preparation = Preparation((16, 16), (0.5,) * 3, (0.5,) * 3, fit=fit)
    samples = EvaluationSamples(one.competition, frame, FileSources(one.competition, data, preparation), preparation)
    said = predict_samples(
        Mirror(preparation), one.competition, frame, evaluation_batches(samples, 8), preparation,
        ("identity", "hflip", "rot90"), ("tissue",), torch.device("cpu"), folder,
    )  # fmt: skip
    maps = part_of(one.competition, frame, said).predictions
    assert isinstance(maps, Maps)
    return maps


def images_of(folder: Path, images: dict[str, np.ndarray]) -> Path:
    """Grey images as RGB files of a test set."""
    (folder / "test").mkdir(parents=True)
    for name, image in images.items():
        Image.fromarray(np.stack([image] * 3, axis=2)).save(folder / "test" / f"{name}.png")
    return folder


def test_stitching_is_exact(tiles, tmp_path):
    """A network that answers with its input gives back every pixel of images of any width, to half a step of uint8."""
    noise = {str(w): np.random.RandomState(w).randint(0, 256, (16, w), np.uint8) for w in (16, 17, 23, 37)}
    data = images_of(tmp_path, noise)
    frame = checked(tiles.competition.test_frame(data), "test_frame")
    frame = frame[frame["top"] == 0]  # these tiles are ragged on one side: padded, never resized
    maps = mirrored(tiles, data, frame, tmp_path / "maps", "pad")
    for name, image in noise.items():
        assert maps.read(name).native().shape == (1, *image.shape)
        assert np.abs(maps.read(name).native()[0] * 255 - image).max() < 0.51


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_masks_come_back_whole(tiles, tmp_path, fit):
    """Ragged tiles, resized to the input and back under three views, give exactly the mask of each image."""
    draw = np.random.RandomState(3)
    masks = {f"{n}": blob(26 + 3 * n % 17, 24 + 5 * n % 19, draw) for n in range(6)}
    data = images_of(tmp_path, {name: mask.astype(np.uint8) * 255 for name, mask in masks.items()})
    frame = checked(tiles.competition.test_frame(data), "test_frame")
    part = Part(mirrored(tiles, data, frame, tmp_path / "maps", fit))
    said = submission_of(tiles.competition, frame, part, {"threshold": 0.5}).set_index("id")["rle"]
    for name, mask in masks.items():
        assert (rle.decode(said[name], *mask.shape) == mask).all()


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_training_masks_lie_on_their_tiles(tiles, tmp_path, fit):
    """Through a moving cut, an augmentation and the fit, a training mask covers just what is bright in its tile."""
    recipe = replace(find_recipe(tiles.competition.folder, "tiny"), fit=fit)
    preparation = Preparation((16, 16), (0.5,) * 3, (0.5,) * 3, fit=fit)
    frame, data = tiles.ground.frame, tiles.ground.data
    sources = FileSources(tiles.competition, data, preparation)
    samples = TrainingSamples(tiles.competition, frame, sources, preparation, recipe, 0, data)
    evaluated = EvaluationSamples(tiles.competition, frame, sources, preparation)
    moved = agree = whole = 0
    for at in range(len(frame)):
        _, image, mask = samples[at, 1, 0]
        assert image.shape == (16, 16, 3) and mask.shape == (16, 16, 1)
        bright = image.float().mean(dim=2) > 105  # resizing blurs the rim alone
        agree += int((bright == (mask[:, :, 0] > 0)).sum())
        whole += bright.numel()
        moved += int(not torch.equal(image, evaluated[at][1]))
    assert moved > len(frame) / 2
    assert agree / whole > 0.97


def test_a_cache_that_would_shrink_images_alone_is_refused(tiles):
    """A dense task trains on sources of the size of their masks; the error says what to do instead."""
    shrunk = replace(find_recipe(tiles.competition.folder, "tiny"), cache_size=12)
    with pytest.raises(RecipeError, match="masks"):
        train_run(tiles.ground, "shrunk", shrunk, home=tiles.home, say=lambda line: None)


def test_units_are_streamed(tiles):
    """Blending, tuning and scoring many images takes no more memory than few: one map a member is held at a time."""
    side = 512
    mask = rle.encode(blob(side, side, np.random.RandomState(5)))

    def tile() -> Map:
        return Map(np.full((1, side, side), 0.6, np.float32), side, side)

    def peak(count: int) -> int:
        names = [f"{number}" for number in range(count)]
        frame = pd.DataFrame({"sample_id": names, "unit_id": names, "rle": mask})
        frame = frame.assign(top=0, left=0, height=side, width=side)
        maps = Maps(dict.fromkeys(names, tile), ("tissue",))
        tracemalloc.start()
        try:
            parts = [part_of(tiles.competition, frame, maps) for _ in range(2)]
            tuned(tiles.competition, frame, blend_parts([[part] for part in parts], [0.5, 0.5]), {"threshold": 0.5})
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(1), peak(9)
    assert many - few < 4 * side * side  # not one more map of float32 for eight more images


# Re-identification

ENCOUNTERS = {"A": 2, "B": 2, "C": 2, "D": 3, "E": 2, "F": 1, "G": 1, "H": 4}
"""Encounters by animal; F and G were met once, so that one fold alone has them."""


def coats(data: Path) -> None:
    """Photos of animals with a coat of their own, two an encounter; the test set has known ones and strangers."""
    draw, rows = np.random.RandomState(1), []
    coat = {name: draw.randint(0, 256, (4, 4, 3)) for name in [*ENCOUNTERS, "X", "Y"]}

    def photo(folder: str, file: str, name: str) -> None:
        (data / folder).mkdir(parents=True, exist_ok=True)
        image = np.kron(coat[name], np.ones((6, 6, 1))) + draw.normal(0, 10, (24, 24, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(data / folder / file)

    for name, encounters in ENCOUNTERS.items():
        for encounter in range(encounters):
            for _shot in "ab":
                file = f"{draw.bytes(4).hex()}.png"
                photo("train", file, name)
                rows.append({"file": file, "encounter": f"{name}{encounter}", "name": name})
    pd.DataFrame(rows).to_csv(data / "train.csv", index=False)
    hidden = [{"file": f"{draw.bytes(4).hex()}.png", "name": name} for name in "ABCDEFGHXY"]
    for row in hidden:
        photo("test", row["file"], row["name"])
    pd.DataFrame(hidden).assign(name="new A B C D").to_csv(data / "sample_submission.csv", index=False)
    pd.DataFrame(hidden).to_csv(data.parent / "hidden.csv", index=False)


@pytest.fixture(scope="module")
def reid(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return walk(tmp_path_factory.mktemp("reid"), "reid", coats, (pixels, "read_rgb"))


def test_retrieval_walks_to_a_submission(reid):
    """Each fold compares with its own gallery, and a photo of the test set gets five different names."""
    assert_walked(reid)
    said = reid.ship()
    hidden = read_table(reid.run.folder.parent.parent / "hidden.csv")
    assert list(said.columns) == ["file", "name"]
    assert sorted(said["file"]) == sorted(hidden["file"])
    names = said.set_index("file")["name"].str.split()
    assert (names.map(len) == 5).all() and (names.map(lambda five: len(set(five))) == 5).all()
    assert set().union(*names) <= {*ENCOUNTERS, "new"}
    known = hidden[hidden["name"].isin(list("ABCDEH"))]
    assert (
        np.mean([row.name_ in names[row.file][:2] for row in known.rename(columns={"name": "name_"}).itertuples()])
        > 0.8
    )


def test_an_animal_of_one_fold_is_new_to_its_model(reid):
    """Decoded fold by fold: the truth of a photo whose name the fold's gallery lacks is "new", and only of those."""
    frame, parts = reid.ground.frame, parts_of(reid.run, reid.competition, reid.ground.frame)
    learned = json.loads((reid.run.folder / "learned.json").read_text())
    met = set()
    for number, part in parts.items():
        trained = set(frame.loc[frame["fold"] != number, "name"])
        assert set(part.predictions.columns) == set(part.gallery.labels) == trained
        truth, _ = host_tables(reid.competition, frame, [part], learned)
        names = truth["file"].map(frame.set_index("file")["name"])
        assert (truth["name"] == names.where(names.isin(trained), "new")).all()
        met |= set(names[truth["name"] == "new"])
    assert met == {"F", "G"}
    truth, said = host_tables(reid.competition, frame, list(parts.values()), learned)
    assert len(truth) == len(said) == len(frame)


def test_a_blend_averages_similarities_by_label(reid):
    """Runs blend by label within a fold, never by embedding, and the blend ships every member's gallery."""
    folder = reid.competition.folder
    other = train_run(reid.ground, "other", find_recipe(folder, "other"), home=reid.home, say=lambda line: None)
    members = [parts_of(run, reid.competition, reid.ground.frame) for run in (reid.run, other)]
    for number in (0, 1):
        one, two = members[0][number].predictions, members[1][number].predictions
        both = blend_parts([[members[0][number]], [members[1][number]]], [0.25, 0.75])[0]
        assert both.gallery.labels == members[0][number].gallery.labels
        assert np.allclose(both.predictions.values, one.values * 0.25 + two.values * 0.75, atol=1e-6)
        assert not np.allclose(one.values, two.values, atol=1e-2)
    blend = blend_runs([reid.run, other], reid.competition, reid.ground.frame, "mean")
    assert np.isfinite(json.loads((blend.folder / "score.json").read_text())["pooled"])
    assert len(reid.ship(blend)) == len(list(reid.ground.data.glob("test/*.png")))


def test_members_with_other_galleries_blend_over_all_labels(reid):
    """A label that one gallery lacks is judged by the members who know it, and is still answered."""
    ids, competition = np.array(["photo"]), reid.competition
    frame = pd.DataFrame({"sample_id": ids, "unit_id": ids})
    parts = [
        Part(Predictions(ids, np.array([[0.9, 0.2]]), ("A", "F")), Gallery(("A", "F"), np.zeros((2, 8)))),
        Part(Predictions(ids, np.array([[0.5, 0.8]]), ("A", "G")), Gallery(("A", "G"), np.zeros((2, 8)))),
    ]
    blended = blend_parts([[part] for part in parts], [0.5, 0.5])[0]
    assert blended.predictions.columns == ("A", "F", "G")
    assert set(blended.gallery.labels) == {"A", "F", "G"}
    assert np.allclose(blended.predictions.values, [[0.7, 0.2, 0.8]])
    assert submission_of(competition, frame, blended, {"threshold": 0.3})["name"].tolist() == ["G A new F"]


# Audio

BIRDS = {"wren": 100, "owl": 300, "crow": 600}
"""Pitches in hertz."""


def recordings(data: Path) -> None:
    """Recordings of one bird each with odd lengths; each gives several windows to score."""
    draw = np.random.RandomState(2)
    tables: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for number in range(15):
        bird = list(BIRDS)[number % 3]
        folder = "train" if number < 12 else "test"
        length = 3301 + 400 * (number % 4)
        sound = np.sin(2 * np.pi * BIRDS[bird] * np.arange(length) / 2000) + draw.normal(0, 0.3, length)
        (data / folder).mkdir(parents=True, exist_ok=True)
        with wave.open(str(data / folder / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 2000, length, "NONE", ""))
            file.writeframes((sound * 8000).astype(np.int16).tobytes())
        for start in range(0, length - 1600 + 1, 800):
            row = {"row_id": f"{number}_{start}", "file": f"{number}.wav", "start": start, "bird": bird}
            tables[folder].append(row)
    train, hidden = (pd.DataFrame(rows).sample(frac=1, random_state=0) for rows in tables.values())
    train.to_csv(data / "train.csv", index=False)
    hidden.drop(columns="bird").to_csv(data / "test.csv", index=False)
    chances = dict.fromkeys(sorted(BIRDS), 1 / 3)
    hidden[["row_id"]].assign(**chances).to_csv(data / "sample_submission.csv", index=False)
    hidden.to_csv(data.parent / "hidden.csv", index=False)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return walk(tmp_path_factory.mktemp("audio"), "audio", recordings, (wave, "open"))


def test_audio_walks_to_a_submission(audio, monkeypatch):
    """Windows of shared recordings become spectrograms; every window of the test set gets a probability a bird."""
    assert_walked(audio)
    reads: list[str] = []
    watch(monkeypatch, (wave, "open"), reads)
    said = audio.ship().set_index("row_id")
    hidden = read_table(audio.run.folder.parent.parent / "hidden.csv").set_index("row_id")
    assert list(said.columns) == sorted(BIRDS)
    assert sorted(said.index) == sorted(hidden.index)
    chances = said.astype(float)
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert sorted(reads) == ["12.wav", "13.wav", "14.wav"], "two members read a recording once"


def test_recordings_are_read_once_at_home(audio):
    """One read a recording serves all its windows, both folds and every epoch."""
    assert sorted(audio.reads) == sorted(f"{number}.wav" for number in range(12))


def test_windows_move_in_training_and_stand_in_evaluation(audio):
    """A training window moves from epoch to epoch, the same on a restart; an evaluation window is the row's own."""
    competition, recipe = audio.competition, find_recipe(audio.competition.folder, "tiny")
    frame = audio.ground.frame.head(4)
    preparation = Preparation((32, 32), (0.5,), (0.5,), how=recipe.read)
    sources = FileSources(competition, audio.ground.data, preparation)
    seen = [
        TrainingSamples(competition, frame, sources, preparation, recipe, 0, audio.ground.data)[0, epoch, 0][1].numpy()
        for epoch in (0, 1, 0)
    ]
    assert (seen[0] == seen[2]).all() and not np.allclose(seen[0], seen[1])
    row = checked(frame, "frame").iloc[0]
    still = EvaluationSamples(competition, frame, sources, preparation)[0][1].numpy()
    cut = competition.cut(competition.read(row, audio.ground.data, {}), row, recipe.read, None)
    assert cut.dtype == np.float32 and cut.shape[2] == 1
    assert (still == preparation.fit_size(cut)).all()


@pytest.mark.parametrize("name", ["tiles", "audio"])
def test_train_rows_can_be_staged_as_a_hidden_test(name, request, tmp_path):
    """The default `stage_test` makes a test set of whole units that the adapter reads again as the same samples."""
    one: Walk = request.getfixturevalue(name)
    units = one.ground.frame["unit_id"].unique()[:3]
    rows = one.ground.frame[one.ground.frame["unit_id"].isin(units)]
    one.competition.stage_test(rows, one.ground.data, tmp_path)
    staged = checked(one.competition.test_frame(tmp_path), "test_frame")
    assert sorted(staged["sample_id"]) == sorted(rows["sample_id"])
    said = one.competition.constant_submission(units_of(staged), one.ground.data)
    validate(one.competition, staged, tmp_path, said)
