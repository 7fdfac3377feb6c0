"""JSON Lines row by row with line numbers, in bounded memory, and what makes a value a row.

Python's own parser does the work; what it lets through silently (duplicate keys, NaN, numbers out
of range, lone surrogates, NUL) is refused here, because a model would be trained on the damage.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, NoReturn

from tunesmith.errors import DataError

MAX_ROW = 16 << 20
"""Longest row, in characters: far above any training row, far below what exhausts memory."""
CHUNK = 1 << 20

MENDS = "complete the file, or: tunesmith data check FILE --fix -o MENDED.jsonl"

_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_MEDIA = "a row holds one example; rows this long are usually media or a whole corpus on one line"

OnBad = Callable[[DataError], None]


class Row(NamedTuple):
    """One row of a file. `value` is an object, or a string for plain text."""

    value: dict[str, Any] | str
    file: str
    line: int
    number: int = 0
    """Which element of its array it is, from 1, where the line alone doesn't say; else 0."""

    @property
    def where(self) -> str:
        return where(self.file, self.place)

    @property
    def place(self) -> int:
        """Line and number as one: what stores and reports keep of it."""
        return self.number << _LINE_BITS | self.line


_LINE_BITS = 32
_WHERE = re.compile(r":(\d+)(?::\d+)?(?: \(row (\d+)\))?")


def where(file: str, place: int) -> str:
    """`file:line`, and `(row N)` where an array has several rows on that line."""
    line, number = line_and_row(place)
    return f"{file}:{line}" + (f" (row {number})" if number else "")


def line_and_row(place: int) -> tuple[int, int]:
    """The line of a place, and the number of the row in its array or 0."""
    return int(place) & (1 << _LINE_BITS) - 1, int(place) >> _LINE_BITS


def place_of(said: str, file: str) -> int:
    """The place that `where` of an error in `file` names; 0 if it names none."""
    found = _WHERE.fullmatch(said.removeprefix(file))
    return int(found[2] or 0) << _LINE_BITS | int(found[1]) if found else 0


class Refusal(Exception):
    """A value that JSON allows or Python accepts, and that must not be trained on."""

    def __init__(self, code: str, what: str):
        super().__init__(what)
        self.code = code
        self.what = what


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refusal("D107", f"the key `{twice}` stands twice in one object")
    return value


def _constant(name: str) -> NoReturn:
    raise Refusal("D109", f"{name} is not a JSON value")


def _integer(digits: str) -> int:
    # Longer ones aren't even converted: that takes quadratic time.
    if len(digits) > 20 or not -(1 << 63) <= (value := int(digits)) < 1 << 64:
        raise Refusal("D109", f"the integer {digits[:20]} does not fit into 64 bits")
    return value


def _number(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Refusal("D109", f"the number {digits[:20]} is out of range")
    return value


_STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_number
)
LENIENT = json.JSONDecoder(parse_int=lambda digits: 0)
FORGIVING = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=_constant,
    parse_int=_integer,
    parse_float=_number,
    strict=False,
)
"""For mending: strings may hold line breaks, NUL and halves of characters; nothing else may."""


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """Parses the JSON value that begins at `start`; returns it and its end.

    Raises:
        Refusal: a value that must not be trained on, or nesting too deep.
        json.JSONDecodeError: no JSON.
    """
    try:
        value, end = _STRICT.raw_decode(text, start)
    except RecursionError:
        raise Refusal("D105", "the row is nested too deeply") from None
    if _SUSPICIOUS.search(text, start, end):
        _check_strings(value)
    return value, end


def _check_strings(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise Refusal("D109", "a string holds the character NUL")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = ord(value[error.start])
            raise Refusal("D109", f"a string holds half a character (U+{code:04X})") from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_strings(key)
            _check_strings(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_strings(inner)


def require_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = {type(None): "null", list: "an array", str: "a string", bool: "true or false"}
        found = kind.get(type(value), "a number")
        raise Refusal("D106", f"the row is {found}, not an object")
    return value


# ---------------------------------------------------------------- lines


def text_lines(stream: BinaryIO, file: str, on_bad: OnBad) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without line end) of each line that is UTF-8 and no blank.

    Only LF and CRLF end a line: U+2028 and its kin are characters of a text.

    Raises:
        DataError: D108, a line longer than MAX_ROW bytes. Other bad lines go to `on_bad`.
    """
    number = 0
    while raw := stream.readline(MAX_ROW + 1):
        number += 1
        if len(raw) > MAX_ROW:
            raise too_long(f"{file}:{number}")
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if b"\0" in raw:
            on_bad(refused_row("D109", "the line holds the byte NUL", f"{file}:{number}"))
            continue
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            on_bad(not_utf8(raw, error.start, f"{file}:{number}"))
            continue
        if not text.isspace():
            yield number, text.rstrip("\r\n")


def json_lines(stream: BinaryIO, file: str, on_bad: OnBad) -> Iterator[Row]:
    """One object per line."""
    for number, text in text_lines(stream, file, on_bad):
        start = len(text) - len(text.lstrip())
        try:
            value, end = decode(text, start)
            rest = text[end:].strip()
            if rest:
                raise Refusal("D105", _what_follows(rest))
            yield Row(require_object(value), file, number)
        except Refusal as refused:
            on_bad(refused_row(refused.code, refused.what, f"{file}:{number}"))
        except json.JSONDecodeError as error:
            if text.strip() == "{":
                raise _spread(f"{file}:{number}") from None
            on_bad(_syntax_on_line(error, text, f"{file}:{number}"))


def _what_follows(rest: str) -> str:
    if rest[0] in "{[":
        return "two JSON values stand on one line"
    return f"text follows the JSON value: `{rest[:20]}`"


def _spread(where: str) -> DataError:
    what = "one object over several lines, where rows are expected"
    return refused_row(
        "D106", what, where, "write one object per line, or put the rows into an array"
    )


def _syntax_on_line(error: json.JSONDecodeError, text: str, where: str) -> DataError:
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        fix = "the file must hold one JSON object per line; if it is CSV or text, rename it"
        return refused_row("D105", f"the line is not JSON: `{text[:30]}`", where, fix)
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return refused_row("D105", "the line ends inside a JSON value (truncated?)", where)
    return refused_row("D105", f"not JSON: {error.msg}", f"{where}:{error.pos + 1}")


# ---------------------------------------------------------------- errors


def too_long(where: str) -> DataError:
    what = f"the row is longer than {MAX_ROW >> 20} MiB"
    return DataError("D108", what, where=where, why=_MEDIA, fix="split it into several rows")


def not_utf8(raw: bytes, start: int, where: str) -> DataError:
    what = f"not UTF-8: byte 0x{raw[start]:02X}"
    fix = (
        "tunesmith data check FILE --fix -o MENDED (or iconv -f LATIN1 -t UTF-8, as it was written)"
    )
    return DataError("D103", what, where=where, fix=fix)


def refused_row(code: str, what: str, where: str, fix: str = "") -> DataError:
    return DataError(code, what, where=where, fix=fix or "mend or remove the row")
