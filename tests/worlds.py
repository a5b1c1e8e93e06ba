"""Tiny fake copies of host files: real formats, odd unsorted ids, images that a small network can learn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kit import audio
from tests.sounds import tones, write_aiff


def cassava(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Five kinds of striped leaves as JPEG photographs, 80 x 60; `image_id` carries ".jpg"."""
    draw = np.random.RandomState(seed)
    ids = np.array([f"{number:010d}.jpg" for number in draw.permutation(rows + test) * 50_000_017 + seed])
    labels = draw.permutation(np.arange(rows + test) % 5)
    _write_images(data, "train_images", ids[:rows], [_striped(label, 60, 80, draw) for label in labels[:rows]])
    _write_images(data, "test_images", ids[rows:], [_striped(label, 60, 80, draw) for label in labels[rows:]])
    pd.DataFrame({"image_id": ids[:rows], "label": labels[:rows]}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"image_id": ids[rows:], "label": 4}).to_csv(data / "sample_submission.csv", index=False)
    names = {str(label): f"disease {label}" for label in range(5)}
    (data / "label_num_to_disease_map.json").write_text(json.dumps(names))


def aerial_cactus(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Tiles of 32 x 32 with and without stripes, three in four with; ids are 32 hex digits and ".jpg"."""
    draw = np.random.RandomState(seed)
    ids = np.array([f"{draw.bytes(16).hex()}.jpg" for _ in range(rows + test)])
    labels = draw.permutation((np.arange(rows + test) % 4 > 0).astype(int))
    _write_images(data, "train", ids[:rows], [_striped(label, 32, 32, draw) for label in labels[:rows]])
    _write_images(data, "test", ids[rows:], [_striped(label, 32, 32, draw) for label in labels[rows:]])
    pd.DataFrame({"id": ids[:rows], "has_cactus": labels[:rows]}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"id": ids[rows:], "has_cactus": 0.5}).to_csv(data / "sample_submission.csv", index=False)


def digits(data: Path, rows: int | None = None, seed: int = 0) -> None:
    """The embedded competition; `rows` keeps that many of its training rows."""
    from kit.demo import write_digits  # here, since the demo imports the whole kit

    write_digits(data, None, seed=seed)
    if rows is not None:
        table = pd.read_csv(data / "train.csv", dtype=str)
        table.iloc[:rows].to_csv(data / "train.csv", index=False)


def hotel_id(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Hotels with stripes of their own, two photographs an upload, one upload or more; one image is there twice."""
    draw = np.random.RandomState(seed)
    hotels = [str(number) for number in draw.choice(np.arange(100, 65000), 12, replace=False)]
    table = []
    for upload in range(rows // 2):
        hotel = upload % 12 if upload < 24 else upload % 5  # the first hotels have more
        if hotel == 11 and upload >= 12:
            hotel = 0  # one hotel has a single upload
        stamp = f"2018-0{1 + upload % 9}-17 12:{upload:02d}:00"
        for _ in range(2):
            image = f"{draw.bytes(8).hex()}.jpg"
            _write_images(data, f"train_images/{hotel % 3 + 4}", [image], [_coat(hotel, 48, 64, draw)])
            table.append({"image": image, "chain": hotel % 3 + 4, "hotel_id": hotels[hotel], "timestamp": stamp})
    order = draw.permutation(len(table))
    train = pd.DataFrame([table[at] for at in order])
    twice = train.iloc[[5]].assign(hotel_id=hotels[1], chain=train["chain"].iloc[5])
    pd.concat([train, twice]).to_csv(data / "train.csv", index=False)
    ids = [f"{draw.bytes(8).hex()}.jpg" for _ in range(test)]
    _write_images(data, "test_images", ids, [_coat(at % 12, 48, 64, draw) for at in range(test)])
    sample = pd.DataFrame({"image": ids, "hotel_id": " ".join(hotels[:5])})
    sample.to_csv(data / "sample_submission.csv", index=False)


def whale_categorization(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Flukes of eight whales met often, of eight met once and of nobody known; some photographs are there twice."""
    draw = np.random.RandomState(seed)
    names = [f"w_{draw.bytes(4).hex()[:7]}" for _ in range(16)]
    whales = [8 + at if at < 8 else -1 if at < 14 else at % 8 for at in range(rows)]
    whales = draw.permutation(whales)
    ids = [f"{draw.bytes(4).hex()}.jpg" for _ in range(rows + test)]
    images = [_coat(whale if whale >= 0 else 20 + at, 40, 80, draw) for at, whale in enumerate(whales)]
    often = np.flatnonzero((whales >= 0) & (whales < 8))
    for copy in (1, 2):
        same = often[whales[often] == whales[often[0]]]
        images[same[copy]] = images[same[0]]
    _write_images(data, "train", ids[:rows], images)
    _write_images(data, "test", ids[rows:], [_coat(at if at < 6 else 90 + at, 40, 80, draw) for at in range(test)])
    labels = [names[whale] if whale >= 0 else "new_whale" for whale in whales]
    pd.DataFrame({"Image": ids[:rows], "Id": labels}).to_csv(data / "train.csv", index=False)
    sample = pd.DataFrame({"Image": ids[rows:], "Id": " ".join(["new_whale", *names[:4]])})
    sample.to_csv(data / "sample_submission.csv", index=False)


def right_whale(data: Path, rows: int = 48, test: int = 9, seed: int = 0) -> None:
    """Two seconds of sea at 2 kHz as AIFF, over four days, with a low tone where a whale calls; no table."""
    draw = np.random.RandomState(seed)
    for folder in ("train2", "test2"):
        (data / folder).mkdir(parents=True)
    for at in draw.permutation(rows + test):
        train, called = at < rows, at % 3 == 0
        day = f"2009032{8 + at % 2}" if at % 4 < 2 else f"200903{30 + at % 2}"
        stem = f"{day}_{at * 1500 % 240000:06d}_{at % 60:03d}s{at % 7}ms_" if train else f"20090402_{at:06d}_001s1ms_"
        name = stem + (f"TRAIN{at}_{int(called)}.aif" if train else f"Test{at - rows}.aif")
        sound = tones([120.0] if called else [], 2, 2000, draw)
        write_aiff(data / ("train2" if train else "test2") / name, sound, 2000)
    clips = sorted(path.name for path in (data / "test2").iterdir())
    pd.DataFrame({"clip": clips, "probability": 0}).to_csv(data / "sampleSubmission.csv", index=False)


def mlsp_birds(data: Path, rows: int = 40, test: int = 7, seed: int = 0) -> None:
    """Short WAV recordings of tones, at six sites; labels in a ragged file, "?" for the test's, none for some."""
    draw = np.random.RandomState(seed)
    folder = data / "essential_data"
    (folder / "src_wavs").mkdir(parents=True)
    files, splits, labels = ["rec_id,filename"], ["rec_id,fold"], ["rec_id,[labels]"]
    hidden = set(draw.choice(rows + test, test, replace=False).tolist())
    for rec_id in range(rows + test):
        name = f"PC{1 + rec_id % 6}_2009060{1 + rec_id % 2}_0{rec_id % 9}0012_{rec_id * 10:04d}"
        birds = [bird for bird in (0, 4, 7, 18) if draw.rand() < 0.4]
        sound = tones([400.0 * (bird + 1) for bird in birds], 1.0, 16000, draw)
        audio.write_wav(folder / "src_wavs" / f"{name}.wav", sound, 16000)
        files.append(f"{rec_id},{name}")
        splits.append(f"{rec_id},{int(rec_id in hidden)}")
        labels.append(",".join([str(rec_id), *(["?"] if rec_id in hidden else map(str, birds))]))
    for name, lines in (("rec_id2filename", files), ("CVfolds_2", splits), ("rec_labels_test_hidden", labels)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    ids = [rec_id * 100 + species for rec_id in sorted(hidden) for species in range(19)]
    pd.DataFrame({"Id": ids, "Probability": 0}).to_csv(data / "sample_submission.csv", index=False)


def birdclef(data: Path, rows: int = 40, test: int = 2, seed: int = 0) -> None:
    """Recordings of five birds by eight authors, and soundscapes of three windows as they are mounted in the rerun.

    WAV under the host's .ogg names, which readers tell by their content: nothing here can write OGG.
    """
    draw = np.random.RandomState(seed)
    birds = ["asbfly", "ashdro1", "commyn", "zitcis1", "whtkin2"]
    table = []
    for at in draw.permutation(rows):
        bird, more = birds[at % 5], [birds[(at + 1) % 5]] if at % 6 == 0 else []
        name = f"{bird}/XC{134000 + 37 * at}.ogg"
        (data / "train_audio" / bird).mkdir(parents=True, exist_ok=True)
        pitches = [1000.0 * (1 + birds.index(one)) for one in [bird, *more]]
        audio.write_wav(data / "train_audio" / name, tones(pitches, 3.2 + 1.1 * (at % 4), 32000, draw), 32000)
        others = [*more, "notamong"] if at % 12 == 0 else more
        table.append({"primary_label": bird, "secondary_labels": str(others), "author": f"A. Other {at // 5}"})
        table[-1] |= {"latitude": 11.2, "longitude": 76.5, "filename": name, "rating": 4.5}
    pd.DataFrame(table).to_csv(data / "train_metadata.csv", index=False)
    (data / "test_soundscapes").mkdir()
    names = [f"soundscape_{number}" for number in draw.choice(10**6, test, replace=False)]
    for at, name in enumerate(names):
        sound = tones([1000.0 * (1 + at % 5)], 15.0, 32000, draw)
        audio.write_wav(data / "test_soundscapes" / f"{name}.ogg", sound, 32000)
    windows = pd.DataFrame({"row_id": [f"{name}_{end}" for name in names for end in (5, 10, 15)]})
    windows.assign(**dict.fromkeys(sorted(birds), 0.2)).to_csv(data / "sample_submission.csv", index=False)


def _coat(number: int, height: int, width: int, draw: np.random.RandomState) -> np.ndarray:
    """Noise over patches that only this number has."""
    patches = np.random.RandomState(1000 + number).randint(0, 256, (4, 4, 3))
    image = np.kron(patches, np.ones((height // 4, width // 4, 1))) + draw.normal(0, 12, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def _striped(label: int, height: int, width: int, draw: np.random.RandomState) -> np.ndarray:
    """Noise over a colour and as many stripes as the label says: learnable from either."""
    colour = np.array([40 + 40 * label, 160 - 25 * label, 90])
    stripes = 40 * np.sin(np.linspace(0, 2 * np.pi * (label + 1), width))[None, :, None]
    noise = draw.normal(0, 12, (height, width, 3))
    return (colour + stripes + noise).clip(0, 255).astype(np.uint8)


def _write_images(data: Path, folder: str, names: np.ndarray, images: list[np.ndarray]) -> None:
    (data / folder).mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(data / folder / name)


WORLDS: dict[str, Callable[..., None]] = {
    "aerial_cactus": aerial_cactus,
    "birdclef": birdclef,
    "cassava": cassava,
    "digits": digits,
    "hotel_id": hotel_id,
    "mlsp_birds": mlsp_birds,
    "right_whale": right_whale,
    "whale_categorization": whale_categorization,
}
