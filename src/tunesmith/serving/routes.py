"""The routes, as data: what serves them, what they take and give; OpenAPI is made of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from tunesmith.serving import chat, completions, given, older, schema
from tunesmith.serving.service import Service

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)
Answerer = Callable[[Service, Request], Awaitable[Response]]


@dataclass(frozen=True)
class Served:
    """One route."""

    method: str
    path: str
    answer: Answerer
    summary: str
    takes: type[BaseModel] | None = None
    gives: str = "application/json"


async def health(service: Service, request: Request) -> Response:
    """GET /health: 200 while requests are taken, 503 while the server stops or its engine died."""
    engine = service.engine
    status = "ok" if engine.alive else "failed"
    status = "draining" if engine.draining else status
    return JSONResponse({"status": status}, 200 if status == "ok" else 503)


async def metrics(service: Service, request: Request) -> Response:
    """GET /metrics."""
    text = service.metrics.text(service.engine.held, service.engine.limit)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def openapi_page(service: Service, request: Request) -> Response:
    """GET /openapi.json."""
    from tunesmith.serving import openapi

    return JSONResponse(openapi.document(ROUTES))


async def docs(service: Service, request: Request) -> Response:
    """GET /docs: one page of our own; it loads nothing but /openapi.json."""
    page = (files("tunesmith.serving") / "docs.html").read_text(encoding="utf-8")
    return HTMLResponse(page, headers={"content-security-policy": POLICY})


ROUTES: tuple[Served, ...] = (
    Served("POST", "/v1/chat/completions", chat.answer, "Answer a conversation.", schema.ChatBody),
    Served("POST", "/v1/completions", completions.answer, "Continue text.", schema.CompletionBody),
    Served("GET", "/v1/models", given.models, "The models on offer."),
    Served("GET", "/v1/models/{model:path}", given.one_model, "One model."),
    Served("POST", "/v1/embeddings", given.embeddings, "Embed texts.", schema.EmbeddingBody),
    Served("POST", "/v1/score", given.score, "Score answers (reward models).", schema.ScoreBody),
    Served("POST", "/tokenize", given.tokenize, "Ids of a text or prompt.", schema.TokenizeBody),
    Served("POST", "/detokenize", given.detokenize, "Text of ids.", schema.DetokenizeBody),
    Served(
        "POST",
        "/api/chat",
        older.answer,
        "The older protocol: an answer in lines of JSON.",
        schema.OlderChatBody,
        "application/x-ndjson",
    ),
    Served("GET", "/health", health, "Whether the server is up."),
    Served("GET", "/metrics", metrics, "Counters for Prometheus.", gives="text/plain"),
    Served("GET", "/openapi.json", openapi_page, "This page."),
    Served("GET", "/docs", docs, "The routes, to read.", gives="text/html"),
)
