"""uvicorn's HTTP/1.1 protocol with the patience of a public server.

Headers that trickle in and clients that stop reading cost a socket and nothing else, and that not
for ever (slowloris and its mirror image).
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tunesmith.serving import faults

HEADER_SECONDS = 10.0
"""From the first byte of a request (or the connection) to the end of its headers."""
SILENT_SECONDS = 2.0
"""A server that stops waits so long for the first request of a connection."""
STALL_SECONDS = 30.0
"""How long a client may leave a full buffer unread."""


class PatientProtocol(H11Protocol):
    """H11Protocol with two alarm clocks."""

    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _made: float = 0.0
    _refused: bool = False

    @property
    def silent(self) -> bool:
        """Whether it connected a moment ago and its first request is not complete yet."""
        return self.cycle is None and self.loop.time() - self._made < SILENT_SECONDS

    def connection_made(self, transport: Any) -> None:
        self._made = self.loop.time()
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        for clock in (self._late, self._stalled):
            if clock is not None:
                clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        self._expect()

    def send_400_response(self, msg: str) -> None:
        """Called where h11 gives up; headers that came in bits get the answer of `safety.measure`.

        What the client still sends is read and dropped until it leaves or its time is over: closed
        at once, the connection would be reset and the answer lost.
        """
        if len(self.conn.trailing_data[0]) <= faults.HEADER_BYTES:
            super().send_400_response(msg)
            return
        answer = faults.long_headers().response()
        head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._refused = True
        self.transport.write_eof()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _expect(self) -> None:
        """Runs the clock while the headers of a request are not complete."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._late is not None:
            self._late.cancel()
            self._late = None
        elif not answering and self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and not self.transport.is_closing():
            self.transport.close()
