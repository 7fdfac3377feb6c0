"""What `chat` and `generate` share: sampling options, and a loaded model that answers."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json as jsonlib
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tunesmith.cli import output
from tunesmith.errors import ConfigError, RunError
from tunesmith.types import Conversation, Event, Message, Request, Sampling

if TYPE_CHECKING:
    from tunesmith.compose.answering import Engine
    from tunesmith.generation.thinking import ThinkingSplit

Dtype = Literal["auto", "float32", "bfloat16"]
GGUF_SLOTS = 8
"""Rows of a file that llama.cpp answers at once; their memory is taken when it loads."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
ENGINE: dict[str, Any] = {
    "engine": Annotated[
        str | None, typer.Option(help="torch (default), or compiled: a minute's wait, then faster.")
    ],
    "window": Annotated[
        int | None,
        typer.Option(min=1, help="Keep the last so many tokens: answers may outgrow the model."),
    ],
    "sinks": Annotated[
        int | None, typer.Option(min=0, help="With --window: first tokens kept too; default 4.")
    ],
}
"""What computes, and how far back it looks."""
QUANTIZE: Any = Annotated[
    Literal["bnb4", "bnb8", "none"] | None,
    typer.Option(help="Weights in 4 or 8 bits (extra bnb); default: as it was trained."),
]
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
}
"""Options by the names of Sampling's fields, the schema, the compute type and the engine; not
given: as the model's generation config says."""
ENGINES = ("torch", "compiled")


def with_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the sampling options; it takes them as a dict of those given, `sampling`."""
    hints = typing.get_type_hints(command, include_extras=True)
    own = [
        p.replace(annotation=hints[p.name]) for p in inspect.signature(command).parameters.values()
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, keyword, default=None, annotation=kind)
        for name, kind in OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapper(**words: Any) -> None:
        given = {name: words.pop(name) for name in OPTIONS}
        command(**words, sampling={k: v for k, v in given.items() if v not in (None, [])})

    parameters = [*(p for p in own if p.name != "sampling"), *added]
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=keyword) for p in parameters]
    )
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


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
    """Sinks and window of its engine, if it has them."""

    @classmethod
    def load(cls, spec: str, given: dict[str, Any]) -> Voice:
        """Loads a run or model; says on stderr what was found and how it will sample."""
        from tunesmith import compose
        from tunesmith.compose import gguf, quantising
        from tunesmith.compose.answering import answering
        from tunesmith.compose.sampling import numbers
        from tunesmith.generation import base

        given = dict(given)
        schema = read_schema(given.pop("schema", None))
        dtype = given.pop("dtype", "auto")
        engine, quantize = checked_engine(spec, given), given.pop("quantize", None)
        given = {name: value for name, value in given.items() if name not in ENGINE}
        values: dict[str, Any] = {k: tuple(v) if k == "stop" else v for k, v in given.items()}
        sampling = Sampling(**values)
        base.check_sampling(sampling)  # before weights are read
        generator: Any
        held: dict[str, Any] = {}
        if gguf.named(spec):
            quantising.refuse_file(spec, quantize)
            loaded = gguf.load(spec, slots=GGUF_SLOTS)
            generator, notes, dtype = loaded.generator, loaded.template.notes, "gguf"
        else:
            model, said = answering(spec)
            loaded = compose.load(model, dtype=dtype, quantize=quantize)
            options = engine.options()
            held = {"sinks": engine.sinks, "window": engine.window} if options else {}
            generator = base.build(engine.kind, loaded.model, loaded.tokenizer, **options)
            notes = (*said, *loaded.template.notes, *numbers(loaded.model))
            dtype = str(loaded.model.hf.dtype).removeprefix("torch.")
        sampling = _sampling(loaded, given)
        output.log(f"model   {loaded.description}")
        for note in notes:
            output.log(f"note    {note}")
        output.log(f"answers {describe(sampling)}")
        for note in generator.notes:
            output.log(f"note    {note}")
        return cls(spec, loaded, generator, sampling, schema, dtype, held)

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

        for event in base.stream(self.generator, request):
            if event.finish_reason == "error":
                raise self.not_finite()
            yield event

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


def checked_engine(spec: str, given: dict[str, Any]) -> Engine:
    """The engine that the options ask for.

    Raises:
        ConfigError: G150, there is no such engine over a model of this process, or the model is a
            file for llama.cpp; G160, sinks without a window; G161, a window for such a file.
    """
    from tunesmith.compose import gguf
    from tunesmith.compose.answering import Engine

    name = given.get("engine")
    found = Engine(name or ENGINES[0], given.get("sinks"), given.get("window"))
    if name is not None and gguf.named(spec):
        what, fix = f"{spec} is run by llama.cpp, not by `{name}`", "leave out --engine"
        raise ConfigError("G150", what, where="--engine", fix=fix)
    if found.kind not in ENGINES:
        fix = f"one of {', '.join(ENGINES)}"
        raise ConfigError("G150", f"no engine `{name}`", where="--engine", fix=fix)
    if found.sinks is not None and found.window is None:
        raise ConfigError("G160", "--sinks without --window", where="--sinks", fix="--window 1000")
    if found.window is not None and gguf.named(spec):
        what, fix = f"{spec} is run by llama.cpp, which keeps all tokens", "leave out --window"
        raise ConfigError("G161", what, where="--window", fix=fix)
    return found


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
