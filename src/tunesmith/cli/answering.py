"""What `chat` and `generate` share: sampling options, and a loaded model that answers."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json as jsonlib
import math
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from tunesmith.cli import output
from tunesmith.cli.engines import BEAMS, ENGINE, QUANTIZE, Beams, checked_beams, checked_engine
from tunesmith.errors import ConfigError, RunError
from tunesmith.types import Conversation, Event, Message, Request, Sampling

if TYPE_CHECKING:
    from tunesmith.generation.thinking import ThinkingSplit

Dtype = Literal["auto", "float32", "bfloat16"]
GGUF_SLOTS = 8
"""Rows of a file that llama.cpp answers at once; their memory is taken when it loads."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
OPTIONS: dict[str, Any] = {
    "max_tokens": Annotated[int | None, typer.Option(help="Longest answer; default 512.")],
    "temperature": Annotated[float | None, typer.Option(help="0: greedy.")],
    "top_k": Annotated[int | None, typer.Option(help="Choose among so many tokens; 0: all.")],
    "top_p": Annotated[float | None, typer.Option(help="… among those with this probability.")],
    "typical_p": Annotated[float | None, typer.Option(help="… of typical surprise; 1: all.")],
    "min_p": Annotated[float | None, typer.Option(help="… this likely beside the likeliest.")],
    "repetition_penalty": Annotated[float | None, typer.Option(help="Above 1: repeat less.")],
    "presence_penalty": Annotated[
        float | None, typer.Option(help="Above 0: less of what the answer has said.")
    ],
    "frequency_penalty": Annotated[float | None, typer.Option(help="… each time it was said.")],
    "seed": Annotated[int | None, typer.Option(help="The same seed gives the same answer.")],
    "schema": Annotated[
        Path | None, typer.Option(help="JSON schema file: answers are JSON that it allows.")
    ],
    "stop": Annotated[list[str] | None, typer.Option(help="End before this text; repeatable.")],
    "dtype": Annotated[
        Dtype | None,
        typer.Option(help="Compute type; default: float32 if stored so, else the fastest."),
    ],
    "quantize": QUANTIZE,
    **ENGINE,
    **BEAMS,
}
"""Options by the names of Sampling's fields, the schema, the compute type and the engine; not
given: as the model's generation config says."""


