"""Reading bodies and sending answers, with a client that may be slow, hostile or gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tunesmith.serving import complaints, faults
from tunesmith.serving.faults import Refusal
from tunesmith.serving.service import Limits

_log = logging.getLogger("tunesmith.serving")
B = TypeVar("B", bound=BaseModel)
MAX_DEPTH = 64
"""Arrays and objects inside one another."""
ENDED = "tunesmith.ended"
"""Where the scope of a request has the status that a stream ended with."""
MOST_DIGITS = 400
"""Of a whole number; a float ends at 309."""
GONE = 499
"""The status that is noted for a client that left before its answer; nobody sees it."""


async def body(request: Request, kind: type[B], limits: Limits) -> B:
    """The body of a request, checked.

    Raises:
        Refusal: S110 no JSON, S111 a wrong value, S116 too large, S117 not sent as JSON, S124 an
            unknown field, S125 it did not arrive in time.
    """
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content != "application/json":
        fix = "send `content-type: application/json`"
        raise Refusal("S117", "the body is not declared as JSON", fix=fix)
    try:
        async with asyncio.timeout(limits.body_seconds):
            raw = await _read(request, limits.body_bytes)
    except TimeoutError:
        what = f"the body did not arrive within {limits.body_seconds:g} seconds"
        raise Refusal("S125", what, headers={"connection": "close"}) from None
    value = parse(raw)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise complaints.of_validation(error, value) from None


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    size, chunks = 0, []
    if declared.isdigit() and len(declared) < 20 and int(declared) > limit:
        raise _too_large(limit)
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> Refusal:
    what = f"the body is larger than {limit:,} bytes"
    return Refusal("S116", what, headers={"connection": "close"})


def parse(raw: bytes) -> dict[str, Any]:
    """A JSON object: UTF-8, of real numbers and characters, not nested beyond reason.

    Raises:
        Refusal: S110.
    """
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_no_number, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise Refusal("S110", f"the body is not JSON: {said}") from None
    if not isinstance(value, dict):
        raise Refusal("S110", "the body is not a JSON object")
    _check_tree(value)
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _check_tree(value: Any) -> None:
    """Refuses depth, and text that is no Unicode (half a surrogate pair)."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Refusal("S110", f"the body is nested deeper than {MAX_DEPTH} levels")
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below += node.keys()
                below += node.values()
            elif isinstance(node, list):
                below += node
            elif isinstance(node, str) and not _is_text(node):
                raise Refusal("S110", "the body has half a character (a lone surrogate)")
        level = below


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def while_connected(request: Request, work: Awaitable[Response]) -> Response:
    """The reply, unless the client leaves first: then the work is cancelled."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return Response(status_code=GONE)
    finally:
        await _ended(task, left)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks and waits until they have cleaned up behind them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Live(Response):
    """An answer sent as it comes.

    Whatever happens, `done` is called at the end: it cancels what nobody waits for. Sending waits
    for a slow client; the engine does not, see `Ticket.put`. The status was sent long before an
    answer is broken off; how it ended is noted under `ENDED` in the scope.

    Args:
        frames: The answer.
        media_type: Of the body.
        done: Called at the end.
        last_words: What the client is told where the frames end in a refusal.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        media_type: str,
        done: Callable[[], None],
        last_words: Callable[[Refusal], bytes],
    ):
        super().__init__(None, 200, {"cache-control": "no-store", "x-accel-buffering": "no"})
        self.frames = frames
        self.done = done
        self.last_words = last_words
        self.headers["content-type"] = media_type
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        left = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({pump, left}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                scope[ENDED] = pump.result()
            else:
                scope[ENDED] = GONE
        finally:
            self.done()
            await _ended(pump, left)
            await self.frames.aclose()

    async def _pump(self, send: Send) -> int:
        """Sends everything; the status that the answer would have had, had its end been known."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        ended = 200
        try:
            async for found in self.frames:
                await send({"type": "http.response.body", "body": found, "more_body": True})
        except Refusal as fault:
            ended, last = fault.status, self.last_words(fault)
        except OSError:  # the client is gone
            return GONE
        except Exception:  # a bug of ours: the client must not take the answer for whole
            _log.exception("a stream failed")
            ended, last = 500, self.last_words(faults.failed())
        else:
            last = b""
        await send({"type": "http.response.body", "body": last, "more_body": False})
        return ended


def frame(value: Any) -> bytes:
    """One server-sent event."""
    return (
        b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


DONE = b"data: [DONE]\n\n"
EVENTS = "text/event-stream; charset=utf-8"


def told(fault: Refusal) -> bytes:
    """The last event of a stream that is broken off; OpenAI's clients raise it."""
    return frame(fault.body())


def reply(value: dict[str, Any]) -> Response:
    return JSONResponse(value)


Endpoint = Callable[[Request], Awaitable[Response]]
