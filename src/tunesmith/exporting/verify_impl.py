"""Proves a merge: the live adapter and the merged model are asked the same, and compared.

The live side is computed by PEFT, so nothing of our own arithmetic is on both sides. Both compute
in float32, whatever the weights are stored in, so that only the merge differs.

Legend: `B` rows, `T` tokens, `V` vocabulary.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.models import load
from tunesmith.recipe.sections import ModelConfig

ROWS, TOKENS = 2, 48
"""How many probe ids."""


class Difference(NamedTuple):
    """How far the merged model is from the live adapter, over all probed positions."""

    max_abs: float
    """Largest difference of a logit."""
    max_logit: float
    """Largest size of a logit."""
    kl: float
    """Mean Kullback-Leibler divergence KL(live ‖ merged) of the next token, in nats."""


def fits(parameters: int) -> bool:
    """Whether one model of that size, in float32, and its outputs fit into free memory."""
    return 4.5 * parameters < psutil.virtual_memory().available


def compare(base: Path, adapters: Sequence[Path], merged: Path, vocabulary: int) -> Difference:
    """Runs both models on probe ids, one after the other.

    Args:
        base: Directory of the base.
        adapters: Adapter directories, innermost first.
        merged: Directory of the merged model.
        vocabulary: Rows of the merged embedding; its last ids are always among the probes.
    """
    live = _load(base)
    probes_BT = probes(vocabulary, live)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's warnings about tied embeddings; we obey them
        for at, adapter in enumerate(adapters):
            _resize(live, adapter, vocabulary)
            model = PeftModel.from_pretrained(live, str(adapter))
            last = at == len(adapters) - 1
            live = model if last else model.merge_and_unload()
    live_BTV = _logits(live, probes_BT)
    del live, model
    gc.collect()
    return difference(live_BTV, _logits(_load(merged), probes_BT))


def difference(live_BTV: Tensor, merged_BTV: Tensor) -> Difference:
    """Compares two models' logits."""
    live, merged = live_BTV.double().log_softmax(-1), merged_BTV.double().log_softmax(-1)
    return Difference(
        float((live_BTV - merged_BTV).abs().max()),
        float(live_BTV.abs().max()),
        float((live.exp() * (live - merged)).sum(-1).mean()),
    )


def probes(vocabulary: int, model: PreTrainedModel) -> Tensor:
    """Ids drawn over the whole vocabulary, the same every time."""
    reach = model.config.get_text_config().to_dict().get("max_position_embeddings") or TOKENS
    drawn = np.random.Generator(np.random.Philox(key=0)).integers(
        vocabulary, size=(ROWS, min(TOKENS, reach))
    )
    drawn[:, -1] = vocabulary - 1
    return torch.from_numpy(drawn)


def _load(directory: Path) -> PreTrainedModel:
    return load.load(ModelConfig(path=str(directory)), dtype="float32").hf.eval()


def _resize(model: Any, adapter: Path, vocabulary: int) -> None:
    """Makes room for an adapter's larger vocabulary; what it holds is then overwritten."""
    from tunesmith.exporting.adapter_impl import read

    name = next(n for n, m in model.named_modules() if m is model.get_input_embeddings())
    whole = read(adapter).whole
    grown = whole.get(f"{name}.weight")
    if grown is not None and grown.shape[0] != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)


@torch.no_grad()
def _logits(model: torch.nn.Module, ids_BT: Tensor) -> Tensor:
    return model(input_ids=ids_BT, use_cache=False).logits.float()
