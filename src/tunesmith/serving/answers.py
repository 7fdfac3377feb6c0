"""Answers as their events come in: text, calls, log-probabilities, reasons to end, usage."""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.generation.thinking import ThinkingSplit
from tunesmith.serving import cut_calls, faults
from tunesmith.serving.engine import Engine, Ticket
from tunesmith.serving.service import Model, Service
from tunesmith.serving.tool_calls import CallFormat
from tunesmith.types import Event, Request, Sampling, ToolCall

Told = tuple[int, float | None, tuple[tuple[int, float], ...]]
"""(token, its log-probability, the likeliest there)"""


CALL_ID = 9
"""Characters of a call's id: Mistral's templates refuse any other number, and what is no letter or
digit; other templates don't mind."""


def call_id() -> str:
    """An id for a tool call, drawn anew."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(CALL_ID))


@dataclass
class Answer:
    """One choice, growing.

    Args:
        prefix: White space of the template in front of answers, to be taken off.
        calls: How this model writes calls; None: no tools were given.
        tools: Names of the tools.
        stop_ids: Tokens that end an answer and are no part of it.
        several: Whether it may make more than one call.
        forced: Whether it is held to calls, and can be nothing else.
        thoughts: Takes thoughts apart from what is said; None: all is said.
        marks: Control tokens that begin and end thoughts, and their text.
    """

    prefix: str = ""
    calls: CallFormat | None = None
    tools: Sequence[str] = ()
    stop_ids: frozenset[int] = frozenset()
    several: bool = True
    forced: bool = False
    thoughts: ThinkingSplit | None = None
    marks: Mapping[int, str] = field(default_factory=dict)
    text: str = ""
    """What it says, as far as that is certain."""
    thought: str = ""
    tokens: list[Told] = field(default_factory=list)
    count: int = 0
    reason: str | None = None
    _shown: int = 0
    _fresh: int = 0
    _pondered: int = 0
    _parsed: tuple[str, list[ToolCall]] | None = None
    _broken: bool = False
    """Whether it ended before its calls did."""

    def add(self, events: Sequence[Event]) -> None:
        """Takes events in.

        Raises:
            Refusal: S122, the model's output is not finite; S119, the engine cancelled it.
        """
        for event in events:
            if event.finish_reason == "error":
                raise faults.not_finite()
            if event.finish_reason == "cancelled":
                raise faults.draining()
            self.count += 1
            ended = event.finish_reason == "stop" and event.token in self.stop_ids
            if not ended:
                self.tokens.append((event.token, event.logprob, event.top))
            lead = self.marks.get(event.token, "")
            if self.calls is not None and event.token == self.calls.marker:
                lead = self.calls.opening
            self.reason = event.finish_reason
            self._take(lead + event.text_delta)

    def _take(self, text: str) -> None:
        """New text: thoughts, and what is said."""
        if self.thoughts is None:
            self.text += text
            return
        parts = [self.thoughts.step(text)]
        if self.reason is not None:
            parts.append(self.thoughts.finish())
        self.thought += "".join(part.thought for part in parts)
        self.text += "".join(part.said for part in parts)

    def pondered(self) -> str:
        """Thoughts that were not shown yet."""
        fresh, self._pondered = self.thought[self._pondered :], len(self.thought)
        return fresh

    def delta(self) -> str:
        """The text that is certain and was not shown yet."""
        said = self._said()
        if self.calls is not None and self.reason is None:
            # White space before a call is no part of what is said beside it.
            said = "" if self.forced else said[: self.calls.certain(said)].rstrip()
        elif self.calls is not None:
            said = self.parsed()[0]
        if self.reason is None and self.prefix.startswith(self.text):
            return ""
        fresh, self._shown = said[self._shown :], max(self._shown, len(said))
        return fresh

    def fresh(self) -> list[Told]:
        """The tokens that were not told yet."""
        found, self._fresh = self.tokens[self._fresh :], len(self.tokens)
        return found

    def parsed(self) -> tuple[str, list[ToolCall]]:
        """The finished answer: its words, and the tools it calls; the last call may be cut."""
        if self._parsed is None:
            words, calls = self._said(), []
            if self.calls is not None:
                words, calls = self.calls.parse(words, self.tools, several=self.several)
            ends_early = self.reason == "length"
            self._broken = self.forced and ends_early
            if self.calls is not None and not calls and (self.forced or ends_early):
                words, calls = self._cut(self.calls, words)
            named = [ToolCall(c.name, c.arguments, call_id()) for c in calls]
            self._parsed = words, named
        return self._parsed

    def _cut(self, format: CallFormat, text: str) -> tuple[str, list[ToolCall]]:
        """Words and calls of an answer that breaks off within a call, if it does."""
        several, forced = self.several, self.forced
        found = cut_calls.read(format, text, self.tools, several=several, forced=forced)
        if found is None:
            return text, []
        self._broken = True
        return found

    def ending(self) -> str | None:
        """OpenAI's `finish_reason`: calls that are whole end an answer as `tool_calls`."""
        if self.reason and self.parsed()[1] and not self._broken:
            return "tool_calls"
        return self.reason

    def _said(self) -> str:
        return self.text.removeprefix(self.prefix)


