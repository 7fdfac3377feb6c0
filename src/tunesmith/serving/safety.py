"""Who may ask: keys, Host and Origin; and what is noted of every request."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.errors import ServeError
from tunesmith.serving import faults
from tunesmith.serving.faults import Refusal
from tunesmith.serving.metrics import Metrics
from tunesmith.serving.replies import ENDED

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHORTEST_KEY = 16
OPEN_PATHS = ("/health", "/docs")
"""Routes that answer without a key: whether the server is up, and a page that is the same
everywhere (a browser can't send a key with its first request; the page asks for it)."""
_log = logging.getLogger("tunesmith.serving")


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        key: What a client must send as `Authorization: Bearer …`; None: nothing.
        hosts: Names that the Host header may have; empty: any (a key protects from rebinding).
        origins: Web pages of other origins that may ask.
    """

    key: str | None = None
    hosts: tuple[str, ...] = LOOPBACK
    origins: tuple[str, ...] = ()


def access(host: str, key: str | None, hosts: Sequence[str], origins: Sequence[str]) -> Access:
    """What holds for a server bound to `host`.

    Raises:
        ServeError: S101, the address is open to others and there is no key; S105, the key is no
            key, or so short that it could be guessed.
    """
    local = is_loopback(host)
    if not local and not key:
        raise ServeError(
            "S101",
            f"{host} can be reached from other machines, and there is no key",
            where="--host",
            fix="set TUNESMITH_API_KEY (or --api-key), or stay on 127.0.0.1",
        )
    if key is not None:
        _check_key(key, local)
    allowed = (*LOOPBACK, *hosts) if local or hosts else ()
    return Access(key, tuple(dict.fromkeys(map(str.lower, allowed))), tuple(origins))


def _check_key(key: str, local: bool) -> None:
    printable = bool(key) and all("!" <= character <= "~" for character in key)
    if printable and (local or len(key) >= SHORTEST_KEY):
        return
    what = "the key is empty or has blanks or characters that no header can hold"
    if printable:
        what = f"the key has {len(key)} characters; on this address {SHORTEST_KEY} are the least"
    fix = "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
    raise ServeError("S105", what, where="--api-key", fix=fix)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """ASGI middleware: refuses strangers, counts and logs; never what was said.

    Args:
        app: What answers.
        access: Who may ask.
        metrics: Counts requests by how they ended; a stream that was broken off is no 200.
        closing: Whether the server stops: no client should ask again over the same connection.
    """

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics, closing: Callable[[], bool]):
        self.app = app
        self.access = access
        self.metrics = metrics
        self.closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, seen = time.monotonic(), [0]

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen[0] = message["status"]
                last = [(b"connection", b"close")] if self.closing() else []
                message["headers"] = [*message.get("headers", []), *_HEADERS, *last]
            await send(message)

        try:
            try:
                measure(scope)
                check(Headers(scope=scope), scope["path"], self.access)
            except Refusal as fault:
                await fault.response()(scope, receive, noting)
            else:
                await self.app(scope, receive, noting)
        finally:
            route = scope.get("route")
            # A client's own path is not written: it may hold anything.
            name = route.path if route is not None else "other"
            status, ended = seen[0], scope.get(ENDED, seen[0])
            self.metrics.requests[name, ended] += 1
            took = time.monotonic() - begun
            how = "" if ended == status else f" broken off: {_WORDS.get(ended, ended)}"
            _log.info("%s %s %d %.3fs%s", scope["method"], name, ended, took, how)


_WORDS = {
    499: "the client left", 408: "the client read too slowly", 503: "the server stopped",
    504: "it took too long", 500: "the engine failed",
}  # fmt: skip
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


def measure(scope: Scope) -> None:
    """Refuses headers that are too long: h11 bounds what comes in bits, not what comes at once.

    Raises:
        Refusal: S116, with status 431.
    """
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    size += sum(len(name) + len(value) for name, value in scope["headers"])
    if size > faults.HEADER_BYTES:
        raise faults.long_headers()


def check(headers: Headers, path: str, access: Access) -> None:
    """Refuses a request by its headers.

    Raises:
        Refusal: S115, Host or Origin; S114, the key.
    """
    host = headers.get("host", "")
    name = _hostname(host)
    if access.hosts and name not in access.hosts:
        raise Refusal("S115", "this Host is not served", fix="--allow-host", status=421)
    origin = headers.get("origin")
    if origin is not None and origin not in access.origins and not _same(origin, host):
        raise Refusal("S115", "pages of this Origin may not ask", fix="--allow-origin")
    if access.key is None or path in OPEN_PATHS:
        return
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    good = hmac.compare_digest(sent.strip().encode("utf-8", "replace"), access.key.encode())
    if not good or scheme.lower() != "bearer":
        fix = "send `Authorization: Bearer KEY`"
        raise Refusal("S114", "the key is missing or wrong", fix=fix, headers=_CHALLENGE)


_CHALLENGE = {"www-authenticate": "Bearer"}


def _hostname(host: str) -> str:
    """The name in a Host header, lower case; empty if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower() if "@" not in host else ""
    except ValueError:
        return ""


def _same(origin: str, host: str) -> bool:
    """Whether a page comes from this very server."""
    return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())
