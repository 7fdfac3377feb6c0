"""What a search found as the events of an answer, and how often guesses were right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.generation.base import TextStream
from tunesmith.types import Event, Request


def spoken(tokenizer: Any, request: Request, tokens: Sequence[int]) -> list[Event]:
    """The events of one beam's tokens, as if they had come one by one.

    A stop string cuts the text where it begins and ends the answer with the token that completes
    it. Scores belong to whole beams, so the events' log-probabilities are 0.
    """
    text = TextStream(tokenizer, request.ids, request.sampling.stop)
    events: list[Event] = []
    for at, token in enumerate(tokens):
        if token in request.sampling.stop_ids:
            return [*events, Event(request.id, token, 0.0, text.finish()[0], "stop")]
        said, stopped = text.step(token)
        last = at == len(tokens) - 1
        if last and not stopped:
            rest, stopped = text.finish()
            said += rest
        reason = "stop" if stopped else "length" if last else None
        events.append(Event(request.id, token, 0.0, said, reason))
        if stopped:
            break
    return events


@dataclass
class Ahead:
    """Tokens that came of each pass over a request; without guesses it is one."""

    passes: int = 0
    tokens: int = 0

    def add(self, events: Sequence[Event]) -> None:
        """The events of one step."""
        real = [event.id for event in events if event.token >= 0]
        self.passes += len(set(real))
        self.tokens += len(real)

    def told(self) -> str:
        """`guesses: 1.9 tokens a pass instead of 1`"""
        return f"guesses: {self.tokens / max(self.passes, 1):.2f} tokens a pass instead of 1"
