"""An engine that says what a test wants, token by token, at the pace a test wants."""

from __future__ import annotations

import time
from collections.abc import Callable

from tunesmith.generation.base import TextStream, drain
from tunesmith.types import Event, Request

Script = Callable[[Request], list[int]]


class ScriptedGenerator:
    """Answers each request with the ids of its script.

    Args:
        tokenizer: Decodes what it says.
        script: Request → ids of the answer; a stop id ends it.
        pause: Seconds a step takes.
    """

    def __init__(self, tokenizer, script: Script, pause: float = 0.0):
        self.tokenizer, self.script, self.pause = tokenizer, script, pause
        self.running: dict[str, tuple[Request, list[int], TextStream]] = {}
        self.seen: list[Request] = []
        self.cancelled: list[str] = []
        self.steps = 0
        self.broken: Exception | None = None
        """Raised by the next step."""

    def submit(self, request: Request) -> None:
        self.seen.append(request)
        text = TextStream(self.tokenizer, request.ids, request.sampling.stop)
        self.running[request.id] = (request, list(self.script(request)), text)

    def cancel(self, id: str) -> None:
        if self.running.pop(id, None) is not None:
            self.cancelled.append(id)

    def step(self) -> list[Event]:
        self.steps += 1
        time.sleep(self.pause)
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        events = []
        for id, (request, ids, text) in list(self.running.items()):
            token = ids.pop(0)
            stops = token in request.sampling.stop_ids
            said, stopped = (text.finish()[0], True) if stops else text.step(token)
            if not ids and not stopped:
                said += text.finish()[0]
            reason = "stop" if stopped else None if ids else "length"
            if reason:
                del self.running[id]
            events.append(Event(id, token, -0.5, said, reason))
        return events

    def generate(self, requests):
        return drain(self, requests)
