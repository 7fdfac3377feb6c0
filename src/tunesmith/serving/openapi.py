"""/openapi.json: OpenAPI 3.1 made from the pydantic models of the bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tunesmith import __version__
from tunesmith.serving.faults import KINDS
from tunesmith.serving.safety import OPEN_PATHS

if TYPE_CHECKING:
    from tunesmith.serving.routes import Served

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "tunesmith": {"type": "string"},
            },
        }
    },
}
_OLDER_ERROR = {
    "type": "object",
    "required": ["error_code", "error_msg"],
    "properties": {"error_code": {"type": "integer"}, "error_msg": {"type": "string"}},
}
_WORDS = {
    400: "The request is wrong, or asks for what this model or engine can't do.",
    401: "The key is missing or wrong.",
    403: "Pages of this Origin may not ask.",
    404: "There is no such model or route.",
    405: "The route has another method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    421: "This Host is not served.",
    429: "The queue is full; Retry-After says when to come back.",
    431: "The headers are too large.",
    500: "The engine failed, or the model's output is not finite.",
    503: "The server is shutting down.",
    504: "The answer took too long.",
}


def document(routes: Sequence[Served]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    bodies = sorted({r.takes for r in routes if r.takes is not None}, key=lambda b: b.__name__)
    _, made = models_json_schema([(b, "validation") for b in bodies], ref_template=_REF)
    paths: dict[str, Any] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path)
    schemas = {**made.get("$defs", {}), "Error": _ERROR, "OlderError": _OLDER_ERROR}
    return {
        "openapi": "3.1.0",
        "info": {"title": "tunesmith", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Served, path: str) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary, "responses": _responses(route)}
    operation["operationId"] = re.sub(r"\W+", "_", f"{route.method.lower()}{path}").strip("_")
    if "{model}" in path:
        schema = {"type": "string", "minLength": 1}
        operation["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": schema}
        ]
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": _json(_ref(route.takes))}
    if path in OPEN_PATHS:
        operation["security"] = []
    return operation


def _responses(route: Served) -> dict[str, Any]:
    content: dict[str, Any] = {route.gives: {"schema": _given(route)}}
    if route.path in ("/v1/chat/completions", "/v1/completions"):
        content["text/event-stream"] = {"schema": {"type": "string"}}
    found: dict[str, Any] = {"200": {"description": route.summary, "content": content}}
    error = "OlderError" if route.path == "/api/chat" else "Error"
    refused = {status for status, _, _ in KINDS.values()} | {421, 431}
    for status in sorted(refused):
        if status in (408, 413, 415, 429, 504, 500) and route.takes is None:
            continue
        schema = {"$ref": f"#/components/schemas/{error}"}
        if route.path == "/api/chat" and status in (
            401,
            403,
            421,
            431,
        ):  # told before the route is known
            schema = {"$ref": "#/components/schemas/Error"}
        found[str(status)] = {"description": _WORDS[status], "content": _json(schema)}
    if route.path == "/health":
        plain = {"type": "object", "required": ["status"]}
        found["503"] = {"description": "Not now.", "content": _json(plain)}
    return found


def _given(route: Served) -> dict[str, Any]:
    if route.gives != "application/json":
        return {"type": "string"}
    lists = ("/v1/models", "/v1/embeddings", "/v1/score")
    required = {
        "/v1/chat/completions": ["id", "object", "created", "model", "choices", "usage"],
        "/v1/completions": ["id", "object", "created", "model", "choices", "usage"],
        "/tokenize": ["tokens", "count"],
        "/detokenize": ["prompt"],
        "/health": ["status"],
        **{path: ["object", "data"] for path in lists},
    }
    return {"type": "object", "required": required.get(route.path, [])}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
