"""Options of `chat`, `generate` and `serve` that say what computes: engine, window, guesses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.compose.answering import Engine

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
    "lookup": Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Guess so many tokens from the text so far; same answer."),
    ],
    "draft": Annotated[
        str | None, typer.Option(help="A small model that guesses; the answer is the same.")
    ],
}
"""What computes, how far back it looks, and who guesses ahead."""
QUANTIZE: Any = Annotated[
    Literal["bnb4", "bnb8", "none"] | None,
    typer.Option(help="Weights in 4 or 8 bits (extra bnb); default: as it was trained."),
]
BEAMS: dict[str, Any] = {
    "beams": Annotated[
        int | None, typer.Option(min=1, max=64, help="Search the likeliest answer with so many.")
    ],
    "length_penalty": Annotated[
        float | None, typer.Option(help="With --beams: above 0 favours long answers; default 1.")
    ],
}
ENGINES = ("torch", "compiled")
_DRAWN = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")
_WEIGHED = ("repetition_penalty", "presence_penalty", "frequency_penalty")


class Beams(NamedTuple):
    """How answers are searched for."""

    count: int
    length_penalty: float = 1.0


def checked_engine(spec: str, given: dict[str, Any]) -> Engine:
    """The engine that the options ask for.

    Raises:
        ConfigError: G150, there is no such engine over a model of this process, or the model is a
            file for llama.cpp; G160, sinks without a window; G161, a window for such a file;
            G132, guesses that this engine has no use for.
    """
    from tunesmith.compose import gguf
    from tunesmith.compose.answering import Engine

    name = given.get("engine")
    found = Engine(
        name or ENGINES[0],
        given.get("sinks"),
        given.get("window"),
        given.get("lookup"),
        given.get("draft"),
    )
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
    _check_guesses(spec, found)
    return found


def _check_guesses(spec: str, engine: Engine) -> None:
    from tunesmith.compose import gguf

    option = "--lookup" if engine.draft is None else "--draft"
    if engine.draft is None and engine.lookup is None:
        return
    why = ""
    if gguf.named(spec):
        why = f"{spec} is run by llama.cpp, which is given no guesses here"
    elif engine.draft is not None and gguf.named(engine.draft):
        why = "a file for llama.cpp can't guess for a model of this process"
    elif engine.kind != ENGINES[0]:
        why = f"the engine `{engine.kind}` makes one token at a time"
    elif engine.window is not None:
        why = "guesses that were wrong can't be taken back from a window"
    if why:
        what = f"{option} is not possible here"
        raise ConfigError("G132", what, where=option, why=why, fix=f"leave out {option}")


def checked_beams(spec: str, given: dict[str, Any]) -> Beams | None:
    """How answers are searched for, if they are.

    Raises:
        ConfigError: G133, something else was asked for that a search can't do.
    """
    from tunesmith.compose import gguf

    count, penalty = given.get("beams"), given.get("length_penalty")
    if count is None:
        if penalty is not None:
            fix = "--beams 4 --length-penalty 1"
            raise _no_beams("--length-penalty without --beams", "--length-penalty", fix)
        return None
    if gguf.named(spec):
        raise _no_beams(f"{spec} is run by llama.cpp, which has no beams here", "--beams")
    for name in _DRAWN:
        if given.get(name) and not (name == "top_p" and given[name] == 1):
            raise _no_beams("a search draws nothing", f"--{name.replace('_', '-')}")
    others = {
        **dict.fromkeys(_WEIGHED, "beams are weighed by the model's own probabilities"),
        "schema": "beams are not held to a form",
        "window": "beams forget nothing",
        "draft": "beams are not guessed",
        "lookup": "beams are not guessed",
    }
    for name, why in others.items():
        if given.get(name) is not None:
            raise _no_beams(why, f"--{name.replace('_', '-')}")
    if given.get("engine", ENGINES[0]) != ENGINES[0]:
        raise _no_beams(f"the engine `{given['engine']}` has no beams of its own", "--engine")
    return Beams(count, 1.0 if penalty is None else penalty)


def _no_beams(why: str, option: str, fix: str = "") -> ConfigError:
    what = f"{option} does not go with --beams" if not fix else "there is no search to weigh"
    return ConfigError("G133", what, where=option, why=why, fix=fix or f"leave out {option}")
