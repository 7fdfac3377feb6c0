"""Tensor files: safetensors reads them, every dtype comes back bit for bit, pieces make wholes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from tunesmith.errors import RunError
from tunesmith.training import shards

METADATA = {"save_id": "abc", "step": "1"}


def roundtrip(path, tensors):
    written, index = shards.write(path, tensors, rank=0, metadata=METADATA)
    assert written.size == path.stat().st_size
    return shards.read(path.parent, index), index


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    raw = lambda t: t.contiguous().reshape(-1).view(torch.uint8)
    return one.dtype == other.dtype and one.shape == other.shape and raw(one).equal(raw(other))


def test_safetensors_reads_what_we_write(tmp_path):
    tensors = {
        "scalar": torch.tensor(1.5),
        "matrix": torch.randn(3, 5),
        "half": torch.randn(7).half(),
        "empty": torch.empty(0, 4),
        "name with spaces / ümlaut": torch.arange(3),
    }
    path = tmp_path / "x.safetensors"
    shards.write(path, tensors, rank=0, metadata=METADATA)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == METADATA


@pytest.mark.parametrize("dtype", shards.DTYPES, ids=str)
def test_every_dtype(tmp_path, dtype):
    tensor = torch.randint(0, 2, (5, 3)).to(dtype)
    read, _ = roundtrip(tmp_path / "x.safetensors", {"odd": torch.ones(1).bool(), "t": tensor})
    assert same_bits(read["t"], tensor)


def test_special_values_keep_their_bits(tmp_path):
    bits = torch.tensor([0x7FC00001, -0x3FFFFF, 0x00000001, -0x80000000], dtype=torch.int32)
    read, _ = roundtrip(tmp_path / "x.safetensors", {"t": bits.view(torch.float32)})
    assert torch.equal(read["t"].view(torch.int32), bits)


def test_views_are_written_as_they_look(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {"t": base.t(), "rows": base[1:3], "columns": base[:, ::2], "all": base}
    read, index = roundtrip(tmp_path / "x.safetensors", tensors)
    assert index["aliases"] == {}
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_tied_tensors_are_written_once(tmp_path):
    shared = torch.randn(100, 10)
    tensors = {"embed": shared, "head": shared, "copy": shared.clone()}
    read, index = roundtrip(tmp_path / "x.safetensors", tensors)
    assert index["aliases"] == {"head": "embed"}
    assert read["head"].data_ptr() == read["embed"].data_ptr()
    assert (tmp_path / "x.safetensors").stat().st_size < 2 * 4000 + 1000
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_empty_tensors_are_not_tied(tmp_path):
    _, index = roundtrip(
        tmp_path / "x.safetensors", {"a": torch.empty(0), "b": torch.empty(0), "c": torch.empty(0)}
    )
    assert index["aliases"] == {}


def test_data_is_aligned(tmp_path):
    tensors = {"a": torch.ones(1).bool(), "b": torch.randn(3), "c": torch.ones(5).half()}
    path = tmp_path / "x.safetensors"
    roundtrip(path, tensors)
    raw = path.read_bytes()
    header = int.from_bytes(raw[:8], "little")
    assert header % 8 == 0
    assert list(load_file(path)) == ["b", "c", "a"]


def test_other_ranks_write_nothing_of_plain_tensors(tmp_path):
    _, index = shards.write(
        tmp_path / "x.safetensors", {"a": torch.ones(3)}, rank=1, metadata=METADATA
    )
    assert index == {"tensors": {}, "aliases": {}}
    assert load_file(tmp_path / "x.safetensors") == {}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 3))
def test_pieces_of_many_ranks_make_a_whole(tmp_path_factory, world, rows, columns):
    """Whatever the world was that wrote, also with ranks that have nothing."""
    folder = tmp_path_factory.mktemp("pieces")
    whole = torch.randn(rows, columns)
    each = -(-rows // world)
    parts = []
    for rank in range(world):
        local = whole[rank * each : (rank + 1) * each]
        if len(local) == 0:
            continue
        name = f"w-{rank}.safetensors"
        _, part = shards.write(folder / name, {"w": local}, rank=0, metadata=METADATA)
        entry = part["tensors"]["w"]
        entry["shape"] = [rows, columns]
        entry["pieces"][0]["offset"] = [rank * each, 0]
        parts.append(part)
    index = shards.merge(parts)
    assert shards.problems(index) == []
    assert torch.equal(shards.read(folder, index)["w"], whole)
    index["tensors"]["w"]["pieces"].pop()
    assert shards.problems(index)[0].startswith("tensor `w`: ")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_non_finite_is_refused_by_name(bad, dtype):
    tensors = {"good": torch.ones(3), "count": torch.tensor(3), "bad.weight": torch.ones(2, 3)}
    tensors["bad.weight"] = tensors["bad.weight"].to(dtype)
    tensors["bad.weight"][1, 2] = bad
    with pytest.raises(RunError, match=r"1 of 6 values of `bad.weight` \(weights\)") as error:
        shards.refuse_non_finite(tensors, 7, "weights")
    assert error.value.code == "R112"
    assert "checkpoint at step 7 not written" in str(error.value)


def test_large_finite_values_pass():
    """A sum would overflow where every value is finite."""
    shards.refuse_non_finite({"a": torch.full((10,), 3e38), "b": torch.empty(0)}, 1, "weights")
    shards.refuse_non_finite({"f8": torch.ones(4).to(torch.float8_e4m3fn)}, 1, "weights")


def test_float8_nan_is_refused():
    bad = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    with pytest.raises(RunError):
        shards.refuse_non_finite({"f8": bad}, 1, "weights")


def test_memory_of_one_tensor_at_a_time(tmp_path):
    """The writer hands on views: contiguous CPU tensors are never copied."""
    tensors = {f"t{i}": torch.randn(1000) for i in range(3)}
    parts = list(shards._contents(tensors, METADATA))
    addresses = [torch.frombuffer(part, dtype=torch.uint8).data_ptr() for part in parts[1:]]
    assert addresses == [tensor.data_ptr() for tensor in tensors.values()]


def test_a_placed_tensor_is_a_copy():
    tensor = torch.ones(3)
    placed = shards.place(tensor, torch.nn.Parameter(torch.zeros(3)))
    placed.add_(1)
    assert tensor.sum() == 3
