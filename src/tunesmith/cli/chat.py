"""`tunesmith chat`: a conversation with a run or a model, or with two side by side."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.answering import Voice, interruptible, visible, with_sampling
from tunesmith.errors import DataError
from tunesmith.types import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

app = output.app(
    examples=[
        "tunesmith chat last",
        "tunesmith chat last --compare base",
        "tunesmith chat builtin:tiny --temperature 0.8 --top-p 0.9 --seed 1",
        "printf 'Hello!\\nexit\\n' | tunesmith chat builtin:tiny",
    ],
)

WELCOME = "use `clear` to remove the history, use `exit` to exit the application."
CLEARED = "History has been removed."
RESERVE = 4
"""Oldest turns are dropped when less than a RESERVE-th of the context is left for the answer."""


@app.command()
@with_sampling
def command(
    model: Annotated[str, typer.Argument(help="Run, directory, builtin: or hub id.")] = "last",
    compare: Annotated[
        str | None, typer.Option(help="A second model that answers too; `base`: what it came from.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System prompt; default: the one it was trained with.")
    ] = None,
    sampling: dict | None = None,
) -> None:
    """Talk to a model. Ctrl-C ends an answer, a second one leaves."""
    from tunesmith.compose import source

    _heed_interrupts()
    given = sampling or {}
    voices = [Voice.load(model, given)]
    if compare is not None:
        voices.append(Voice.load(source.base_of(model) if compare == "base" else compare, given))
    output.log(WELCOME)
    talk([Talker(voice, system) for voice in voices])
    for voice in voices:
        if guesses := voice.guessed():
            output.log(f"note    {label_of(voice.name)}: {guesses}")


def _heed_interrupts() -> None:
    """A shell lets jobs in its background ignore Ctrl-C; who sits at a terminal means it."""
    if sys.stdin.isatty() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def talk(talkers: Sequence[Talker]) -> None:
    """Reads lines until `exit` or the end of the input, and has every talker answer."""
    for line in lines():
        said = line.strip()
        if said == "exit":
            return
        if said == "clear":
            for talker in talkers:
                talker.messages.clear()
            print(CLEARED, flush=True)
        elif said:
            for talker in talkers:
                name = label_of(talker.voice.name) if len(talkers) > 1 else "Assistant"
                talker.answer(said, label=name)


class Talker:
    """One side of a conversation, with a history of its own."""

    def __init__(self, voice: Voice, system: str | None):
        self.voice = voice
        self.system = system
        self.messages: list[Message] = []

    def answer(self, said: str, label: str) -> None:
        """Streams the answer to stdout and remembers it; a message that can't be answered is
        reported and forgotten."""
        self.messages.append(Message.of("user", said))
        try:
            ids = self._ids()
            self.voice.generator.check(self._request(ids))
        except DataError as error:
            self.messages.pop()
            output.log(str(error))
            return
        print(_bold(f"{label}: "), end="", flush=True)
        answer = self._stream(ids)
        self.messages.append(Message.of("assistant", answer))

    def _stream(self, ids: tuple[int, ...]) -> str:
        """Shows the answer, thoughts paler and on lines of their own; returns it without them."""
        split = self.voice.split(ids)
        shown = Shown()
        with interruptible() as interrupted:
            for event in self.voice.stream(self._request(ids)):
                shown.add(*split.step(event.text_delta))
                if interrupted():
                    print(" …", end="")
                    break
        shown.add(*split.finish())
        print(flush=True)
        return shown.answer

    def _ids(self) -> tuple[int, ...]:
        """The prompt, oldest turns dropped until the answer has room."""
        context = self.voice.generator.context
        ids = self.voice.chat_ids(self.messages, self.system)
        dropped = 0
        room = min(self.voice.sampling.max_tokens, (context or 0) // RESERVE)
        while context is not None and len(ids) + room > context and len(self.messages) > 2:
            del self.messages[:2]
            dropped += 1
            ids = self.voice.chat_ids(self.messages, self.system)
        if dropped:
            output.log(f"note    the context is full: {dropped} oldest turn(s) forgotten")
        return ids

    def _request(self, ids: tuple[int, ...]) -> Any:
        return self.voice.request("answer", ids)


class Shown:
    """What of an answer stands on the screen."""

    def __init__(self) -> None:
        self.answer = ""
        self._thought = False

    def add(self, thought: str, said: str) -> None:
        """Prints more of both."""
        if thought:
            print(_faint(visible(thought)), end="", flush=True)
            self._thought = True
        if said.strip() and self._thought:
            print("\n", flush=True)
            self._thought = False
        text = said if self.answer.strip() else said.lstrip()
        self.answer += said
        print(visible(text), end="", flush=True)


def lines() -> Iterator[str]:
    """Lines of stdin; with a prompt and editing on a terminal. Those that are no UTF-8 are told."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    for line in _typed() if sys.stdin.isatty() else sys.stdin:
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            output.log("this line is not UTF-8; it was left out")
            continue
        yield line


def _typed() -> Iterator[str]:
    with contextlib.suppress(ImportError):  # gives input() history and editing, where it exists
        import readline  # noqa: F401
    while True:
        try:
            yield input(f"\n{_bold('User: ', typed=True)}")
        except EOFError:
            print()
            return


def label_of(spec: str) -> str:
    """A model's name for the left of its answers: of a long path the last two parts."""
    parts = spec.rstrip("/").split("/")
    return spec if len(spec) <= 32 else "/".join(["…", *parts[-2:]])


def _faint(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m" if output.colour() else text


def _bold(text: str, *, typed: bool = False) -> str:
    """Bold where stdout takes colour; a prompt to type at tells readline what has no width."""
    if not output.colour():
        return text
    begin, end = ("\x01\x1b[1m\x02", "\x01\x1b[0m\x02") if typed else ("\x1b[1m", "\x1b[0m")
    return f"{begin}{text}{end}"
