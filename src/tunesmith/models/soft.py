"""Virtual tokens before every sample: trained embeddings, or trained keys and values of each layer.

Prompt tuning (Lester et al., arXiv:2104.08691) puts trained vectors where embeddings of tokens
would be; prefix tuning (Li & Liang, arXiv:2101.00190) gives every layer trained keys and values.
Either way a sample's own tokens begin at position `n`. A batch is laid out anew with `n` tokens
before every segment that continues no other, so packing, padding and shared prompts see them once.

Legend: `n` virtual tokens, `D` width, `L` layers, `K` key heads, `E` width of a head, `B` rows,
`T` tokens, `G` segments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from tunesmith.types import Batch, Segments

NAME = "soft_prompt"
"""Under this name a model holds its virtual tokens."""


class Shape(NamedTuple):
    """Of a model's keys and values."""

    layers: int
    heads: int
    width: int

    @property
    def numbers(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.heads * self.width


def shape_of(hf: PreTrainedModel) -> Shape:
    """Layers, key heads and width of a head."""
    config = hf.config.get_text_config()
    fields = config.to_dict()
    heads = config.num_attention_heads
    width = fields.get("head_dim") or config.hidden_size // heads
    return Shape(config.num_hidden_layers, fields.get("num_key_value_heads") or heads, width)


class SoftPrompt(nn.Module):
    """Trained embeddings of virtual tokens, shape (n, D)."""

    def __init__(self, vectors_nD: Tensor):
        super().__init__()
        self.embedding = nn.Parameter(vectors_nD)
        self.enabled = True

    @property
    def tokens(self) -> int:
        return len(self.embedding)

    def stored(self) -> Tensor:
        """As PEFT stores it."""
        return self.embedding


class SoftPrefix(nn.Module):
    """Trained keys and values of virtual tokens, shape (n, L·2·K·E), key before value.

    Args:
        vectors: (n, L·2·K·E), or (n, D) if projected.
        shape: Of the model's keys and values.
        hidden: Width of the MLP that makes keys and values of the vectors (section 4.3 of the
            paper: it steadies training, and is not kept); None: none.
    """

    def __init__(self, vectors: Tensor, shape: Shape, hidden: int | None = None):
        super().__init__()
        self.shape, self.enabled = shape, True
        self.embedding = nn.Parameter(vectors)
        self.transform = None
        if hidden is not None:
            first = nn.Linear(vectors.shape[1], hidden)
            last = nn.Linear(hidden, shape.numbers)
            nn.init.normal_(last.weight, std=0.02)
            made = nn.Sequential(first, nn.Tanh(), last)
            self.transform = made.to(device=vectors.device, dtype=vectors.dtype)

    @property
    def tokens(self) -> int:
        return len(self.embedding)

    def stored(self) -> Tensor:
        """As PEFT stores it, (n, L·2·K·E)."""
        return self.embedding if self.transform is None else self.transform(self.embedding)

    def keys_and_values(self, dtype: torch.dtype) -> Tensor:
        """(L, 2, n, K, E)."""
        shape = self.tokens, self.shape.layers, 2, self.shape.heads, self.shape.width
        return self.stored().to(dtype).view(shape).permute(1, 2, 0, 3, 4)


def soft_of(hf: Any) -> Any:
    """The virtual tokens of a model, if it has any and they are not switched off."""
    found = hf._modules.get(NAME)
    return found if found is not None and found.enabled else None


class Layout(NamedTuple):
    """A batch with room for virtual tokens."""

    batch: Batch
    place_T: Tensor
    """int64, where each flat position of the batch went."""
    virtual_Gn: Tensor
    """int64, flat positions of the virtual tokens of each sample."""


def lay(batch: Batch, n: int) -> Layout:
    """The batch with `n` tokens before every segment that continues no other."""
    B, T = batch.ids_BT.shape
    device, segments = batch.ids_BT.device, batch.segments
    begins = np.sort(segments.start_G[segments.parent_G < 0]).astype(np.int64)
    flat = np.arange(B * T)
    place = flat + n * np.searchsorted(begins, flat, side="right")
    size = B * T + n * len(begins)
    virtual = (place[begins] - n)[:, None] + np.arange(n)
    root = segments.parent_G < 0
    start = place[segments.start_G] - n * root
    made = Segments(
        start.astype(np.int32),
        (segments.length_G + n * root).astype(np.int32),
        segments.parent_G,
        segments.context_G,
    )
    place_T = torch.as_tensor(place, device=device)
    virtual_Gn = torch.as_tensor(virtual, device=device)

    def spread(x_BT: Tensor) -> Tensor:
        return x_BT.new_zeros(size).index_copy_(0, place_T, x_BT.reshape(-1))

    positions = spread(batch.positions_BT + n)
    here = torch.arange(n, device=device, dtype=positions.dtype).expand_as(virtual_Gn)
    positions[virtual_Gn] = here
    parts = (spread(batch.ids_BT), spread(batch.weights_BT), positions)
    ids_BT, weights_BT, positions_BT = (x.view(B, -1) for x in parts)
    laid = Batch(ids_BT, weights_BT, positions_BT, made, batch.units, batch.extra)
    return Layout(laid, place_T, virtual_Gn)


def embeddings(soft: Any, layout: Layout, plain_BTD: Tensor) -> Tensor:
    """Embeddings of the laid batch: the tokens' own, and the virtual tokens' trained ones."""
    B, _, D = plain_BTD.shape
    wide = plain_BTD.new_zeros(layout.batch.ids_BT.numel(), D)
    wide = wide.index_copy(0, layout.place_T, plain_BTD.reshape(-1, D))
    if isinstance(soft, SoftPrompt):
        vectors_nD = soft.embedding.to(plain_BTD.dtype)
        count = len(layout.virtual_Gn)
        wide = wide.index_copy(0, layout.virtual_Gn.view(-1), vectors_nD.repeat(count, 1))
    return wide.view(B, -1, D)


class Injected(NamedTuple):
    """Trained keys and values for the virtual tokens of a packed row."""

    table_L2nKE: Tensor
    places: Tensor
    """int64, flat positions, sample by sample."""

    def put(self, layer: int, k_TKE: Tensor, v_TKE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer with the trained ones in their places."""
        count = len(self.places) // self.table_L2nKE.shape[2]
        made = []
        for own_TKE, new_nKE in zip((k_TKE, v_TKE), self.table_L2nKE[layer], strict=True):
            every = new_nKE.to(own_TKE.dtype).repeat(count, 1, 1)
            made.append(own_TKE.index_copy(0, self.places, every))
        return made[0], made[1]


def injected(soft: SoftPrefix, layout: Layout, dtype: torch.dtype) -> Injected:
    """What a plan carries to every layer's attention."""
    return Injected(soft.keys_and_values(dtype), layout.virtual_Gn.view(-1))


def cache(soft: SoftPrefix, hf: PreTrainedModel, rows: int, dtype: torch.dtype) -> DynamicCache:
    """The trained keys and values as transformers' families take them, for padded rows."""
    made = DynamicCache(config=hf.config)
    for layer, (k_nKE, v_nKE) in enumerate(soft.keys_and_values(dtype)):
        keys, values = (x.transpose(0, 1)[None].expand(rows, -1, -1, -1) for x in (k_nKE, v_nKE))
        made.update(keys, values, layer)
    return made
