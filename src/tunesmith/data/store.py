"""The token store: shards of encoded rows on disk, mapped into memory, never read as a whole.

A shard is one file, written aside and renamed, so it is there whole or not at all:

    magic  items I  examples E  tokens T           4 × int64
    line_I  trained_I                              int64 (`Row.place`), float64
    file_I  examples_I  length_E  ids_T            int32
    weights_T                                      float32
"""

from __future__ import annotations

import dataclasses
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.data import json_rows
from tunesmith.types import Example

MAGIC = int.from_bytes(b"TSSHARD1", "little")
_NO_IDS, _NO_WEIGHTS = np.empty(0, np.int32), np.empty(0, np.float32)


class Item(NamedTuple):
    """What is drawn, packed and counted as one: examples that must share a step, and their row."""

    examples: tuple[Example, ...]
    file: int
    line: int
    """`Row.place`: the line, and the number of the row where lines don't tell rows apart."""


def write_shard(path: Path, items: Sequence[Item]) -> int:
    """Writes items; the file appears whole, after its bytes are on disk.

    Returns:
        Its size in bytes.
    """
    examples = [example for item in items for example in item.examples]
    lengths = np.array([len(example.ids_T) for example in examples], np.int32)
    counts = np.array([len(item.examples) for item in items], np.int32)
    ids_T = np.concatenate([_NO_IDS, *(example.ids_T for example in examples)])
    weights_T = np.concatenate([_NO_WEIGHTS, *(example.weights_T for example in examples)])
    starts_E = np.cumsum(lengths, dtype=np.int64) - lengths
    starts_I = starts_E[np.cumsum(counts) - counts]
    arrays = (
        np.array([MAGIC, len(items), len(examples), len(ids_T)], np.int64),
        np.array([item.line for item in items], np.int64),
        np.add.reduceat(np.abs(weights_T), starts_I, dtype=np.float64),
        np.array([item.file for item in items], np.int32),
        counts,
        lengths,
        ids_T.astype(np.int32, copy=False),
        weights_T.astype(np.float32, copy=False),
    )
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with aside.open("wb") as stream:
        stream.writelines(array.data for array in arrays if len(array))
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
    return path.stat().st_size


