"""Tools in a format of strings: how they are told, called and answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.templates.formats import ToolStrings, split
from tunesmith.templates.pieces import Piece
from tunesmith.types import ToolCall


def told(strings: ToolStrings, tools: Sequence[Mapping[str, Any]], system: str) -> list[Piece]:
    """The system prompt that names the tools."""
    made: list[Piece] = []
    rest = strings.system
    while rest:
        at = {place: rest.find(f"{{{place}}}") for place in ("system", "tools")}
        place = min((p for p in at if at[p] >= 0), key=lambda p: at[p], default=None)
        if place is None:
            return [*made, Piece(rest, True)]
        before, rest = split(rest, place)
        made.append(Piece(before, True))
        made += [Piece(system, False)] if place == "system" else _listed(strings, tools)
    return made


def _listed(strings: ToolStrings, tools: Sequence[Mapping[str, Any]]) -> list[Piece]:
    before, after = split(strings.tool, "tool")
    made = []
    for tool in tools:
        # As `tojson` in a chat template of transformers writes it.
        text = json.dumps(tool, ensure_ascii=False, indent=strings.indent or None)
        made += [Piece(before, True), Piece(text, False), Piece(after, True)]
    return made


def called(strings: ToolStrings, calls: Sequence[ToolCall], words: bool) -> list[Piece]:
    """The calls of an answer; `words`: whether it says something before them."""
    before, after = split(strings.call, "call")
    made = []
    for number, call in enumerate(calls):
        if words or number:
            made.append(Piece(strings.between, True))
        made += [Piece(before, True), Piece(_written(strings, call), False), Piece(after, True)]
    return made


def _written(strings: ToolStrings, call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{{"name": {name}, "{strings.arguments}": {_arguments(call)}}}'


def _arguments(call: ToolCall) -> str:
    """Arguments as `tojson` writes an object; what is no object stays as it is."""
    try:
        found = json.loads(call.arguments)
    except ValueError:
        return call.arguments
    return json.dumps(found, ensure_ascii=False) if isinstance(found, dict) else call.arguments


def result(strings: ToolStrings, text: str, *, first: bool, last: bool) -> list[Piece]:
    """A tool's result: the first or the last of several that follow one another, or both."""
    begin, end = split(strings.results, "results")
    before, after = split(strings.result)
    return [
        Piece(begin * first + before, True),
        Piece(text, False),
        Piece(after + end * last, True),
    ]
