"""What engines share: requests checked, text streamed up to a stop string, and the common loop."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith import registry
from tunesmith.errors import ConfigError, DataError
from tunesmith.types import Event, Generator, Request, Sampling

if TYPE_CHECKING:
    from tunesmith.templates.tokenizer import Tokenizer

CONTEXT_TOKENS = 8
"""Prompt tokens decoded with the first of an answer, so that its leading space is right."""
BROKEN = 16
"""So many broken bytes in a row are no unfinished character: a character has at most four."""


def build(kind: str, model: Any, tokenizer: Any, **options: Any) -> Generator:
    """The engine of that name over a model, made with its own options."""
    return registry.load("generation", kind)(model, tokenizer, **options)


def drain(generator: Generator, requests: Iterable[Request]) -> dict[str, list[Event]]:
    """Submits requests and steps until all are finished: `generate` of every engine.

    Returns:
        Events by request id, in the order of the requests.
    """
    requests = list(requests)
    # Alike prompts share a batch, which wastes the least padding; answers don't depend on it.
    for request in sorted(requests, key=lambda request: len(request.ids)):
        generator.submit(request)
    events: dict[str, list[Event]] = {request.id: [] for request in requests}
    unfinished = set(events)
    while unfinished:
        for event in generator.step():
            events[event.id].append(event)
            if event.finish_reason is not None:
                unfinished.discard(event.id)
    return events


def in_order(
    generator: Generator, requests: Iterable[Request], ahead: int = 64
) -> Iterator[list[Event]]:
    """Events of each request, in the order of the requests, as soon as those before are finished.

    Args:
        generator: An engine with no other requests in work.
        requests: What is asked; taken as there is room.
        ahead: How many are submitted and not handed out yet, at most: bounds what is held.
    """
    source = iter(requests)
    order: deque[str] = deque()
    events: dict[str, list[Event]] = {}
    finished: set[str] = set()
    try:
        while True:
            while len(order) < ahead and (request := next(source, None)) is not None:
                generator.submit(request)
                order.append(request.id)
                events[request.id] = []
            if not order:
                return
            while order and order[0] in finished:
                finished.discard(order[0])
                yield events.pop(order.popleft())
            if not order or len(finished) == len(order):
                continue
            for event in generator.step():
                if event.id in events:
                    events[event.id].append(event)
                    if event.finish_reason is not None:
                        finished.add(event.id)
    finally:
        for id in order:
            generator.cancel(id)


def stream(generator: Generator, request: Request) -> Iterator[Event]:
    """Events of one request as they come; leaving the loop early cancels it."""
    generator.submit(request)
    finished = False
    try:
        while not finished:
            for event in generator.step():
                if event.id == request.id:
                    finished = event.finish_reason is not None
                    yield event
    finally:
        if not finished:
            generator.cancel(request.id)


def text(events: Iterable[Event]) -> str:
    """The answer that events spell."""
    return "".join(event.text_delta for event in events)


# ---------------------------------------------------------------- requests


def check_sampling(sampling: Sampling) -> None:
    """Refuses numbers that mean nothing.

    Raises:
        ConfigError: C210, a value is out of its range.
    """
    s = sampling
    ranges = {
        "max_tokens": (s.max_tokens, s.max_tokens >= 1, "at least 1"),
        "temperature": (s.temperature, 0 <= s.temperature < math.inf, "0 (greedy) or above"),
        "top_k": (s.top_k, s.top_k >= 0, "0 (all) or above"),
        "top_p": (s.top_p, 0 < s.top_p <= 1, "above 0, at most 1 (all)"),
        "min_p": (s.min_p, 0 <= s.min_p <= 1, "0 (none) to 1"),
        "typical_p": (s.typical_p, 0 < s.typical_p <= 1, "above 0, at most 1 (all)"),
        "presence_penalty": (s.presence_penalty, math.isfinite(s.presence_penalty), "a number"),
        "frequency_penalty": (s.frequency_penalty, math.isfinite(s.frequency_penalty), "a number"),
        "logit_bias": (
            s.logit_bias,
            all(token >= 0 and math.isfinite(bias) for token, bias in s.logit_bias),
            "pairs of a token and a number",
        ),
        "top_logprobs": (s.top_logprobs, s.top_logprobs >= 0, "0 (none) or above"),
        "repetition_penalty": (
            s.repetition_penalty,
            0 < s.repetition_penalty < math.inf,
            "above 0",
        ),
        "seed": (s.seed, 0 <= s.seed < 2**64, "0 to 2^64 - 1"),
        "stop": (s.stop, all(s.stop), "strings that are not empty"),
    }
    for name, (value, good, wanted) in ranges.items():
        if not good:
            raise ConfigError(
                "C210", f"{name} is {value}", where="sampling", fix=f"{name}: {wanted}"
            )


def check_request(request: Request, *, context: int | None, vocabulary: int) -> None:
    """Refuses what an engine can't answer, before it costs anything.

    Args:
        request: Its ids are the whole prompt.
        context: Tokens the model's positions reach, prompt and answer together; None: no limit.
        vocabulary: Rows of the model's embedding.

    Raises:
        ConfigError: C210, a sampling value is out of its range.
        DataError: D401, the prompt leaves no room for an answer; D402, it is empty or has ids that
            the model doesn't know.
    """
    check_sampling(request.sampling)
    if not request.ids:
        raise DataError("D402", "the prompt has no tokens", fix="write something")
    if max(request.ids) >= vocabulary or min(request.ids) < 0:
        raise DataError(
            "D402",
            f"the prompt has token {max(request.ids)}, the model knows {vocabulary}",
            fix="use the tokenizer that belongs to the model",
        )
    odd = [token for token, _ in request.sampling.logit_bias if token >= vocabulary]
    if odd:
        raise ConfigError(
            "C210",
            f"logit_bias has token {odd[0]}, the model knows {vocabulary}",
            where="sampling.logit_bias",
            fix="use ids of the model's tokenizer",
        )
    if context is not None and len(request.ids) >= context:
        raise DataError(
            "D401",
            f"the prompt is {len(request.ids):,} tokens long, the model's context is {context:,}",
            fix="shorten the prompt, or use a model with a longer context",
        )


# ---------------------------------------------------------------- text of an answer


class TextStream:
    """Text of one answer as its tokens come.

    It never shows half a character, nor text that may turn out to begin a stop string. Of several
    stop strings the one that is complete first ends the answer, so the result does not depend on
    how text is cut into tokens.

    Args:
        tokenizer: Decodes; None: there is no text.
        prompt_ids: What precedes the answer; its end decides about a leading space.
        stops: Stop strings.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, prompt_ids: Sequence[int], stops: Sequence[str] = ()
    ):
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._ids = list(prompt_ids[-CONTEXT_TOKENS:])
        # Tokens from _context on are decoded together: some tokenizers drop the very first space.
        # Up to _middle their text was told; _told counts characters from _context on.
        self._context, self._middle = 0, len(self._ids)
        self._told = 0
        if tokenizer is not None:
            self._told = len(tokenizer.decode(self._ids, skip_special=True))
        self._held = ""

    def step(self, id: int) -> tuple[str, bool]:
        """(text that is certain now, whether a stop string is complete)."""
        self._ids.append(id)
        return self._release(self._decode(last=False))

    def finish(self) -> tuple[str, bool]:
        """What was held back, when no token follows; likewise."""
        said, stopped = self._release(self._decode(last=True))
        held, self._held = self._held, ""
        return (said if stopped else said + held), stopped

    def _decode(self, last: bool) -> str:
        """The text of whole characters not told yet; broken bytes are U+FFFD once nothing can mend
        them."""
        if self._tokenizer is None:
            return ""
        now = self._tokenizer.decode(self._ids[self._context :], skip_special=True)
        unfinished = len(now) - len(now.rstrip("\ufffd"))
        if last or unfinished > BROKEN:
            unfinished = 0
        sure = len(now) - unfinished
        fresh = now[self._told : sure]
        self._told = max(self._told, sure)
        if fresh and not unfinished:  # later tokens are decoded with these before them
            self._context, self._middle = self._middle, len(self._ids)
            self._told = len(
                self._tokenizer.decode(self._ids[self._context : self._middle], skip_special=True)
            )
        return fresh

    def _release(self, new: str) -> tuple[str, bool]:
        text = self._held + new
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        keep = len(text) - max((_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[keep:]
        return text[:keep], False


def _begun(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
