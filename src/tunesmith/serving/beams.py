"""Beam search over HTTP: the likeliest answers rather than the likeliest next tokens.

The fields are vLLM's (`use_beam_search`, `n`, `best_of`, `length_penalty`) and transformers'
(`early_stopping`); so are the rules, see `generation.beams_impl`. A search draws, weighs and holds
nothing: a field that asks for that is refused, for it could not be honoured.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.generation.beam_events import spoken
from tunesmith.generation.torch import TorchGenerator
from tunesmith.serving import faults
from tunesmith.serving.answers import Asked
from tunesmith.serving.faults import Refusal
from tunesmith.serving.schema import ChatBody, SamplingFields
from tunesmith.serving.service import Model
from tunesmith.types import Request, Sampling

# Field -> the value that changes nothing, and why no other one is possible.
_DRAWN = "a search draws nothing"
_WEIGHED = "beams are weighed by the model's own probabilities"
_NEUTRAL: dict[str, tuple[Any, str]] = {
    "temperature": (0, _DRAWN),
    "top_p": (1, _DRAWN),
    "top_k": (0, _DRAWN),
    "min_p": (0, _DRAWN),
    "typical_p": (1, _DRAWN),
    "repetition_penalty": (1, _WEIGHED),
    "presence_penalty": (0, _WEIGHED),
    "frequency_penalty": (0, _WEIGHED),
}
_OFF: dict[str, str] = {
    "stream": "nothing is certain before the search is over",
    "logprobs": "a search scores whole answers, not their tokens",
    "logit_bias": _WEIGHED,
}


def check(body: SamplingFields) -> None:
    """Refuses what does not go together with a search, or means nothing without one.

    Raises:
        Refusal: S111, a field that needs `use_beam_search`, or fewer beams than answers; S124, one
            that a search can't honour.
    """
    if not body.use_beam_search:
        _check_without(body)
        return
    if width(body) < (body.n or 1):
        what = f"`best_of` is {body.best_of} beams, and `n` asks for {body.n} of them"
        raise Refusal("S111", what, "best_of", fix="make it at least `n`")
    for name, (neutral, why) in _NEUTRAL.items():
        if getattr(body, name) not in (None, neutral):
            raise _refused(name, why)
    for name, why in _OFF.items():
        # `logprobs: 0` of /v1/completions asks for those of the tokens themselves
        asked = getattr(body, name, None)
        if asked or (name == "logprobs" and asked is not None and asked is not False):
            raise _refused(name, why)


def _check_without(body: SamplingFields) -> None:
    plain = {"length_penalty": 1, "early_stopping": False, "best_of": body.n or 1}
    for name, value in plain.items():
        if getattr(body, name) not in (None, value):
            what = f"`{name}` is of beam search"
            raise Refusal("S111", what, name, fix="send `use_beam_search: true`, or leave it out")


def _refused(name: str, why: str) -> Refusal:
    what = f"`{name}` beside `use_beam_search` is not supported: {why}"
    return Refusal("S124", what, name, fix="leave it out")


def width(body: SamplingFields) -> int:
    """How many beams go on at a time."""
    return body.best_of or body.n or 1


def generator(body: SamplingFields, model: Model) -> TorchGenerator:
    """What searches for a model.

    Raises:
        Refusal: S124, its engine searches no beams; or its own config weighs tokens, which beams do
            not.
    """
    found = model.offer.generator
    if not isinstance(found, TorchGenerator):
        what = f"the engine of `{model.name}` searches no beams"
        raise Refusal("S124", what, "use_beam_search", fix="leave it out")
    penalty = model.offer.defaults.repetition_penalty
    if penalty != 1 and body.repetition_penalty is None:
        what = f"this model's own config has a repetition penalty of {penalty:g}: {_WEIGHED}"
        raise Refusal("S124", what, "use_beam_search", fix="send `repetition_penalty: 1`")
    return found


async def answer(asked: Asked, body: SamplingFields) -> None:
    """Fills in the answers to all prompts, the best first.

    Raises:
        Refusal: S124, what is asked can't be searched; S118 … S123 as other answers.
    """
    searcher = generator(body, asked.model)
    if asked.constraint is not None:
        field = (
            "response_format" if isinstance(body, ChatBody) and body.response_format else "tools"
        )
        raise _refused(field, "beams are not held to a form")
    seconds = asked.service.limits.answer_seconds
    begun = asyncio.get_running_loop().time()
    asked.service.metrics.prompt += sum(map(len, asked.prompts))
    try:
        async with asyncio.timeout(seconds):
            for at, ids in enumerate(asked.prompts):
                request = _request(asked, f"{asked.id}-{at}", ids)
                asked.answers += await _found(asked, searcher, request, body)
    except TimeoutError:
        raise faults.timed_out(seconds) from None
    finally:
        took = asyncio.get_running_loop().time() - begun
        asked.service.metrics.duration.add(took)


def _request(asked: Asked, id: str, ids: Sequence[int]) -> Request:
    chosen = asked.samplings[0]
    plain = Sampling(chosen.max_tokens, stop=chosen.stop, stop_ids=chosen.stop_ids, logprob=False)
    return Request(id, tuple(ids), plain, asked.model.offer.adapter)


async def _found(
    asked: Asked, searcher: TorchGenerator, request: Request, body: SamplingFields
) -> list[Any]:
    """The answers to one prompt."""
    penalty = 1.0 if body.length_penalty is None else body.length_penalty
    stops_early = body.early_stopping or False
    metrics = asked.service.metrics

    def passes() -> Generator[None, None, list[Any]]:
        beams = yield from searcher.searching(
            request, width(body), length_penalty=penalty, early_stopping=stops_early
        )
        metrics.generated += sum(len(beam.tokens) for beam in beams)
        return beams

    try:
        beams = await asked.engine.gradually(passes(), width(body))
    except TunesmithError as error:
        raise faults.of_error(error, asked.param) from None
    tokenizer = asked.model.offer.tokenizer
    answers = []
    for beam in beams[: body.n or 1]:
        found = asked.make(request.ids)
        events = spoken(tokenizer, request, beam.tokens)
        found.add([dataclasses.replace(event, logprob=None) for event in events])
        answers.append(found)
    return answers
