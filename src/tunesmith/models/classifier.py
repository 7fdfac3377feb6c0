"""Reward models on disk: the head beside an adapter, or a sequence classifier of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from tunesmith.errors import EnvironmentFault, ExportError
from tunesmith.models.load import read_config

HEAD = "score.safetensors"
WEIGHT, BIAS = "score.weight", "score.bias"


def save(hf: nn.Module, weight_1D: Tensor, path: Path) -> None:
    """Writes the head into a directory that holds what the tuner saved.

    An adapter stays as it is. A whole model is written anew as the sequence classifier of its
    family (`num_labels` 1), which scores the last token as we do; where the family has none, the
    language model stays and the head lies beside it.

    Args:
        hf: The trained causal language model.
        weight_1D: The head.
        path: Where the tuner saved.
    """
    head = {"score.weight": weight_1D.detach().cpu().contiguous()}
    save_file(head, path / HEAD, metadata={"format": "pt"})
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        # Called a causal model's, PEFT would not lay it over a classifier.
        fields = json.loads(adapter.read_text(encoding="utf-8")) | {"task_type": None}
        adapter.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return
    made = classifier(hf, weight_1D)
    if made is not None:
        for file in path.glob("model*.safetensors*"):
            file.unlink()
        made.save_pretrained(path)


def classifier(hf: Any, weight_1D: Tensor) -> Any:
    """The sequence classifier with these weights, sharing their memory; None if there is none."""
    fields = {k: v for k, v in hf.config.to_dict().items() if k not in ("id2label", "label2id")}
    config = AutoConfig.for_model(**fields, num_labels=1)
    with torch.device("meta"):
        try:
            made = AutoModelForSequenceClassification.from_config(config)
        except ValueError:  # transformers names no classifier for this family
            return None
    weights = {f"{made.base_model_prefix}.{n}": t for n, t in hf.base_model.state_dict().items()}
    weights["score.weight"] = weight_1D.detach().to(hf.dtype)
    if set(made.state_dict()) != set(weights):
        return None
    made.load_state_dict(weights, assign=True)
    return made


# ---------------------------------------------------------------- reading


def is_classifier(directory: Path) -> bool:
    """Whether a directory holds a whole model saved as a sequence classifier."""
    config = directory / "config.json"
    found = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return any("ForSequenceClassification" in name for name in found.get("architectures") or ())


def backbone(directory: Path, *, dtype: torch.dtype, device: Any) -> Any:
    """The causal language model whose backbone a sequence classifier has; its output head is not
    in the files, is never used, and holds whatever its constructor drew.

    Raises:
        EnvironmentFault: E206, more than the output head is missing.
    """
    logging.disable_progress_bar()
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # it would report the score head as unexpected
    try:
        hf, report = cast(Any, AutoModelForCausalLM).from_pretrained(
            directory,
            config=read_config(directory),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(told)
    head = {id(p) for p in hf.get_output_embeddings().parameters()}
    unused = {name for name, p in hf.named_parameters() if id(p) in head}
    missing = sorted({*report["missing_keys"], *(k[0] for k in report["mismatched_keys"])} - unused)
    if missing:
        raise EnvironmentFault(
            "E206",
            f"{len(missing)} weights are missing or have another shape: {', '.join(missing[:3])}",
            where=str(directory),
            fix="the checkpoint is incomplete or belongs to another config.json",
        )
    return hf.to(device)


def read_head(directory: Path, width: int, *, dtype: torch.dtype, device: Any) -> nn.Linear:
    """The score head of an adapter or a whole model on disk.

    Args:
        directory: What a reward run saved, or a sequence classifier of transformers.
        width: D, the model's hidden size.
        dtype: Type of the head in memory.
        device: Where to put it.

    Raises:
        ExportError: X310, there is no head; X311, it has another shape.
    """
    tensors = _stored(directory)
    if WEIGHT not in tensors:
        raise ExportError(
            "X310",
            f"{directory} holds no score head: it is no reward model",
            fix="name a run of stage reward, or a sequence classifier with one label",
        )
    return head_of(tensors, width, str(directory)).to(device=device, dtype=dtype)


def head_of(tensors: dict[str, Tensor], width: int, where: str) -> nn.Linear:
    """A linear layer of `score.weight` and, if there is one, `score.bias`.

    Raises:
        ExportError: X311, it gives more than one number, or is for another hidden size.
    """
    weight, bias = tensors[WEIGHT], tensors.get(BIAS)
    if tuple(weight.shape) != (1, width) or (bias is not None and bias.numel() != 1):
        raise ExportError(
            "X311",
            f"the score head has shape {tuple(weight.shape)}, the model wants (1, {width})",
            where=where,
            fix="a reward model gives one number (num_labels 1), on the base it was trained on",
        )
    head = nn.Linear(width, 1, bias=bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias.reshape(1))
    return head.requires_grad_(False)


def _stored(directory: Path) -> dict[str, Tensor]:
    """The head's tensors: of our own file, which is float32, or of the model's."""
    if (directory / HEAD).is_file():
        return load_file(directory / HEAD)
    found = {}
    for path in sorted(directory.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {n: file.get_tensor(n) for n in (WEIGHT, BIAS) if n in set(file.keys())}
    return found
