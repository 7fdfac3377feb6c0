"""Choosing tokens: bias, penalties, temperature, cuts of the distribution; pure functions.

Noise is a function of (seed, position), so a request gives the same tokens whatever else is in its
batch, on every device, and when it is continued from a part of its own answer.

Legend: `B` rows, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tunesmith.types import Sampling


def choose(
    logits_BV: Tensor,
    samplings: Sequence[Sampling],
    histories: Sequence[Sequence[int]],
    begins: Sequence[int] | None = None,
    allowed: Sequence[Sequence[int] | None] | None = None,
) -> tuple[list[int], list[float | None]]:
    """The next token of each row and its log-probability under the model.

    Args:
        logits_BV: What the model says.
        samplings: How each row chooses.
        histories: Each row's ids so far, prompt included; their number is the position that keys
            the noise.
        begins: Where each row's answer begins in its history; None: at its start.
        allowed: Tokens a row may choose among, if a constraint says so.

    Returns:
        Tokens, and log-probabilities of the unchanged distribution: None where a row wants none,
        NaN where logits are not finite, or nothing is allowed.
    """
    wide_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
    scores_BV = biased(wide_BV, samplings)
    scores_BV = repetition_penalty(scores_BV, [s.repetition_penalty for s in samplings], histories)
    scores_BV = answer_penalties(scores_BV, samplings, histories, begins or [0] * len(histories))
    scores_BV = restricted(scores_BV, allowed or [])
    tokens_B = best(scores_BV)
    drawn = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits_BV.device)
        chosen = [samplings[row] for row in drawn]
        noise = [uniform(samplings[row].seed, len(histories[row])) for row in drawn]
        tokens_B[rows] = draw(distribution(scores_BV[rows], chosen), noise)
    peaks_B = tokens_B if scores_BV is wide_BV and not drawn else None
    logprobs = told(wide_BV, tokens_B, [s.logprob for s in samplings], peaks_B)
    for row, tokens in enumerate(allowed or []):
        if tokens is not None and not len(tokens):
            logprobs[row] = math.nan
    return tokens_B.tolist(), logprobs


def told(
    logits_BV: Tensor, tokens_B: Tensor, asked: Sequence[bool], peaks_B: Tensor | None = None
) -> list[float | None]:
    """Log-probabilities of tokens where they are asked for, NaN where logits are not finite.

    Args:
        logits_BV: Of the model.
        tokens_B: What was chosen.
        asked: Whose log-probabilities are wanted.
        peaks_B: The best tokens, if they are known.
    """
    if all(asked):
        return logits_BV.log_softmax(-1).gather(1, tokens_B[:, None])[:, 0].tolist()
    # NaN is the greatest to argmax, so the peak tells of it, and of +∞
    peaks_B = best(logits_BV) if peaks_B is None else peaks_B
    peaks = logits_BV.gather(1, peaks_B[:, None])[:, 0].tolist()
    found: list[float | None] = [None if math.isfinite(peak) else math.nan for peak in peaks]
    rows = [row for row, wanted in enumerate(asked) if wanted]
    if rows:
        some = logits_BV[rows].log_softmax(-1).gather(1, tokens_B[rows][:, None])[:, 0].tolist()
        for row, value in zip(rows, some, strict=True):
            found[row] = value
    return found


def best(scores_BV: Tensor) -> Tensor:
    """The best token of each row, the first of equals; on CPUs NumPy is ten times as fast."""
    if scores_BV.device.type != "cpu" or scores_BV.dtype not in (torch.float32, torch.float64):
        return scores_BV.argmax(-1)
    return torch.from_numpy(scores_BV.detach().numpy().argmax(-1))


def likeliest(logits_BV: Tensor, counts: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    """(token, log-probability) of each row's likeliest tokens under the model, best first."""
    most = min(max(counts, default=0), logits_BV.shape[-1])
    if not most:
        return [()] * len(counts)
    wide_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
    best_BN, token_BN = wide_BV.log_softmax(-1).topk(most)
    pairs = zip(token_BN.tolist(), best_BN.tolist(), counts, strict=True)
    return [tuple(zip(tokens, found, strict=True))[:n] for tokens, found, n in pairs]


