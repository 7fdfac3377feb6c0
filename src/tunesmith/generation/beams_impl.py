"""Beam search: the likeliest answers rather than the likeliest next tokens.

The rules are those of `transformers.generate(num_beams=…)`: of the best candidates of a step those
that end are kept by their log-probability over length^penalty, the others go on. It is over when no
running beam can beat the worst that is kept, as far as `early_stopping` has that known: False takes
a running beam's score at its present length, "never" at the length that favours it most, and True
ends the search as soon as so many answers are kept.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Literal, NamedTuple

import torch

from tunesmith.errors import ConfigError
from tunesmith.generation.lanes_impl import Lanes, Place
from tunesmith.generation.model_impl import forget_lengths
from tunesmith.generation.step_impl import Piece, StepPlan
from tunesmith.types import Request

EarlyStopping = bool | Literal["never"]


class Beam(NamedTuple):
    """One answer: its tokens, the stop token included, and log-probability over length^penalty."""

    tokens: tuple[int, ...]
    score: float


class _Running(NamedTuple):
    tokens: tuple[int, ...]
    score: float
    place: Place


def search(
    engine: Any,
    request: Request,
    count: int,
    length_penalty: float,
    early_stopping: EarlyStopping = False,
) -> Generator[None, None, list[Beam]]:
    """The best answers, best first; computed by itself, beside what the engine has in work.

    It yields after each pass over the model, so that others may be answered in between.

    Args:
        engine: Its model, context and adapters are used.
        request: `max_tokens` and `stop_ids` of its sampling hold; nothing is drawn.
        count: Beams, and answers.
        length_penalty: Above 0 favours long answers, below 0 short ones.
        early_stopping: When it is over; see above.

    Raises:
        ConfigError: C210, fewer than one beam; G121, the beams don't fit the cache.
    """
    engine.check(request)
    if count < 1:
        raise ConfigError("C210", f"{count} beams", where="count", fix="at least 1")
    before = engine.forward.tokens_before(request.adapter)
    begun = before + len(request.ids)
    most = min(request.sampling.max_tokens, (engine.context or 2**40) - begun)
    lanes = Lanes(engine.cache_tokens)
    running = [_Running((), 0.0, _room(lanes, begun + most, lanes.budget))]
    done: list[Beam] = []
    if engine.forward.refresh(False):
        engine.prefixes.forget()
    if engine.by_length:
        forget_lengths(engine.hf)
    if before:
        engine.forward.beginning(request.adapter).fill(running[0].place)
    for length in range(1, most + 1):
        scores_BV = _scores(engine, request, running, before)
        chosen, ended = _sorted_out(scores_BV, running, request, count, last=length == most)
        done += [Beam(tokens, score / length**length_penalty) for tokens, score in ended]
        done = sorted(done, key=lambda beam: -beam.score)[:count]
        far = most if early_stopping == "never" and length_penalty > 0 else length
        full = len(done) == count
        if not chosen or (full and early_stopping is True):
            break
        if full and chosen[0][2] / far**length_penalty <= done[-1].score:
            break
        running = _followed(lanes, running, chosen)
        yield
    return done


def _sorted_out(
    scores_BV: torch.Tensor,
    running: Sequence[_Running],
    request: Request,
    count: int,
    *,
    last: bool,
) -> tuple[list[tuple[int, int, float]], list[tuple[tuple[int, ...], float]]]:
    """(beams that go on, as (parent, token, score); answers that end here, with their scores)."""
    stop_ids = request.sampling.stop_ids
    wide = min(count * (1 + max(1, len(stop_ids))), scores_BV.numel())
    best = scores_BV.view(-1).topk(wide)
    chosen: list[tuple[int, int, float]] = []
    ended: list[tuple[tuple[int, ...], float]] = []
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    for rank, (flat, score) in enumerate(pairs):
        parent, token = divmod(flat, scores_BV.shape[-1])
        if token in stop_ids or last:
            if rank < count:
                ended.append(((*running[parent].tokens, token), score))
        elif len(chosen) < count:
            chosen.append((parent, token, score))
    return chosen, ended


def _scores(
    engine: Any, request: Request, running: Sequence[_Running], before: int
) -> torch.Tensor:
    """Log-probability of each beam with each next token, shape (B, V).

    Args:
        engine: As above.
        request: As above.
        running: The beams.
        before: Virtual tokens that each place begins with.
    """
    pieces = [
        Piece(beam.place, [*request.ids, *beam.tokens][beam.place.length - before :])
        for beam in running
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
