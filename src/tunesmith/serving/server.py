"""The process: a socket, uvicorn, and a shutdown that finishes what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from tunesmith.compose.serving import Offer
from tunesmith.errors import ServeError
from tunesmith.serving import faults
from tunesmith.serving.app import application
from tunesmith.serving.engine import SLOTS
from tunesmith.serving.protocol import PatientProtocol
from tunesmith.serving.safety import Access
from tunesmith.serving.service import Limits, Service

QUIET = 10
"""So many looks in a row must find nobody who asks, before the door is closed."""
QUIET_SECONDS = 0.1
"""How long that takes at least."""
AFTER_GRACE = 5.0
"""Seconds for the last words to clients whose answers were broken off."""


@dataclass(frozen=True)
class Settings:
    """How a server behaves."""

    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    queue: int = 5 * SLOTS
    """Requests in hand at most: those being answered, and four times as many that wait."""
    grace: float = 30.0
    """Seconds that accepted requests have to finish after SIGTERM."""


def bind(host: str, port: int) -> socket.socket:
    """A socket of that address, before any weight is read; it does not listen yet.

    Raises:
        ServeError: S102, the address is taken, unknown or not allowed.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, number)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ServeError(
            "S102",
            f"can't listen on {host}:{port}: {said}",
            where="--host, --port",
            fix="choose another --port (0: any that is free)",
        ) from None
    return found


def address(found: socket.socket) -> str:
    """`http://127.0.0.1:8000` of a bound socket."""
    host, port = found.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn, which finishes accepted requests within a grace time and tells the others.

    Args:
        offers: The models.
        settings: Limits and access.
        say: Told what a person at the terminal should know.
    """

    def __init__(
        self, offers: Sequence[Offer], settings: Settings, say: Callable[[str], None] = print
    ):
        self.service = Service.of(offers, queue=settings.queue, limits=settings.limits)
        self.grace = settings.grace
        self._say = say
        config = uvicorn.Config(
            application(self.service, settings.access),
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(settings.grace + AFTER_GRACE),
            h11_max_incomplete_event_size=faults.HEADER_BYTES,
        )
        super().__init__(config)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal; returns when all is finished."""
        self.service.engine.start()
        try:
            super().run(sockets)
        finally:
            self.service.engine.stop()

    def stop(self) -> None:
        """As a first SIGTERM; from any thread."""
        self.service.engine.draining = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it is reached once it is: who reads the line may ask at once."""
        await super().startup(sockets)
        for found in sockets or ():
            self._say(f"serving {address(found)}/v1  (routes: /docs; Ctrl-C ends it)")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        engine = self.service.engine
        engine.draining = True
        if engine.held:
            self._say(f"stopping: {engine.held} request(s) have {self.grace:g} s to finish")
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self.grace, engine.abort, faults.draining)
        try:
            await self._hear_out(loop.time() + self.grace + AFTER_GRACE)
            await super().shutdown(sockets)
        finally:
            alarm.cancel()

    async def _hear_out(self, deadline: float) -> None:
        """Goes on listening until what was accepted is answered and nobody is at the door.

        A connection in the kernel's queue, or one whose request has not been read yet, would be
        reset without a word if the sockets were closed at once; so all are let in and told.
        """
        loop, quiet, before = asyncio.get_running_loop(), 0, None
        while quiet < QUIET and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(QUIET_SECONDS / QUIET)
            connections = list(self.server_state.connections)
            young = [one for one in connections if isinstance(one, PatientProtocol) and one.silent]
            state = (self.server_state.total_requests, len(connections))
            calm = state == before and not (self.service.engine.held or young)
            quiet, before = quiet + 1 if calm else 0, state

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """A first SIGTERM or Ctrl-C ends the server well; a second at once. Neither is an error."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.signalled) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def signalled(self, number: int, frame: Any) -> None:
        """The first signal lets accepted requests finish, a second breaks them off."""
        if self.should_exit:
            self.force_exit = True
            self.service.engine.abort(faults.draining)
        self.stop()
