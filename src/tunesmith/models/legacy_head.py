"""Reward models of older systems made today's: value_head.bin and vhead.bin to score.safetensors.

Those systems saved a LoRA (adapter_model.bin) and a value head (`v_head.summary.weight`, or
`summary.weight`, and a bias) with `torch.save`. Both become safetensors; the config stays.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tunesmith.errors import ExportError
from tunesmith.models import torch_zip
from tunesmith.models.classifier import BIAS, HEAD, WEIGHT

OLD_HEADS = ("value_head.bin", "vhead.bin", "v_head.bin")
_WEIGHTS = ("summary.weight", "v_head.weight", "value_head.weight", "score.weight")


def convert(old: Path, new: Path) -> dict[str, Any]:
    """Writes a folder with score.safetensors, and the adapter if there is one.

    Args:
        old: A head's file, or a folder with one and perhaps an adapter.
        new: A folder to make.

    Returns:
        `head` (its file), `width`, `bias` (or None), `adapter` (number of tensors), `output`.

    Raises:
        ExportError: X312, X313, a file is refused; X314, no head is there; X315, `new` exists.
    """
    if new.exists():
        raise ExportError("X315", f"{new} is there already", fix="choose another folder")
    file = _head_file(old)
    head = head_tensors(torch_zip.load(file), file)
    adapter: dict[str, Tensor] = {}
    pickled = old / "adapter_model.bin" if old.is_dir() else None
    if pickled is not None and pickled.is_file():
        adapter = _plain(torch_zip.load(pickled))
    aside = new.with_name(f".{new.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(head, aside / HEAD, metadata={"format": "pt"})
    if adapter:
        save_file(adapter, aside / "adapter_model.safetensors", metadata={"format": "pt"})
    for found in sorted(old.glob("*.json")) if old.is_dir() else ():
        _copy_json(found, aside)
    aside.replace(new)
    bias = float(head[BIAS]) if BIAS in head else None
    width = head[WEIGHT].shape[1]
    facts = {"head": str(file), "width": width, "bias": bias}
    return {**facts, "adapter": len(adapter), "output": str(new)}


def _head_file(old: Path) -> Path:
    if old.is_file():
        return old
    found = [old / name for name in OLD_HEADS if (old / name).is_file()]
    if found:
        return found[0]
    raise ExportError(
        "X314", f"{old} holds no value head", fix=f"name the file; known: {', '.join(OLD_HEADS)}"
    )


def head_tensors(found: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The head's weight (1, D) and bias (1,) under today's names, in float32.

    Raises:
        ExportError: X314, there is none, or several.
    """
    names = [name for name in found if name.endswith(_WEIGHTS)]
    if len(names) != 1 or found[names[0]].dim() != 2 or found[names[0]].shape[0] != 1:
        raise ExportError(
            "X314",
            f"{file.name} holds {len(names) or 'no'} value head(s) of shape (1, width)",
            where=str(file),
            why=f"found: {', '.join(sorted(found)[:6])}",
            fix="name the file of the reward head",
        )
    head = {WEIGHT: found[names[0]].float().contiguous()}
    bias = found.get(names[0].removesuffix("weight") + "bias")
    if bias is not None:
        head[BIAS] = bias.float().reshape(1).contiguous()
    return head


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _copy_json(file: Path, folder: Path) -> None:
    """A config goes along as it is, if it is JSON."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(
            "X313", f"{file.name} is no JSON: {str(error)[:60]}", where=str(file), fix="mend it"
        ) from None
    shutil.copyfile(file, folder / file.name)
