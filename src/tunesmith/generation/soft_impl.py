"""Virtual tokens under an engine: their keys and values, computed once, begin a request's row.

Prompt tuning's vectors go through the model once; prefix tuning's keys and values are there. From
then on both are the same: what a row holds before its first token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import ConfigError
from tunesmith.generation.lanes_impl import Lanes, Place
from tunesmith.generation.step_impl import Piece, StepPlan
from tunesmith.models import attention
from tunesmith.models.soft import SoftPrefix, SoftPrompt, shape_of
from tunesmith.tuners import prompt_impl


class Beginning:
    """Keys and values of virtual tokens, each (n, K, E) by layer."""

    def __init__(self, layers: dict[int, tuple[Tensor, Tensor]], tokens: int):
        self.layers, self.tokens = layers, tokens

    def fill(self, place: Place) -> None:
        """Puts them into an empty place, before what is to be computed there."""
        n = self.tokens
        for layer, pair_nKE in self.layers.items():
            tables = place.lane.layer(layer, *pair_nKE)
            for table_RKCE, own_nKE in zip(tables, pair_nKE, strict=True):
                table_RKCE[place.row, :, :n] = own_nKE.transpose(0, 1)
        place.length = n


def beginning_of(hf: Any, soft: Any) -> Beginning:
    """What a request's row begins with; within `evaluating` of an engine."""
    if isinstance(soft, SoftPrefix):
        pairs = soft.keys_and_values(hf.dtype).detach()
        return Beginning({at: (k, v) for at, (k, v) in enumerate(pairs)}, soft.tokens)
    n = soft.tokens
    place = Lanes(n).take(n)
    assert place is not None
    plan = StepPlan([Piece(place, [0] * n)], hf.device)
    hf.base_model(
        inputs_embeds=soft.embedding.detach().to(hf.dtype)[None],
        attention_mask=attention.carry(plan),
        position_ids=torch.arange(n, device=hf.device)[None],
        use_cache=False,
    )
    keys, values = place.lane.tables()
    rows = {at: (keys[at][place.row, :, :n], values[at][place.row, :, :n]) for at in keys}
    turned = {at: (k.transpose(0, 1), v.transpose(0, 1)) for at, (k, v) in rows.items()}
    return Beginning(turned, n)


def virtual_of(adapter: Any, hf: Any) -> Any:
    """The virtual tokens of an adapter on disk; None if it is of another kind.

    Raises:
        ConfigError: G123, they are of another model.
        EnvironmentFault: E209, E210, the adapter's files.
    """
    if not isinstance(adapter, str | Path) or prompt_impl.kind_of(Path(adapter)) is None:
        return None
    stored = prompt_impl.read(Path(adapter)).to(hf.device)
    shape, width = shape_of(hf), hf.get_input_embeddings().weight.shape[1]
    prefix = prompt_impl.kind_of(Path(adapter)) == "prefix"
    if stored.shape[1] != (shape.numbers if prefix else width):
        raise ConfigError(
            "G123",
            f"{adapter} can't be loaded beside this model",
            why=f"its virtual tokens have {stored.shape[1]} numbers each",
            fix="load the base they were trained on",
        )
    return SoftPrefix(stored, shape) if prefix else SoftPrompt(stored)
