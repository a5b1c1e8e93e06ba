"""Tiny fake copies of host files: real formats, odd unsorted ids, images that a small network can learn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from kit import audio, rle
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


def aptos(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Five grades as PNG photographs whose size grows with the grade; two photographs are there twice, regraded."""
    draw = np.random.RandomState(seed)
    ids = _hex_ids(rows + test, 6, draw)
    grades = draw.permutation(np.arange(rows + test) % 5)
    images = [_striped(grade, 48 + 4 * grade, 64 + 4 * grade, draw) for grade in grades]
    for copy, first in ((3, 17), (8, 40)):
        images[copy] = images[first]
    _write_images(data, "train_images", [f"{name}.png" for name in ids[:rows]], images[:rows])
    _write_images(data, "test_images", [f"{name}.png" for name in ids[rows:]], images[rows:])
    pd.DataFrame({"id_code": ids[:rows], "diagnosis": grades[:rows]}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"id_code": ids[rows:]}).to_csv(data / "test.csv", index=False)
    pd.DataFrame({"id_code": ids[rows:], "diagnosis": 0}).to_csv(data / "sample_submission.csv", index=False)


def dog_breed(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Four of the breeds as JPEG photographs; names hold dashes, capitals none, and sort as the host's columns do."""
    draw = np.random.RandomState(seed)
    breeds = np.array(
        ["soft-coated_wheaten_terrier", "affenpinscher", "black-and-tan_coonhound", "african_hunting_dog"]
    )
    ids = _hex_ids(rows + test, 16, draw)
    labels = draw.permutation(np.arange(rows + test) % 4)
    images = [_striped(label, 50 + label, 70, draw) for label in labels]
    _write_images(data, "train", [f"{name}.jpg" for name in ids[:rows]], images[:rows])
    _write_images(data, "test", [f"{name}.jpg" for name in ids[rows:]], images[rows:])
    pd.DataFrame({"id": ids[:rows], "breed": breeds[labels[:rows]]}).to_csv(data / "labels.csv", index=False)
    chances = dict.fromkeys(sorted(breeds), 0.25)
    pd.DataFrame({"id": ids[rows:], **chances}).to_csv(data / "sample_submission.csv", index=False)


def dogs_vs_cats(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Cats and dogs as JPEG photographs whose names hold the label; no table. Sorted as text, 10 comes before 9."""
    draw = np.random.RandomState(seed)
    numbers = draw.permutation(rows // 2) * 7
    names = [f"{kind}.{number}.jpg" for number in numbers for kind in ("cat", "dog")]
    _write_images(data, "train", names, [_striped(int(name[0] == "d"), 60, 52, draw) for name in names])
    ids = np.arange(1, test + 1) * 3
    _write_images(data, "test", [f"{number}.jpg" for number in ids], [_striped(at % 2, 52, 60, draw) for at in ids])
    pd.DataFrame({"id": ids, "label": 0.5}).to_csv(data / "sample_submission.csv", index=False)


def histopathologic(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Patches of 96 x 96 as TIFF; ids are 40 hex digits. Stripes fill the positive ones."""
    draw = np.random.RandomState(seed)
    ids = _hex_ids(rows + test, 20, draw)
    labels = draw.permutation((np.arange(rows + test) % 5 < 2).astype(int))
    images = [_striped(label, 96, 96, draw) for label in labels]
    _write_images(data, "train", [f"{name}.tif" for name in ids[:rows]], images[:rows])
    _write_images(data, "test", [f"{name}.tif" for name in ids[rows:]], images[rows:])
    pd.DataFrame({"id": ids[:rows], "label": labels[:rows]}).to_csv(data / "train_labels.csv", index=False)
    pd.DataFrame({"id": ids[rows:], "label": 0}).to_csv(data / "sample_submission.csv", index=False)


FLAGS = [
    *("Subject Focus", "Eyes", "Face", "Near", "Action", "Accessory"),
    *("Group", "Collage", "Human", "Occlusion", "Info", "Blur"),
]


def pawpularity(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Photographs whose score, 1 to 100, shows in their colour; twelve flags that say nothing; one photograph twice."""
    draw = np.random.RandomState(seed)
    ids = _hex_ids(rows + test, 16, draw)
    scores = np.concatenate([[1, 100], draw.randint(10, 90, rows + test - 2)])
    images = [_striped(score / 25, 66, 50, draw) for score in scores]
    images[5] = images[30]
    flags = pd.DataFrame(draw.randint(0, 2, (rows + test, len(FLAGS))), columns=FLAGS)
    flags.insert(0, "Id", ids)
    _write_images(data, "train", [f"{name}.jpg" for name in ids[:rows]], images[:rows])
    _write_images(data, "test", [f"{name}.jpg" for name in ids[rows:]], images[rows:])
    flags[:rows].assign(Pawpularity=scores[:rows]).to_csv(data / "train.csv", index=False)
    flags[rows:].to_csv(data / "test.csv", index=False)
    pd.DataFrame({"Id": ids[rows:], "Pawpularity": 64.06}).to_csv(data / "sample_submission.csv", index=False)


def plant_pathology_2020(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Four classes of leaves as one-hot columns; train and test share a folder; several diseases are rare."""
    draw = np.random.RandomState(seed)
    classes = ["healthy", "multiple_diseases", "rust", "scab"]
    labels = draw.permutation(np.r_[np.full(10, 1), np.arange(rows - 10) % 3 + (np.arange(rows - 10) % 3 > 0)])
    train = [f"Train_{number}" for number in draw.permutation(rows)]
    hidden = [f"Test_{number}" for number in draw.permutation(test)]
    for names, kinds in ((train, labels), (hidden, np.arange(test) % 4)):
        _write_images(
            data, "images", [f"{name}.jpg" for name in names], [_striped(kind, 45, 68, draw) for kind in kinds]
        )
    marks = pd.DataFrame(np.eye(4, dtype=int)[labels], columns=classes)
    marks.insert(0, "image_id", train)
    marks.to_csv(data / "train.csv", index=False)
    table = pd.DataFrame({"image_id": hidden})
    table.to_csv(data / "test.csv", index=False)
    table.assign(**dict.fromkeys(classes, 0.25)).to_csv(data / "sample_submission.csv", index=False)


def plant_pathology_2021(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Leaves with one to three words each, in no fixed order; one photograph is there twice."""
    draw = np.random.RandomState(seed)
    words = ["scab", "healthy", "rust complex", "frog_eye_leaf_spot", "scab frog_eye_leaf_spot complex"]
    ids = [f"{name}.jpg" for name in _hex_ids(rows + test, 8, draw)]
    labels = draw.permutation(np.arange(rows + test) % 5)
    images = [_striped(label, 44, 66, draw) for label in labels]
    images[2] = images[51]
    _write_images(data, "train_images", ids[:rows], images[:rows])
    _write_images(data, "test_images", ids[rows:], images[rows:])
    said = [words[label] for label in labels[:rows]]
    pd.DataFrame({"image": ids[:rows], "labels": said}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"image": ids[rows:], "labels": "healthy"}).to_csv(data / "sample_submission.csv", index=False)


FINDINGS = [
    *("ETT - Abnormal", "ETT - Borderline", "ETT - Normal"),
    *("NGT - Abnormal", "NGT - Borderline", "NGT - Incompletely Imaged", "NGT - Normal"),
    *("CVC - Abnormal", "CVC - Borderline", "CVC - Normal", "Swan Ganz Catheter Present"),
]


def ranzcr(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Grey chest films, several a patient, with eleven findings of which some go together; ids are dotted numbers."""
    draw = np.random.RandomState(seed)
    ids = np.array([f"1.2.826.0.1.3680043.8.498.{draw.randint(10**8, 10**9)}{number}" for number in range(rows + test)])
    kinds = draw.permutation(np.arange(rows + test) % 5)
    images = [_striped(kind, 70, 56, draw)[:, :, 0] for kind in kinds]
    findings = np.array([[(kind >> bit % 3 ^ bit // 3) & 1 for bit in range(len(FINDINGS))] for kind in kinds])
    _write_images(data, "train", [f"{name}.jpg" for name in ids[:rows]], images[:rows])
    _write_images(data, "test", [f"{name}.jpg" for name in ids[rows:]], images[rows:])
    table = pd.DataFrame(findings, columns=FINDINGS)
    table.insert(0, "StudyInstanceUID", ids)
    patients = np.array([f"{number:05x}ff9b" for number in draw.permutation(25)])
    table[:rows].assign(PatientID=patients[draw.randint(0, 25, rows)]).to_csv(data / "train.csv", index=False)
    table[rows:].assign(**dict.fromkeys(FINDINGS, 0)).to_csv(data / "sample_submission.csv", index=False)
    lines = {"StudyInstanceUID": ids[:1], "label": ["CVC - Normal"], "data": ["[[10, 12], [14, 18]]"]}
    pd.DataFrame(lines).to_csv(data / "train_annotations.csv", index=False)


def leaf_classification(data: Path, rows: int = 48, test: int = 8, seed: int = 0) -> None:
    """Black and white silhouettes of several sizes with 192 numbers each, six species; ids are small numbers."""
    draw = np.random.RandomState(seed)
    ids = draw.permutation(1584)[: rows + test].astype(str)
    kinds = draw.permutation(np.arange(rows + test) % 6)
    images = [
        (_striped(kind, 40 + 4 * at % 30, 60, draw)[:, :, 0] > 90) * np.uint8(255) for at, kind in enumerate(kinds)
    ]
    _write_images(data, "images", [f"{name}.jpg" for name in ids], images)
    names = [f"{kind}{number}" for kind in ("margin_", "shape_", "texture_") for number in range(1, 65)]
    table = pd.DataFrame(draw.rand(rows + test, 192).round(6) / 50 + kinds[:, None] * 0.002, columns=names)
    table.insert(0, "id", ids)
    table.insert(1, "species", [f"Quercus_No{kind}" for kind in kinds])
    table[:rows].to_csv(data / "train.csv", index=False)
    table[rows:].drop(columns="species").to_csv(data / "test.csv", index=False)
    flat = {"id": ids[rows:], **dict.fromkeys(sorted(set(table["species"])), 1 / 6)}
    pd.DataFrame(flat).to_csv(data / "sample_submission.csv", index=False)


def siim_melanoma(data: Path, rows: int = 60, test: int = 9, seed: int = 0) -> None:
    """Moles, several a patient, one in six malignant; ages and places with blanks, and a place that only test has."""
    draw = np.random.RandomState(seed)
    ids = np.array([f"ISIC_{number:07d}" for number in draw.permutation(10**6)[: rows + test]])
    labels = draw.permutation((np.arange(rows + test) % 6 == 0).astype(int))
    images = [_striped(2 * label, 60, 80, draw) for label in labels]
    _write_images(data, "jpeg/train", [f"{name}.jpg" for name in ids[:rows]], images[:rows])
    _write_images(data, "jpeg/test", [f"{name}.jpg" for name in ids[rows:]], images[rows:])
    table = pd.DataFrame(
        {
            "image_name": ids,
            "patient_id": [f"IP_{draw.randint(25) * 7919:07d}" for _ in ids],
            "sex": draw.choice(["male", "female", ""], rows + test),
            "age_approx": draw.choice(["45.0", "50.0", "75.0", ""], rows + test),
            "anatom_site_general_challenge": draw.choice(["torso", "head/neck", "upper extremity", ""], rows + test),
        }
    )
    table.loc[rows, "anatom_site_general_challenge"] = "palms/soles"
    kinds = np.where(labels == 1, "malignant", "benign")
    train = table.assign(diagnosis="unknown", benign_malignant=kinds, target=labels)[:rows]
    train.to_csv(data / "train.csv", index=False)
    table[rows:].to_csv(data / "test.csv", index=False)
    pd.DataFrame({"image_name": ids[rows:], "target": 0}).to_csv(data / "sample_submission.csv", index=False)


def rsna_breast(data: Path, patients: int = 24, test: int = 3, seed: int = 0) -> None:
    """Mammograms as DICOM, two or three a breast: plain, JPEG 2000 and JPEG lossless, both interpretations, 12 and 16
    bits; patients are numbers, a quarter with cancer on one side."""
    from tests.dicoms import write_dicom  # here, since only this world needs pydicom

    draw = np.random.RandomState(seed)
    syntaxes = (None, "JPEG2000Lossless", "JPEGLosslessProcess14_1")
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for at, patient in enumerate(draw.permutation(65_000)[: patients + test].astype(str)):
        part = "train" if at < patients else "test"
        (data / f"{part}_images" / patient).mkdir(parents=True)
        for side in "RL":
            cancer = int(at % 4 == 0 and side == "LR"[at // 4 % 2])
            for view in ("CC", "MLO", "MLO")[: draw.randint(2, 4)]:
                image, bits = str(draw.randint(10**9)), int(draw.choice([12, 16]))
                grey = _striped(2 * cancer, 48, 32, draw)[:, :, 0].astype(np.uint16) * (2 ** (bits - 8))
                inverted = draw.rand() < 0.3
                grey = (2**bits - 1 - grey).astype(np.uint16) if inverted else grey
                write_dicom(
                    data / f"{part}_images" / patient / f"{image}.dcm",
                    grey,
                    bits,
                    syntaxes[len(rows[part]) % 3],
                    PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
                )
                row = {
                    "site_id": 1 + at % 2,
                    "patient_id": patient,
                    "image_id": image,
                    "laterality": side,
                    "view": view,
                }
                rows[part].append(
                    {**row, "age": draw.randint(40, 80), "cancer": cancer, "implant": 0, "machine_id": 49}
                )
    pd.DataFrame(rows["train"]).to_csv(data / "train.csv", index=False)
    mounted = pd.DataFrame(rows["test"])
    mounted["prediction_id"] = mounted["patient_id"] + "_" + mounted["laterality"]
    mounted.drop(columns="cancer").to_csv(data / "test.csv", index=False)
    breasts = {"prediction_id": mounted["prediction_id"].drop_duplicates(), "cancer": 0.02116}
    pd.DataFrame(breasts).to_csv(data / "sample_submission.csv", index=False)


def tgs_salt(data: Path, rows: int = 40, test: int = 7, seed: int = 0) -> None:
    """Squares of 101 x 101 in which salt is bright, a third of them without any; train/{images,masks}, test/images."""
    draw = np.random.RandomState(seed)
    ids = _hex_ids(rows + test, 5, draw)
    masks = [_blob(101, 101, draw) & (number % 3 > 0) for number in range(rows + test)]
    images = [_lit(mask, draw) for mask in masks]
    names = [f"{name}.png" for name in ids]
    _write_images(data, "train/images", names[:rows], images[:rows])
    _write_images(data, "train/masks", names[:rows], [mask.astype(np.uint8) * 255 for mask in masks[:rows]])
    _write_images(data, "test/images", names[rows:], images[rows:])
    texts = [rle.encode(mask) for mask in masks]
    pd.DataFrame({"id": ids[:rows], "rle_mask": texts[:rows]}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"id": ids, "z": draw.randint(50, 960, rows + test)}).to_csv(data / "depths.csv", index=False)
    pd.DataFrame({"id": ids[rows:], "rle_mask": "1 1"}).to_csv(data / "sample_submission.csv", index=False)


def hubmap_kidney(data: Path, rows: int = 8, test: int = 2, seed: int = 0) -> None:
    """Tall slides of two windows of 2048 pixels, two slides of a patient; every other file stores colours as planes."""
    import tifffile

    draw = np.random.RandomState(seed)
    ids, about = _hex_ids(rows + test, 5, draw), []
    tables: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for number, name in enumerate(ids):
        folder = "train" if number < rows else "test"
        mask = np.kron(_blob(70 + number, 12, draw), np.ones((32, 32), bool))
        image = np.repeat(_lit(mask, draw)[:, :, None], 3, axis=2)
        (data / folder).mkdir(parents=True, exist_ok=True)
        planes = image.transpose(2, 0, 1)[None, None] if number % 2 else image
        tifffile.imwrite(data / folder / f"{name}.tiff", planes, photometric="minisblack" if number % 2 else "rgb")
        for part in ("", "-anatomical-structure"):
            (data / folder / f"{name}{part}.json").write_text("[]")
        tables[folder].append({"id": name, "encoding": rle.encode(mask)})
        size = {"width_pixels": mask.shape[1], "height_pixels": mask.shape[0]}
        about.append({"image_file": f"{name}.tiff", **size, "patient_number": 60000 + number // 2})
    pd.DataFrame(tables["train"]).to_csv(data / "train.csv", index=False)
    pd.DataFrame(about[:rows]).to_csv(data / "HuBMAP-20-dataset_information.csv", index=False)
    hidden = pd.DataFrame(tables["test"])[["id"]]
    hidden.assign(predicted="").to_csv(data / "sample_submission.csv", index=False)


def uw_madison(data: Path, cases: int = 6, test: int = 2, seed: int = 0) -> None:
    """16-bit slices of two sizes, of which the outer hold no organ; ids such as case7_day0_slice_0001."""
    draw = np.random.RandomState(seed)
    organs, tables = ["large_bowel", "small_bowel", "stomach"], {"train": [], "test": []}
    for at, case in enumerate(draw.permutation(150)[: cases + test]):
        folder = "train" if at < cases else "test"
        height, width = (60, 48) if at % 2 else (44, 44)
        for day in (0, 21):
            scans = data / folder / f"case{case}" / f"case{case}_day{day}" / "scans"
            scans.mkdir(parents=True)
            blobs = {organ: _blob(height, width, draw) for organ in organs}
            for number in range(1, 7):
                masks = {organ: mask & (1 < number < 6) for organ, mask in blobs.items()}
                image = _lit(np.any(list(masks.values()), axis=0), draw).astype(np.uint16) * 60
                Image.fromarray(image).save(scans / f"slice_{number:04d}_{width}_{height}_1.50_1.50.png")
                name = f"case{case}_day{day}_slice_{number:04d}"
                texts = {organ: rle.encode(mask, "rows") for organ, mask in masks.items()}
                tables[folder] += [{"id": name, "class": organ, "segmentation": texts[organ]} for organ in organs]
    pd.DataFrame(tables["train"]).to_csv(data / "train.csv", index=False)
    hidden = pd.DataFrame(tables["test"]).rename(columns={"segmentation": "predicted"})
    hidden[["id", "class"]].to_csv(data / "test.csv", index=False)
    hidden.assign(predicted="").to_csv(data / "sample_submission.csv", index=False)


def denoising_dirty_documents(data: Path, rows: int = 16, test: int = 3, seed: int = 0) -> None:
    """Pages of two sizes; a page comes back under other stains, so clean files repeat."""
    draw = np.random.RandomState(seed)
    text = [255 - 200 * _blob(64, 60, draw).astype(np.uint8)[: 52 + 12 * (at % 2)] for at in range(rows // 2 + test)]
    numbers, ids = draw.permutation(400)[: rows + test], []
    for at, number in enumerate(numbers):
        folder = "train" if at < rows else "test"
        clean = text[at % (rows // 2)] if at < rows else text[at - rows // 2]
        dirty = np.minimum(clean, draw.randint(90, 255) + np.zeros_like(clean, dtype=int))
        _write_images(data, folder, [f"{number}.png"], [dirty.astype(np.uint8)])
        if folder == "train":
            _write_images(data, "train_cleaned", [f"{number}.png"], [clean])
        else:
            ids += [f"{number}_{y + 1}_{x + 1}" for x in range(clean.shape[1]) for y in range(clean.shape[0])]
    pd.DataFrame({"id": ids, "value": 1}).to_csv(data / "sampleSubmission.csv", index=False)


def _blob(height: int, width: int, draw: np.random.RandomState) -> np.ndarray:
    """H x W bool: one rectangle."""
    mask = np.zeros((height, width), bool)
    top, left = draw.randint(1, height // 2), draw.randint(1, width // 2)
    mask[top : top + height // 3, left : left + width // 3] = True
    return mask


def _lit(mask: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
    """H x W uint8: the mask bright, the rest dark, with noise."""
    return (mask * 120 + draw.randint(20, 90, mask.shape)).astype(np.uint8)


def _hex_ids(count: int, size: int, draw: np.random.RandomState) -> np.ndarray:
    """Ids of 2 x `size` hex digits; a few are digits alone, or digits with an e, which are no numbers."""
    ids = [draw.bytes(size).hex() for _ in range(count)]
    ids[1] = "0" + ids[1][1:].translate(str.maketrans("abcdef", "012345"))
    ids[2] = "9e" + ids[2][2:].translate(str.maketrans("abcdef", "012345"))
    return np.array(ids)


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


def _striped(label: float, height: int, width: int, draw: np.random.RandomState) -> np.ndarray:
    """Noise over a colour and as many stripes as the label says: learnable from either."""
    colour = np.array([40 + 40 * label, 160 - 25 * label, 90])
    stripes = 40 * np.sin(np.linspace(0, 2 * np.pi * (label + 1), width))[None, :, None]
    noise = draw.normal(0, 12, (height, width, 3))
    return (colour + stripes + noise).clip(0, 255).astype(np.uint8)


def _write_images(data: Path, folder: str, names: Sequence[str], images: list[np.ndarray]) -> None:
    (data / folder).mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(data / folder / name)


WORLDS: dict[str, Callable[..., None]] = {
    "aerial_cactus": aerial_cactus,
    "aptos": aptos,
    "birdclef": birdclef,
    "cassava": cassava,
    "denoising_dirty_documents": denoising_dirty_documents,
    "digits": partial(digits, rows=100),
    "dog_breed": dog_breed,
    "dogs_vs_cats": dogs_vs_cats,
    "histopathologic": histopathologic,
    "hotel_id": hotel_id,
    "hubmap_kidney": hubmap_kidney,
    "leaf_classification": leaf_classification,
    "mlsp_birds": mlsp_birds,
    "pawpularity": pawpularity,
    "plant_pathology_2020": plant_pathology_2020,
    "plant_pathology_2021": plant_pathology_2021,
    "ranzcr": ranzcr,
    "right_whale": right_whale,
    "rsna_breast": rsna_breast,
    "siim_melanoma": siim_melanoma,
    "tgs_salt": tgs_salt,
    "uw_madison": uw_madison,
    "whale_categorization": whale_categorization,
}
"""Each template on a tiny copy of its host's files."""

OVERRIDES: dict[str, dict[str, Any]] = {}
"""Fields of the recipe with which a template walks where the walk's own (a tiny backbone at 32 pixels) do not fit."""
