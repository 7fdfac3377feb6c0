"""Attention over segments laid end to end, through transformers' attention interface.

A model that asks `ALL_ATTENTION_FUNCTIONS` for its attention gets ours under the name `tunesmith`.
With a `Plan` on its mask a packed batch is computed segment by segment, so padding costs nothing
and no segment sees another; without one (generation, padded batches) it is plain SDPA.

Legend: `B` rows, `H` query heads, `K` key/value heads, `T` tokens, `E` width of a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from tunesmith.errors import ConfigError
from tunesmith.types import Segments

NAME = "tunesmith"


class Plan:
    """How one batch is cut for attention: made once, used by every layer."""

    def __init__(self, segments: Segments, device: torch.device, tokens: int):
        if (segments.parent_G >= 0).any() or (segments.context_G > 0).any():
            raise ConfigError(
                "C179",
                "shared prompts and prefix-LM segments are not supported by this attention",
                why="a segment's parent must be -1 and its context 0",
                fix="lay every example out as a segment of its own",
            )
        bounds = zip(segments.start_G.tolist(), segments.length_G.tolist(), strict=True)
        self.bounds = [(start, start + length) for start, length in bounds]
        end = self.bounds[-1][1] if self.bounds else 0
        if end < tokens:
            self.bounds.append((end, tokens))  # padding attends to itself, and nobody looks
        self.longest = int(segments.length_G.max(initial=0))
        self.device = device


def install(hf: PreTrainedModel, kind: str) -> list[str]:
    """Makes `hf` attend through us; returns what there is to say about it.

    Args:
        hf: A model whose family uses the attention interface; others are left alone.
        kind: `auto`, `flash`, `flex`, `sdpa` or `eager` (`model.attention` of the recipe).
    """
    if kind == "eager":
        hf.set_attn_implementation("eager")
        return []
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    hf.set_attn_implementation(NAME)
    return []


def carry(plan: Plan) -> Tensor:
    """An empty attention mask that carries the plan through any family's code.

    transformers hands a mask of four dimensions on as it is. Were it lost or reshaped on the way,
    its shape would make attention fail, so no family can silently see across segments.
    """
    mask = torch.empty(1, 1, 1, 0, device=plan.device)
    mask.tunesmith_plan = plan
    return mask


def _attend(
    module: nn.Module,
    query_BHTE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls; returns the output as (B, T, H, E)."""
    plan = None if attention_mask is None else attention_mask.__dict__.get("tunesmith_plan")
    softcap = options.pop("softcap", None)
    if plan is None and softcap is None:
        return sdpa_attention_forward(
            module, query_BHTE, key_BKTE, value_BKTE, attention_mask, **options
        )
    scale = options.get("scaling") or query_BHTE.shape[-1] ** -0.5
    rule = Rule(scale, options.get("dropout") or 0.0, softcap)
    if plan is None:
        output = _explicit(query_BHTE, key_BKTE, value_BKTE, attention_mask, rule)
        return output.transpose(1, 2), None
    window = options.get("sliding_window")
    pieces = []
    for start, stop in plan.bounds:
        q, k, v = (t[:, :, start:stop] for t in (query_BHTE, key_BKTE, value_BKTE))
        mask = None
        if softcap is not None or (window is not None and stop - start > window):
            mask = _window(stop - start, window or stop - start, q.device)
        piece = _sdpa(q, k, v, mask, rule) if softcap is None else _explicit(q, k, v, mask, rule)
        pieces.append(piece)
    return torch.cat(pieces, dim=2).transpose(1, 2), None


class Rule(NamedTuple):
    """What a family asks of its attention scores."""

    scale: float
    dropout: float = 0.0
    softcap: float | None = None


def _sdpa(q, k, v, mask: Tensor | None, rule: Rule) -> Tensor:
    return scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=rule.dropout,
        is_causal=mask is None,
        scale=rule.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _explicit(q, k, v, mask: Tensor | None, rule: Rule) -> Tensor:
    """Attention step by step, for families that soft-cap their scores."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-1, -2) * rule.scale
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is None and q.shape[2] > 1:
        mask = _window(q.shape[2], q.shape[2], q.device)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    wide = torch.promote_types(q.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=wide).to(q.dtype)
    return torch.dropout(weights, rule.dropout, rule.dropout > 0) @ v


def _window(tokens: int, window: int, device: torch.device) -> Tensor:
    """True where a token may look: itself and the `window` - 1 before it."""
    behind_TT = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)
    return (behind_TT >= 0) & (behind_TT < window)
