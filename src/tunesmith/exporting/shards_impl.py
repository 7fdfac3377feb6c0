"""Safetensors directories, tensor by tensor: no more than one tensor is in memory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from tunesmith.errors import ConfigError, ExportError
from tunesmith.training.durable import write_file
from tunesmith.training.shards import DTYPES

INDEX = "model.safetensors.index.json"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """A tensor of a directory, known by its file's header."""

    file: Path
    name: str
    """Its name in the file."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> Tensor:
        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor(self.name)


@dataclass(frozen=True)
class Planned:
    """A tensor to write: what it will be, and how it is made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def stored(directory: Path) -> dict[str, Stored]:
    """The tensors of a model directory by name, from the headers alone.

    Raises:
        ExportError: X103, a file's header can't be read or has a type we don't know.
    """
    index = directory / INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        # An index may name files; it may not lead out of its folder.
        files = [directory / Path(name).name for name in names]
    else:
        files = sorted(directory.glob("*.safetensors"))
    return {found.name: found for file in files for found in headers(file)}


def headers(file: Path) -> list[Stored]:
    """The tensors of one file, in its order."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return [
                Stored(file, name, tuple(one.get_shape()), _BY_NAME[one.get_dtype()])
                for name, one in slices.items()
            ]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(file, error) from error
    except Exception as error:  # safetensors' own error has no public base class
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ExportError:
    why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return ExportError(
        "X103", f"{file.name} can't be read", where=str(file), why=why, fix="fetch it anew"
    )


def parse_size(text: str) -> int:
    """`5GB`, `500MB`, `2GiB` → bytes.

    Raises:
        ConfigError: C211, not a size.
    """
    digits = text.strip().upper()
    for unit, factor in sorted(_UNITS.items(), key=lambda pair: -len(pair[0])):
        if digits.endswith(unit):
            try:
                size = int(float(digits.removesuffix(unit)) * factor)
            except (ValueError, OverflowError):
                break
            if size > 0:
                return size
            break
    raise ConfigError(
        "C211", f"{text!r} is no size", where="max_shard_size", fix="write it like 5GB or 500MB"
    )


def write(directory: Path, tensors: Sequence[Planned], limit: int) -> list[str]:
    """Writes a model's shards and, if there are several, their index.

    Args:
        directory: Where to; exists.
        tensors: In the order they are to have.
        limit: Largest shard in bytes; a tensor larger than that has a shard of its own.

    Returns:
        File names.
    """
    groups: list[list[Planned]] = []
    size = 0
    for tensor in tensors:
        if not groups or size + tensor.size > limit:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.size
    if len(groups) == 1:
        write_file(directory / "model.safetensors", _contents(groups[0]))
        return ["model.safetensors"]
    names = [f"model-{n:05}-of-{len(groups):05}.safetensors" for n in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        write_file(directory / name, _contents(group))
    places = {t.name: name for name, group in zip(names, groups, strict=True) for t in group}
    total = sum(tensor.size for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    text = json.dumps(index, indent=2) + "\n"
    write_file(directory / INDEX, [text.encode()])
    return names


def _contents(tensors: list[Planned]) -> Iterator[bytes | memoryview]:
    """A safetensors file: header, then tensors, the widest types first so that all are aligned."""
    order = list(DTYPES)
    tensors = sorted(tensors, key=lambda tensor: order.index(tensor.dtype))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.size
        header[tensor.name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for tensor in tensors:
        made = tensor.make()
        if made.shape != tensor.shape or made.dtype != tensor.dtype:
            raise AssertionError(f"{tensor.name} became {made.dtype} {tuple(made.shape)}")
        if made.numel():
            yield made.contiguous().reshape(-1).view(torch.uint8).numpy().data