def with_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the sampling options; it takes them as a dict of those given, `sampling`."""
    return with_options({})(command)


def with_options(
    more: dict[str, Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same, and options of the command's own, which it takes as a dict too, `more`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(command, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name])
            for p in inspect.signature(command).parameters.values()
        ]
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, keyword, default=None, annotation=kind)
            for name, kind in {**more, **OPTIONS}.items()
        ]

        @functools.wraps(command)
        def wrapper(**words: Any) -> None:
            given = {name: words.pop(name) for name in OPTIONS}
            dicts = {"sampling": {k: v for k, v in given.items() if v not in (None, [])}}
            if more:
                dicts["more"] = {name: words.pop(name) for name in more}
            command(**words, **dicts)

        parameters = [*(p for p in own if p.name not in ("sampling", "more")), *added]
        wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=keyword) for p in parameters]
        )
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


class Found(NamedTuple):
    """One answer of a search: its events, and its log-probability over length^penalty."""

    events: list[Event]
    score: float


class Answered(NamedTuple):
    """An answer, and what else there is to say about it in a line of a file."""

    events: list[Event]
    more: dict[str, Any]


def text_of(events: Iterable[Event]) -> str:
    """The answer that events spell."""
    return "".join(event.text_delta for event in events)


@dataclass
class Voice:
    """A model that answers, and how it chooses its words."""

    name: str
    loaded: Any
    generator: Any
    sampling: Sampling
    schema: list[Any]
    """The JSON schema of answers, in a list; empty if there is none."""
    dtype: str = "float32"
    """What it computes in."""
    cache: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Sinks and window of its engine, and how it searches, as far as they were given."""
    beams: Beams | None = None
    """How answers are searched for; None: token by token."""

    @classmethod
    def load(cls, spec: str, given: dict[str, Any]) -> Voice:
        """Loads a run or model; says on stderr what was found and how it will sample."""
        from tunesmith import compose
        from tunesmith.compose import gguf, graph, quantising
        from tunesmith.compose.answering import answering, engine_over
        from tunesmith.compose.sampling import numbers
        from tunesmith.generation import base

        given = dict(given)
        if graph.named(spec):
            graph.refuse(spec, given)
        beams = checked_beams(spec, given)
        schema = read_schema(given.pop("schema", None))
        dtype = given.pop("dtype", "auto")
        engine, quantize = checked_engine(spec, given), given.pop("quantize", None)
        given = {k: value for k, value in given.items() if k not in ENGINE and k not in BEAMS}
        values: dict[str, Any] = {k: tuple(v) if k == "stop" else v for k, v in given.items()}
        base.check_sampling(Sampling(**values))  # before weights are read
        held: dict[str, Any] = {}
        if gguf.named(spec):
            quantising.refuse_file(spec, quantize)
            loaded = gguf.load(spec, slots=GGUF_SLOTS)
            generator, notes, dtype = loaded.generator, loaded.template.notes, "gguf"
        elif graph.named(spec):
            loaded = graph.load(spec)
            generator, notes, dtype = loaded.generator, loaded.template.notes, "graph"
        else:
            model, said = answering(spec)
            loaded = compose.load(model, dtype=dtype, quantize=quantize)
            held = {"sinks": engine.sinks, "window": engine.window} if engine.window else {}
            generator, told = engine_over(engine, loaded, dtype=dtype)
            notes = (*said, *loaded.template.notes, *numbers(loaded.model), *told)
            dtype = str(loaded.model.hf.dtype).removeprefix("torch.")
        sampling = _sampling(loaded, given)
        if beams is not None:
            held |= {"beams": beams.count, "length_penalty": beams.length_penalty}
            sampling, undone = searched(sampling)
            notes = (*notes, *undone)
        output.log(f"model   {loaded.description}")
        for note in notes:
            output.log(f"note    {note}")
        how = describe(sampling) if beams is None else f"the best of {beams.count} beams"
        output.log(f"answers {how}")
        for note in generator.notes:
            output.log(f"note    {note}")
        return cls(spec, loaded, generator, sampling, schema, dtype, held, beams)

    def chat_ids(self, messages: Sequence[Message], system: str | None) -> tuple[int, ...]:
        """What is sent for a conversation; `system` None: the one the model was trained with."""
        system = self.loaded.system if system is None else system
        ids = self.loaded.template.prompt_ids(Conversation(tuple(messages)), system=system)
        return tuple(ids)

    def raw_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a text to be continued: strings of special tokens are those tokens, one BOS."""
        tokenizer = self.loaded.tokenizer
        ids = tokenizer.encode_text(text)
        begins = tokenizer.adds_bos and ids[:1] != [tokenizer.bos_id]
        return tuple([tokenizer.bos_id, *ids] if begins else ids)

    def request(self, id: str, ids: tuple[int, ...]) -> Request:
        """A request with the sampling and the schema chosen.

        Raises:
            ConfigError: G124, G126, the answer can't be kept within the schema.
        """
        rule = self._rule() if self.schema else None
        return Request(id, ids, self.sampling, constraint=rule)

    @functools.cached_property
    def _rule(self) -> Callable[[], Any]:
        """Makes what a request is held to; the schema's grammar is made once for all of them."""
        from tunesmith.compose import gguf
        from tunesmith.compose.answering import Forms

        if gguf.named(self.name):
            what = "answers of a GGUF file can't be held to a schema"
            raise ConfigError("G124", what, fix="use the weights it was made of")
        return Forms(self.loaded.tokenizer, self.sampling.stop_ids).json(self.schema[0])

    def stream(self, request: Request) -> Iterator[Event]:
        """Events of one answer as they come.

        Raises:
            RunError: R230, the model's output is not finite.
        """
        from tunesmith.generation import base

        if self.beams is not None:
            yield from self.search(request, self.beams)[0].events
            return
        for event in base.stream(self.generator, request):
            if event.finish_reason == "error":
                raise self.not_finite()
            yield event

    def answers(self, requests: Iterable[Request]) -> Iterator[Answered]:
        """Answers in the order of their requests, each as soon as it and those before are there.

        Raises:
            RunError: R230, the model's output is not finite.
        """
        from tunesmith.generation import base

        if self.beams is not None:
            for request in requests:
                found = self.search(request, self.beams)
                more = [{"answer": text_of(f.events), "score": f.score} for f in found]
                yield Answered(found[0].events, {"beams": more})
            return
        for events in base.in_order(self.generator, requests):
            if events[-1].finish_reason == "error":
                raise self.not_finite()
            yield Answered(events, {})

    def search(self, request: Request, how: Beams) -> list[Found]:
        """The best answers of a search, best first, as events.

        Raises:
            RunError: R230, the model's output is not finite.
        """
        from tunesmith.generation import beam_events

        beams = self.generator.beams(request, how.count, length_penalty=how.length_penalty)
        if not beams or not all(math.isfinite(beam.score) for beam in beams):
            raise self.not_finite()
        tokenizer = self.loaded.tokenizer
        return [Found(beam_events.spoken(tokenizer, request, b.tokens), b.score) for b in beams]

    def guessed(self) -> str:
        """How often guesses were right, for who asked for them; empty if nobody guesses."""
        ahead = self.generator.ahead if hasattr(self.generator, "ahead") else None
        return "" if ahead is None or not ahead.passes else ahead.told()

    def split(self, ids: Sequence[int]) -> ThinkingSplit:
        """What takes thoughts apart from the answer to a prompt."""
        from tunesmith.generation.thinking import ThinkingSplit, begun_by

        return ThinkingSplit(begun=begun_by(self.loaded.tokenizer, ids))

    def not_finite(self) -> RunError:
        return RunError(
            "R230",
            f"{self.name} gives no finite numbers",
            why="Its weights hold NaN or infinity, or overflow in the compute type.",
            fix="use an earlier checkpoint: tunesmith runs show lists them",
        )


