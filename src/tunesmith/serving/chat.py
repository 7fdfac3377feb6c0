"""POST /v1/chat/completions."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tunesmith.serving import replies
from tunesmith.serving.answers import Answer, Asked, Told
from tunesmith.serving.faults import Refusal
from tunesmith.serving.sampling import samplings
from tunesmith.serving.schema import ChatBody, JsonSchemaFormat, TextFormat
from tunesmith.serving.service import Model, Service, new_id
from tunesmith.serving.token_texts import TokenTexts

LONGEST_SCHEMA = 32_768


async def answer(service: Service, request: Request) -> Response:
    """Answers a conversation, whole or as a stream."""
    body = await replies.body(request, ChatBody, service.limits)
    _check(body)
    model = service.model(body.model)
    made = _tool_reader(body, model)
    asked = Asked(
        service,
        model,
        [],
        samplings(body, model, service.limits, body.top_logprobs or 0),
        new_id("chatcmpl"),
        made,
        await _constraint(service, body, model),
    )
    tools = body.tools if body.tool_choice != "none" else None
    ids = await service.chat_ids(model, body.messages, tools)
    service.fits(model, ids, "messages")
    asked.prompts = [ids]
    if not body.stream:
        return await replies.while_connected(request, _whole(asked, body))
    await asked.submit()
    return replies.Live(replies.guarded(_chunks(asked, body)), replies.EVENTS, asked.cancel)


def _check(body: ChatBody) -> None:
    if body.top_logprobs and not body.logprobs:
        what = "`top_logprobs` needs `logprobs: true`"
        raise Refusal("S111", what, "top_logprobs")
    if body.stream_options is not None and not body.stream:
        what = "`stream_options` is for streams; `stream` is not true"
        raise Refusal("S111", what, "stream_options")
    if body.tool_choice not in (None, "none", "auto"):
        raise Refusal(
            "S124",
            "`tool_choice` can't force a call: this engine lets the model choose",
            "tool_choice",
            fix="use `auto` or `none`",
        )
    if body.tool_choice == "auto" and not body.tools:
        raise Refusal("S111", "`tool_choice` without `tools`", "tool_choice")
    if body.parallel_tool_calls is False and body.tools:
        what = "`parallel_tool_calls: false` is not supported"
        raise Refusal("S124", what, "parallel_tool_calls", fix="leave it out")


def _tool_reader(body: ChatBody, model: Model) -> Any:
    """Makes empty answers that know how this model writes calls.

    Raises:
        Refusal: S121, the template can't tell the model of tools.
    """
    offer = model.offer
    calls = None
    if body.tools and body.tool_choice != "none":
        calls = model.calls
        if calls is None:
            raise Refusal(
                "S121",
                f"the chat template of `{model.name}` has no way to call tools",
                "tools",
                fix="leave them out, or serve a model that was trained to call tools",
            )
    names = tuple(tool.function.name for tool in body.tools or ())
    stop_ids = frozenset((*offer.defaults.stop_ids, *(body.stop_token_ids or ())))
    return lambda: Answer(offer.template.answer_prefix, calls, names, stop_ids)


async def _constraint(service: Service, body: ChatBody, model: Model) -> Callable[[], Any] | None:
    """Makes what the engine must keep to, one for each choice.

    Raises:
        Refusal: S111, the schema is too long; S124, the engine can't keep to it.
    """
    wanted, constrain = body.response_format, model.offer.constrain
    if wanted is None or isinstance(wanted, TextFormat):
        return None
    schema = wanted.json_schema.schema_ if isinstance(wanted, JsonSchemaFormat) else None
    if len(json.dumps(schema)) > LONGEST_SCHEMA:
        what = f"the schema is longer than {LONGEST_SCHEMA:,} characters"
        raise Refusal("S111", what, "response_format")
    if body.tools and body.tool_choice != "none":
        what = "`response_format` and `tools` exclude each other: a call is no answer of that form"
        raise Refusal("S124", what, "response_format", fix="give one of them")
    if constrain is None:
        raise Refusal("S124", "this engine can't keep to `response_format`", "response_format")
    # Made once here, off the engine's thread, so that a schema that can't be is refused by name.
    await service.threaded(lambda: constrain(schema), "response_format")
    return lambda: constrain(schema)


# ---------------------------------------------------------------- whole


async def _whole(asked: Asked, body: ChatBody) -> Response:
    answers = await asked.finished()
    choices = [
        {
            "index": at,
            "message": _message(answer),
            "logprobs": logprobs(answer.tokens, asked.model.texts) if body.logprobs else None,
            "finish_reason": _reason(answer),
        }
        for at, answer in enumerate(answers)
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


def _reason(answer: Answer) -> str | None:
    return "tool_calls" if answer.reason and answer.parsed()[1] else answer.reason


def logprobs(tokens: Sequence[Told], texts: TokenTexts) -> dict[str, Any]:
    """OpenAI's `logprobs` of a chat."""

    def told(id: int, value: float) -> dict[str, Any]:
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
        said = answer.delta()
        more: dict[str, Any] = {}
        if body.logprobs and (fresh := answer.fresh()):
            more["logprobs"] = logprobs(fresh, asked.model.texts)
        if said or more:
            yield chunk(at, {"content": said}, **more)
        if answer.reason is not None:
            if calls := _calls(answer):
                told = [{"index": number, **call} for number, call in enumerate(calls)]
                yield chunk(at, {"tool_calls": told})
            yield chunk(at, {}, finish_reason=_reason(answer))
    if counted:
        yield replies.frame({**head, "choices": [], "usage": asked.usage()})
    yield replies.DONE
