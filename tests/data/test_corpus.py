"""Corpora of token ids: written, mapped again and equal; their layout is that of the originals."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tunesmith.data import corpus
from tunesmith.errors import DataError

RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
DOCUMENTS = st.lists(st.lists(st.integers(0, 999), max_size=9), min_size=1, max_size=9)


def made(prefix, documents, kind, vocab_size=1000):
    with corpus.writer(prefix, kind, vocab_size) as add:
        for ids in documents:
            add(ids)
    return corpus.open_corpus(prefix)


@pytest.mark.parametrize("kind", ["megatron", "bin"])
@pytest.mark.parametrize("vocab_size", [1000, 100_000])
@RELAXED
@given(DOCUMENTS)
def test_round_trip(tmp_path, kind, vocab_size, documents):
    found = made(tmp_path / f"{kind}{vocab_size}", documents, kind, vocab_size)
    assert found.ids_T.dtype == (np.uint16 if vocab_size == 1000 else np.int32)
    again = [
        found.ids_T[start : start + length].tolist()
        for start, length in zip(found.start_D, found.length_D, strict=True)
    ]
    assert again == documents


def test_the_layout_of_npy_and_npz(tmp_path):
    made(tmp_path / "c", [[1, 2, 3], [4]], "megatron")
    ids = np.load(tmp_path / "c_ids.npy")
    index = np.load(tmp_path / "c_idx.npz")
    assert (ids.dtype, ids.tolist()) == (np.uint16, [1, 2, 3, 4])
    assert (index["lens"].dtype, index["lens"].tolist()) == (np.int32, [3, 1])
    assert (index["docs"].dtype, index["docs"].tolist()) == (np.int64, [0, 1, 2])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c_ids.npy", "c_idx.npz"]


def test_the_layout_of_bin_and_idx(tmp_path):
    """Byte for byte what Megatron-LM's _IndexWriter packs."""
    made(tmp_path / "c", [[1, 2, 3], [4]], "bin")
    expected = (
        b"MMIDIDX\x00\x00"
        + struct.pack("<Q", 1)
        + struct.pack("<B", 8)
        + struct.pack("<Q", 2)
        + struct.pack("<Q", 3)
        + np.array([3, 1], np.int32).tobytes()
        + np.array([0, 6], np.int64).tobytes()
        + np.array([0, 1, 2], np.int64).tobytes()
    )
    assert (tmp_path / "c.idx").read_bytes() == expected
    assert (tmp_path / "c.bin").read_bytes() == np.array([1, 2, 3, 4], np.uint16).tobytes()


def test_documents_of_several_sentences(tmp_path):
    np.save(tmp_path / "c_ids.npy", np.arange(10, dtype=np.int32))
    lens, docs = np.array([2, 3, 4, 1], np.int32), np.array([0, 2, 2, 4], np.int64)
    np.savez(tmp_path / "c_idx.npz", lens=lens, docs=docs)
    found = corpus.open_corpus(tmp_path / "c")
    assert found.start_D.tolist() == [0, 5, 5]
    assert found.length_D.tolist() == [5, 0, 5]


def test_prefixes(tmp_path):
    for name in ("b", "a"):
        made(tmp_path / name, [[1]], "megatron")
    made(tmp_path / "z", [[1]], "bin")
    (tmp_path / "half_ids.npy").write_bytes(b"")
    names = ["a", "b", "z"]
    assert [prefix.name for prefix in corpus.prefixes(tmp_path)] == names
    for spec in ("a", "a_ids.npy", "a_idx.npz", "z", "z.bin", "z.idx"):
        assert [p.name for p in corpus.prefixes(tmp_path / spec)] == [spec[0]]
    assert corpus.prefixes(tmp_path / "nothing") == []


@pytest.mark.parametrize("damage", ["cut", "text", "docs", "lens", "pickle", "magic", "pointers"])
def test_damaged_files(tmp_path, damage):
    kind = "bin" if damage in ("magic", "pointers") else "megatron"
    made(tmp_path / "c", [[1, 2, 3], [4]], kind)
    index = tmp_path / ("c.idx" if kind == "bin" else "c_idx.npz")
    lens, docs = np.array([3, 1], np.int32), np.array([0, 1, 2], np.int64)
    if damage == "cut":
        index.write_bytes(index.read_bytes()[:-40])
    elif damage == "text":
        index.write_text("no index")
    elif damage == "docs":
        np.savez(index, lens=lens, docs=docs[:2])
    elif damage == "lens":
        np.savez(index, lens=lens + 1, docs=docs)
    elif damage == "pickle":
        np.savez(index, lens=lens, docs=np.array([object()], dtype=object))
    elif damage == "magic":
        index.write_bytes(b"X" + index.read_bytes()[1:])
    else:
        raw = bytearray(index.read_bytes())
        raw[-25] ^= 1
        index.write_bytes(raw)
    with pytest.raises(DataError, match="D212"):
        corpus.open_corpus(tmp_path / "c")


def test_nothing_is_left_of_what_was_interrupted(tmp_path):
    with pytest.raises(RuntimeError), corpus.writer(tmp_path / "c", "bin", 10) as add:  # noqa: PT012
        add([1])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".c.bin.tmp-{dead.pid}"
    alive = tmp_path / f".c.bin.tmp-{os.getppid()}"
    other = tmp_path / f".d.bin.tmp-{dead.pid}"
    for path in (left, alive, other):
        path.write_bytes(b"ids")
    with corpus.writer(tmp_path / "c", "bin", 10) as add:
        add([1])
    assert [left.exists(), alive.exists(), other.exists()] == [False, True, True]


@pytest.mark.parametrize(
    ("text", "documents", "expected"),
    [
        ("949,50,1", 1000, [(0, 949), (949, 999), (999, 1000)]),
        ("949/50/1", 1000, [(0, 949), (949, 999), (999, 1000)]),
        ("8,2", 10, [(0, 8), (8, 10), (10, 10)]),
        ("1", 7, [(0, 7), (7, 7), (7, 7)]),
        ("1,1,1", 10, [(0, 4), (4, 7), (7, 10)]),
    ],
)
def test_splits(text, documents, expected):
    assert corpus.parts(text, documents) == expected


@given(st.lists(st.integers(0, 99), min_size=1, max_size=3), st.integers(0, 500))
def test_splits_cover_every_document_once(weights, documents):
    text = ",".join(map(str, weights))
    if not sum(weights):
        with pytest.raises(DataError, match="D213"):
            corpus.parts(text, documents)
        return
    found = corpus.parts(text, documents)
    assert [a for a, _ in found[1:]] == [b for _, b in found[:-1]]
    assert (found[0][0], found[-1][1]) == (0, documents)


@pytest.mark.parametrize("text", ["", "a,b", "1,2,3,4", "-1,2"])
def test_what_is_no_split(text):
    with pytest.raises(DataError, match="D213"):
        corpus.parts(text, 10)
