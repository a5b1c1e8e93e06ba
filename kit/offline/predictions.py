"""Predictions by id: tables of vectors, maps of dense tasks, galleries of retrieval tasks."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import pandas as pd
from safetensors import safe_open
from safetensors.numpy import save as save_tensors

from kit.offline.errors import DataError, KitError, RunError, examples
from kit.offline.files import write_whole


@dataclass(frozen=True)
class Predictions:
    """A table of vectors by id: nothing is looked up by position.

    ids: N unique texts. values: N x C float32. columns: C names.
    """

    ids: np.ndarray
    values: np.ndarray
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        ids = np.asarray(self.ids, dtype=str).reshape(-1)
        values = np.asarray(self.values, dtype=np.float32)
        if values.ndim != 2 or values.shape != (len(ids), len(self.columns)):
            raise DataError(
                f"values of shape {(len(ids), len(self.columns))}",
                str(values.shape),
                "one row per id, one column per name",
            )
        _require_unique(ids)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "columns", tuple(map(str, self.columns)))

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self) -> pd.DataFrame:
        """The values as a float32 DataFrame indexed by id."""
        return pd.DataFrame(self.values, index=pd.Index(self.ids, dtype=object), columns=list(self.columns))

    def align(self, ids: Iterable[str]) -> Self:
        """The rows of `ids`, in that order. Raises DataError naming ids that are not there."""
        wanted = np.asarray(list(ids), dtype=str)
        at = pd.Index(self.ids).get_indexer(pd.Index(wanted))
        if (at < 0).any():
            raise DataError(
                "a prediction for every id", f"none for {examples(wanted[at < 0].tolist())}", "predict those ids first"
            )
        return type(self)(wanted, self.values[at], self.columns)

    def only(self, ids: Iterable[str]) -> Self:
        """The rows whose id is among `ids`, in this table's order."""
        keep = np.isin(self.ids, np.asarray(list(ids), dtype=str))
        return type(self)(self.ids[keep], self.values[keep], self.columns)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One table of several. Refuses an id in two parts. A column that a part lacks is NaN in its rows."""
        columns = tuple(dict.fromkeys(column for part in parts for column in part.columns))
        values = [part.frame().reindex(columns=list(columns)).to_numpy(np.float32) for part in parts]
        return cls(np.concatenate([part.ids for part in parts]), np.concatenate(values), columns)

    @classmethod
    def blend(cls, parts: Sequence[Self], weights: Sequence[float]) -> Self:
        """The weighted mean of tables over the same ids: rows matched by id, columns by name, NaN left out."""
        _require_same_ids(parts, weights)
        if len(parts) == 1:
            return parts[0]
        columns = list(dict.fromkeys(column for part in parts for column in part.columns))
        total = np.zeros((len(parts[0]), len(columns)), np.float64)
        mass = np.zeros_like(total)
        for part, weight in zip(parts, weights, strict=True):
            values = part.align(parts[0].ids).frame().reindex(columns=columns).to_numpy(np.float64)
            there = ~np.isnan(values)
            total += np.where(there, values, 0.0) * weight
            mass += there * weight
        with np.errstate(invalid="ignore"):
            return cls(parts[0].ids, (total / mass).astype(np.float32), tuple(columns))

    def mean_by(self, unit: Mapping[str, str]) -> Self:
        """Rows averaged by `unit[id]`, units in order of appearance. A unit of one row keeps its values exactly."""
        names = np.asarray([unit[i] for i in self.ids], dtype=str)
        codes, units = pd.factorize(names)
        if len(units) == len(names):
            return type(self)(names, self.values, self.columns)
        total = np.zeros((len(units), len(self.columns)), np.float64)
        np.add.at(total, codes, self.values)
        return type(self)(units, (total / np.bincount(codes)[:, None]).astype(np.float32), self.columns)

    def max_by(self, unit: Mapping[str, str]) -> Self:
        """The largest value of each column by `unit[id]`, units in order of appearance."""
        codes, units = pd.factorize(np.asarray([unit[i] for i in self.ids], dtype=str))
        most = np.full((len(units), len(self.columns)), -np.inf, self.values.dtype)
        np.maximum.at(most, codes, self.values)
        return type(self)(units, most, self.columns)

    def ranked(self, quantiles: np.ndarray) -> Self:
        """Values as their place in a reference distribution, 0 to 1, so that one row can be ranked alone.

        quantiles: C x Q, non-decreasing along Q; see `quantiles_of`.
        """
        levels = np.linspace(0.0, 1.0, quantiles.shape[1])
        values = [_place(column, reference, levels) for column, reference in zip(self.values.T, quantiles, strict=True)]
        return type(self)(self.ids, np.stack(values, axis=1).reshape(self.values.shape), self.columns)

    def quantiles_of(self, count: int = 1001) -> np.ndarray:
        """C x `count` evenly spaced quantiles of each column, the reference for `ranked`."""
        return np.quantile(self.values.astype(np.float64), np.linspace(0.0, 1.0, count), axis=0).T

    def save(self, path: Path) -> None:
        """Write one `.npz` at once; loaded without pickle."""
        buffer = io.BytesIO()
        np.savez(buffer, ids=self.ids, values=self.values, columns=np.asarray(self.columns, dtype=str))
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises RunError for a damaged file: each array has a checksum."""
        try:
            with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
                return cls(file["ids"], file["values"], tuple(file["columns"].tolist()))
        except (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, RuntimeError) as error:
            raise _damaged(path, str(error)) from None


