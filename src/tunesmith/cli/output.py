"""What every verb prints with: results on stdout, everything else on stderr, JSON on request."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import typer

from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

JSON = typer.Option("--json", help="Results as JSON on stdout, nothing else.")
QUIET = typer.Option("--quiet", "-q", help="Only results and errors.")

_state = {"quiet": False}


def app(*, examples: Sequence[str], help: str | None = None) -> typer.Typer:
    """The typer app of a verb.

    Args:
        examples: At least three command lines that run; shown below the options.
        help: One line, for verbs with several commands.
    """
    epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
    return typer.Typer(
        help=help,
        epilog=epilog,
        add_completion=False,
        rich_markup_mode=None,  # plain help: rich would cost 0.1 s of every --help
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )


def _share_examples(command: Any, name: str) -> None:
    """Gives each subcommand those of its verb's examples that are about it."""
    lines = (command.epilog or "").splitlines()
    for word, sub in vars(command).get("commands", {}).items():
        own = [line for line in lines if line.strip().startswith(f"{name} {word}")]
        sub.epilog = "\n".join(["\b", "Examples:", *own]) if own else None


def run(verb: typer.Typer, name: str, words: Sequence[str]) -> int:
    """Runs a verb's app on its words and returns the exit code.

    Raises:
        ConfigError: C202, the words don't fit the verb.
    """
    quiet(False)
    command = typer.main.get_command(verb)
    command.epilog = verb.info.epilog if isinstance(verb.info.epilog, str) else None
    _share_examples(command, name)
    command.context_settings.setdefault("help_option_names", ["--help", "-h"])
    try:  # not command.main(), which takes a closed pipe for a failure
        with command.make_context(name, list(words)) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        raise _usage_error(error, name) from None
    return 0


def _usage_error(error: Any, name: str) -> ConfigError:
    """What typer found wrong with the words, in the house's form."""
    message = str(error.format_message() or error).strip().rstrip(".")
    return ConfigError(
        "C202", message or "incomplete", where="command line", fix=f"see {name} --help"
    )


def split_recipe(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """`[recipe] key=value …` → recipe (None if the first word is an override), overrides."""
    if words and "=" not in words[0]:
        return words[0], list(words[1:])
    return None, list(words)


def split_recipes(words: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """`[recipe …] key=value …` → recipes ([None] if the first word is an override), overrides."""
    first = next((at for at, word in enumerate(words) if "=" in word), len(words))
    return list(words[:first]) or [None], list(words[first:])


# ---------------------------------------------------------------- printing


def quiet(on: bool) -> None:
    """Silences `log` (or lets it speak again)."""
    _state["quiet"] = on


def log(text: str) -> None:
    """One line to stderr, for people; never part of a result."""
    if not _state["quiet"]:
        print(text, file=sys.stderr, flush=True)


def result(value: Any, *, json: bool = False, text: str | None = None) -> None:
    """A result to stdout.

    Args:
        value: Plain data.
        json: Print `value` as one JSON document.
        text: What people read instead; default: the value's own form.
    """
    if json:
        from tunesmith.data.unseen import json_text

        print(json_text(jsonlib.dumps(value, ensure_ascii=False, indent=2, default=str)))
    elif text is not None:
        print(text)
    elif isinstance(value, Mapping):
        width = max((len(str(key)) for key in value), default=0)
        print("\n".join(f"{key!s:<{width}}  {shown(child)}" for key, child in value.items()))
    else:
        print(value)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, json: bool = False) -> None:
    """Rows as aligned columns on stdout, or as a JSON list."""
    if json:
        result(list(rows), json=True)
        return
    cells = [list(columns), *([shown(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [_is_numeric(row.get(name) for row in rows) for name in columns]
    for number, line in enumerate(cells):
        padded = [
            f"{cell:>{width}}" if to_right else f"{cell:<{width}}"
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        text = "  ".join(padded).rstrip()
        print(f"\x1b[1m{text}\x1b[0m" if number == 0 and colour() else text)


def _is_numeric(values: Iterable[Any]) -> bool:
    found = [value for value in values if value is not None]
    return bool(found) and all(isinstance(value, int | float) for value in found)


def shown(value: Any) -> str:
    """A value for people: short floats, dashes for nothing."""
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value) or "–"
    return str(value)


def console() -> Console:
    """A rich console on stderr, for live tables and progress bars."""
    return _console(stderr=True)


def stdout() -> Console:
    """A rich console on stdout."""
    return _console(stderr=False)


def _console(stderr: bool) -> Console:
    from rich.console import Console  # about 40 ms: only where something is drawn

    return Console(stderr=stderr, quiet=_state["quiet"] and stderr, highlight=False)


def colour(stream: TextIO | None = None) -> bool:
    """Whether stdout, or another stream, takes colour: a terminal, and no NO_COLOR
    (https://no-color.org)."""
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR")


def columns() -> int | None:
    """Width of the terminal that logs go to; None if they go elsewhere."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # a pipe; no file behind it
        return None


def duration(seconds: float) -> str:
    """`0:31`, `1:04`, `2:03:04`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def count(number: float) -> str:
    """`950`, `5.4k`, `12.3M`, `1.2G`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"
