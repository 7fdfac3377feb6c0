"""1 where the final answer is the reference's as a number (or as text), else 0.

The final answer is, in this order: the last `\\boxed{…}`, what follows the last `####` or
`answer is`, the last number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from tunesmith.rewards.answer_impl import Answer, unused

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?|-?\.\d+")
_MARKED = re.compile(r"(?:####|\banswer is:?|答案[是为:：]?)\s*([^\n]+)", re.IGNORECASE)
_FRACTION = re.compile(r"\\d?frac\{(-?\d+)\}\{(-?\d+)\}")


def check(argument: str | None) -> None:
    unused("math_answer", argument)


def score(answers: Sequence[Answer], argument: str | None) -> list[float]:
    return [float(same(one.text, one.reference)) for one in answers]


def same(text: str, reference: str) -> bool:
    """Whether two texts come to the same answer; an absent one is never right."""
    found, wanted = final(text), final(reference)
    if not found or not wanted:
        return False
    numbers = number(found), number(wanted)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _bare(found) == _bare(wanted)


def final(text: str) -> str:
    """The final answer in a text; empty if there is none."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed.strip()
    marked = _MARKED.findall(text)
    if marked:
        return marked[-1].strip().rstrip(".").strip()
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else ""


def number(text: str) -> Fraction | None:
    """Its exact value: `1,200`, `-0.5`, `3/4`, `50%`, `\\frac{1}{2}`; None if it is no number."""
    text = _FRACTION.sub(r"\1/\2", _bare(text))
    percent = text.endswith(("%", "\\%"))
    text = text.rstrip("%\\").replace(",", "").replace("$", "").replace(" ", "")
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
    return value / 100 if percent else value


def _bare(text: str) -> str:
    return text.strip().strip("$").strip().rstrip(".").strip()


def _boxed(text: str) -> str | None:
    """What stands in the last \\boxed{…}, braces matched; None if there is none or it is open."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for at in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : at]
    return None
