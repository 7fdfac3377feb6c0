"""Attention over segments laid end to end, through transformers' attention interface.

A model that asks `ALL_ATTENTION_FUNCTIONS` for its attention gets ours under the name `tunesmith`.
With a `Plan` on its mask a packed batch is computed segment by segment, so padding costs nothing
and no segment sees another; without one (generation, padded batches) it is plain SDPA.

Legend: `B` rows, `H` query heads, `K` key/value heads, `T` tokens, `E` width of a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from tunesmith.errors import ConfigError
from tunesmith.models.segmented import SegmentedAttention, Shape, blocks
from tunesmith.types import Segments

NAME = "tunesmith"
HALF = (torch.bfloat16, torch.float16)


class Rule(NamedTuple):
    """What a family asks of its attention scores."""

    scale: float
    dropout: float = 0.0
    softcap: float | None = None
    window: int | None = None


class Plan:
    """How one packed row is cut for attention: made once a batch, used by every layer.

    Args:
        segments: The segments, end to end from position 0.
        tokens: Length of the row.
        device: Where it is computed.
        kind: As `choose` gives it; a kind that can't serve the heads at hand gives way to SDPA.
    """

    cached = False
    """Whether keys and values of earlier steps are seen too (the plan of a generation step)."""

    def __init__(self, segments: Segments, tokens: int, device: torch.device, kind: str = "blocks"):
        if (segments.context_G > 0).any():
            raise _unsupported("prefix-LM segments", "a segment's context must be 0")
        pairs = zip(segments.start_G.tolist(), segments.length_G.tolist(), strict=True)
        self.bounds = [(start, start + length) for start, length in pairs]
        self.prompts = self._prompts(segments, kind)
        end = self.bounds[-1][1] if self.bounds else 0
        if end < tokens:
            self.bounds.append((end, tokens))  # padding attends to itself, and nobody looks
        self.longest = max(len(self.keys(start, stop)) for start, stop in self.bounds)
        self.kind, self.device = kind, device
        self.wanted_S: Tensor | None = None
        """Positions whose hidden state is wanted of the last layer; None: all."""
        self.injected: Any = None
        """Trained keys and values of virtual tokens (`soft.Injected`), or None."""
        self._blocks: dict[int | None, Any] = {}
        self._ends: Tensor | None = None

    def _prompts(self, segments: Segments, kind: str) -> dict[int, tuple[int, int]]:
        """Where the shared prompt of a segment lies, by the segment's start."""
        children = (segments.parent_G >= 0).nonzero()[0].tolist()
        parents = segments.parent_G[children]
        if children and kind in ("flash", "flex"):
            raise _unsupported(
                f"shared prompts under {kind} attention", "sdpa and blocks know them"
            )
        if (segments.parent_G[parents] >= 0).any():
            raise _unsupported("a shared prompt that continues another", "one level is supported")
        pairs = zip(children, parents.tolist(), strict=True)
        return {self.bounds[child][0]: self.bounds[parent] for child, parent in pairs}

    def keys(self, start: int, stop: int) -> list[int]:
        """Positions that the last token of a segment sees: its shared prompt, then itself."""
        return [*range(*self.prompts.get(start, (0, 0))), *range(start, stop)]

    def blocks(self, window: int | None) -> list[Any]:
        """Blocks of queries for the CPU kernel."""
        if window not in self._blocks:
            self._blocks[window] = blocks(self.bounds, window, self.prompts)
        return self._blocks[window]

    def ends(self) -> Tensor:
        """Cumulative lengths as flash attention wants them: int32, one more than segments."""
        if self._ends is None:
            ends = [0, *(stop for _, stop in self.bounds)]
            self._ends = torch.tensor(ends, dtype=torch.int32, device=self.device)
        return self._ends