def distribution(scores_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Scores after temperature, top-k, top-p, min-p and typical-p, in this order; −inf where cut
    away."""
    temperature_B1 = _column([s.temperature for s in samplings], scores_BV)
    scores_BV = scores_BV / temperature_B1
    scores_BV = top_k(scores_BV, [s.top_k for s in samplings])
    scores_BV = top_p(scores_BV, [s.top_p for s in samplings])
    scores_BV = min_p(scores_BV, [s.min_p for s in samplings])
    return typical_p(scores_BV, [s.typical_p for s in samplings])


def biased(scores_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Adds each row's logit bias."""
    rows = [row for row, s in enumerate(samplings) if s.logit_bias]
    if not rows:
        return scores_BV
    scores_BV = scores_BV.clone()
    for row in rows:
        tokens, values = zip(*samplings[row].logit_bias, strict=True)
        index = torch.tensor(tokens, device=scores_BV.device)
        added = torch.tensor(values, dtype=scores_BV.dtype, device=scores_BV.device)
        scores_BV[row].index_add_(0, index, added)
    return scores_BV


def answer_penalties(
    scores_BV: Tensor,
    samplings: Sequence[Sampling],
    histories: Sequence[Sequence[int]],
    begins: Sequence[int],
) -> Tensor:
    """Presence and frequency penalties, over the answer alone as OpenAI's interface has them."""
    rows = [row for row, s in enumerate(samplings) if s.presence_penalty or s.frequency_penalty]
    if not rows:
        return scores_BV
    scores_BV = scores_BV.clone()
    for row in rows:
        counts = Counter(histories[row][begins[row] :])
        if not counts:
            continue
        ids = torch.tensor(list(counts), device=scores_BV.device)
        count = torch.tensor(list(counts.values()), dtype=scores_BV.dtype, device=scores_BV.device)
        sampling = samplings[row]
        scores_BV[row, ids] -= sampling.presence_penalty + sampling.frequency_penalty * count
    return scores_BV


def restricted(scores_BV: Tensor, allowed: Sequence[Sequence[int] | None]) -> Tensor:
    """−inf for every token that a row's constraint doesn't allow."""
    rows = [row for row, tokens in enumerate(allowed) if tokens is not None and len(tokens)]
    if not rows:
        return scores_BV
    scores_BV = scores_BV.clone()
    for row in rows:
        index = torch.as_tensor(allowed[row], dtype=torch.long, device=scores_BV.device)
        kept = scores_BV[row, index]
        scores_BV[row] = -math.inf
        scores_BV[row, index] = kept
    return scores_BV


def repetition_penalty(
    scores_BV: Tensor, penalties: Sequence[float], histories: Sequence[Sequence[int]]
) -> Tensor:
    """Makes tokens that were already there less likely (CTRL, arXiv:1909.05858, section 4.1)."""
    rows = [row for row, penalty in enumerate(penalties) if penalty != 1.0]
    if not rows:
        return scores_BV
    scores_BV = scores_BV.clone()
    for row in rows:
        ids = torch.tensor(sorted(set(histories[row])), device=scores_BV.device)
        found = scores_BV[row, ids]
        scores_BV[row, ids] = torch.where(found < 0, found * penalties[row], found / penalties[row])
    return scores_BV


def top_k(scores_BV: Tensor, ks: Sequence[int]) -> Tensor:
    """Keeps the k best tokens of each row, and those equal to the worst of them; 0: all."""
    size = scores_BV.shape[-1]
    capped = [min(k, size) or size for k in ks]
    if min(capped) == size:
        return scores_BV
    best_BK = scores_BV.topk(max(k for k in capped if k < size)).values
    at_B1 = torch.tensor(capped, device=scores_BV.device)[:, None] - 1
    worst_B1 = best_BK.gather(1, at_B1.clamp(max=best_BK.shape[1] - 1))
    worst_B1 = worst_B1.masked_fill(at_B1 == size - 1, -math.inf)
    return scores_BV.masked_fill(scores_BV < worst_B1, -math.inf)


def top_p(scores_BV: Tensor, ps: Sequence[float]) -> Tensor:
    """Keeps the fewest most likely tokens that hold at least p of the probability; 1: all."""
    if min(ps) >= 1:
        return scores_BV
    sorted_BV, order_BV = scores_BV.sort(dim=-1, descending=True, stable=True)
    probability_BV = sorted_BV.softmax(-1)
    before_BV = probability_BV.cumsum(-1) - probability_BV
    p_B1 = _column([p if p < 1 else math.inf for p in ps], scores_BV)
    cut_BV = before_BV >= p_B1
    cut_BV[:, 0] = False
    return scores_BV.masked_fill(torch.zeros_like(cut_BV).scatter(1, order_BV, cut_BV), -math.inf)


def min_p(scores_BV: Tensor, ps: Sequence[float]) -> Tensor:
    """Cuts tokens less likely than p times the most likely one (arXiv:2407.01082); 0: none."""
    if max(ps) <= 0:
        return scores_BV
    margin_B1 = _column([math.log(p) if p > 0 else -math.inf for p in ps], scores_BV)
    limit_B1 = scores_BV.amax(-1, keepdim=True) + margin_B1
    return scores_BV.masked_fill(scores_BV < limit_B1, -math.inf)


def typical_p(scores_BV: Tensor, ps: Sequence[float]) -> Tensor:
    """Keeps the tokens whose surprise is nearest the expected one until they hold probability p
    (locally typical sampling, arXiv:2202.00666, equation 10); 1: all."""
    if min(ps) >= 1:
        return scores_BV
    logprob_BV = scores_BV.log_softmax(-1)
    entropy_B1 = -(logprob_BV * logprob_BV.exp()).nansum(-1, keepdim=True)
    away_BV = (-logprob_BV - entropy_B1).abs()
    sorted_BV, order_BV = away_BV.sort(dim=-1, stable=True)
    cumulative_BV = logprob_BV.exp().gather(1, order_BV).cumsum(-1)
    p_B1 = _column([p if p < 1 else math.inf for p in ps], scores_BV)
    last_B1 = (cumulative_BV < p_B1).sum(-1, keepdim=True).clamp(max=scores_BV.shape[-1] - 1)
    return scores_BV.masked_fill(away_BV > sorted_BV.gather(1, last_B1), -math.inf)


def draw(scores_BV: Tensor, noise: Sequence[float]) -> Tensor:
    """Tokens where the cumulative distribution first exceeds each row's noise in [0, 1)."""
    cumulative_BV = scores_BV.double().softmax(-1).cumsum(-1)
    target_B1 = _column(noise, cumulative_BV) * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)
    # The product may round up to the total: the last possible token, not one past it.
    return torch.minimum(token_B1[:, 0], cumulative_BV.argmax(-1))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but the two (Philox, 53 bits)."""
    raw = np.random.Philox(key=seed, counter=position).random_raw()
    return (int(raw) >> 11) * 2.0**-53


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
