"""What a chat format is: strings with places for what is said, read from a .toml file."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tunesmith.errors import ConfigError, DataError
from tunesmith.registry import did_you_mean

Bos = Literal["tokenizer", "always", "each_turn", "never"]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class ToolStrings:
    """How a format shows tools, calls of them and their results; calls and tools are JSON."""

    system: str
    """The system prompt where there are tools, with `{system}` and `{tools}`."""
    tool: str
    """One of the tools, with `{tool}`."""
    call: str
    """A call, with `{call}`: an object of name and arguments."""
    result: str
    """A tool's result, with `{content}`."""
    results: str
    """Results that follow one another, with `{results}`."""
    arguments: str = "arguments"
    """The key of a call's arguments."""
    between: str = ""
    """Between the words of an answer and a call, and between calls."""
    end: str = ""
    """What ends an answer that calls a tool, if it is another token than usual."""
    indent: int = 0
    """Spaces by which a tool's JSON is indented; 0: it is one line."""
    single: bool = False
    """An answer may call one tool only."""


@dataclass(frozen=True)
class Format:
    """The strings of a chat format. `{content}` stands for what a message says."""

    description: str
    """One line for lists of templates."""
    user: str
    """A message of the user; `{round}` is its number."""
    assistant: str = ""
    """What precedes every answer: the generation prompt."""
    answer: str = "{content}"
    """An answer; white space in front belongs to the completion, where tokenizers expect it."""
    end: str = "eos"
    """What ends an answer: a token's string, or `eos`."""
    end_opens_user: bool = False
    """The end of an answer is also how the next message of the user begins."""
    separator: str = ""
    """Between the end of an answer and the next message."""
    prefix: str = ""
    """In front of everything but BOS."""
    system: str = "{content}"
    """The system prompt; empty: the format has none."""
    system_in_user: bool = False
    """The system prompt stands inside the first message of the user."""
    default_system: str = ""
    """System prompt of conversations that have none."""
    empty_system: bool = False
    """Without a system prompt its markup is written all the same."""
    history: bool = True
    """Earlier rounds are shown; else each round is a conversation of its own."""
    first_round: int = 1
    """Number of the first round."""
    bos: Bos = "tokenizer"
    """BOS in front: if the tokenizer adds one to text; always; before every user message that
    begins a turn; or never. Never where the tokenizer has none."""
    tokens: tuple[str, ...] = ()
    """Strings of the markup that should be single tokens, besides those like `<|…|>`."""
    stop_strings: tuple[str, ...] = ()
    """Strings that end an answer besides the end marker, matched as text."""
    thinking: str = "<think>\n{content}\n</think>\n\n"
    """Reasoning, in front of its answer."""
    tools: ToolStrings | None = None
    """Tools; none: conversations with tools are refused."""
    models: str = ""
    """Models that were trained with it, for lists of templates."""
    aliases: tuple[str, ...] = ()
    """Other names of this format."""


PLACES = {
    "user": "content", "answer": "content", "system": "content", "thinking": "content",
    "tools.tool": "tool", "tools.call": "call", "tools.result": "content",
    "tools.results": "results",
}  # fmt: skip
_LABELS = ("description", "models", "aliases")


def canonical(format: Format) -> str:
    """All that rendering depends on, as text: what a template's hash is made of."""
    values = dataclasses.asdict(format)
    kept = {key: value for key, value in values.items() if key not in _LABELS}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False)


def read(name: str, source: str, variant: str = "") -> Format:
    """The format that a file describes.

    Args:
        name: For messages.
        source: TOML: a format's strings, `extends` (a shipped format to change), and tables
            `variant.NAME` of strings that differ.
        variant: Which of them; empty: none.

    Raises:
        DataError: D301 unless the file has exactly a format's strings.
        ConfigError: C110, no such variant.
    """
    found, variants = _tables(name, source)
    if variant and variant not in variants:
        near = did_you_mean(variant, list(variants))
        known = ", ".join(f"{name}@{each}" for each in variants) or "it has none"
        raise ConfigError(
            "C110",
            f"the template `{name}` has no variant `{variant}`",
            where="data.template",
            fix=f"{near}  known: {known}",
        )
    if variant:
        found = _merged(found, variants[variant])
    return _checked(name, found)


def variants(source: str) -> tuple[str, ...]:
    """Names of the variants that a file describes."""
    return tuple(_tables("", source)[1])


def _tables(name: str, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file's own keys laid on those it extends, and its variants."""
    try:
        found = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise _bad(name, f"is no TOML: {error}") from None
    variants = found.pop("variant", {})
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        raise _bad(name, "needs a table for each `variant.NAME`")
    if "extends" in found:
        parent = HERE / f"{found.pop('extends')}.toml"
        if parent.parent != HERE or not parent.is_file():
            raise _bad(name, f"extends `{parent.stem}`, which is no shipped format of strings")
        base, _ = _tables(parent.stem, parent.read_text(encoding="utf-8"))
        found = _merged({k: v for k, v in base.items() if k not in _LABELS}, found)
    return found, variants


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    made = {**base, **top}
    if isinstance(base.get("tools"), dict) and isinstance(top.get("tools"), dict):
        made["tools"] = {**base["tools"], **top["tools"]}
    return made


def _checked(name: str, found: dict[str, Any]) -> Format:
    _check_fields(name, found, Format, "")
    tools = found.get("tools")
    if tools is not None:
        _check_fields(name, tools, ToolStrings, "tools.")
        for place in ("system", "tools"):
            if tools["system"].count(f"{{{place}}}") != 1:
                raise _bad(name, f"needs `{{{place}}}` once in `tools.system`")
        found["tools"] = ToolStrings(**tools)
    for key, place in PLACES.items():
        strings = (tools or {}) if key.startswith("tools.") else found
        text = strings.get(key.removeprefix("tools."))
        if (text or (text == "" and key == "user")) and text.count(f"{{{place}}}") != 1:
            raise _bad(name, f"needs `{{{place}}}` once in `{key}`")
    if found.get("bos", "tokenizer") not in get_args(Bos):
        raise _bad(name, f"has `bos` {found['bos']!r}; known: {', '.join(get_args(Bos))}")
    for key in ("tokens", "stop_strings", "aliases"):
        found[key] = tuple(found.get(key, ()))
        if not all(isinstance(text, str) and text for text in found[key]):
            raise _bad(name, f"needs strings that are not empty in `{key}`")
    return Format(**found)


def _check_fields(name: str, found: Mapping[str, Any], kind: type, inside: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in found:
        if key not in fields:
            near = did_you_mean(key, list(fields))
            known = ", ".join(fields)
            raise _bad(name, f"has the unknown key `{inside}{key}`; {near} known: {known}")
    for key, field in fields.items():
        if key not in found and field.default is dataclasses.MISSING:
            raise _bad(name, f"lacks the key `{inside}{key}`")
    kinds = {bool: bool, int: int, tuple: list, type(None): dict}
    for key, value in found.items():
        wanted = kinds.get(type(fields[key].default), str)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            what = f"has a {type(value).__name__} for `{inside}{key}`, not a {wanted.__name__}"
            raise _bad(name, what)


def _bad(name: str, what: str) -> DataError:
    return DataError("D301", f"the template `{name}` {what}", where=name)


def split(string: str, place: str = "content") -> tuple[str, str]:
    """What stands before and after `{content}`, or another place."""
    before, _, after = string.partition(f"{{{place}}}")
    return before, after