def install(hf: PreTrainedModel, kind: str) -> list[str]:
    """Makes `hf` attend through us; returns what there is to say about it.

    Args:
        hf: A model whose family uses the attention interface.
        kind: `model.attention` of the recipe.

    Raises:
        ConfigError: C177, flash or flex attention without a CUDA device.
    """
    if kind in ("flash", "flex") and hf.device.type != "cuda":
        raise ConfigError(
            "C177",
            f"{kind} attention needs a CUDA device, this model is on {hf.device.type}",
            where="model.attention",
            fix="model.attention=auto",
        )
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    hf.set_attn_implementation(NAME)
    return []


def choose(kind: str, device: str, dtype: torch.dtype) -> str:
    """What `auto` means on a type of device for products in `dtype`; other kinds stay."""
    if kind != "auto":
        return kind
    if device == "cpu":
        return "blocks"
    return "flash" if device == "cuda" and dtype in HALF else "sdpa"


def shares_prompts(config: Any, kind: str) -> bool:
    """Whether segments can continue a shared one: without a window, and in `sdpa` or `blocks`."""
    fields = config.get_text_config().to_dict()
    windowed = fields.get("sliding_window") and fields.get("use_sliding_window", True)
    return kind not in ("flash", "flex") and not windowed


def carry(plan: Any) -> Tensor:
    """An empty attention mask that carries the plan through any family's code.

    transformers hands a mask of four dimensions on as it is. Were it lost or reshaped on the way,
    its shape would make attention fail, so no family can silently see across segments.
    """
    mask: Any = torch.empty(1, 1, 1, 0, device=plan.device)
    mask.tunesmith_plan = plan
    return mask


def carried(mask: Any) -> Any:
    """The plan on a mask, if there is one: a `Plan`, or that of a step of generation."""
    return None if mask is None else mask.__dict__.get("tunesmith_plan")


def attend(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, plan: Plan, rule: Rule, layers: int):
    """Causal attention within each segment of one row.

    Args:
        q_THE: Queries, shape (T, H, E).
        k_TKE: Keys, shape (T, K, E); query head h looks at key head h·K // H.
        v_TKE: Values, likewise; their width may differ from the keys'.
        plan: The row's segments.
        rule: Scale, dropout, soft cap and window.
        layers: How many layers will hold memory for the backward pass.

    Returns:
        The output, shape (T, H, E of the values).
    """
    if rule.window is not None and plan.longest <= rule.window:
        rule = rule._replace(window=None)
    if rule.window is not None and plan.prompts:
        raise _unsupported("shared prompts under a sliding window", "the window is shorter")
    plain = not rule.dropout and rule.softcap is None
    if plan.kind == "flex" and plain:
        return _flex(q_THE, k_TKE, v_TKE, plan, rule)
    if plan.kind == "flash" and plain and _has_flash(q_THE, v_TKE):
        return _varlen(q_THE, k_TKE, v_TKE, plan, rule)
    if plan.kind == "blocks" and plain and _has_blocks(q_THE, v_TKE):
        shape = Shape(plan.blocks(rule.window), rule.scale, rule.window, layers)
        wide = torch.promote_types(q_THE.dtype, torch.float32)  # still twice as fast as bf16 SDPA
        heads = (x.to(wide) for x in (q_THE, k_TKE, v_TKE))
        return SegmentedAttention.apply(*heads, shape).to(q_THE.dtype)
    step_by_step = plan.kind == "eager" or rule.softcap is not None
    pieces = []
    for start, stop in plan.bounds:
        q = q_THE[None, start:stop].transpose(1, 2)
        seen = plan.keys(start, stop) if start in plan.prompts else slice(start, stop)
        k, v = (t[seen][None].transpose(1, 2) for t in (k_TKE, v_TKE))
        mask = None
        if start in plan.prompts:
            mask = _window(k.shape[2], k.shape[2], q.device)[-q.shape[2] :]
        if rule.window is not None and stop - start > rule.window:
            mask = _window(stop - start, rule.window, q.device)
        piece = _explicit(q, k, v, mask, rule) if step_by_step else _sdpa(q, k, v, mask, rule)
        pieces.append(piece[0].transpose(0, 1))
    return torch.cat(pieces)


