"""POST /v1/completions: text, tokens, or many of them to be continued, with echo."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tunesmith.serving import beams, likeliest, replies
from tunesmith.serving.answers import Answer, Asked, Told
from tunesmith.serving.faults import Refusal
from tunesmith.serving.sampling import samplings
from tunesmith.serving.schema import CompletionBody
from tunesmith.serving.service import Service, new_id
from tunesmith.serving.token_texts import Offsets, TokenTexts


async def answer(service: Service, request: Request) -> Response:
    """Continues prompts, whole or as a stream."""
    body = await replies.body(request, CompletionBody, service.limits)
    _check(body)
    model = service.model(body.model)
    rows = await service.rows(model, body.prompt, "prompt")
    room = 0 if body.max_tokens == 0 else 1
    for at, ids in enumerate(rows):
        service.fits(model, ids, f"prompt[{at}]" if len(rows) > 1 else "prompt", room=room)
    prompt = max(map(len, rows))
    chosen = samplings(body, model, service.limits, body.logprobs, prompt=prompt)
    asked = Asked(
        service,
        model,
        rows,
        chosen,
        new_id("cmpl"),
        # The end marker is told, too: lm-eval counts on a token after the prompt.
        lambda ids: Answer(),
        param="prompt",
    )
    if not body.stream:
        return await replies.while_connected(request, _whole(asked, body))
    if body.echo:
        raise Refusal("S124", "`echo` is not supported in a stream", "echo", fix="leave it out")
    await asked.submit()
    return replies.Live(_chunks(asked, body), replies.EVENTS, asked.cancel, replies.told)


def _check(body: CompletionBody) -> None:
    if body.stream_options is not None and not body.stream:
        what = "`stream_options` is for streams; `stream` is not true"
        raise Refusal("S111", what, "stream_options")
    beams.check(body)


async def _whole(asked: Asked, body: CompletionBody) -> Response:
    if asked.samplings[0].max_tokens == 0:  # only the prompt is asked for
        asked.answers = [
            Answer(reason="length") for _ in range(len(asked.prompts) * len(asked.samplings))
        ]
        asked.service.metrics.prompt += sum(map(len, asked.prompts))
    elif body.use_beam_search:
        await beams.answer(asked, body)
    else:
        await asked.finished()
    echoes = await _echoes(asked, body)
    tokenizer = asked.model.offer.tokenizer
    count = len(asked.samplings)
    choices = []
    for at, found in enumerate(asked.answers):
        text, tokens = echoes[at // count] if echoes else ("", [])
        shown, whole = [*tokens, *found.tokens], text + found.text
        places: list[int] = []
        if body.logprobs is not None:
            prompt = asked.prompts[at // count]
            echoed = Offsets(tokenizer, ()).of(prompt) if tokens else []
            rest = Offsets(tokenizer, prompt, len(text)).of(id for id, _, _ in found.tokens)
            places = [min(place, len(whole)) for place in (*echoed, *rest)]
        choices.append(
            {
                "index": at,
                "text": whole,
                "logprobs": None
                if body.logprobs is None
                else _logprobs(shown, asked.model.texts, places),
                "finish_reason": found.reason,
            }
        )
    head = _head(asked)
    return replies.reply({**head, "choices": choices, "usage": asked.usage()})


async def _echoes(
    asked: Asked, body: CompletionBody
) -> list[tuple[str, list[tuple[int, float | None, Any]]]]:
    """Text and tokens of each prompt, if they are wanted back."""
    if not body.echo:
        return []
    found = []
    tokenizer = asked.model.offer.tokenizer
    for ids in asked.prompts:
        tokens: list[Told] = []
        if body.logprobs is not None:
            told = await likeliest.read(asked.service, asked.model, ids, body.logprobs)
            tokens = [(ids[0], None, ()), *likeliest.of_prompt(ids, told)]
        text = tokenizer.decode(ids, skip_special=True)
        found.append((text, tokens))
    return found


def _head(asked: Asked) -> dict[str, Any]:
    created = int(time.time())
    name = asked.model.name
    return {"id": asked.id, "object": "text_completion", "created": created, "model": name}


def _logprobs(tokens: Sequence[Told], texts: TokenTexts, places: list[int]) -> dict[str, Any]:
    """OpenAI's `logprobs` of a completion; the first token of a prompt has none.

    Args:
        tokens: With their log-probabilities and the likeliest there.
        texts: What each spells.
        places: Where each begins in the text.
    """
    found: dict[str, list[Any]] = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": places,
    }
    for id, value, top in tokens:
        text = texts.text(id)
        found["tokens"].append(text)
        found["token_logprobs"].append(value)
        found["top_logprobs"].append(None if value is None else _top(top, text, value, texts))
    return found


def _top(
    top: Sequence[tuple[int, float]], text: str, value: float, texts: TokenTexts
) -> dict[str, float]:
    """The likeliest tokens by text, likeliest first; the chosen one is among them, as OpenAI has
    it."""
    found: dict[str, float] = {}
    for id, other in top:
        found.setdefault(texts.text(id), other)
    found.setdefault(text, value)
    return found


async def _chunks(asked: Asked, body: CompletionBody) -> AsyncGenerator[bytes]:
    head = _head(asked)
    counted = body.stream_options is not None and bool(body.stream_options.include_usage)
    silent: dict[str, Any] = {"usage": None} if counted else {}
    tokenizer, count = asked.model.offer.tokenizer, len(asked.samplings)
    offsets = [Offsets(tokenizer, asked.prompts[at // count]) for at in range(len(asked.answers))]
    async for at in asked.events():
        found = asked.answers[at]
        said, fresh = found.delta(), found.fresh()
        told: Any = None
        if body.logprobs is not None and fresh:
            places = offsets[at].of(id for id, _, _ in fresh)
            told = _logprobs(fresh, asked.model.texts, places)
        if said or told or found.reason:
            choice = {"index": at, "text": said, "logprobs": told, "finish_reason": found.reason}
            yield replies.frame({**head, "choices": [choice], **silent})
    if counted:
        yield replies.frame({**head, "choices": [], "usage": asked.usage()})
    yield replies.DONE
