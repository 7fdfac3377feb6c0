"""Answers to many questions in a file: in order, written as they come, resumable.

What an interrupted run leaves are our own lines, whatever layout was asked for: so every layout can
be gone on with, and a JSON array is never half a one.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json as jsonlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tunesmith.cli import output
from tunesmith.cli.layouts import Layout, Line
from tunesmith.errors import ConfigError
from tunesmith.types import Event, Request

EVERY_S = 5.0
"""Seconds between lines of progress."""


class AnswerFile:
    """Lines in the making: `FILE.part` beside `FILE`, with what they were made with in
    `FILE.part.json`. An interrupted run goes on after the last whole line.

    Args:
        path: The file, which must not be there.
        made_with: Model, sampling and whatever else an answer depends on.

    Raises:
        ConfigError: C212, the lines that are there were made with other settings; G134, another
            process writes them.
    """

    def __init__(self, path: Path, made_with: dict[str, Any]):
        self.path = path
        self.made_with = jsonlib.loads(jsonlib.dumps(made_with))
        self.part = path.with_name(f"{path.name}.part")
        self.settings = path.with_name(f"{path.name}.part.json")
        self.stream: TextIO = self.part.open("a+", encoding="utf-8", newline="\n")
        self.done: list[Line] = []
        try:
            self._lock()
            self._take_up()
        except BaseException:
            self.stream.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *error: Any) -> None:
        """Lets go of it; where nothing was answered nothing stays."""
        if not self.stream.closed:
            if not self.part.stat().st_size:
                self.part.unlink()
                self.settings.unlink()
            self.stream.close()

    def _lock(self) -> None:
        """Holds the file until the process ends, however it ends."""
        try:
            fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what, fix = f"{self.part} is being written by another process", "wait for it"
            raise ConfigError("G134", what, where="--output", fix=fix) from None

    def _take_up(self) -> None:
        """Reads the lines of an interrupted run and cuts off a broken last one."""
        data = self.part.read_bytes()
        if data and self._begun_with() != self.made_with:
            raise self._other("it was begun with another model or other settings")
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self.stream.truncate(len(whole))
        self.done = [jsonlib.loads(line) for line in whole.splitlines()]
        if not data:  # they stand before the first line does, whole or not at all
            aside = self.settings.with_name(f"{self.settings.name}.new")
            aside.write_text(jsonlib.dumps(self.made_with), encoding="utf-8")
            aside.replace(self.settings)

    def _begun_with(self) -> Any:
        try:
            return jsonlib.loads(self.settings.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def check(self, lines: Sequence[Line]) -> None:
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

    def add(self, line: Line) -> None:
        """One more answer; from now on it survives this process."""
        self.stream.write(jsonlib.dumps(line, ensure_ascii=False) + "\n")
        self.stream.flush()

    def lines(self) -> Iterator[Line]:
        """All lines that are written, in order."""
        with self.part.open(encoding="utf-8", newline="\n") as part:
            yield from map(jsonlib.loads, part)

    def finish(self, layout: Layout) -> list[str]:
        """The file gets its name and its layout when it is whole.

        Returns:
            What the layout has no place for.
        """
        lost = layout.lost(self.lines())
        if not layout.keys:
            self.part.replace(self.path)
        else:
            aside = self.path.with_name(f"{self.path.name}.new")
            with aside.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(layout.written(self.lines()))
            aside.replace(self.path)
            self.part.unlink()
        self.settings.unlink()
        self.stream.close()
        return lost


def made_with(voice: Any, **more: Any) -> dict[str, Any]:
    """What answers depend on, for `AnswerFile`."""
    told = {"model": voice.loaded.description, "dtype": voice.dtype}
    sampling = dataclasses.asdict(voice.sampling)
    del sampling["logprob"]  # changes no answer
    return {**told, **voice.cache, **sampling, **more}


LineOf = Callable[[int, list[Event]], Line]
"""The line of a request, by its number and events."""


def answer_all(
    voice: Any, requests: Sequence[Request], file: AnswerFile, layout: Layout, line_of: LineOf
) -> None:
    """Answers what is not answered yet and puts all answers into the file, in order."""
    if file.done:
        output.log(f"{len(file.done):,} of {len(requests):,} were answered before, going on")
    for line in answered(voice, requests, line_of, len(file.done)):
        file.add(line)
    _say_lost(file.finish(layout))


def print_all(voice: Any, requests: Sequence[Request], layout: Layout, line_of: LineOf) -> None:
    """The same to stdout, each answer as soon as it is there."""
    told: list[Line] = []

    def noted() -> Iterator[Line]:
        for line in answered(voice, requests, line_of):
            told.append({**line, "answer": ""} if layout.keys else {})
            yield line

    for text in layout.written(noted()):
        sys.stdout.write(text)
        sys.stdout.flush()
    _say_lost(layout.lost(told))


def _say_lost(notes: Sequence[str]) -> None:
    for note in notes:
        output.log(f"note    {note}")


def answered(
    voice: Any, requests: Sequence[Request], line_of: LineOf, start: int = 0
) -> Iterator[Line]:
    """Lines of the requests from `start` on, in order; says how far it is."""
    begun = told = time.perf_counter()
    tokens, done, cut = 0, start, 0
    for answer in voice.answers(requests[start:]):
        tokens += len(answer.events)
        cut += answer.events[-1].finish_reason == "length"
        yield {**line_of(done, answer.events), **answer.more}
        done += 1
        now = time.perf_counter()
        if done == len(requests) or now - told > EVERY_S:
            told, spent = now, max(now - begun, 1e-9)
            left = (len(requests) - done) * spent / (done - start)
            ahead = f" · {_clock(left)} left" if done < len(requests) else f" in {_clock(spent)}"
            rate = f"{tokens / spent:,.0f} tokens/s"
            output.log(f"{done:,} of {len(requests):,} answered{ahead} · {rate}")
    if cut:
        output.log(f"note    {cut:,} answer(s) end at --max-tokens or the model's context")
    if guesses := voice.guessed():
        output.log(f"note    {guesses}")


def _clock(seconds: float) -> str:
    """`0:07`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
