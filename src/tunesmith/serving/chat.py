"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tunesmith.serving import beams, form, replies
from tunesmith.serving.answers import Answer, Asked, Told
from tunesmith.serving.faults import Refusal
from tunesmith.serving.sampling import samplings
from tunesmith.serving.schema import ChatBody
from tunesmith.serving.service import Service, new_id
from tunesmith.serving.token_texts import TokenTexts


async def answer(service: Service, request: Request) -> Response:
    """Answers a conversation, whole or as a stream."""
    body = await replies.body(request, ChatBody, service.limits)
    _check(body)
    model = service.model(body.model)
    made = form.reader(body, model)
    rule = await form.rule(service, body, model)
    ids = await service.chat_ids(model, body.messages, form.tools_told(body))
    service.fits(model, ids, "messages")
    top = (body.top_logprobs or 0) if body.logprobs else None
    chosen = samplings(body, model, service.limits, top, prompt=len(ids))
    asked = Asked(service, model, [ids], chosen, new_id("chatcmpl"), made, rule)
    if not body.stream:
        return await replies.while_connected(request, _whole(asked, body))
    await asked.submit()
    return replies.Live(_chunks(asked, body), replies.EVENTS, asked.cancel, replies.told)


def _check(body: ChatBody) -> None:
    if body.top_logprobs and not body.logprobs:
        what = "`top_logprobs` needs `logprobs: true`"
        raise Refusal("S111", what, "top_logprobs")
    if body.stream_options is not None and not body.stream:
        what = "`stream_options` is for streams; `stream` is not true"
        raise Refusal("S111", what, "stream_options")
    form.check(body)
    beams.check(body)


# ---------------------------------------------------------------- whole


async def _whole(asked: Asked, body: ChatBody) -> Response:
    if body.use_beam_search:
        await beams.answer(asked, body)
    else:
        await asked.finished()
    choices = [
        {
            "index": at,
            "message": _message(answer),
            "logprobs": logprobs(answer.tokens, asked.model.texts) if body.logprobs else None,
            "finish_reason": answer.ending(),
        }
        for at, answer in enumerate(asked.answers)
    ]
    head = _head(asked, "chat.completion")
    return replies.reply({**head, "choices": choices, "usage": asked.usage()})


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    created = int(time.time())
    return {"id": asked.id, "object": kind, "created": created, "model": asked.model.name}


def _message(answer: Answer) -> dict[str, Any]:
    words, calls = answer.parsed()
    message: dict[str, Any] = {"role": "assistant", "content": words or None if calls else words}
    message["refusal"] = None
    if answer.thought:
        message["reasoning_content"] = answer.thought
    if calls:
        message["tool_calls"] = _calls(answer)
    return message


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in answer.parsed()[1]
    ]


def logprobs(tokens: Sequence[Told], texts: TokenTexts) -> dict[str, Any]:
    """OpenAI's `logprobs` of a chat."""

    def told(id: int, value: float | None) -> dict[str, Any]:
        return {"token": texts.text(id), "logprob": value, "bytes": list(texts.bytes(id))}

    content = [
        {**told(id, value), "top_logprobs": [told(*pair) for pair in top]}
        for id, value, top in tokens
    ]
    return {"content": content, "refusal": None}


# ---------------------------------------------------------------- stream


async def _chunks(asked: Asked, body: ChatBody) -> AsyncGenerator[bytes]:
    """Chunks of all choices, each with id, object and created."""
    head = _head(asked, "chat.completion.chunk")
    counted = body.stream_options is not None and bool(body.stream_options.include_usage)
    silent: dict[str, Any] = {"usage": None} if counted else {}

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return replies.frame({**head, "choices": [choice], **silent})

    for at in range(len(asked.answers)):
        yield chunk(at, {"role": "assistant", "content": ""})
    async for at in asked.events():
        answer = asked.answers[at]
        thought, said = answer.pondered(), answer.delta()
        more: dict[str, Any] = {}
        if body.logprobs and (fresh := answer.fresh()):
            more["logprobs"] = logprobs(fresh, asked.model.texts)
        if thought or said or more:
            delta = {"reasoning_content": thought} if thought else {}
            if said or not thought:
                delta["content"] = said
            yield chunk(at, delta, **more)
        if answer.reason is not None:
            if calls := _calls(answer):
                told = [{"index": number, **call} for number, call in enumerate(calls)]
                yield chunk(at, {"tool_calls": told})
            yield chunk(at, {}, finish_reason=answer.ending())
    if counted:
        yield replies.frame({**head, "choices": [], "usage": asked.usage()})
    yield replies.DONE
