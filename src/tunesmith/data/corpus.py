"""Megatron's corpora of token ids, mapped into memory and written: `_ids.npy` + `_idx.npz`, and
`.bin` + `.idx`.

`PREFIX_ids.npy` holds all ids end to end; `PREFIX_idx.npz` has `lens` (int32, ids of each sentence)
and `docs` (int64, number of sentences before each document, and of all). `.idx` holds the same
after a header; ids stand in `.bin`. Sources: PaddleNLP's create_pretraining_data.py, Megatron-LM's
indexed_dataset.py. Nothing is unpickled.

Legend: `S` sentences, `D` documents, `T` tokens.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import psutil

from tunesmith.errors import DataError

Kind = Literal["megatron", "bin"]
MAGIC = b"MMIDIDX\x00\x00"
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
NPY_HEADER = 128
"""Bytes kept free for the header of an .npy file whose length is known only at its end."""
SUFFIXES: dict[Kind, tuple[str, str]] = {
    "megatron": ("_ids.npy", "_idx.npz"),
    "bin": (".bin", ".idx"),
}


RECORD = "_tokenizer.json"
"""Beside both files of a corpus: which tokenizer made it. Other tools write none and mind none."""


class Record(NamedTuple):
    """What made a corpus: ids alone don't say of which vocabulary they are."""

    tokenizer: str
    """`Tokenizer.hash`."""
    vocab_size: int
    eos_id: int | None
    """What ends each document; None: nothing."""
    model: str
    """As it was named, for messages."""


class Corpus(NamedTuple):
    """Documents of token ids."""

    ids_T: np.ndarray
    """Of the file's own dtype, mapped."""
    start_D: np.ndarray
    """int64, position of each document's first token."""
    length_D: np.ndarray
    """int64, tokens of each document."""
    files: tuple[Path, Path]


def kind_of(prefix: Path) -> Kind | None:
    """Which of the two layouts lies at a prefix, if any."""
    for kind, suffixes in SUFFIXES.items():
        if all(_beside(prefix, suffix).is_file() for suffix in suffixes):
            return kind
    return None


def prefixes(path: Path) -> list[Path]:
    """The corpora at a path: a prefix, one of its two files, or a folder of them; sorted."""
    if path.is_dir():
        ends = [(kind, suffixes[0]) for kind, suffixes in SUFFIXES.items()]
        found = {
            file.with_name(file.name.removesuffix(end))
            for _, end in ends
            for file in path.glob(f"*{end}")
        }
        return sorted(prefix for prefix in found if kind_of(prefix))
    for suffixes in SUFFIXES.values():
        for suffix in suffixes:
            if path.name.endswith(suffix):
                path = path.with_name(path.name.removesuffix(suffix))
    return [path] if kind_of(path) else []


def open_corpus(prefix: Path) -> Corpus:
    """Maps a corpus; of its ids nothing is read.

    Raises:
        DataError: D212, a file is damaged, or the two don't belong together.
    """
    kind = kind_of(prefix)
    if kind is None:
        raise DataError("D101", "no corpus is there", where=str(prefix), fix="check data.train")
    data, index = (_beside(prefix, suffix) for suffix in SUFFIXES[kind])
    try:
        ids, lens, docs = (_read_npy if kind == "megatron" else _read_bin)(data, index)
        return _documents(ids, lens, docs, (data, index))
    except (ValueError, KeyError, OSError, EOFError, struct.error, zipfile.BadZipFile) as error:
        what = f"not a corpus of token ids: {error}"
        raise DataError("D212", what, where=str(index), fix="make it again from its text") from None


def record(prefix: Path) -> Record | None:
    """What made a corpus, if that is recorded beside it.

    Raises:
        DataError: D212, the record can't be read.
    """
    file = _beside(prefix, RECORD)
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
        return Record(**{name: found[name] for name in Record._fields})
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"not a record of what made a corpus: {type(error).__name__}: {error}"
        fix = "make the corpus again, or delete this file"
        raise DataError("D212", what, where=str(file), fix=fix) from None