async def news(tickets: Sequence[Ticket], seconds: float) -> AsyncIterator[tuple[int, list[Event]]]:
    """(choice, its new events) until all choices have ended.

    Raises:
        Refusal: An answer was broken off; S120, it took too long.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    unfinished = set(range(len(tickets)))
    while unfinished:
        tickets[0].wake.clear()
        told = False
        for at in sorted(unfinished):
            finished = tickets[at].finished  # before `pop`: what it pops belongs to this
            if events := tickets[at].pop():
                told = True
                yield at, events
            if finished:
                unfinished.discard(at)
        if unfinished and not told:
            try:
                async with asyncio.timeout_at(deadline):
                    await tickets[0].wake.wait()
            except TimeoutError:
                raise faults.timed_out(seconds) from None
        elif asyncio.get_running_loop().time() > deadline:
            raise faults.timed_out(seconds)


@dataclass
class Asked:
    """A request on its way: prompts, choices of each, and the answers they grow into."""

    service: Service
    model: Model
    prompts: list[tuple[int, ...]]
    samplings: list[Sampling]
    id: str
    make: Callable[[Sequence[int]], Answer]
    """An empty answer to a prompt."""
    constraint: Callable[[Sequence[int]], Any] | None = None
    """What the answer to a prompt is held to."""
    param: str = "messages"
    answers: list[Answer] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        return self.service.engine

    async def submit(self) -> None:
        """Hands everything to the engine, all or nothing.

        Raises:
            Refusal: The queue is full, or the engine refuses the request.
        """
        offer = self.model.offer
        rule = self.constraint or (lambda ids: None)
        requests = [
            Request(f"{self.id}-{at}", ids, sampling, offer.adapter, rule(ids))
            for at, (ids, sampling) in enumerate(
                (ids, sampling) for ids in self.prompts for sampling in self.samplings
            )
        ]
        self.answers = [self.make(request.ids) for request in requests]
        if offer.generator is None:
            raise faults.Refusal("S121", "this model can't write", "model")
        try:
            self.tickets = await self.engine.submit(offer.generator, requests)
        except TunesmithError as error:
            raise faults.of_error(error, self.param) from None
        self.service.metrics.prompt += sum(map(len, self.prompts))

    async def events(self) -> AsyncIterator[int]:
        """The choice that grew, each time one did; all is cancelled when nobody listens on."""
        seconds = self.service.limits.answer_seconds
        begun = asyncio.get_running_loop().time()
        try:
            async for at, found in news(self.tickets, seconds):
                self.answers[at].add(found)
                yield at
        finally:
            self.cancel()
            took = asyncio.get_running_loop().time() - begun
            self.service.metrics.duration.add(took)

    def cancel(self) -> None:
        """Nobody waits for this any more."""
        self.engine.cancel(self.tickets)

    async def finished(self) -> list[Answer]:
        """All answers, whole."""
        await self.submit()
        async for _ in self.events():
            pass
        return self.answers

    def usage(self) -> dict[str, int]:
        prompt = sum(map(len, self.prompts))
        completion = sum(answer.count for answer in self.answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
