"""Reward models on disk: the head beside an adapter, or a sequence classifier of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

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


def last_hidden(path: Path, dtype: torch.dtype, device: Any) -> Callable[[Sequence[int]], Tensor]:
    """The body of a sequence classifier on disk: ids in, the last token's hidden state (D,) out.

    A classifier has no output head, so it is no language model; one sequence is read at a time.
    """
    read: Any = AutoModelForSequenceClassification.from_pretrained
    made = read(
        path, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    made = made.to(device).eval().requires_grad_(False)

    def last(ids: Sequence[int]) -> Tensor:
        ids_1T = torch.tensor([list(ids)], device=device)
        return made.base_model(input_ids=ids_1T, use_cache=False).last_hidden_state[0, -1]

    return last


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