def read_schema(path: Path | None) -> list[Any]:
    """The schema in a file, in a list; an empty list if there is no file.

    Raises:
        ConfigError: G126, it can't be read.
    """
    if path is None:
        return []
    try:
        return [jsonlib.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError) as error:
        raise ConfigError(
            "G126", "the JSON schema can't be read", where=str(path), why=str(error)
        ) from None


def _sampling(loaded: Any, given: dict[str, Any]) -> Sampling:
    """What was asked for, over what the model's generation config recommends."""
    from tunesmith.compose.sampling import defaults

    advised = defaults(loaded.template, loaded.path)
    stop = tuple(dict.fromkeys((*given.get("stop", ()), *advised.stop)))
    return dataclasses.replace(advised, **{**given, "stop": stop})


def searched(sampling: Sampling) -> tuple[Sampling, tuple[str, ...]]:
    """What of a sampling holds for a search, and what is said about the rest: a model's own advice
    to draw or to weigh tokens is left out (who asks for it is refused, see `checked_beams`)."""
    kept = Sampling(
        sampling.max_tokens,
        stop_ids=sampling.stop_ids,
        stop=sampling.stop,
        logprob=sampling.logprob,
    )
    if kept == sampling:
        return sampling, ()
    plain, told = dataclasses.asdict(kept), dataclasses.asdict(sampling)
    names = ", ".join(name for name in plain if plain[name] != told[name])
    return kept, (f"the model's advice on {names} is not followed: beams are searched, not drawn",)


def describe(sampling: Sampling) -> str:
    """`greedy, at most 512 tokens` or `temperature 0.7 · top_p 0.9 · seed 0, at most …`."""
    plain, told = dataclasses.asdict(Sampling()), dataclasses.asdict(sampling)
    names = ["repetition_penalty", "presence_penalty", "frequency_penalty"]
    if sampling.temperature:
        names = ["temperature", "top_k", "top_p", "min_p", "typical_p", *names, "seed"]
    changed = [f"{name} {told[name]:g}" for name in names if told[name] != plain[name]]
    how = changed if sampling.temperature else ["greedy", *changed]
    return f"{' · '.join(how)}, at most {sampling.max_tokens} tokens"


def visible(text: str) -> str:
    """Text that can't move the cursor or recolour a terminal; files get it as it is."""
    return _CONTROL.sub("\ufffd", text) if sys.stdout.isatty() else text


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C is only noted; the second is a KeyboardInterrupt as ever.

    Yields:
        A function that tells whether there was one.
    """
    import signal
    import threading

    pressed: list[int] = []

    def note(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    if threading.current_thread() is not threading.main_thread():  # only it may have handlers
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
