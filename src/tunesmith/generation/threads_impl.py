"""What engines that wait for others have in common: a thread a request, and one queue of news."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable

from tunesmith.errors import ConfigError
from tunesmith.generation import base
from tunesmith.types import Event, Request

WAIT_S = 0.05
"""Longest a step waits for news."""


class Threaded(ABC):
    """See `TorchGenerator`. A subclass says what it refuses, and how one request is answered."""

    def __init__(self) -> None:
        self._events: queue.Queue[Event] = queue.Queue()
        self._stopped: dict[str, threading.Event] = {}
        self._threads: set[threading.Thread] = set()

    @abstractmethod
    def check(self, request: Request) -> None:
        """Raises what `submit` would raise."""

    @abstractmethod
    def _answer(self, request: Request, stop: threading.Event) -> None:
        """One request from beginning to end, in its thread; its last event tells the reason."""

    def submit(self, request: Request) -> None:
        """Takes a request on; see `TorchGenerator.submit`."""
        self.check(request)
        if request.id in self._stopped:
            raise ConfigError("C210", f"a request `{request.id}` is being answered already")
        stop = self._stopped[request.id] = threading.Event()
        thread = threading.Thread(target=self._run, args=(request, stop), daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self, request: Request, stop: threading.Event) -> None:
        try:
            self._answer(request, stop)
        finally:
            self._threads.discard(threading.current_thread())

    def cancel(self, id: str) -> None:
        """Ends a request: its last event comes with a later step; unknown ids are let be."""
        if id in self._stopped:
            self._stopped[id].set()

    def step(self) -> list[Event]:
        """What has come since the last step; waits a moment for the first news."""
        events = []
        try:
            events.append(self._events.get(timeout=WAIT_S if self._stopped else 0.0))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        for event in events:
            if event.finish_reason is not None:
                self._stopped.pop(event.id, None)
        return events

    def generate(self, requests: Iterable[Request]) -> dict[str, list[Event]]:
        """All events of all requests, by id in the order of the requests."""
        return base.drain(self, requests)
