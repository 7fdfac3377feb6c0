"""Answers to many questions as JSON Lines: in order, written as they come, resumable."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from tunesmith.cli import output
from tunesmith.errors import ConfigError
from tunesmith.types import Event, Request

EVERY_S = 5.0
"""Seconds between lines of progress."""


class AnswerFile:
    """Lines in the making: `FILE.part` beside `FILE`, with what they were made with in
    `FILE.part.json`. An interrupted run goes on after the last whole line.

    Args:
        path: The file, which must not be there; None: lines go to stdout.
        made_with: Model, sampling and whatever else an answer depends on.
    """

    def __init__(self, path: Path | None, made_with: dict[str, Any]):
        self.path = path
        self.made_with = jsonlib.loads(jsonlib.dumps(made_with))
        self.done: list[dict[str, Any]] = []
        if path is None:
            return
        self.part = path.with_name(f"{path.name}.part")
        self.settings = path.with_name(f"{path.name}.part.json")
        if self.part.exists():
            self._take_up()

    def _take_up(self) -> None:
        """Reads the lines of an interrupted run and cuts off a broken last one.

        Raises:
            ConfigError: C212, they were made with other settings.
        """
        before = None
        if self.settings.is_file():
            before = jsonlib.loads(self.settings.read_text(encoding="utf-8"))
        if before != self.made_with:
            raise self._other("it was begun with another model or other settings")
        data = self.part.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self.part.write_bytes(whole)
        self.done = [jsonlib.loads(line) for line in whole.decode().splitlines()]

    def check(self, lines: Sequence[dict[str, Any]]) -> None:
        """Refuses to go on if the questions are others.

        Raises:
            ConfigError: C212.
        """
        for asked, answered in zip(lines, self.done, strict=False):
            if any(answered.get(name) != value for name, value in asked.items()):
                raise self._other("it answers other questions")
        if len(self.done) > len(lines):
            raise self._other("it answers more questions than there are")

    def _other(self, why: str) -> ConfigError:
        fix = f"remove {self.part}, or choose another file"
        return ConfigError("C212", f"{self.part} can't be taken up", why=why, fix=fix)

    def open(self, stack: ExitStack) -> TextIO:
        """Where the next lines go."""
        if self.path is None:
            return sys.stdout
        self.settings.write_text(jsonlib.dumps(self.made_with), encoding="utf-8")
        return stack.enter_context(self.part.open("a", encoding="utf-8"))

    def finish(self) -> None:
        """The file gets its name when it is whole."""
        if self.path is not None:
            self.part.replace(self.path)
            self.settings.unlink()


def made_with(voice: Any, **more: Any) -> dict[str, Any]:
    """What answers depend on, for `AnswerFile`."""
    told = {"model": voice.loaded.description, "dtype": voice.dtype}
    sampling = dataclasses.asdict(voice.sampling)
    del sampling["logprob"]  # changes no answer
    return {**told, **voice.cache, **sampling, **more}


def answer_all(
    voice: Any,
    requests: Sequence[Request],
    file: AnswerFile,
    line_of: Callable[[int, list[Event]], dict[str, Any]],
) -> None:
    """Answers what is not answered yet, one line a request, in order.

    Args:
        voice: The model.
        requests: All requests.
        file: Where lines go.
        line_of: The line of a request, by its number and events.
    """
    from tunesmith.generation import base

    begun = told = time.perf_counter()
    tokens, done = 0, len(file.done)
    if done:
        output.log(f"{done:,} of {len(requests):,} were answered before, going on")
    with ExitStack() as stack:
        target = file.open(stack)
        for events in base.in_order(voice.generator, requests[done:]):
            if events[-1].finish_reason == "error":
                raise voice.not_finite()
            tokens += len(events)
            target.write(jsonlib.dumps(line_of(done, events), ensure_ascii=False) + "\n")
            target.flush()
            done += 1
            now = time.perf_counter()
            if done == len(requests) or now - told > EVERY_S:
                told = now
                rate = tokens / (now - begun)
                output.log(f"{done:,} of {len(requests):,} answered · {rate:,.0f} tokens/s")
    file.finish()