def _beside(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def _read_npy(data: Path, index: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.load(data, mmap_mode="r", allow_pickle=False)
    with np.load(index, allow_pickle=False) as arrays:
        return ids, arrays["lens"], arrays["docs"]


def _read_bin(data: Path, index: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with index.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError("the .idx file does not begin as one")
        version, code = struct.unpack("<QB", stream.read(9))
        sentences, documents = struct.unpack("<QQ", stream.read(16))
        if version != 1 or code not in DTYPES:
            raise ValueError(f"version {version}, type {code} of the .idx file is not known")
        lens = np.fromfile(stream, np.int32, sentences)
        pointers = np.fromfile(stream, np.int64, sentences)
        docs = np.fromfile(stream, np.int64, documents)
    dtype = np.dtype(DTYPES[code])
    starts = np.cumsum(lens, dtype=np.int64) - lens
    if len(lens) != sentences or not np.array_equal(pointers, starts * dtype.itemsize):
        raise ValueError("the sentences of the .idx file don't lie end to end")
    empty = data.stat().st_size == 0
    return (np.zeros(0, dtype) if empty else np.memmap(data, dtype, "r")), lens, docs


def _documents(
    ids: np.ndarray, lens: np.ndarray, docs: np.ndarray, files: tuple[Path, Path]
) -> Corpus:
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError("ids are no flat array of whole numbers")
    lens, docs = lens.astype(np.int64), docs.astype(np.int64)
    whole = len(docs) > 0 and docs[0] == 0 and docs[-1] == len(lens)
    if not whole or (np.diff(docs) < 0).any() or (lens < 0).any() or int(lens.sum()) != len(ids):
        raise ValueError("the index does not fit the ids")
    borders = np.concatenate([[0], np.cumsum(lens)])[docs]
    return Corpus(ids, borders[:-1], np.diff(borders), files)


# ---------------------------------------------------------------- writing


def dtype_for(vocab_size: int) -> np.dtype:
    """uint16 where it holds every id, else int32."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


Add = Callable[[Sequence[int] | np.ndarray], None]


@contextmanager
def writer(
    prefix: Path, kind: Kind, vocab_size: int, made_by: Record | None = None
) -> Iterator[Add]:
    """A function that takes the ids of one document after the other.

    Ids go to the disk as they come; of a document only its length stays in memory. All files are
    written aside and renamed, the index last.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    targets = [_beside(prefix, suffix) for suffix in SUFFIXES[kind]]
    noted = _beside(prefix, RECORD)
    aside = [path.with_name(f".{path.name}.tmp-{os.getpid()}") for path in targets]
    _sweep(prefix.parent, targets)
    dtype = dtype_for(vocab_size)
    lens: list[int] = []

    try:
        with aside[0].open("wb") as stream:
            if kind == "megatron":
                stream.write(bytes(NPY_HEADER))

            def add(ids: Sequence[int] | np.ndarray) -> None:
                stream.write(np.asarray(ids, dtype).tobytes())
                lens.append(len(ids))

            yield add
            if kind == "megatron":
                _npy_header(stream, dtype, sum(lens))
            stream.flush()
            os.fsync(stream.fileno())
        _write_index(aside[1], kind, dtype, np.asarray(lens, np.int32))
        noted.unlink(missing_ok=True)  # of the corpus that is replaced
        if made_by is not None:
            noted.write_text(json.dumps(made_by._asdict(), indent=1) + "\n", encoding="utf-8")
        for source, target in zip(aside, targets, strict=True):
            source.replace(target)
    finally:
        for path in aside:
            path.unlink(missing_ok=True)


def _sweep(folder: Path, targets: Sequence[Path]) -> None:
    """Removes what a process that was killed left of the same corpus: it may be gigabytes."""
    for target in targets:
        for left in folder.glob(f".{glob.escape(target.name)}.tmp-*"):
            number = left.name.rpartition("-")[2]
            if number.isdigit() and not psutil.pid_exists(int(number)):
                left.unlink(missing_ok=True)


def _npy_header(stream: BinaryIO, dtype: np.dtype, count: int) -> None:
    """Format version 1.0, in the bytes kept free at the beginning."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({count},), }}"
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", NPY_HEADER - 10)
    stream.seek(0)
    stream.write(magic + text.ljust(NPY_HEADER - 11).encode() + b"\n")


def _write_index(path: Path, kind: Kind, dtype: np.dtype, lens: np.ndarray) -> None:
    docs = np.arange(len(lens) + 1, dtype=np.int64)
    with path.open("wb") as stream:
        if kind == "megatron":
            np.savez(stream, lens=lens, docs=docs)
            return
        code = next(code for code, known in DTYPES.items() if np.dtype(known) == dtype)
        starts = (np.cumsum(lens, dtype=np.int64) - lens) * dtype.itemsize
        stream.write(MAGIC + struct.pack("<QBQQ", 1, code, len(lens), len(docs)))
        stream.writelines(array.tobytes() for array in (lens, starts.astype(np.int64), docs))


# ---------------------------------------------------------------- splits


def parts(text: str, documents: int) -> list[tuple[int, int]]:
    """`949,50,1` → (first, stop) document of training, validation and test; `/` separates too.

    Weights are normalised; borders are rounded, and what rounding leaves goes to every border
    alike, so that all documents are in exactly one part. Source: Megatron-LM,
    get_train_valid_test_split_.

    Raises:
        DataError: D213, not one to three numbers of which one is above 0.
    """
    try:
        weights = [float(word) for word in text.replace("/", ",").split(",") if word.strip()]
    except ValueError:
        weights = []
    if not 1 <= len(weights) <= 3 or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        what = f"`{text}` is no split: one to three numbers, as in 949,50,1"
        raise DataError("D213", what, where="data.eval", fix='write split: "949,50,1"')
    weights += [0.0] * (3 - len(weights))
    borders = [0]
    for weight in weights:
        borders.append(borders[-1] + round(weight / sum(weights) * documents))
    over = borders[-1] - documents
    borders = [0, *(border - over for border in borders[1:])]
    return [(max(0, a), max(0, b)) for a, b in itertools.pairwise(borders)]
