"""The thread that owns the engine: requests in, events out, and work between two steps.

Nothing but this thread touches a generator or a model. Handlers run in asyncio; they hand requests
over by a queue, and get a `Ticket` whose events arrive in their own loop. The number of requests in
hand is bounded: what comes beyond is refused at once, so waiting never costs memory.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith import threads
from tunesmith.errors import TunesmithError
from tunesmith.serving import between, faults
from tunesmith.serving.between import settle
from tunesmith.serving.metrics import Metrics
from tunesmith.types import Event, Generator, Request

BUFFER = 4096
"""Events that may wait for one client; one that is slower loses its answer, not the server."""
SLOTS = 32
"""Requests that the engine answers at once; the queue is four times as long by default."""
_log = logging.getLogger("tunesmith.serving")


@dataclass(eq=False)
class Ticket:
    """One request in hand. Everything but `lane`, `request` belongs to the handler's loop."""

    request: Request
    lane: Generator
    loop: asyncio.AbstractEventLoop
    wake: asyncio.Event
    """Set when there is news; shared by the choices of one answer."""
    buffer: int = BUFFER
    events: list[Event] = field(default_factory=list)
    fault: faults.Refusal | None = None
    finished: bool = False
    submitted: float = field(default_factory=time.monotonic)
    first: float | None = None

    def pop(self) -> list[Event]:
        """The events that came since the last time.

        Raises:
            Refusal: There are none, and none will come: the answer was broken off.
        """
        found, self.events = self.events, []
        if not found and self.fault is not None:
            raise self.fault
        return found

    def put(self, events: Sequence[Event]) -> bool:
        """Events for the handler; False if it is too slow for them."""
        if self.finished or self.fault is not None:
            return True
        if len(self.events) + len(events) > self.buffer:
            self.end(faults.Refusal("S126", "the client reads more slowly than the model writes"))
            return False
        self.events += events
        self.finished = events[-1].finish_reason is not None
        self.wake.set()
        return True

    def end(self, fault: faults.Refusal) -> None:
        """Breaks the answer off."""
        if not self.finished and self.fault is None:
            self.fault = fault
        self.wake.set()