@dataclass(frozen=True)
class Shard:
    """One mapped file; all arrays are views of the mapping."""

    line_I: np.ndarray
    trained_I: np.ndarray
    file_I: np.ndarray
    examples_I: np.ndarray
    length_E: np.ndarray
    ids_T: np.ndarray
    weights_T: np.ndarray | None
    """None: every token but an example's first is trained (a corpus that is only mapped)."""
    start_E: np.ndarray
    """int64, position of each example's first token; blocks of a corpus share one."""
    factor: float = 1.0
    """On all weights: the weight of a source whose tokens were made before."""

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Maps a shard.

        Raises:
            ValueError: it is not a shard, or not of the size it says.
        """
        with path.open("rb") as stream:
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        head = np.frombuffer(memory, np.int64, 4) if len(memory) >= 32 else np.zeros(4, np.int64)
        magic, items, examples, tokens = (int(value) for value in head)
        if magic != MAGIC or len(memory) != 32 + 24 * items + 4 * examples + 8 * tokens:
            raise ValueError(f"{path} is no token shard")
        arrays, at = [], 32
        for dtype, count in (
            (np.int64, items),
            (np.float64, items),
            (np.int32, items),
            (np.int32, items),
            (np.int32, examples),
            (np.int32, tokens),
            (np.float32, tokens),
        ):
            arrays.append(np.frombuffer(memory, dtype, count, at))
            at += arrays[-1].nbytes
        length_E = arrays[4]
        return cls(*arrays, start_E=np.cumsum(length_E, dtype=np.int64) - length_E)

    def example(self, start: int, length: int) -> Example:
        """An example: views of the mapping, read-only, where nothing has to be computed."""
        span = slice(start, start + length)
        ids_T = self.ids_T[span].astype(np.int32, copy=False)
        if self.weights_T is None:
            weights_T = np.full(length, self.factor, np.float32)
            weights_T[:1] = 0.0
        else:
            weights_T = self.weights_T[span]
            if self.factor != 1.0:
                weights_T = weights_T * np.float32(self.factor)
        return Example(ids_T, weights_T)

    def weighted(self, factor: float) -> Shard:
        """The same examples with all weights times `factor`."""
        return dataclasses.replace(
            self, factor=self.factor * factor, trained_I=self.trained_I * factor
        )


@dataclass(frozen=True)
class Dataset:
    """Items of one or several stores, in the order of their rows; a selection is a view."""

    shards: tuple[Shard, ...]
    files: tuple[str, ...]
    """Names of the data files, by the index that `file_N` holds."""
    report: dict[str, Any]
    """rows, items, examples, tokens, trained, truncated, skipped, and per source what was found."""
    lengths: np.ndarray
    """int32, tokens of each item, shape (N,)."""
    trained: np.ndarray
    """float64, Σ weights of each item, shape (N,)."""
    shard_N: np.ndarray = field(repr=False)
    first_N: np.ndarray = field(repr=False)
    """Number of the item's first example within its shard."""
    count_N: np.ndarray = field(repr=False)
    token_N: np.ndarray = field(repr=False)
    """Position of the item's first token within its shard."""
    file_N: np.ndarray = field(repr=False)
    line_N: np.ndarray = field(repr=False)
    source_N: np.ndarray = field(repr=False)
    """int32, number of the source (an entry of data.train) an item comes from."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, item: int) -> tuple[Example, ...]:
        """The examples of an item: views of the mapped files, read-only."""
        shard = self.shards[self.shard_N[item]]
        first, at = int(self.first_N[item]), int(self.token_N[item])
        examples = []
        for length in shard.length_E[first : first + int(self.count_N[item])].tolist():
            examples.append(shard.example(at, length))
            at += length
        return tuple(examples)

    @property
    def sources(self) -> tuple[str, ...]:
        return self.files

    def where(self, item: int) -> str:
        """`file:line` of the row an item was made of."""
        return json_rows.where(self.files[self.file_N[item]], int(self.line_N[item]))

    def select(self, items: Sequence[int] | np.ndarray) -> Dataset:
        """These items, in this order, and a report of them."""
        items = np.asarray(items, np.int64)
        columns = {name: getattr(self, name)[items] for name in PER_ITEM}
        report = {
            **self.report,
            "items": len(items),
            "examples": int(columns["count_N"].sum()),
            "tokens": int(columns["lengths"].sum()),
            "trained": float(columns["trained"].sum()),
        }
        return Dataset(self.shards, self.files, report, **columns)


PER_ITEM = (
    *("lengths", "trained", "shard_N", "first_N", "count_N", "token_N", "file_N", "line_N"),
    "source_N",
)


def open_dataset(shards: Iterable[Path], files: Sequence[str], report: dict[str, Any]) -> Dataset:
    """The items of some shards, in order.

    Raises:
        ValueError: a file is no shard.
    """
    return of_shards([Shard.open(path) for path in shards], files, report)


def of_shards(opened: Sequence[Shard], files: Sequence[str], report: dict[str, Any]) -> Dataset:
    """The items of shards that are mapped already."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in PER_ITEM}
    for number, shard in enumerate(opened):
        first_I = np.cumsum(shard.examples_I, dtype=np.int64) - shard.examples_I
        total_E = np.concatenate([[0], np.cumsum(shard.length_E, dtype=np.int64)])
        columns["first_N"].append(first_I)
        columns["count_N"].append(shard.examples_I)
        columns["token_N"].append(shard.start_E[first_I])
        length_I = total_E[first_I + shard.examples_I] - total_E[first_I]
        columns["lengths"].append(length_I.astype(np.int32))
        columns["trained"].append(shard.trained_I)
        columns["shard_N"].append(np.full(len(first_I), number, np.int32))
        columns["file_N"].append(shard.file_I)
        columns["line_N"].append(shard.line_I)
        columns["source_N"].append(np.zeros(len(first_I), np.int32))
    joined = {
        name: np.concatenate([*parts, np.zeros(0, _dtype(name))]) for name, parts in columns.items()
    }
    return Dataset(tuple(opened), tuple(files), report, **joined)


def _dtype(name: str) -> type:
    kinds = {"lengths": np.int32, "trained": np.float64, "shard_N": np.int32, "file_N": np.int32}
    kinds["source_N"] = np.int32
    return kinds.get(name, np.int64)


def replaced(data: Dataset, shards: tuple[Shard, ...], trained_N: np.ndarray) -> Dataset:
    """The same items in shards with other weights."""
    report = {**data.report, "trained": float(trained_N.sum())}
    return dataclasses.replace(data, shards=shards, trained=trained_N, report=report)


def concat(sets: Sequence[Dataset], report: dict[str, Any]) -> Dataset:
    """All items of several datasets, one after the other."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in PER_ITEM}
    shards, files = 0, 0
    for number, one in enumerate(sets):
        for name in PER_ITEM:
            shift = {"shard_N": shards, "file_N": files, "source_N": number}.get(name, 0)
            columns[name].append(getattr(one, name) + np.asarray(shift, _dtype(name)))
        shards, files = shards + len(one.shards), files + len(one.files)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Dataset(
        tuple(shard for one in sets for shard in one.shards),
        tuple(file for one in sets for file in one.files),
        report,
        **joined,
    )
