"""Regular expressions as grammars: the part of Python's syntax that describes whole texts.

Literals, `.`, classes with ranges, `\\d \\w \\s` and their opposites (ASCII), groups, `|`, and
`* + ? {m,n}`; `^` at the beginning and `$` at the end change nothing, for the whole answer must
match. What looks around or back is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.generation.grammar_impl import EMPTY, Choice, Repeat, Series, characters

Ranges = list[tuple[int, int]]
LAST = 0x10FFFF
_NAMED: dict[str, Ranges] = {
    "d": [(48, 57)],
    "w": [(48, 57), (65, 90), (95, 95), (97, 122)],
    "s": [(9, 13), (32, 32)],
}
_ESCAPED = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
MOST = 10_000
"""Longest repetition that is spelled out."""


def grammar(pattern: str, spell: Callable[[Ranges], Any] = characters) -> Any:
    """The grammar of what a pattern matches as a whole.

    Args:
        pattern: The regular expression.
        spell: The grammar of one character of some ranges: as it is, or as a string has it.

    Raises:
        ConfigError: G125, it can't be read, or uses what isn't supported.
    """
    begin = 1 if pattern.startswith("^") else 0
    end = len(pattern)
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        end -= 1
    reader = _Reader(pattern, begin, end)
    reader.spell = spell
    node = reader.choice()
    if reader.at < end:
        raise reader.wrong(f"`{pattern[reader.at]}` has no beginning")
    return node


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str, at: int, end: int):
        self.pattern, self.at, self.end = pattern, at, end
        self.spell: Callable[[Ranges], Any] = characters

    def wrong(self, why: str) -> ConfigError:
        return ConfigError(
            "G125",
            f"the pattern {self.pattern!r} can't be a constraint",
            where=f"character {self.at + 1}",
            why=why,
            fix="use literals, classes, groups, | and * + ? {m,n}",
        )

    def peek(self) -> str:
        return self.pattern[self.at] if self.at < self.end else ""

    def take(self) -> str:
        if self.at >= self.end:
            raise self.wrong("it ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def choice(self) -> Any:
        options = [self.series()]
        while self.peek() == "|":
            self.at += 1
            options.append(self.series())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def series(self) -> Any:
        parts = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated(self.atom()))
        return parts[0] if len(parts) == 1 else Series(tuple(parts)) if parts else EMPTY

    def repeated(self, node: Any) -> Any:
        sign = self.peek()
        signs: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        bounds = signs.get(sign)
        if bounds is not None:
            self.at += 1
        elif sign == "{":
            bounds = self.bounds()
        if bounds is None:
            return node
        if self.peek() == "?":  # fewest first: the same texts
            self.at += 1
        if self.peek() in ("+", "*"):
            raise self.wrong("one repetition directly after another")
        return Repeat(node, *bounds)

    def bounds(self) -> tuple[int, int | None]:
        close = self.pattern.find("}", self.at, self.end)
        low, comma, high = self.pattern[self.at + 1 : close].partition(",")
        if close < 0 or not (low or high) or not (low + high).isdecimal():
            raise self.wrong("`{` begins no number of repetitions; write \\{ for the character")
        self.at = close + 1
        least = int(low or 0)
        most = None if comma and not high else int(high or low)
        if max(least, most or 0) > MOST or (most is not None and most < least):
            raise self.wrong(f"repetitions go from few to many, {MOST:,} at most")
        return least, most

    def atom(self) -> Any:
        sign = self.take()
        if sign == "(":
            return self.group()
        if sign == "[":
            return self.spell(self.class_())
        if sign == ".":
            return self.spell(_others([(10, 10)]))
        if sign == "\\":
            return self.spell(self.escape())
        if sign in "*+?^$":
            raise self.wrong(f"`{sign}` is not possible here; write \\{sign} for the character")
        return self.spell([(ord(sign), ord(sign))])

    def group(self) -> Any:
        if self.peek() == "?":
            if self.pattern[self.at : self.at + 2] != "?:":
                raise self.wrong("groups with `(?` other than `(?:` look around or have names")
            self.at += 2
        node = self.choice()
        if self.take() != ")":
            raise self.wrong("a group is not closed")
        return node

    def escape(self) -> Ranges:
        sign = self.take()
        if sign in _NAMED:
            return _NAMED[sign]
        if sign.lower() in _NAMED:
            return _others(_NAMED[sign.lower()])
        if sign in _ESCAPED:
            return [(_ESCAPED[sign], _ESCAPED[sign])]
        if sign in "xu":
            width = 2 if sign == "x" else 4
            digits = self.pattern[self.at : min(self.at + width, self.end)]
            if len(digits) < width or any(d not in "0123456789abcdefABCDEF" for d in digits):
                raise self.wrong(f"\\{sign} wants {width} hexadecimal digits")
            self.at += width
            return [(int(digits, 16), int(digits, 16))]
        if sign.isalnum():
            raise self.wrong(f"\\{sign} is not supported")
        return [(ord(sign), ord(sign))]

    def class_(self) -> Ranges:
        negated = self.peek() == "^"
        self.at += negated
        found: Ranges = []
        while not (self.peek() == "]" and found):
            first = self._of_class()
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self._of_class()
                if len(first) > 1 or len(last) > 1 or first[0][0] > last[0][1]:
                    raise self.wrong("a range goes from one character to a later one")
                first = [(first[0][0], last[0][1])]
            found += first
        self.at += 1
        return _others(found) if negated else found

    def _of_class(self) -> Ranges:
        sign = self.take()
        return self.escape() if sign == "\\" else [(ord(sign), ord(sign))]


def _others(ranges: Ranges) -> Ranges:
    """All characters but these."""
    found, begin = [], 0
    for first, last in sorted(ranges):
        if begin < first:
            found.append((begin, first - 1))
        begin = max(begin, last + 1)
    return [*found, (begin, LAST)] if begin <= LAST else found