class Engine:
    """The engine's thread, and what asyncio may ask of it.

    Args:
        lanes: The generators it steps; usually one.
        limit: Requests in hand at most, those that wait included.
        metrics: Counted here: tokens, times, requests in hand.
    """

    def __init__(self, lanes: Sequence[Generator], *, limit: int, metrics: Metrics):
        self.limit = limit
        self.metrics = metrics
        self.draining = False
        self._lanes = tuple(lanes)
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[str, Ticket] = {}
        self._work = between.Between()
        self._held = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tunesmith-engine", daemon=True)

    # ------------------------------------------------------------ asked for by handlers

    def start(self) -> None:
        """Begins to work; whoever loaded the model leaves computing to the engine's thread."""
        threads.release()
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def held(self) -> int:
        """Requests in hand."""
        return self._held

    async def submit(self, lane: Generator, requests: Sequence[Request]) -> list[Ticket]:
        """Takes requests on, all or none.

        Raises:
            Refusal: S118, the queue is full; S119, the server is shutting down.
            TunesmithError: What the generator says against a request.
        """
        self._reserve(len(requests))
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        tickets = [Ticket(request, lane, loop, wake) for request in requests]
        accepted: asyncio.Future[None] = loop.create_future()
        self._commands.put(lambda: self._accept(tickets, accepted))
        try:
            await accepted
        except asyncio.CancelledError:
            self.cancel(tickets)
            raise
        return tickets

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Nobody waits for these any more; those that are finished are let be."""
        self._commands.put(lambda: self._cancel(tickets))

    async def call(self, work: Callable[[], Any]) -> Any:
        """Runs work on the engine's thread between two steps; its result.

        Raises:
            Refusal: S118 or S119 as `submit`.
        """
        return await self._between(between.at_once(work), 1, long=False)

    async def gradually(self, pieces: between.Pieces, count: int) -> Any:
        """Likewise work that takes long, a piece between two steps; it counts as many requests.

        Raises:
            Refusal: S118 or S119 as `submit`.
        """
        return await self._between(pieces, count, long=True)

    async def _between(self, pieces: between.Pieces, count: int, *, long: bool) -> Any:
        self._reserve(count)
        work = between.Work(pieces, lambda: self._release(count))
        self._commands.put(lambda: self._work.add(work, long=long))
        return await work.result

    def abort(self, fault: Callable[[], faults.Refusal]) -> None:
        """Breaks off everything in hand: the grace time of a shutdown is over."""
        self._commands.put(lambda: self._abort(fault))

    def stop(self) -> None:
        """Ends the thread after what was asked of it."""
        self._commands.put(None)
        self._thread.join(timeout=10)

    # ------------------------------------------------------------ on the engine's thread

    def _run(self) -> None:
        while self._obey():
            self._work.advance()
            for lane in self._lanes:
                try:
                    events = lane.step() if self._busy(lane) else []
                except Exception:  # whatever it was, the next request must be answered
                    _log.exception("the engine failed; the requests it was answering are ended")
                    self._abort(faults.failed, lane)
                    continue
                self._deliver(events)

    def _obey(self) -> bool:
        """Does what was asked for; waits if nothing is in hand. False: to stop."""
        while True:
            try:
                command = self._commands.get(block=not (self._tickets or self._work))
            except queue.Empty:
                return True
            if command is None:
                self._abort(faults.draining)
                return False
            command()

    def _busy(self, lane: Generator) -> bool:
        return any(ticket.lane is lane for ticket in self._tickets.values())

    def _accept(self, tickets: list[Ticket], accepted: asyncio.Future[None]) -> None:
        error: Exception | None = None
        taken = 0
        try:
            for ticket in tickets:
                ticket.lane.submit(ticket.request)
                self._tickets[ticket.request.id] = ticket
                taken += 1
        except TunesmithError as found:
            error = found
        except Exception:
            _log.exception("the engine failed to take a request on")
            error = faults.failed()
        if error is not None:
            for ticket in tickets[:taken]:
                self._drop(ticket)
            self._release(len(tickets) - taken)
        loop = tickets[0].loop
        loop.call_soon_threadsafe(settle, accepted, None, error)

    def _cancel(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            if self._tickets.get(ticket.request.id) is ticket:
                self.metrics.cancelled += 1
                self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        """Takes a request out of the generator; its last event finds nobody."""
        del self._tickets[ticket.request.id]
        self._release(1)
        ticket.lane.cancel(ticket.request.id)
        if not self._busy(ticket.lane):
            self._flush(ticket.lane)

    def _flush(self, lane: Generator) -> None:
        """Lets an idle generator forget those it was told to cancel."""
        try:
            lane.step()
        except Exception:
            _log.exception("the engine failed while it forgot a request")

    def _abort(self, fault: Callable[[], faults.Refusal], lane: Generator | None = None) -> None:
        if lane is None:
            self._work.abort(fault)
        for ticket in list(self._tickets.values()):
            if lane is None or ticket.lane is lane:
                self._drop(ticket)  # first: who is told may ask again at once
                ticket.loop.call_soon_threadsafe(ticket.end, fault())

    def _deliver(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        batches: dict[Ticket, list[Event]] = {}
        for event in events:
            ticket = self._tickets.get(event.id)
            if ticket is None:  # cancelled: nobody waits for it
                continue
            batches.setdefault(ticket, []).append(event)
            self.metrics.token(ticket.submitted, ticket.first, now)
            ticket.first = ticket.first or now
            if event.finish_reason is not None:
                del self._tickets[event.id]
                self._release(1)
        by_loop: dict[asyncio.AbstractEventLoop, dict[Ticket, list[Event]]] = {}
        for ticket, found in batches.items():
            by_loop.setdefault(ticket.loop, {})[ticket] = found
        for loop, mine in by_loop.items():
            loop.call_soon_threadsafe(self._hand_over, mine)

    def _hand_over(self, batches: dict[Ticket, list[Event]]) -> None:
        """In the handlers' loop."""
        for ticket, events in batches.items():
            if not ticket.put(events):
                self.cancel([ticket])

    def _reserve(self, count: int) -> None:
        if self.draining:
            raise faults.draining()
        if count > self.limit:
            raise faults.never(count, self.limit)
        with self._lock:
            if self._held + count > self.limit:
                self.metrics.refused += 1
                raise faults.queue_full(self.limit)
            self._held += count

    def _release(self, count: int) -> None:
        with self._lock:
            self._held -= count
