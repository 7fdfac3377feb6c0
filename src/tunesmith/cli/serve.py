"""`tunesmith serve`: a model behind OpenAI's API."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.answering import Dtype
from tunesmith.cli.engines import ENGINE, QUANTIZE, checked_engine
from tunesmith.errors import ServeError

if TYPE_CHECKING:
    import socket

    from tunesmith.compose.serving import Offer
    from tunesmith.serving.server import Settings

app = output.app(
    examples=[
        "tunesmith serve last",
        "tunesmith serve builtin:tiny --port 8001 --max-tokens 256",
        "tunesmith serve builtin:tiny --adapter miller=last",
        "TUNESMITH_API_KEY=… tunesmith serve last --host 0.0.0.0",
    ],
)

KEY = "TUNESMITH_API_KEY"
OPTIONS: dict[str, Any] = {
    "api_key": Annotated[str | None, typer.Option(help=f"Key of the clients; better in {KEY}.")],
    "allow_host": Annotated[
        list[str] | None, typer.Option(help="A further name in the Host header; repeatable.")
    ],
    "allow_origin": Annotated[
        list[str] | None, typer.Option(help="Web pages that may ask; repeatable.")
    ],
    "dtype": Annotated[
        Dtype | None,
        typer.Option(help="Compute type; default: float32 if stored so, else the fastest."),
    ],
    "slots": Annotated[int | None, typer.Option(min=1, help="Answered at once; default 32.")],
    "queue": Annotated[
        int | None, typer.Option(min=1, help="Requests in hand at most; default 5 x slots.")
    ],
    "max_tokens": Annotated[int | None, typer.Option(min=1, help="Longest answer.")],
    "timeout": Annotated[
        float | None, typer.Option(min=1, help="Seconds an answer may take; default 600.")
    ],
    "grace": Annotated[
        float | None, typer.Option(min=0, help="Seconds to finish after SIGTERM; default 30.")
    ],
    "quantize": QUANTIZE,
    **ENGINE,
}
"""Who may ask, how much, and what answers."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command these options; it takes those that were given as a dict, `given`."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "given"]
    hints = typing.get_type_hints(command, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword, annotation=hints[p.name]) for p in own]
    parameters += [
        inspect.Parameter(name, keyword, default=None, annotation=kind)
        for name, kind in OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapper(**words: Any) -> None:
        found = {name: words.pop(name) for name in OPTIONS}
        command(**words, given={k: v for k, v in found.items() if v not in (None, [])})

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


@app.command()
@with_options
def command(
    model: Annotated[str, typer.Argument(help="Run, directory, builtin: or hub id.")] = "last",
    host: Annotated[str, typer.Option(help="Address; others than loopback need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call it; default: MODEL.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="name=RUN: an adapter as a model; repeatable.")
    ] = None,
    given: dict[str, Any] | None = None,
) -> None:
    """Serve a model by OpenAI's API. Ctrl-C finishes what was asked, then ends."""
    words = given or {}
    adapters = _adapters(adapter or [], name or label(model))
    engine = checked_engine(model, words)
    for spec in (model, *adapters.values()):
        _find(spec)  # before torch is loaded
    from tunesmith.compose import serving
    from tunesmith.serving import server

    settings, slots = _settings(host, words)
    name = name or label(model)
    dtype = words.get("dtype", "auto")
    with server.bind(host, port) as found:  # a port that is taken is told before weights are read
        how = {"slots": slots, "dtype": dtype, "engine": engine}
        offers = serving.offers(model, name, adapters, quantize=words.get("quantize"), **how)
        _serve(offers, settings, found)


def _find(spec: str) -> None:
    """Refuses a model that is not there.

    Raises:
        EnvironmentFault: E201, no such model.
        RunError: R107, a run that can't answer yet.
    """
    from tunesmith.compose import gguf, source
    from tunesmith.compose.answering import answering

    if not gguf.named(spec):
        source.locate(answering(spec)[0])
    elif not Path(spec).expanduser().is_file():
        raise source.missing_model(spec)


def _settings(host: str, words: dict[str, Any]) -> tuple[Settings, int]:
    """How the server behaves, and how many requests it answers at once."""
    from tunesmith.serving import safety, server
    from tunesmith.serving.engine import SLOTS
    from tunesmith.serving.service import Limits

    key = words.get("api_key", os.environ.get(KEY) or None)
    allowed = words.get("allow_host", ()), words.get("allow_origin", ())
    limits = Limits(
        answer_seconds=words.get("timeout", Limits.answer_seconds),
        max_tokens=words.get("max_tokens"),
    )
    slots = words.get("slots", SLOTS)
    settings = server.Settings(
        access=safety.access(host, key, *allowed),
        limits=limits,
        queue=words.get("queue", 5 * slots),
        grace=words.get("grace", server.Settings.grace),
    )
    return settings, slots


def _serve(offers: Sequence[Offer], settings: Settings, found: socket.socket) -> None:
    from tunesmith.serving import server

    for offer in offers:
        output.log(f"model   {offer.name}: {offer.description}")
        for note in offer.notes:
            output.log(f"note    {note}")
    key = "a key is needed" if settings.access.key else "no key: only this machine reaches it"
    output.log(f"access  {key}")
    _log_to_stderr()
    server.Server(offers, settings, output.log).run([found])


def _adapters(words: list[str], model: str) -> dict[str, str]:
    """Name → run or folder.

    Raises:
        ServeError: S103, a word is no name=RUN, or a name stands twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, spec = word.partition("=")
        if not (name and equals and spec):
            what = f"`{word}` is no name=RUN"
            raise ServeError("S103", what, where="--adapter", fix="--adapter miller=last")
        if name in found or name == model:
            what = f"two models would be called `{name}`"
            raise ServeError("S103", what, where="--adapter", fix="give each its own name")
        found[name] = spec
    return found


def label(spec: str) -> str:
    """What clients call a model: its name, of a folder the last part."""
    path = Path(spec)
    return path.resolve().name if path.is_dir() else spec


def _log_to_stderr() -> None:
    """A line a request, without what was said; TUNESMITH_LOG=warning silences it."""
    level = os.environ.get("TUNESMITH_LOG", "info").upper()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("tunesmith.serving")
    log.addHandler(handler)
    log.setLevel(level if level in logging.getLevelNamesMapping() else "INFO")
    logging.getLogger("uvicorn").addHandler(handler)
    logging.getLogger("uvicorn").setLevel("WARNING")
