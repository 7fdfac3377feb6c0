"""Durable files: whole under short writes, hashed as read back, never overwritten."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise

import pytest

from tunesmith.training import durable


def test_hash_and_size_are_those_of_the_file(tmp_path):
    parts = [b"head", memoryview(b"x" * 1000), b""]
    written = durable.write_file(tmp_path / "a", parts)
    data = (tmp_path / "a").read_bytes()
    assert data == b"head" + b"x" * 1000
    assert written == (1004, hashlib.sha256(data).hexdigest())
    assert durable.hash_file(tmp_path / "a") == written


def test_a_kernel_that_writes_little_at_a_time(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    durable.write_file(tmp_path / "a", [bytes(range(100))])
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_large_parts_go_in_chunks(tmp_path, monkeypatch):
    sizes = []
    write = os.write
    monkeypatch.setattr(durable, "CHUNK", 64)
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or write(fd, data))
    durable.write_file(tmp_path / "a", [b"y" * 150])
    assert sizes == [64, 64, 22]


@pytest.mark.parametrize(
    "sizes", [[], [0], [3, 0, 4], [9, 10, 11, 2], [10], [4, 4, 4, 4, 4, 4], [30, 1]]
)
def test_small_parts_are_joined_and_large_ones_are_not_copied(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(durable, "SMALL", 10)
    parts = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    joined = list(durable._joined(parts))
    assert b"".join(joined) == b"".join(parts)
    assert all(len(view) > 0 for view in joined)
    assert all(any(view.obj is part for view in joined) for part in parts if len(part) >= 10)
    assert all(len(a) + len(b) > 9 for a, b in pairwise(joined))
    assert durable.write_file(tmp_path / "a", parts).size == sum(sizes)
    assert (tmp_path / "a").read_bytes() == b"".join(parts)


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        durable.write_file(tmp_path / "a", [b"theirs"])
    assert (tmp_path / "a").read_text() == "mine"


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        durable.write_file(tmp_path / "link", [b"x"])
    assert not (tmp_path / "elsewhere").exists()


def test_descriptors_are_closed_when_writing_fails(tmp_path):
    before = len(os.listdir("/proc/self/fd"))

    def parts():
        yield b"some"
        raise OSError("the source failed")

    for name in "abc":
        with pytest.raises(OSError, match="the source failed"):
            durable.write_file(tmp_path / name, parts())
    assert len(os.listdir("/proc/self/fd")) == before


def test_directories(tmp_path):
    durable.make_directory(tmp_path / "d")
    durable.make_directory(tmp_path / "d")
    (tmp_path / "d" / "sub").mkdir()
    (tmp_path / "d" / "sub" / "f").write_text("x")
    durable.remove_tree(tmp_path / "d")
    durable.remove_tree(tmp_path / "d")
    assert not (tmp_path / "d").exists()
