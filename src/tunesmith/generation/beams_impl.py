"""Beam search: the likeliest answers rather than the likeliest next tokens.

The rules are those of `transformers.generate(num_beams=…)` with `early_stopping=False`: of the best
candidates of a step those that end are kept by their log-probability over length^penalty, the
others go on; it is over when no running beam can beat the worst that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tunesmith.errors import ConfigError
from tunesmith.generation.lanes_impl import Lanes, Place
from tunesmith.generation.step_impl import Piece, StepPlan
from tunesmith.types import Request


class Beam(NamedTuple):
    """One answer: its tokens, the stop token included, and log-probability over length^penalty."""

    tokens: tuple[int, ...]
    score: float


class _Running(NamedTuple):
    tokens: tuple[int, ...]
    score: float
    place: Place


def search(engine: Any, request: Request, count: int, length_penalty: float) -> list[Beam]:
    """The best answers, best first; computed by itself, beside what the engine has in work.

    Args:
        engine: Its model, context and adapters are used.
        request: `max_tokens` and `stop_ids` of its sampling hold; nothing is drawn.
        count: Beams, and answers.
        length_penalty: Above 0 favours long answers, below 0 short ones.

    Raises:
        ConfigError: C210, fewer than one beam; G121, the beams don't fit the cache.
    """
    engine.check(request)
    if engine.forward.tokens_before(request.adapter):
        what = "beams don't begin behind virtual tokens"
        raise ConfigError("C210", what, where="count", fix="answer without beams")
    if count < 1:
        raise ConfigError("C210", f"{count} beams", where="count", fix="at least 1")
    most = min(request.sampling.max_tokens, (engine.context or 2**40) - len(request.ids))
    lanes = Lanes(engine.cache_tokens)
    running = [_Running((), 0.0, _room(lanes, len(request.ids) + most, lanes.budget))]
    done: list[Beam] = []
    if engine.forward.refresh(False):
        engine.prefixes.forget()
    for length in range(1, most + 1):
        scores_BV = _scores(engine, request, running)
        vocabulary = scores_BV.shape[-1]
        wide = min(count * (1 + max(1, len(request.sampling.stop_ids))), scores_BV.numel())
        best = scores_BV.view(-1).topk(wide)
        chosen: list[tuple[int, int, float]] = []
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        for rank, (flat, score) in enumerate(pairs):
            parent, token = divmod(flat, vocabulary)
            if token in request.sampling.stop_ids or length == most:
                if rank < count:
                    tokens = (*running[parent].tokens, token)
                    done.append(Beam(tokens, score / length**length_penalty))
            elif len(chosen) < count:
                chosen.append((parent, token, score))
        done = sorted(done, key=lambda beam: -beam.score)[:count]
        if not chosen:
            break
        if len(done) == count and chosen[0][2] / length**length_penalty <= done[-1].score:
            break
        running = _followed(lanes, running, chosen)
    return done


def _scores(engine: Any, request: Request, running: Sequence[_Running]) -> torch.Tensor:
    """Log-probability of each beam with each next token, shape (B, V)."""
    pieces = [
        Piece(beam.place, [*request.ids, *beam.tokens][beam.place.length :]) for beam in running
    ]
    plan = StepPlan(pieces, engine.hf.device)
    wanted = [plan.begins[at] + len(pieces[at].ids) - 1 for at in plan.order]
    adapters = [(plan.begins[at], len(pieces[at].ids), request.adapter) for at in plan.order]
    logits_BV = engine.forward(plan, wanted, adapters)
    plan.advance(pieces)
    back = torch.tensor(plan.order, device=logits_BV.device).argsort()
    logprobs_BV = torch.log_softmax(logits_BV[back].float(), dim=-1)
    before_B = torch.tensor([beam.score for beam in running], device=logprobs_BV.device)
    return logprobs_BV + before_B[:, None]


def _followed(
    lanes: Lanes, running: Sequence[_Running], chosen: Sequence[tuple[int, int, float]]
) -> list[_Running]:
    """The next beams; one that several follow is copied, one that none follows is let go."""
    used: set[int] = set()
    parents = {parent for parent, _, _ in chosen}
    for at, beam in enumerate(running):
        if at not in parents:
            lanes.release(beam.place)
    found = []
    for parent, token, score in chosen:
        old = running[parent]
        place = old.place
        if parent in used:
            place = _room(lanes, old.place.lane.capacity, lanes.budget)
            lanes.copy(old.place, place)
        used.add(parent)
        found.append(_Running((*old.tokens, token), score, place))
    return found


def _room(lanes: Lanes, tokens: int, budget: int) -> Place:
    place = lanes.take(tokens)
    if place is None:
        raise ConfigError(
            "G121",
            f"beams of {tokens:,} tokens don't fit a cache of {budget:,}",
            fix="fewer beams, a smaller max_tokens, or a larger cache (cache_tokens)",
        )
    return place
