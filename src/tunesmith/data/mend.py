"""JSON that is almost JSON: what was probably meant, and what was done to read it.

Only what has one meaning is mended. A key that stands twice, or a row that stops in the middle, has
none: such rows are left out and listed.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tunesmith.data import decode, unseen
from tunesmith.data.json_rows import FORGIVING, Refusal, decode as strict

_TRAILING = re.compile(r'("(?:[^"\\]|\\.)*")|,(\s*[}\]])', re.DOTALL)
_NOT_JSON = re.compile(r'("(?:[^"\\]|\\.)*")|\b(-?Infinity|NaN)\b', re.DOTALL)
_SINGLE_QUOTES = re.compile(r"\{\s*'")
_HALF = re.compile("[\ud800-\udfff]")


class CantMend(Exception):
    """Why a row can't be read."""

    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.code = code
        self.reason = reason


def values(text: str, repairs: Counter[str]) -> Iterator[dict[str, Any]]:
    """The objects that stand in a text of one or several, mended.

    Args:
        text: A line, or the text of one element of an array.
        repairs: Counts what was mended, by kind.

    Raises:
        CantMend: there is something that is no object, or has no single meaning.
    """
    done: Counter[str] = Counter()
    rest = text.strip()
    found = 0
    while rest:
        trimmed = rest.strip().rstrip(",").strip() if not found else rest.lstrip(", \t")
        if trimmed != rest.strip():
            done["comma between rows removed"] += not found
        rest = trimmed
        if not rest:
            break
        value, rest = _one(rest, done)
        rest = rest.strip()
        done["several rows on one line"] += bool(found)
        found += 1
        if not isinstance(value, dict):
            raise CantMend("D106", "the row is no object")
        value = _clean(value, done)
        if all(inner in (None, "", [], {}) for inner in value.values()):
            repairs["empty rows removed"] += 1
            continue
        yield value
    repairs.update({kind: count for kind, count in done.items() if count})


def _one(text: str, done: Counter[str]) -> tuple[Any, str]:
    """The first value of a text and what follows it."""
    reason = CantMend("D105", "not JSON")
    for kind, changed in _attempts(text):
        try:
            value, end = _parsed(changed, lenient=kind == "line breaks in strings escaped")
        except Refusal as refused:
            reason = CantMend(refused.code, refused.what)
            if refused.code == "D107":
                break
            continue
        except json.JSONDecodeError as error:
            cut = error.pos >= len(changed) or error.msg.startswith("Unterminated")
            reason = CantMend("D105", "the row is cut off" if cut else f"not JSON: {error.msg}")
            continue
        if kind:
            done[kind] += 1
        return value, changed[end:]
    if reason.code == "D107" or not _SINGLE_QUOTES.match(text):
        raise reason
    try:  # a Python literal: single quotes, True, None. It is read, never run.
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise reason from None
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        try:
            made = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            raise reason from None
        done["Python literals → JSON"] += 1
        return made, ""
    raise reason


def _attempts(text: str) -> Iterator[tuple[str, str]]:
    yield "", text
    without = _TRAILING.sub(lambda m: m[1] or m[2], text)
    if without != text:
        yield "trailing commas removed", without
    known = _NOT_JSON.sub(lambda m: m[1] or "null", without)
    if known != without:
        yield "NaN and Infinity → null", known
    yield "line breaks in strings escaped", known


def _parsed(text: str, *, lenient: bool) -> tuple[Any, int]:
    """Strict as reading is, but for halves of characters and NUL, which are taken out later."""
    try:
        return FORGIVING.raw_decode(text) if lenient else strict(text)
    except RecursionError:
        raise Refusal("D105", "the row is nested too deeply") from None
    except Refusal as refused:
        if refused.code != "D109" or not refused.what.startswith("a string holds"):
            raise
        return FORGIVING.raw_decode(text)


def _clean(value: Any, done: Counter[str]) -> Any:
    """Strings without NUL and halves of characters, cleaned."""
    if isinstance(value, dict):
        return {_clean(k, done): _clean(v, done) for k, v in value.items()}
    if isinstance(value, list):
        return [_clean(inner, done) for inner in value]
    if not isinstance(value, str):
        return value
    if "\0" in value:
        done["NUL removed"] += 1
        value = value.replace("\0", "")
    if _HALF.search(value):
        done["halves of characters removed"] += 1
        value = _HALF.sub("", value)
    return cleaned(value, done)


def cleaned(text: str, done: Counter[str]) -> str:
    """A text with mojibake undone, without characters that `data check` finds fault with."""
    if (meant := decode.unmangled(text)) != text:
        done["mojibake undone"] += 1
    if (seen := unseen.without(meant)) != meant:
        done["invisible or control characters removed"] += 1
    return seen


def elements(text: str) -> Iterator[tuple[int, str]]:
    """(position, text) of each element of an array, or of each object of a text, broken or not.

    A broken element ends where the next line begins as the first element's line did.
    """
    at = text.find("{")
    if at < 0:
        return
    line_start = text.rfind("\n", 0, at) + 1
    margin = text[line_start:at] if not text[line_start:at].strip() else ""
    border = re.compile(rf"\n{re.escape(margin)}\{{")
    while at >= 0:
        try:
            _, end = json.JSONDecoder(strict=False).raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            following = border.search(text, at + 1)
            end = following.start() if following else len(text)
            broken = text[at:end].rstrip()
            yield at, broken.rstrip(",") if following else broken.rstrip("],").rstrip()
        else:
            yield at, text[at:end]
        at = text.find("{", end)
