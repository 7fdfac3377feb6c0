"""Work that the engine's thread does between two steps, so that streams go on beside it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from tunesmith.serving import faults

Pieces = Generator[None, None, Any]
"""Work in pieces, a `yield` after each; what it returns is its result."""


class Work:
    """One piece of work, or several, and who waits for its result.

    Args:
        pieces: The work; closed where nobody waits for it any more.
        release: Called when it ends, before the result is told.
    """

    def __init__(self, pieces: Pieces, release: Callable[[], None]):
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Any] = self.loop.create_future()
        self._pieces, self._release = pieces, release

    def advance(self) -> bool:
        """Does a piece, on the engine's thread; whether there is more to do."""
        if self.result.cancelled():
            self._pieces.close()
            self._release()
            return False
        value, error = None, None
        try:
            next(self._pieces)
        except StopIteration as end:
            value = end.value
        except Exception as found:  # a handler turns it into an answer
            error = found
        else:
            return True
        self._settle(value, error)
        return False

    def end(self, fault: faults.Refusal) -> None:
        """Breaks it off."""
        self._pieces.close()
        self._settle(None, fault)

    def _settle(self, value: Any, error: Exception | None) -> None:
        self._release()  # first: who is told may ask again at once
        self.loop.call_soon_threadsafe(settle, self.result, value, error)


class Between:
    """What waits for the engine's thread: short work in order, and long work one at a time."""

    def __init__(self) -> None:
        self._short: deque[Work] = deque()
        self._long: deque[Work] = deque()

    def __bool__(self) -> bool:
        return bool(self._short or self._long)

    def add(self, work: Work, *, long: bool) -> None:
        (self._long if long else self._short).append(work)

    def advance(self) -> None:
        """One short work, and one piece of the long one whose turn it is.

        Long work holds memory from its first piece to its last, so a second one waits.
        """
        if self._short:
            self._short.popleft().advance()
        if self._long and not self._long[0].advance():
            self._long.popleft()

    def abort(self, fault: Callable[[], faults.Refusal]) -> None:
        """Breaks everything off."""
        for work in (*self._short, *self._long):
            work.end(fault())
        self._short.clear()
        self._long.clear()


def at_once(work: Callable[[], Any]) -> Pieces:
    """Work of one piece."""
    return work()
    yield


def settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    """Tells a future what became of it, in its loop."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
