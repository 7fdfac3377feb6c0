"""Calls of an answer that breaks off: their names, and their arguments as far as they came.

As OpenAI has it: an answer that `max_tokens` cuts within a call is still that call, with
`finish_reason: "length"`; arguments that are no whole JSON are the caller's to see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tunesmith.types import ToolCall

if TYPE_CHECKING:
    from tunesmith.serving.tool_calls import CallFormat

_DECODER = json.JSONDecoder()
KEYS = ("arguments", "parameters")
"""What templates call a call's arguments."""
_BLANK = " \t\r\n"


_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{0,3})?$")
_WORD = re.compile(r"[-+.0-9A-Za-z]+$")
_MORE = ("", "null", ":null", '"":null')
"""What may be missing before the brackets that close."""


class Cut(NamedTuple):
    """What an answer says beside calls, and the calls; the last may be a part of one."""

    words: str
    calls: list[ToolCall]


def read(
    format: CallFormat,
    text: str,
    names: Sequence[str],
    *,
    several: bool = True,
    forced: bool = False,
) -> Cut | None:
    """The calls of an answer that was broken off; None: it is text.

    A call whose name is not whole yet says nothing: the answer has no call then, and its markup is
    no text either.

    Args:
        format: How the model's template writes calls.
        text: The answer.
        names: The tools.
        several: Whether there may be more than one call.
        forced: The answer was held to calls, so it can't be text.
    """
    at = format.begin(text)
    if at < 0:
        return Cut("", []) if forced else None
    said, rest = text[:at].strip(), text[at:]
    calls: list[ToolCall] = []
    while (start := rest.find("{")) >= 0 and (several or not calls):
        call, end = _call(rest, start)
        odd = call is None or bool(call.name and call.name not in names)
        odd = odd or (not forced and end == len(rest) and not _may_go_on(rest[start:]))
        if call is None or odd:
            return Cut("", calls) if forced else None
        if call.name:
            calls.append(call)
        elif format.opening == "{" and not forced:
            return None  # an object without a name may be anything
        rest = rest[end:]
    if not calls and not forced and not _markup(format).startswith(rest.strip()):
        return None
    return Cut("" if forced else said, calls)


def _markup(format: CallFormat) -> str:
    """What a template writes before the first call."""
    opening = format.shape.opening
    whole = opening if opening.startswith(format.opening) else format.opening + opening
    return whole.strip()


def _call(text: str, start: int) -> tuple[ToolCall | None, int]:
    """The call that an object is or begins to be, and where it ends; its name is empty as long as
    it is not whole. None: no call begins so.
    """
    name, arguments = "", ""
    at = _skip(text, start + 1, "")
    while at < len(text) and text[at] != "}":
        key, at = _value(text, at)
        if key is None:
            break
        if not isinstance(key, str):
            return None, at
        at = _skip(text, at, ":")
        value, end = _value(text, at)
        if value is None and end == len(text):  # it breaks off within this value, or before it
            if key in KEYS:
                arguments = text[at:].rstrip("\ufffd")  # half a character is none
            at = end
            break
        if key == "name":
            if not isinstance(value, str):
                return None, end
            name = value
        elif key in KEYS and isinstance(value, dict):
            arguments = json.dumps(value, ensure_ascii=False)
        at = _skip(text, end, ",")
    return ToolCall(name, arguments), at


def _value(text: str, at: int) -> tuple[object, int]:
    """A JSON value and its end; (None, the text's end) if it breaks off."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, len(text)


def _skip(text: str, at: int, sign: str) -> int:
    """The next place that is no white space; a sign may stand before it."""
    while at < len(text) and (text[at] in _BLANK or text[at] == sign):
        at += 1
    return at


def _may_go_on(text: str) -> bool:
    """Whether an object that breaks off could still become one: some way to close it is JSON."""
    closing, string, escaped = [], False, False
    for sign in text:
        if string:
            string = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
        elif sign == '"':
            string = True
        elif sign in "{[":
            closing.append("}" if sign == "{" else "]")
        elif sign in "}]" and (not closing or closing.pop() != sign):
            return False
    ends = "".join(reversed(closing))
    # within a string, perhaps within an escape; or within a number or a word
    begun = (text + '"', _ESCAPE.sub("", text) + '"') if string else (text, _WORD.sub("", text))
    return any(_is_json(one + more + ends) for one in begun for more in _MORE)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True
