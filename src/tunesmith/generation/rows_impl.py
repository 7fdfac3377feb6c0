"""One request in work: its tokens, its text, and what a new token means for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.generation.base import TextStream, check_request
from tunesmith.generation.lanes_impl import Place
from tunesmith.types import Event, Request

NGRAM = 3
"""So many last tokens are looked up in what was there before, then fewer."""


@dataclass(eq=False)
class Row:
    """A request that is waiting or being answered."""

    request: Request
    ids: list[int]
    """Prompt and answer so far."""
    begin: int
    """Tokens of the prompt."""
    text: TextStream
    limit: int
    """Longest `ids` may become."""
    names: list[bytes]
    """Names of the prompt's blocks in the prefix cache."""
    place: Place | None = None
    prefilling: bool = True
    fresh: bool = False
    """Its prompt was completed by this step."""
    forgotten: int = 0
    """Tokens that its place held once and does not any more, less the virtual ones it holds."""
    reused: int = 0
    """Tokens that were not computed but copied."""
    lookup: dict[tuple[int, ...], int] = field(default_factory=dict)
    """Where each run of tokens ends that was seen last; filled up to `looked`."""
    looked: int = 0

    @property
    def computed(self) -> int:
        """Tokens whose keys and values were computed, kept or forgotten."""
        assert self.place is not None
        return self.forgotten + self.place.length

    def allowed(self, guessed: Sequence[int]) -> Any:
        """Tokens that its constraint allows next, or None."""
        if self.request.constraint is None:
            return None
        return self.request.constraint.mask([*self.ids[self.begin :], *guessed])


def row_of(request: Request, engine: Any) -> Row:
    """A new row of an engine."""
    ids = list(request.ids)
    most = len(ids) + request.sampling.max_tokens
    limit = most
    if engine.sinks is None:
        room = min(engine.context or math.inf, engine.cache_tokens)
        limit = int(min(most, room - engine.forward.tokens_before(request.adapter)))
    text = TextStream(engine.tokenizer, ids, request.sampling.stop)
    kept = ids if engine.sinks is None else ids[: engine.sinks.size]
    names = engine.prefixes.names(kept, request.adapter)
    return Row(request, ids, len(ids), text, limit, names)


def check(request: Request, engine: Any) -> None:
    """Refuses what an engine can't answer.

    Raises:
        ConfigError: C210, a sampling value is out of range, or stop strings without a tokenizer;
            G120, an adapter that was not loaded; G121, a prompt beyond the cache; G122, an
            object that is no constraint.
        DataError: D401, D402: see `check_request`.
    """
    if engine.tokenizer is None and request.sampling.stop:
        raise ConfigError(
            "C210", "stop strings need a tokenizer", where="sampling.stop", fix="stop_ids need none"
        )
    if request.adapter is not None and request.adapter not in engine.forward.adapters:
        known = ", ".join(engine.forward.adapters) or "none"
        raise ConfigError(
            "G120", f"no adapter `{request.adapter}` is loaded", fix=f"loaded: {known}"
        )
    if request.constraint is not None and not hasattr(request.constraint, "mask"):
        raise ConfigError(
            "G122",
            f"{type(request.constraint).__name__} is no constraint",
            why="it has no mask(ids) that tells the tokens allowed next",
            fix="generation.grammar.constraint makes one of a JSON schema or a pattern",
        )
    vocabulary = engine.hf.get_input_embeddings().weight.shape[0]
    bounded = engine.sinks is None
    context = engine.context if bounded else None
    virtual = engine.forward.tokens_before(request.adapter)
    if virtual and not bounded:
        what = "a window would forget the virtual tokens before the text"
        raise ConfigError("G160", what, where="window", fix="make an engine without one")
    context = context - virtual if context else None
    check_request(request, context=context, vocabulary=vocabulary)
    if bounded and len(request.ids) + virtual >= engine.cache_tokens:
        raise ConfigError(
            "G121",
            f"the prompt has {len(request.ids):,} tokens, the cache holds {engine.cache_tokens:,}",
            fix="give the engine a larger cache (cache_tokens)",
        )


def plain(row: Row) -> bool:
    """Whether the best word is all that is asked for: what the other words score is no matter."""
    s = row.request.sampling
    touched = s.temperature or s.logprob or s.top_logprobs or s.logit_bias
    penalised = s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty
    return not (touched or penalised or row.request.constraint)


def drafts(row: Row, count: int) -> list[int]:
    """What followed when the last tokens were there before (prompt lookup, arXiv:2304.04487).

    Only as many as still fit the answer.
    """
    ids = row.ids
    for end in range(max(row.looked, 1), len(ids)):  # runs that something follows
        for n in range(1, min(NGRAM, end) + 1):
            row.lookup[tuple(ids[end - n : end])] = end
    row.looked = len(ids)
    room = min(count, row.limit - len(ids) - 1)
    for n in range(min(NGRAM, len(ids)), 0, -1):
        end = row.lookup.get(tuple(ids[-n:]))
        if end is not None:
            return ids[end : end + max(room, 0)]
    return []


def events_of(
    row: Row,
    guessed: Sequence[int],
    tokens: Sequence[int],
    logprobs: Sequence[float | None],
    tops: Sequence[tuple[tuple[int, float], ...]],
) -> list[Event]:
    """Events of a row's new tokens, as far as what was guessed before each was right."""
    events = []
    for at, (token, logprob, top) in enumerate(zip(tokens, logprobs, tops, strict=True)):
        events.append(event_of(row, token, logprob, top))
        wrong = at < len(guessed) and guessed[at] != token
        if wrong or events[-1].finish_reason is not None:
            break
    return events


def event_of(
    row: Any, token: int, logprob: float | None, top: tuple[tuple[int, float], ...]
) -> Event:
    """What a new token means for its row: text that is certain, and whether the answer ends."""
    if logprob is not None and math.isnan(logprob):
        return Event(row.request.id, token, logprob, row.text.finish()[0], "error")
    row.ids.append(token)
    if token in row.request.sampling.stop_ids:
        return Event(row.request.id, token, logprob, row.text.finish()[0], "stop", top)
    said, stopped = row.text.step(token)
    reason = "stop" if stopped else None
    if not stopped and len(row.ids) >= row.limit:
        rest, stopped = row.text.finish()
        said, reason = said + rest, "stop" if stopped else "length"
    return Event(row.request.id, token, logprob, said, reason, top)
