"""JSON arrays, element by element with line numbers, in bounded memory."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from tunesmith.data.json_rows import (
    CHUNK,
    LENIENT,
    MAX_ROW,
    MENDS,
    OnBad,
    Refusal,
    Row,
    decode,
    not_utf8,
    refused_row,
    require_object,
    too_long,
)
from tunesmith.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_ESCAPED = re.compile("[\udc80-\udcff]")
"""What bytes that are no UTF-8 become in the window over an array."""


class _Window:
    """A window that slides over a text file and knows at which line it stands."""

    def __init__(self, stream: BinaryIO, file: str):
        self.stream = stream
        self.file = file
        # A byte that is no UTF-8 spoils the row it stands in, not those after it.
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.damaged = False
        self.text = ""
        self.at = 0
        self.line = 1
        self.number = 0
        """Of the row it stands in; 0 where its line says which it is."""
        self.ended = False

    @property
    def where(self) -> str:
        return Row("", self.file, self.line, self.number).where

    def more(self) -> bool:
        """Reads on, dropping what was passed; False at the end of the file."""
        if self.ended:
            return False
        # Growing with what is already held keeps the re-parsing of a long row linear.
        raw = self.stream.read(max(CHUNK, len(self.text) - self.at))
        self.ended = not raw
        kept = self.text[self.at :]
        read = self.decoder.decode(raw, final=self.ended)
        self.damaged = self.damaged or not _is_utf8(read)
        self.text = kept + read
        self.at = 0
        return not self.ended

    def peek(self) -> str:
        """Moves to the next character that is no white space and returns it; "" at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            end = space.end() if space else self.at
            self.line += self.text.count("\n", self.at, end)
            self.at = end
            if self.at < len(self.text):
                if spoiled := self._spoiled(self.at + 1):
                    raise spoiled
                return self.text[self.at]
            if not self.more() and not self.text:
                return ""

    def value(self) -> tuple[Any, DataError | None]:
        """Parses the value here and moves behind it; or says what is refused about it."""
        while True:
            try:
                try:
                    value, end = decode(self.text, self.at)
                    refused = self._spoiled(end)
                    require_object(value)
                except Refusal as found:
                    refused = refused_row(found.code, found.what, self.where)
                    value, end = self._skip(refused)
            except json.JSONDecodeError as error:
                if self._may_be_cut(error) and self._grow():
                    continue
                raise self._syntax(error) from None
            if end == len(self.text) and self.more():
                continue  # a number or literal at the border may go on
            self.line += self.text.count("\n", self.at, end)
            self.at = end
            return value, refused

    def _spoiled(self, end: int) -> DataError | None:
        """What is wrong with the text up to there, if it was no UTF-8."""
        found = _ESCAPED.search(self.text, self.at, end) if self.damaged else None
        return not_utf8(bytes([ord(found[0]) - 0xDC00]), 0, self.where) if found else None

    def _skip(self, refused: DataError) -> tuple[Any, int]:
        try:
            return LENIENT.raw_decode(self.text, self.at)
        except RecursionError:
            raise refused from None

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the error may come from the window's border and not from the text."""
        return error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16

    def _grow(self) -> bool:
        if len(self.text) - self.at > MAX_ROW:
            raise too_long(self.where)
        return self.more()

    def _syntax(self, error: json.JSONDecodeError) -> DataError:
        if spoiled := self._spoiled(error.pos):  # other encodings have quotes within characters
            return spoiled
        if self._may_be_cut(error):
            what = f"the file ends inside the row that begins at line {self.line} (truncated?)"
            end = self.line + self.text.rstrip().count("\n", self.at)
            return refused_row("D105", what, f"{self.file}:{end}", MENDS)
        line = self.line + self.text.count("\n", self.at, error.pos)
        row = f" (row {self.number})" if self.number else ""
        return refused_row(
            "D105", f"not JSON: {error.msg}", f"{self.file}:{line}:{error.colno}{row}"
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_array(stream: BinaryIO, file: str, on_bad: OnBad) -> Iterator[Row]:
    """The elements of one array, each with the line it begins at, and its number where rows share
    lines: in a file that is a single line, lines tell nothing.

    Raises:
        DataError: D105, the array is broken: what follows can't be found again.
    """
    window = _Window(stream, file)
    window.peek()
    window.at += 1
    if window.peek() == "]":
        return
    numbered, last = window.line == 1, 0
    for number in itertools.count(1):
        if window.peek() in ("", "]"):
            what = "the array ends in a comma" if window.peek() else "the file ends after a comma"
            raise refused_row("D105", what, window.where, MENDS)
        line = window.line
        window.number = number if numbered or line == last else 0
        last = line
        value, refused = window.value()
        if refused is None:
            yield Row(value, file, line, window.number)
        else:
            on_bad(refused)
        following = window.peek()
        if following == "]":
            break
        if following != ",":
            what = f"`,` or `]` expected, found `{following}`" if following else "no `]` at the end"
            raise refused_row("D105", what, window.where, MENDS)
        window.at += 1
    window.at += 1
    if rest := window.peek():
        raise refused_row("D105", f"text follows the array: `{rest}`", window.where)
