"""The ASGI application: routes behind the gate, every error in OpenAI's shape."""

from __future__ import annotations

import logging
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tunesmith.serving import faults
from tunesmith.serving.faults import Refusal
from tunesmith.serving.replies import GONE
from tunesmith.serving.routes import ROUTES, Served
from tunesmith.serving.safety import Access, Gate
from tunesmith.serving.service import Service

_log = logging.getLogger("tunesmith.serving")


def application(service: Service, access: Access) -> ASGIApp:
    """The server as an ASGI application; the engine's thread must run."""
    middleware = [
        Middleware(
            Gate,
            access=access,
            metrics=service.metrics,
            closing=lambda: service.engine.draining,
        )
    ]
    if access.origins:
        allowed: dict[str, Any] = {
            "allow_origins": access.origins,
            "allow_methods": ["GET", "POST"],
            "allow_headers": ["authorization", "content-type"],
        }
        middleware.insert(0, Middleware(CORSMiddleware, **allowed))
    return Starlette(
        routes=[_route(service, route) for route in ROUTES],
        middleware=middleware,
        exception_handlers={HTTPException: _unknown},
    )


def _route(service: Service, route: Served) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return await route.answer(service, request)
        except Refusal as fault:
            return fault.response()
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception:  # a bug of ours must not show its insides
            _log.exception("a request to %s failed", route.path)
            return faults.failed().response()

    return Route(route.path, endpoint, methods=[route.method])


async def _unknown(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such route, another method."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    what = "this route has another method" if status == 405 else "there is no such route"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    fix = "GET /openapi.json lists them"
    return Refusal("S113", what, fix=fix, status=status, headers=headers).response()