def _place(values: np.ndarray, reference: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The mean of the lowest and highest level at which each value stands, so that ties share a rank."""
    low = np.interp(values, reference, levels)
    high = 1.0 - np.interp(-values, -reference[::-1], levels)
    return (low + high) / 2


@dataclass(frozen=True)
class Map:
    """One dense prediction.

    values: C x h x w float32 in 0..1 over the whole area. height, width: its native size in pixels.
    """

    values: np.ndarray
    height: int
    width: int

    def native(self) -> np.ndarray:
        """C x height x width: the values at native size, bilinear."""
        if self.values.shape[1:] == (self.height, self.width):
            return self.values
        return np.stack(
            [cv2.resize(channel, (self.width, self.height), interpolation=cv2.INTER_LINEAR) for channel in self.values]
        )


class Maps:
    """Dense predictions by id, each loaded when it is asked for: peak memory is one map, however many there are."""

    def __init__(self, loaders: Mapping[str, Callable[[], Map]], columns: Sequence[str]):
        self._loaders = dict(loaders)
        self.columns = tuple(map(str, columns))

    @property
    def ids(self) -> np.ndarray:
        """The ids, in order."""
        return np.asarray(list(self._loaders), dtype=str)

    def __len__(self) -> int:
        return len(self._loaders)

    def read(self, name: str) -> Map:
        """The map of one id."""
        if name not in self._loaders:
            raise DataError("a prediction for every id", f"none for {name!r}", "predict that id first")
        return self._loaders[name]()

    def align(self, ids: Iterable[str]) -> Maps:
        """The maps of `ids`, in that order. Raises DataError naming ids that are not there."""
        wanted = list(map(str, ids))
        lacking = [name for name in wanted if name not in self._loaders]
        if lacking:
            raise DataError("a prediction for every id", f"none for {examples(lacking)}", "predict those ids first")
        return Maps({name: self._loaders[name] for name in wanted}, self.columns)

    def only(self, ids: Iterable[str]) -> Maps:
        """The maps whose id is among `ids`."""
        wanted = set(map(str, ids))
        return Maps({name: load for name, load in self._loaders.items() if name in wanted}, self.columns)

    @classmethod
    def join(cls, parts: Sequence[Maps]) -> Maps:
        """One collection of several. Refuses an id in two parts, and parts of other columns."""
        _require_unique(np.concatenate([part.ids for part in parts]))
        _require_same_columns(parts)
        return cls({name: load for part in parts for name, load in part._loaders.items()}, parts[0].columns)

    @classmethod
    def blend(cls, parts: Sequence[Maps], weights: Sequence[float]) -> Maps:
        """The weighted mean of maps over the same ids; grids of other sizes are brought to the first one's.

        Refuses parts of other columns.
        """
        _require_same_ids(parts, weights)
        _require_same_columns(parts)
        return cls(
            {str(name): _mean_of([(part, str(name)) for part in parts], weights) for name in parts[0].ids},
            parts[0].columns,
        )

    def mean_by(self, unit: Mapping[str, str]) -> Maps:
        """Maps averaged by `unit[id]`."""
        members: dict[str, list[tuple[Maps, str]]] = {}
        for name in self._loaders:
            members.setdefault(unit[name], []).append((self, name))
        return Maps({name: _mean_of(of, [1.0] * len(of)) for name, of in members.items()}, self.columns)

    def save(self, folder: Path) -> None:
        """Write one uint8 file per id (255 x value) and, last, the index that names them."""
        write_maps(folder, ((str(name), self.read(str(name))) for name in self.ids), self.columns)

    @classmethod
    def load(cls, folder: Path) -> Maps:
        """Open what `save` wrote; maps are read when asked for."""
        index = json.loads((folder / "index.json").read_text())
        loaders = {name: _loader(folder / file, *rest) for name, (file, *rest) in index["maps"].items()}
        return cls(loaders, index["columns"])


def write_maps(folder: Path, maps: Iterable[tuple[str, Map]], columns: Sequence[str]) -> Maps:
    """Stream maps into `folder`, which must not be where they come from, and open them as Maps."""
    writer = MapWriter(folder, columns)
    for name, one in maps:
        writer.add(name, one)
    return writer.close()


class MapWriter:
    """Writes maps one by one into a folder; `close` writes the index that names them, last, and opens them."""

    def __init__(self, folder: Path, columns: Sequence[str]):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.json").unlink(missing_ok=True)  # an old index would name the new files
        self.folder, self.columns = folder, list(columns)
        self.index: dict[str, tuple[str, int, int, int]] = {}

    def add(self, name: str, one: Map) -> None:
        """Write one map."""
        file = f"{len(self.index):06d}.npy"
        buffer = io.BytesIO()
        np.save(buffer, np.round(np.clip(one.values, 0, 1) * 255).astype(np.uint8))
        write_whole(self.folder / file, buffer.getvalue())
        self.index[name] = (file, one.height, one.width, zlib.crc32(buffer.getvalue()))

    def close(self) -> Maps:
        """Write the index."""
        content = json.dumps({"columns": self.columns, "maps": self.index})
        write_whole(self.folder / "index.json", content.encode())
        return Maps.load(self.folder)


def _loader(path: Path, height: int, width: int, checksum: int) -> Callable[[], Map]:
    def load() -> Map:
        content = path.read_bytes()
        if zlib.crc32(content) != checksum:
            raise _damaged(path, "its checksum differs")
        return Map(np.load(io.BytesIO(content), allow_pickle=False).astype(np.float32) / 255, height, width)

    return load


def _damaged(path: Path, found: str) -> RunError:
    return RunError(f"{path} as it was written", f"it has changed: {found}", "delete its fold and train it again")


def _mean_of(members: Sequence[tuple[Maps, str]], weights: Sequence[float]) -> Callable[[], Map]:
    if len(members) == 1:
        return lambda: members[0][0].read(members[0][1])

    return lambda: mean_map((maps.read(name) for maps, name in members), weights)


def mean_map(maps: Iterable[Map], weights: Sequence[float]) -> Map:
    """The weighted mean of maps of one area, one in memory at a time; other grids are brought to the first one's."""
    others = iter(maps)
    first = next(others)
    total = first.values * np.float64(weights[0])
    for one, weight in zip(others, weights[1:], strict=True):
        total += Map(one.values, *first.values.shape[1:]).native() * weight
    return Map((total / sum(weights)).astype(np.float32), first.height, first.width)


@dataclass(frozen=True)
class Gallery:
    """What a retrieval model knows: N labels and their N x D float32 embeddings, from the rows it trained on."""

    labels: tuple[str, ...]
    values: np.ndarray

    def to_bytes(self, dtype: type[np.floating] = np.float32) -> bytes:
        """One safetensors file, the labels as its one metadata key."""
        tensors = {"values": np.ascontiguousarray(self.values, dtype)}
        return save_tensors(tensors, metadata={"labels": json.dumps(self.labels)})

    def save(self, path: Path) -> None:
        """Write that file."""
        write_whole(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote, or what was stored in half precision."""
        with safe_open(path, "numpy") as file:
            return cls(tuple(json.loads(file.metadata()["labels"])), file.get_tensor("values").astype(np.float32))


def load_predictions(path: Path) -> Predictions | Maps:
    """What was saved at `path` without suffix: `path.npz` (a table) or the folder `path` (maps)."""
    table = path.with_name(path.name + ".npz")
    if table.is_file():
        return Predictions.load(table)
    if (path / "index.json").is_file():
        return Maps.load(path)
    raise KitError(f"predictions at {table} or in {path}", "neither is there", "train the fold again")


def join(parts: Sequence[Predictions | Maps]) -> Predictions | Maps:
    """`Predictions.join` or `Maps.join`, by what the parts are."""
    return type(parts[0]).join(parts)  # type: ignore[arg-type]


def blend(parts: Sequence[Predictions | Maps], weights: Sequence[float]) -> Predictions | Maps:
    """`Predictions.blend` or `Maps.blend`, by what the parts are."""
    return type(parts[0]).blend(parts, weights)  # type: ignore[arg-type]


def _require_unique(ids: np.ndarray) -> None:
    if len(np.unique(ids)) != len(ids):
        names, counts = np.unique(ids, return_counts=True)
        raise DataError(
            "every id once",
            f"repeated: {examples(names[counts > 1].tolist())}",
            "two parts overlap, or a frame repeats ids",
        )


def _require_same_columns(parts: Sequence[Maps]) -> None:
    for part in parts:
        if part.columns != parts[0].columns:
            raise DataError("maps of the same columns", f"{parts[0].columns} and {part.columns}", "use one task")


def _require_same_ids(parts: Sequence[Predictions | Maps], weights: Sequence[float]) -> None:
    if len(parts) != len(weights) or not parts or sum(weights) <= 0:
        raise DataError(
            "a weight per part with a positive sum", f"{len(parts)} parts, weights {list(weights)}", "mend the weights"
        )
    first = set(parts[0].ids.tolist())
    for part in parts[1:]:
        other = set(part.ids.tolist())
        if other != first:
            raise DataError(
                "parts over the same ids",
                f"{len(first ^ other)} ids in one and not the other: {examples(sorted(first ^ other))}",
                "blend predictions of the same rows",
            )
