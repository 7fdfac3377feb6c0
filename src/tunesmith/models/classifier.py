"""Reward models on disk: the head beside an adapter, or a sequence classifier of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from tunesmith.errors import EnvironmentFault

HEAD = "score.safetensors"


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
    if (path / "adapter_config.json").is_file():
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


def load(path: Path, dtype: torch.dtype, device: Any) -> tuple[nn.Module, Tensor]:
    """Backbone and head of a sequence classifier with one label.

    Raises:
        EnvironmentFault: E208, it has more labels, or no head that is a matrix.
    """
    hf: Any = cast(Any, AutoModelForSequenceClassification).from_pretrained(
        path, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    head = dict(hf.named_parameters()).get("score.weight")
    if head is None or len(head) != 1:
        labels = "none" if head is None else len(head)
        raise EnvironmentFault(
            "E208",
            f"{type(hf).__name__} has no head for one score (labels: {labels})",
            fix="choose a reward model: a sequence classifier with num_labels 1",
        )
    hf = hf.to(device)
    return hf.base_model, hf.score.weight.detach()


def head(path: Path) -> Tensor | None:
    """The head beside an adapter or a language model, shape (1, D); None: there is none."""
    file = path / HEAD
    return load_file(file)["score.weight"] if file.is_file() else None
