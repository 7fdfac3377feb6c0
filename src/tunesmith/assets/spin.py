"""A small text spinner: `[a|b]` picks one alternative, `{name}` fills a slot."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

_INNERMOST = re.compile(r"\[([^\[\]]*)\]")


def spin(pattern: str, rng: random.Random, slots: Mapping[str, str] | None = None) -> str:
    """One text of the pattern.

    Alternatives nest: `[a|b [c|d]]`. Slots are filled last, so their values may hold any character.
    """
    while "[" in pattern:
        pattern = _INNERMOST.sub(lambda m: rng.choice(m.group(1).split("|")), pattern)
    text = pattern.format_map(slots) if slots else pattern
    return re.sub(r" {2,}", " ", text).strip()


def article(noun: str) -> str:
    """`apple` → `an apple`."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
