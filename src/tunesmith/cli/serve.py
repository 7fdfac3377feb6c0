"""`tunesmith serve`: a model behind OpenAI's API."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.errors import ServeError

if TYPE_CHECKING:
    import socket

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


@app.command()
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
    api_key: Annotated[
        str | None, typer.Option(help=f"Key of the clients; better in {KEY}.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name in the Host header; repeatable.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web pages that may ask; repeatable.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Requests answered at once.")] = 32,
    queue: Annotated[
        int | None, typer.Option(min=1, help="Requests in hand at most; default 5 x slots.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds an answer may take.")] = 600.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to finish after SIGTERM.")] = 30.0,
) -> None:
    """Serve a model by OpenAI's API. Ctrl-C finishes what was asked, then ends."""
    from tunesmith.serving import safety, server
    from tunesmith.serving.service import Limits

    key = os.environ.get(KEY) if api_key is None else api_key
    access = safety.access(host, key or api_key, allow_host or (), allow_origin or ())
    adapters = _adapters(adapter or [], name or label(model))
    settings = server.Settings(
        access=access,
        limits=Limits(answer_seconds=timeout, max_tokens=max_tokens),
        queue=queue or 5 * slots,
        grace=grace,
    )
    with server.bind(host, port) as found:  # a port that is taken is told before weights are read
        _serve(model, name or label(model), adapters, slots, settings, found)


def _serve(
    model: str,
    name: str,
    adapters: dict[str, str],
    slots: int,
    settings: Settings,
    found: socket.socket,
) -> None:
    from tunesmith.compose import serving
    from tunesmith.serving import server

    offers = serving.offers(model, name, adapters, slots=slots)
    for offer in offers:
        output.log(f"model   {offer.name}: {offer.description}")
        for note in offer.template.notes:
            output.log(f"note    {note}")
    if adapters:
        output.log("note    each adapter is a model of its own in memory")
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
