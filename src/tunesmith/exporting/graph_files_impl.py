"""Files of an exported graph: weights, constants, programs, and the manifest that ties them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from tunesmith import __version__
from tunesmith.exporting import graph_trace_impl
from tunesmith.generation import graph_impl


def write(aside: Path, hf: Any, traced: graph_trace_impl.Traced, facts: Mapping[str, Any]) -> None:
    """Weights, constants, programs and the manifest."""
    weights, aliases = _told_apart(hf.state_dict())
    mode = (aside / "config.json").stat().st_mode  # safetensors makes files for their owner only
    for file, tensors in (("model", weights), ("constants", dict(traced.constants))):
        save_file(tensors, aside / f"{file}.safetensors", {"format": "pt"})
        (aside / f"{file}.safetensors").chmod(mode)
    programs = {}
    for name, program in traced.programs.items():
        data = json.dumps(program, separators=(",", ":")).encode()
        (aside / f"{name}.json").write_bytes(data)
        tokens = graph_trace_impl.CHUNK if name == "prefill" else 1
        programs[name] = {
            "file": f"{name}.json",
            "sha256": hashlib.sha256(data).hexdigest(),
            "inputs": _inputs(tokens, traced, facts["dtype"]),
            "outputs": [{"name": "logits", "dtype": facts["dtype"], "shape": [1, width(hf)]}],
        }
    manifest = {
        "format": graph_impl.FORMAT,
        "version": graph_impl.VERSION,
        "tunesmith": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": "cpu",
        **facts,
        "chunk": graph_trace_impl.CHUNK,
        "room": traced.room,
        "vocabulary": width(hf),
        "cache": [{"keys": keys, "values": values} for keys, values in traced.cache],
        "weights": "model.safetensors",
        "aliases": aliases,
        "constants": "constants.safetensors",
        "programs": programs,
    }
    write_manifest(aside, manifest)


def width(hf: Any) -> int:
    return int(hf.config.get_text_config().vocab_size)


def _inputs(tokens: int, traced: graph_trace_impl.Traced, dtype: str) -> list[dict[str, Any]]:
    """Names, types and shapes in the order in which a program takes them."""
    numbers = [("ids", tokens), ("begin", 1), ("last", 1)]
    inputs = [{"name": name, "dtype": "int64", "shape": [size]} for name, size in numbers]
    for side, what in enumerate(("keys", "values")):
        inputs += [
            {"name": f"{what}.{at}", "dtype": dtype, "shape": list(pair[side]), "written": True}
            for at, pair in enumerate(traced.cache)
        ]
    return inputs


def _told_apart(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and names of those that are another one's as well (tied embeddings)."""
    first: dict[Any, str] = {}
    kept, aliases = {}, {}
    for name, tensor in state.items():
        print_ = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and print_ in first:
            aliases[name] = first[print_]
            continue
        first[print_] = name
        shared = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
        kept[name] = tensor.clone() if shared else tensor.contiguous()
    return kept, aliases


def write_manifest(aside: Path, manifest: Any) -> None:
    text = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
    (aside / graph_impl.MANIFEST).write_text(text, encoding="utf-8")
