"""What a model is made of: parameters and memory by module, from its config and file headers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

DEPTH = 3
_BITS = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "U8": 8, "I8": 8}
_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


@dataclass(frozen=True)
class Part:
    """A module, or a run of equal ones: what it holds that no earlier one holds."""

    name: str
    depth: int
    parameters: int
    """Each tensor counts where it is first met, so the parts of a module add up to it."""
    shared: str
    """Empty, `(shared)` or `(partially shared)`: tensors that were counted before."""


def parts(model: nn.Module, depth: int = DEPTH) -> list[Part]:
    """The tree of modules with parameters, as deep as `depth`; equal neighbours are one line."""
    return _merged(list(_walk(model, "", 0, depth, set())))


def _walk(module: nn.Module, name: str, level: int, depth: int, seen: set[int]) -> Iterator[Part]:
    before = set(seen)
    mine = {id(p): p.numel() for p in module.parameters()}
    if not mine:
        return
    fresh = sum(count for key, count in mine.items() if key not in before)
    shared = "" if not mine.keys() & before else "(partially shared)" if fresh else "(shared)"
    yield Part(name or "total", level, fresh, shared)
    own = list(module.parameters(recurse=False))
    children = list(module.named_children())
    if level < depth:
        if own and children:
            count = sum(p.numel() for p in own if id(p) not in seen)
            seen.update(id(p) for p in own)
            yield Part(f"{name}.(own)".lstrip("."), level + 1, count, "")
        for key, child in children:
            yield from _walk(child, f"{name}.{key}".lstrip("."), level + 1, depth, seen)
    seen.update(mine)


def _merged(found: list[Part]) -> list[Part]:
    """Runs of numbered neighbours that look alike, each a block with its inner lines, as one."""
    blocks: list[tuple[list[Part], int, str]] = []  # lines, how many blocks they stand for, first
    at = 0
    while at < len(found):
        end = at + 1
        numbered = found[at].name.rpartition(".")[2].isdigit()
        while numbered and end < len(found) and found[end].depth > found[at].depth:
            end += 1
        block = found[at:end]
        if numbered and blocks and _alike(blocks[-1][0], block):
            _, count, first = blocks[-1]
            blocks[-1] = (block, count + 1, first)
        else:
            blocks.append((block, 1, block[0].name))
        at = end
    return [part for block in blocks for part in _lines(*block)]


def _alike(one: list[Part], other: list[Part]) -> bool:
    shape = lambda block: [(p.depth, p.parameters, p.shared) for p in block]
    stem = lambda block: block[0].name.rpartition(".")[0]
    return stem(one) == stem(other) and shape(one) == shape(other)


def _lines(block: list[Part], count: int, first: str) -> Iterator[Part]:
    if count == 1:
        yield from block
        return
    last = block[0].name
    name = f"{first}–{last.rpartition('.')[2]}"
    for part in block:
        renamed = name + part.name.removeprefix(last)
        yield Part(renamed, part.depth, part.parameters * count, part.shared)


def stored(directory: Path) -> dict[str, int]:
    """Bytes of a directory's weights by type, from the headers of its files."""
    found: dict[str, int] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                kind, size = str(tensor.get_dtype()), 1
                for length in tensor.get_shape():
                    size *= length
                key = _NAMES.get(kind, kind.lower())
                found[key] = found.get(key, 0) + size * _BITS.get(kind, 64) // 8
    return found


def stored_dtype(directory: Path, default: str) -> str:
    """The type that most of a directory's weights are stored in, if models can be loaded in it."""
    found = stored(directory)
    most = max(found, key=lambda kind: found[kind], default=default)
    return most if most in ("float32", "bfloat16", "float16") else default


def cache_bytes(model: PreTrainedModel, itemsize: int) -> int | None:
    """Bytes of keys and values that each token of context takes; None: not of that kind."""
    fields: dict[str, Any] = model.config.get_text_config().to_dict()
    layers = fields.get("num_hidden_layers") or fields.get("n_layer")
    heads = fields.get("num_attention_heads") or fields.get("n_head")
    width = fields.get("hidden_size") or fields.get("n_embd")
    if not (layers and heads and width):
        return None
    groups = fields.get("num_key_value_heads") or heads
    return 2 * layers * groups * (fields.get("head_dim") or width // heads) * itemsize
