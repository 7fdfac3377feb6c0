"""An exported folder, opened: its manifest, its two programs, and a text as they see it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tunesmith.errors import ExportError
from tunesmith.generation.graph_program_impl import Program, Unreadable

MANIFEST = "graph.json"
FORMAT = "tunesmith-graph"
VERSION = 1
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Folder:
    """An exported folder, opened: its manifest and its programs."""

    manifest: Mapping[str, Any]
    prefill: Program
    decode: Program

    def tables(self) -> list[Tensor]:
        """Empty keys of all layers, then values, as programs take them."""
        dtype = getattr(torch, self.manifest["dtype"])
        pairs = self.manifest["cache"]
        shapes = [pair[side] for side in ("keys", "values") for pair in pairs]
        return [torch.zeros(shape, dtype=dtype) for shape in shapes]


def open_folder(folder: Path) -> Folder:
    """Reads manifest, weights and programs.

    Raises:
        ExportError: X324, something is missing, damaged, or of a kind that is not read here.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            raise Unreadable(f"{MANIFEST} is of another version of the format")
        _check(manifest)
        tensors = load_file(folder / _plain(manifest["weights"]))
        for name, same in manifest["aliases"].items():
            tensors[name] = tensors[same]
        tensors |= load_file(folder / _plain(manifest["constants"]))
        programs = {
            name: Program(_read(folder / _plain(said["file"]), said["sha256"]), tensors)
            for name, said in manifest["programs"].items()
        }
        return Folder(manifest, programs["prefill"], programs["decode"])
    except (Unreadable, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise _unreadable(str(folder), why) from None


def _unreadable(where: str, why: str) -> ExportError:
    what, fix = "this exported graph can't be used", "export it again: tunesmith export --to graph"
    return ExportError("X324", what, where=where, why=why, fix=fix)


def _check(manifest: Mapping[str, Any]) -> None:
    """The numbers that sizes are made of are numbers."""
    sizes = [manifest[name] for name in ("context", "room", "chunk", "vocabulary")]
    shapes = [pair[side] for pair in manifest["cache"] for side in ("keys", "values")]
    for size in (*sizes, *(size for shape in shapes for size in shape)):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise Unreadable(f"{size!r} in {MANIFEST} is no size")
    if manifest["dtype"] not in DTYPES or not isinstance(manifest["torch"], str):
        raise Unreadable(f"{MANIFEST} names no type or no version of torch")
    if manifest["room"] % manifest["chunk"] or manifest["context"] > manifest["room"]:
        raise Unreadable(f"the context in {MANIFEST} does not fit its cache")


def _plain(name: Any) -> str:
    """A file's name, which leads nowhere else."""
    if not isinstance(name, str) or Path(name).name != name:
        raise Unreadable(f"{name!r} is no name of a file in it")
    return name


def _read(path: Path, sha256: str) -> Any:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Unreadable(f"{path.name} is not the file that was exported")
    return json.loads(data)


class State:
    """One text as the programs see it: their cache, and how much of it is filled."""

    def __init__(self, folder: Folder):
        self.folder, self.tables = folder, folder.tables()
        self.length = 0

    def read(self, ids: Sequence[int]) -> Tensor:
        """Logits (V) after more tokens; whole chunks by `prefill`, one alone by `decode`."""
        chunk = self.folder.manifest["chunk"]
        logits_1V = torch.empty(0)
        while ids:
            # `prefill` writes a whole chunk: what is padded is written over before it is seen
            whole = len(ids) > 1 and self.length % chunk == 0
            count = min(len(ids), chunk) if whole else 1
            padded = [*ids[:count], *[0] * (chunk - count)] if whole else ids[:1]
            program = self.folder.prefill if whole else self.folder.decode
            begin, last = torch.tensor([self.length]), torch.tensor([count - 1])
            try:
                [logits_1V] = program(torch.tensor(padded), begin, last, *self.tables)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                why = next(iter(str(error).strip().splitlines()), "")[:300]
                raise _unreadable(MANIFEST, f"its program fails: {why}") from None
            self.length, ids = self.length + count, ids[count:]
        return logits_1V[0]
