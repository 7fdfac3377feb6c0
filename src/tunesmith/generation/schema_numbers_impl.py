"""Numbers within bounds as grammars: digit by digit, only those that can still become one.

A number with `places` digits after the point is a whole number of its last place, so bounds and
`multipleOf` are bounds and a divisor of whole numbers. After a few digits the numbers that may
follow form an interval; a digit is allowed if a multiple lies in it. Where the interval is within
the bounds only the remainder and the digits left matter, so equal cases share one node.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.generation.grammar_impl import (
    EMPTY,
    Bytes,
    Choice,
    Later,
    Repeat,
    Series,
    maybe,
    text,
)

RANGE = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
DIGITS = 19
"""Before the point, at most: JSON's readers keep whole numbers of 64 bits."""
PLACES = 6
"""Digits after the point of a number that has bounds, if these have not more themselves."""
MOST_PLACES = 12


def _byte(*allowed: int) -> Bytes:
    return Bytes(frozenset(allowed))


_DIGIT = _byte(*range(48, 58))
INTEGER = Series(
    (maybe(text("-")), Choice((text("0"), Series((_byte(*range(49, 58)), Repeat(_DIGIT, 0, 18))))))
)
NUMBER = Series((
    INTEGER,
    maybe(Series((text("."), Repeat(_DIGIT, 1, 24)))),
    maybe(Series((_byte(69, 101), maybe(_byte(43, 45)), Repeat(_DIGIT, 1, 3)))),
))  # fmt: skip


def number(schema: Mapping[str, Any], whole: bool, where: str) -> Any:
    """The grammar of the numbers that a schema allows.

    Args:
        schema: Its `RANGE` keywords hold; others are not looked at.
        whole: Whether it is of type integer.
        where: Its place, for errors.

    Raises:
        ConfigError: G126, a bound is no number, or no number is within them.
    """
    given = {name: _exact(schema[name], f"{where}.{name}") for name in RANGE if name in schema}
    name = schema.get("format")
    if name is not None and name not in ("int32", "int64", "float", "double"):
        raise wrong(f"{where}.format", f"`{name}` is not supported for numbers")
    bits = {"int32": 31, "int64": 63}.get(str(name))
    if bits is not None:
        given["minimum"] = max(given.get("minimum", Fraction(-(2**bits))), Fraction(-(2**bits)))
        given["maximum"] = min(given.get("maximum", Fraction(2**bits)), Fraction(2**bits - 1))
        whole = True
    if not given:
        return INTEGER if whole else NUMBER
    step = given.get("multipleOf", Fraction(0))
    if "multipleOf" in given and step <= 0:
        raise wrong(f"{where}.multipleOf", "it must be above 0")
    most = 0 if whole else max(PLACES, *(_places(value) for value in given.values()))
    if step:  # its multiples have no more places than it has
        most = min(most, _places(step))
    options = [
        option
        for places in range(min(most, MOST_PLACES) + 1)
        if (option := _with_places(given, step, places)) is not None
    ]
    if not options:
        raise wrong(where, "no number is within these bounds")
    return Choice(tuple(options))


def _with_places(given: Mapping[str, Fraction], step: Fraction, places: int) -> Any:
    """Numbers with so many digits after the point; None if there are none within the bounds."""
    unit = Fraction(10**places)
    low, high = -(10 ** (DIGITS + places)) + 1, 10 ** (DIGITS + places) - 1
    if "minimum" in given:
        low = max(low, math.ceil(given["minimum"] * unit))
    if "exclusiveMinimum" in given:
        low = max(low, math.floor(given["exclusiveMinimum"] * unit) + 1)
    if "maximum" in given:
        high = min(high, math.floor(given["maximum"] * unit))
    if "exclusiveMaximum" in given:
        high = min(high, math.ceil(given["exclusiveMaximum"] * unit) - 1)
    divisor = (step * unit).numerator if step else 1
    options = []
    if _has(max(low, 0), high, divisor):
        options.append(_Digits(max(low, 0), high, divisor, places).node())
    if _has(max(-high, 1), -low, divisor):
        below = _Digits(max(-high, 1), -low, divisor, places).node()
        options.append(Series((text("-"), below)))
    return Choice(tuple(options)) if options else None


def _has(low: int, high: int, divisor: int) -> bool:
    """Whether a multiple lies from low to high."""
    return low <= high and high // divisor * divisor >= low


class _Digits:
    """Whole numbers from `low` to `high` (0 or above) that `divisor` divides, the last `places`
    digits after a point."""

    def __init__(self, low: int, high: int, divisor: int, places: int):
        self.low, self.high, self.divisor, self.places = low, high, divisor, places
        self._kept: dict[tuple[bool, int, int], Any] = {}

    def node(self) -> Any:
        most = max(len(str(self.high)), self.places + 1)
        longest = range(self.places + 1, most + 1)
        options = [found for left in longest if (found := self._first(left)) is not None]
        return Choice(tuple(options))

    def _first(self, left: int) -> Any:
        """Numbers of so many digits; a zero in front only where it is all before the point."""
        alone = left == self.places + 1
        return self._next(0, left, free=False, least=0 if alone else 1)

    def _next(self, begun: int, left: int, *, free: bool, least: int = 0) -> Any:
        """What may follow the digits `begun`, with `left` digits to come; None: nothing."""
        options = []
        for digit in range(least, 10):
            value, rest = begun * 10 + digit, left - 1
            first, last = value * 10**rest, (value + 1) * 10**rest - 1
            inside = free or (first >= self.low and last <= self.high)
            if not inside:
                first, last = max(first, self.low), min(last, self.high)
            if _has(first, last, self.divisor):
                sign = f"{digit}." if rest == self.places and rest else str(digit)
                options.append(Series((text(sign), self._after(value, rest, inside))))
        return Choice(tuple(options)) if options else None

    def _after(self, value: int, left: int, free: bool) -> Any:
        if not left:
            return EMPTY
        if free:  # only the remainder matters; the interval starts anew from it
            value %= self.divisor
        key = (free, value, left)
        if key not in self._kept:
            self._kept[key] = Later(lambda: self._next(value, left, free=free))
        return self._kept[key]


def _exact(value: Any, where: str) -> Fraction:
    """A bound as it is written, not as binary floats have it."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good:
        raise wrong(where, f"{json.dumps(value)} is no number")
    return Fraction(str(value))


def _places(value: Fraction) -> int:
    """Digits after the point that a decimal number has."""
    return next((n for n in range(MOST_PLACES) if (value * 10**n).denominator == 1), MOST_PLACES)


def wrong(where: str, why: str) -> ConfigError:
    """G126: a schema says what can't be held."""
    return ConfigError(
        "G126",
        "the JSON schema can't be a constraint",
        where=where,
        why=why,
        fix="docs/generation.md lists the keywords that are supported",
    )
