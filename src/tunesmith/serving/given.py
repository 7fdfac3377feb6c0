"""Routes about text that is given: embeddings, scores, tokens, and which models there are."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tunesmith.serving import prompts, replies
from tunesmith.serving.faults import Refusal
from tunesmith.serving.schema import (
    ChatMessage,
    DetokenizeBody,
    EmbeddingBody,
    ScoreBody,
    TokenizeBody,
)
from tunesmith.serving.service import Model, Service, too_long

PORTION = 8192
"""Tokens that one piece of work may hold the engine's thread for; streams go on in between."""


async def models(service: Service, request: Request) -> Response:
    """GET /v1/models."""
    data = [_described(model) for model in service.models.values()]
    return replies.reply({"object": "list", "data": data})


async def one_model(service: Service, request: Request) -> Response:
    """GET /v1/models/{model}."""
    model = service.model(request.path_params["model"], writes=False)
    return replies.reply(_described(model))


def _described(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tunesmith",
        "max_model_len": model.offer.context,
    }


async def embeddings(service: Service, request: Request) -> Response:
    """POST /v1/embeddings: means of the last hidden states, of length 1."""
    body = await replies.body(request, EmbeddingBody, service.limits)
    model = service.model(body.model, writes=False)
    rows = await service.rows(model, body.input, "input")
    for at, ids in enumerate(rows):
        service.fits(model, ids, f"input[{at}]" if len(rows) > 1 else "input", room=0)

    async def work() -> Response:
        vectors = await _in_portions(service, model.reader.embed, rows)
        data = [
            {
                "object": "embedding",
                "index": at,
                "embedding": _packed(vector) if body.encoding_format == "base64" else vector,
            }
            for at, vector in enumerate(vectors)
        ]
        return replies.reply(_list(model, data, rows))

    return await replies.while_connected(request, work())


def _packed(vector: Sequence[float]) -> str:
    """Little-endian float32 in base64, as OpenAI's client asks for by default."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def score(service: Service, request: Request) -> Response:
    """POST /v1/score: what a reward model thinks of the last answer of each conversation."""
    body = await replies.body(request, ScoreBody, service.limits)
    model = service.model(body.model, writes=False)
    if not model.offer.scores:
        what = f"`{model.name}` is a language model and has no score"
        raise Refusal("S121", what, "model", fix="serve a reward model")
    if (body.messages is None) == (body.input is None):
        what = "give `messages` (one conversation) or `input` (several), one of the two"
        raise Refusal("S111", what, "messages")
    given = [body.messages] if body.messages is not None else body.input or []
    fields = (
        ["messages"] if body.messages is not None else [f"input[{i}]" for i in range(len(given))]
    )
    rows = [
        await _scored_ids(service, model, talk, field)
        for talk, field in zip(given, fields, strict=True)
    ]

    async def work() -> Response:
        scores = await _in_portions(service, model.reader.score, rows)
        data = [{"object": "score", "index": i, "score": value} for i, value in enumerate(scores)]
        return replies.reply(_list(model, data, rows))

    return await replies.while_connected(request, work())


async def _scored_ids(
    service: Service, model: Model, messages: Sequence[ChatMessage], field: str
) -> tuple[int, ...]:
    """The ids of a conversation, its last answer and end marker included, as in training."""
    if messages[-1].role != "assistant":
        what = f"`{field}` must end with the assistant's answer that is to be scored"
        raise Refusal("S111", what, field)
    talk = prompts.conversation(messages, None, param=field)
    service.refuse_long(model, prompts.size(messages, None), field)
    template, system = model.offer.template, model.offer.system

    def encode() -> tuple[int, ...]:
        turns = template.encode_batch(template.render(talk, system=system))[-1]
        return tuple(i for turn in turns for i in (*turn.prompt_ids, *turn.completion_ids))

    ids = await service.threaded(encode, field)
    service.fits(model, ids, field, room=0)
    return ids


async def _in_portions(service: Service, work: Any, rows: list[tuple[int, ...]]) -> list[Any]:
    """Work over rows, a few at a time, so that nobody waits for all of them."""
    found: list[Any] = []
    start = 0
    while start < len(rows):
        stop, tokens = start, 0
        while stop < len(rows) and (stop == start or tokens + len(rows[stop]) <= PORTION):
            tokens += len(rows[stop])
            stop += 1
        portion = rows[start:stop]
        found += await service.engine.call(lambda portion=portion: work(portion))
        start = stop
    service.metrics.prompt += sum(map(len, rows))
    return found


def _list(model: Model, data: list[Any], rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    tokens = sum(map(len, rows))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model.name, "usage": usage}


async def tokenize(service: Service, request: Request) -> Response:
    """POST /tokenize: ids of a text, or of what would be sent for a conversation."""
    body = await replies.body(request, TokenizeBody, service.limits)
    model = service.model(body.model, writes=False)
    if (body.prompt is None) == (body.messages is None):
        what = "give `prompt` (text) or `messages` (a conversation), one of the two"
        raise Refusal("S111", what, "prompt")
    if body.messages is not None:
        ids = await service.chat_ids(model, body.messages, body.tools)
    else:
        ids = await service.text_ids(model, body.prompt or "", "prompt")
    texts = [model.texts.text(id) for id in ids]
    context = model.offer.context
    return replies.reply(
        {"tokens": ids, "texts": texts, "count": len(ids), "max_model_len": context}
    )


async def detokenize(service: Service, request: Request) -> Response:
    """POST /detokenize: the text of ids, control tokens included."""
    body = await replies.body(request, DetokenizeBody, service.limits)
    model = service.model(body.model, writes=False)
    if body.tokens and max(body.tokens) >= model.texts.size:
        what = f"`tokens` has {max(body.tokens)}; the model knows {model.texts.size}"
        raise Refusal("S111", what, "tokens")
    tokens = body.tokens
    if len(tokens) > 64 * model.context:
        raise too_long(f"{len(tokens):,}", model, "tokens")
    text = await service.threaded(lambda: model.offer.tokenizer.decode(tokens), "tokens")
    return replies.reply({"prompt": text})
