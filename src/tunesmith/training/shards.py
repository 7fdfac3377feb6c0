"""Named tensors as safetensors files and an index: global shape, and which file holds which piece.

A checkpoint of W processes has W files of each group; process r writes the pieces it owns. Reading
puts pieces together by their offsets, so the world that reads need not be the one that wrote.
Own writer, since safetensors' copies all tensors in memory and neither hashes nor fsyncs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from safetensors import safe_open
from torch import Tensor

from tunesmith.errors import RunError
from tunesmith.training.durable import Written, write_file

# Names of safetensors, largest first: files laid out in this order have aligned tensors.
DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Piece(NamedTuple):
    """The part of a tensor that one process writes."""

    local: Tensor
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    """Shape of the whole tensor."""


def write(
    path: Path, tensors: Mapping[str, Tensor], *, rank: int, metadata: Mapping[str, str]
) -> tuple[Written, dict[str, Any]]:
    """Writes this process's pieces of `tensors` to one new file.

    A tensor that shares its memory with an earlier one is recorded as its alias, not written twice.

    Args:
        path: The file; must not exist.
        tensors: By name; plain tensors are the same on every rank and are written by rank 0,
            DTensors by the ranks that hold their shards.
        rank: This process.
        metadata: Strings for the file's header.

    Returns:
        Size and hash of the file, and this process's part of the index.
    """
    aliases = _aliases(tensors)
    found = {n: _piece(t, rank) for n, t in tensors.items() if n not in aliases}
    pieces = {n: piece for n, piece in found.items() if piece is not None}
    order = list(DTYPES)
    names = sorted(pieces, key=lambda n: (order.index(pieces[n].local.dtype), n))
    written = write_file(path, _contents({n: pieces[n].local for n in names}, metadata))
    index = {
        name: {
            "dtype": DTYPES[piece.local.dtype],
            "shape": list(piece.shape),
            "pieces": [
                {
                    "file": path.name,
                    "offset": list(piece.offset),
                    "shape": list(piece.local.shape),
                }
            ],
        }
        for name, piece in pieces.items()
    }
    return written, {"tensors": index, "aliases": aliases}


def merge(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One index from those of all processes."""
    merged: dict[str, Any] = {"tensors": {}, "aliases": {}}
    for part in parts:
        merged["aliases"] |= part["aliases"]
        for name, entry in part["tensors"].items():
            if name in merged["tensors"]:
                merged["tensors"][name]["pieces"] += entry["pieces"]
            else:
                merged["tensors"][name] = {**entry, "pieces": list(entry["pieces"])}
    return merged


def read(folder: Path, index: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of an index, whole, on the CPU; aliases share memory with what they name."""
    files: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, entry in index["tensors"].items():
        for piece in entry["pieces"]:
            if piece["file"] not in files:
                files[piece["file"]] = safe_open(folder / piece["file"], framework="pt")
        tensors[name] = _assemble(name, entry, files)
    return tensors | {alias: tensors[name] for alias, name in index["aliases"].items()}


def problems(index: Mapping[str, Any]) -> list[str]:
    """Tensors of an index whose pieces don't make a whole."""
    return [
        f"tensor `{name}`: {_count(entry)} of {math.prod(entry['shape'])} elements are there"
        for name, entry in index["tensors"].items()
        if _count(entry) != math.prod(entry["shape"])
    ]


def refuse_non_finite(tensors: Mapping[str, Tensor], step: int, what: str) -> None:
    """Keeps NaN and infinity out of checkpoints, so that the newest one is always worth resuming.

    Raises:
        RunError: R112, naming the first such tensor.
    """
    for name, tensor in tensors.items():
        local = tensor.to_local() if sharded(tensor) else tensor
        if not local.is_floating_point() or local.numel() == 0:
            continue
        if local.dtype.itemsize == 1:  # float8 has no reductions
            local = local.float()
        low, high = torch.aminmax(local.detach())  # one pass, no copy; NaN wins in both
        if not (low.isfinite() and high.isfinite()):
            bad = int((~local.isfinite()).sum())
            raise RunError(
                "R112",
                f"{bad} of {local.numel()} values of `{name}` ({what}) are not finite; "
                f"checkpoint at step {step} not written",
                why="Earlier checkpoints are as they were.",
                fix="lower optim.learning_rate and resume from the last checkpoint",
            )


def place(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor on the device of `like`, sharded as it is."""
    if sharded(like):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device, copy=True)


def sharded(tensor: Tensor) -> TypeGuard[Any]:
    """Whether this is a DTensor; told without importing its module, which takes 0.6 s."""
    return hasattr(tensor, "placements")


def _aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Later name → first name of tensors that are the same memory."""
    first: dict[tuple, str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        local = tensor.to_local() if sharded(tensor) else tensor
        if local.numel() == 0:
            continue
        key = (local.device, local.data_ptr(), local.dtype, local.shape, local.stride())
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
    return aliases


def _piece(tensor: Tensor, rank: int) -> Piece | None:
    """What this rank writes of a tensor, if anything."""
    if not sharded(tensor):
        whole = Piece(tensor, (0,) * tensor.dim(), tuple(tensor.shape))
        return whole if rank == 0 else None
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = tensor.device_mesh, tensor.placements
    coordinate = mesh.get_coordinate()
    replica = any(
        place.is_replicate() and at
        for place, at in zip(placements, coordinate or (1,) * len(placements), strict=True)
    )
    local = tensor.to_local()
    if replica or (local.numel() == 0 and rank != 0):
        return None
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    return Piece(local, tuple(offset), tuple(tensor.shape))


def _contents(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[Any]:
    """Header and data of a safetensors file, one tensor in host memory at a time."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        shape, dtype = list(tensor.shape), DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data


def _assemble(name: str, entry: Mapping[str, Any], files: Mapping[str, Any]) -> Tensor:
    pieces = entry["pieces"]
    if len(pieces) == 1:
        return files[pieces[0]["file"]].get_tensor(name)
    first = files[pieces[0]["file"]].get_tensor(name)
    whole = torch.empty(entry["shape"], dtype=first.dtype)
    for piece in pieces:
        spans = zip(piece["offset"], piece["shape"], strict=True)
        window = tuple(slice(start, start + count) for start, count in spans)
        whole[window] = files[piece["file"]].get_tensor(name)
    return whole


def _count(entry: Mapping[str, Any]) -> int:
    return sum(math.prod(piece["shape"]) for piece in entry["pieces"])