def _attend(
    module: Any,
    query_BHTE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls; returns the output as (B, T, H, E)."""
    plan = carried(attention_mask)
    softcap = options.pop("softcap", None)
    if plan is None and softcap is None:
        return sdpa_attention_forward(
            module, query_BHTE, key_BKTE, value_BKTE, attention_mask, **options
        )
    scale = options.get("scaling") or query_BHTE.shape[-1] ** -0.5
    rule = Rule(scale, options.get("dropout") or 0.0, softcap, options.get("sliding_window"))
    if plan is not None and plan.cached:
        heads = (x[0].transpose(0, 1) for x in (query_BHTE, key_BKTE, value_BKTE))
        return plan.attend(module.layer_idx, *heads, rule)[None].contiguous(), None
    if plan is None:
        output = _explicit(query_BHTE, key_BKTE, value_BKTE, attention_mask, rule)
        return output.transpose(1, 2), None
    q_THE, k_TKE, v_TKE = (x[0].transpose(0, 1) for x in (query_BHTE, key_BKTE, value_BKTE))
    if plan.injected is not None:
        k_TKE, v_TKE = plan.injected.put(module.layer_idx, k_TKE, v_TKE)
    layers = module.config.get_text_config().num_hidden_layers
    return attend(q_THE, k_TKE, v_TKE, plan, rule, layers)[None].contiguous(), None


def _has_flash(q_THE: Tensor, v_TKE: Tensor) -> bool:
    return q_THE.dtype in HALF and q_THE.is_cuda and q_THE.shape[-1] == v_TKE.shape[-1] <= 256


def _has_blocks(q_THE: Tensor, v_TKE: Tensor) -> bool:
    return q_THE.device.type == "cpu" and q_THE.shape[-1] == v_TKE.shape[-1]


def _varlen(q_THE, k_TKE, v_TKE, plan: Plan, rule: Rule) -> Any:
    """The flash attention that ships with torch, over segments of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = plan.ends(), plan.longest
    window = (-1 if rule.window is None else rule.window - 1, 0)
    return varlen_attn(
        q_THE, k_TKE, v_TKE, ends, ends, longest, longest,
        scale=rule.scale, window_size=window, enable_gqa=q_THE.shape[1] != k_TKE.shape[1],
    )  # fmt: skip


def _flex(q_THE, k_TKE, v_TKE, plan: Plan, rule: Rule) -> Tensor:
    """torch's compiled attention with the segments as a block mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    T = len(q_THE)
    position_T = torch.arange(T, device=plan.device)
    segment_T = torch.bucketize(position_T, plan.ends()[1:], right=True)
    window = rule.window or T

    def visible(_b, _h, i, j):
        return (segment_T[i] == segment_T[j]) & (i >= j) & (i - j < window)

    mask = create_block_mask(visible, None, None, T, T, device=str(plan.device))
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THE, k_TKE, v_TKE))
    compiled = torch.compile(flex_attention, dynamic=False)
    output = compiled(q, k, v, block_mask=mask, scale=rule.scale, enable_gqa=True)
    return output[0].transpose(0, 1)


def _sdpa(q, k, v, mask: Tensor | None, rule: Rule) -> Tensor:
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=rule.dropout, is_causal=mask is None,
        scale=rule.scale, enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip


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


def _unsupported(what: str, why: str) -> ConfigError:
    fix = "lay every example out as a segment of its own"
    return ConfigError("C179", f"{what} are not supported by this attention", why=why, fix=fix)


def _window(tokens: int, window: int, device: torch.device) -> Tensor:
    """True where a token may look: itself and the `window` - 1 before it."""
    behind_TT = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)
    return (behind_TT >= 0) & (behind_TT < window)
