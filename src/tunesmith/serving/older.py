"""POST /api/chat as PaddleNLP's flask server has it: an answer in lines of JSON.

Its traps are not kept: the history is used (once, the question is not counted twice), what a client
sends changes nothing for others, and errors are told with a code that is not 0. `[END]` is never
written: a line's text is the answer's own.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunesmith.serving import replies
from tunesmith.serving.answers import Answer, Asked
from tunesmith.serving.faults import Refusal
from tunesmith.serving.schema import ChatMessage, OlderChatBody
from tunesmith.serving.service import Service, new_id
from tunesmith.types import Sampling

LINES = "application/x-ndjson; charset=utf-8"
_ROLES = {"user": "user", "bot": "assistant"}


async def answer(service: Service, request: Request) -> Response:
    """Answers in the older protocol; errors have its shape too."""
    try:
        return await _answer(service, request)
    except Refusal as fault:
        return JSONResponse(_error(fault), fault.status, headers=fault.headers)


async def _answer(service: Service, request: Request) -> Response:
    body = await replies.body(request, OlderChatBody, service.limits)
    model = service.model(None)
    messages = [*history(body.history, body.context), _message("user", body.context)]
    ids = await service.chat_ids(model, messages, None, "context")
    service.fits(model, ids, "context")
    if body.src_length is not None and len(ids) > body.src_length:
        what = f"the prompt has {len(ids)} tokens, `src_length` is {body.src_length}"
        raise Refusal("S123", what, "src_length", fix="raise it, or send less history")
    stop_ids = frozenset(model.offer.defaults.stop_ids)
    prefix = model.offer.template.answer_prefix
    asked = Asked(
        service,
        model,
        [ids],
        [_sampling(body, model.offer.defaults, model.context)],
        new_id("chat"),
        lambda ids: Answer(prefix, stop_ids=stop_ids),
        param="context",
    )
    await asked.submit()
    return replies.Live(_lines(asked), LINES, asked.cancel, lambda fault: _line(_error(fault)))


def history(text: str, context: str) -> list[ChatMessage]:
    """The turns of a history, less the question itself, which some clients have in it already.

    Raises:
        Refusal: S111, it is not what it should be.
    """
    try:
        turns = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError):
        raise _unreadable() from None
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        raise _unreadable()
    found = [(_ROLES[turn["role"]], turn["utterance"]) for turn in turns]
    while found and found[-1] == ("assistant", ""):  # the empty answer that is being asked for
        found.pop()
    if found and found[-1] == ("user", context):
        found.pop()
    return [_message(role, said) for role, said in found]


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and turn.get("role") in ("user", "bot")
        and isinstance(turn.get("utterance"), str)
        and _is_text(turn["utterance"])
    )


def _is_text(text: str) -> bool:
    """Whether text that JSON held inside JSON has no half characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _unreadable() -> Refusal:
    fix = 'it is JSON text of [{"role": "user" or "bot", "utterance": "…"}, …]'
    return Refusal("S111", "`history` can't be read", "history", fix=fix)


def _message(role: Any, said: str) -> ChatMessage:
    return ChatMessage(role=role, content=said)


def _sampling(body: OlderChatBody, plain: Sampling, context: int) -> Sampling:
    return dataclasses.replace(
        plain,
        max_tokens=min(body.max_length, context),
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        repetition_penalty=body.repetition_penalty,
        seed=secrets.randbits(48),
    )


async def _lines(asked: Asked) -> AsyncGenerator[bytes]:
    async for at in asked.events():
        if said := asked.answers[at].delta():
            yield _line({"error_code": 0, "error_msg": "Success", **_said(said)})


def _said(text: str) -> dict[str, Any]:
    return {"result": {"response": {"role": "bot", "utterance": text}}}


def _error(fault: Refusal) -> dict[str, Any]:
    """The older shape: a number that is not 0, and no result."""
    return {"error_code": fault.status, "error_msg": fault.body()["error"]["message"]}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
