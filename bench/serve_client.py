"""A client for bench/serve.py: HTTP by hand, so that two hundred of them cost little."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """How one request went."""

    status: int = 0
    ended: str = "lost"
    """done, left (by us), told (why it was broken off), refused, never accepted, lost."""
    text: str = ""
    chunks: int = 0
    ids: set[str] = field(default_factory=set)
    first: float = 0.0
    whole: float = 0.0


async def answer(
    port: int,
    question: str,
    fields: dict[str, Any],
    *,
    stream: bool = True,
    leave_after: int | None = None,
) -> Answer:
    """Asks; with `leave_after` closes the connection after so many chunks."""
    found, begun = Answer(), time.monotonic()
    body = {"messages": [{"role": "user", "content": question}], "stream": stream, **fields}
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        found.ended = "never accepted"
        return found
    try:
        writer.write(_request("POST", "/v1/chat/completions", json.dumps(body).encode()))
        await writer.drain()
        found.status = await _status(reader)
        if found.status != 200:
            found.ended = "refused"
        elif stream:
            await _read(reader, found, begun, leave_after)
        else:
            await reader.read()
            found.ended = "done"
    except (OSError, asyncio.IncompleteReadError, IndexError):
        found.ended = "lost" if found.status else "never accepted"
    finally:
        found.whole = time.monotonic() - begun
        writer.close()
    return found


async def _read(
    reader: asyncio.StreamReader, found: Answer, begun: float, leave_after: int | None
) -> None:
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]\n":
            found.ended = "told" if found.ended == "told" else "done"
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            found.ended = "told"
            continue
        found.ids.add(chunk["id"])
        said = chunk["choices"][0]["delta"].get("content")
        if not said:
            continue
        found.chunks += 1
        found.first = found.first or time.monotonic() - begun
        found.text += said
        if leave_after is not None and found.chunks >= leave_after:
            found.ended = "left"
            return


async def get(port: int, path: str) -> str:
    """The body of a page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request("GET", path, b""))
    await _status(reader)
    body = await reader.read()
    writer.close()
    return body.decode()


async def _status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1])


def _request(method: str, path: str, body: bytes) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
