"""1 where the final answer is the reference's as a number (or as text), else 0.

The final answer is, in this order:

1. the last `\\boxed{…}` (MATH; verl, open-r1 and TRL look there first);
2. what follows the last `####` (GSM8K), `answer is` (lm-eval's minerva_math) or `Answer:` (verl's
   DAPO), bold or not; `答案` likewise;
3. the last number in bold, `**12**`, of the last line;
4. the last number, which `= 12` at the end is, too (lm-eval's and verl's flexible GSM8K).

Of what follows a mark, a number that begins it counts, up to the end of its sentence; several
numbers are no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from tunesmith.rewards.answer_impl import Answer, unused

# A minus right behind a digit, a letter or a bracket is that of a difference: 5-3 ends in 3.
_SIGN = r"(?:(?<![\w)\]}])[-−])?"
_PLAIN = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_FRAC = r"\\[dt]?frac\{-?\d+\}\{\d+\}"
_NUMBER = re.compile(rf"{_SIGN}(?:{_FRAC}|{_PLAIN}(?:\s*/\s*\d+)?)(?:\s*\\?%)?")
_MARKED = re.compile(
    r"(?:####|\banswers?(?:\*\*)?(?: is:?|\s*[:：])(?:\*\*)?|答案[是为:：]?)\s*([^\n]+)",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_NUMBERING = re.compile(r"\s*\*\*\d+(?:[.):：]\*\*|\*\*[.):：])\s*\S")
"""The number of a step, `**1.** Add three`, which is no answer."""
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_VALUE = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d{1,3})?(?:/\d+)?", re.IGNORECASE)
"""Powers of ten have an end: an answer of 1e999999999 would take all memory."""
_SENTENCE = re.compile(r"[.!?](?=\s|$)|[。！？]|\b(?:because|since|as|which)\b")
_EQUATION = re.compile(r"^(?:[^=,;A-Za-z]|,(?=\d)|\b[A-Za-z]\b)*=")
_OPEN = re.compile(r"\d|[+*/^\\{}=<>]|\s[-−]\s|\bor\b")
"""Behind a number: there is more to the answer than a unit."""
_DRESS = re.compile(r"\\(?:text|mathrm)\{([^{}]*)\}|\*\*|\\[()\[\]]|[$]")


def check(argument: str | None) -> None:
    unused("math_answer", argument)


def score(answers: Sequence[Answer], argument: str | None) -> list[float]:
    return [float(same(one.text, one.reference)) for one in answers]


def same(text: str, reference: str) -> bool:
    """Whether two texts come to the same answer; an absent one is never right."""
    found, wanted = final(text), final(reference)
    if not found or not wanted:
        return False
    values = value(found), value(wanted)
    if None not in values:
        return values[0] == values[1]
    return _bare(wanted) in (_bare(found), _bare(_sentence(found)))


def final(text: str) -> str:
    """The final answer in a text; empty if there is none."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed.strip()
    marked = _MARKED.findall(text)
    if marked:
        return marked[-1].strip().rstrip(".").strip()
    return _bold(text) or next(reversed(_NUMBER.findall(text)), "")


def value(text: str) -> Fraction | None:
    """The number that a final answer is, or begins with: `12`, `12 apples.`, `x = 3 + 4 = 7`; None
    if there is none, or more than one.
    """
    whole = number(text)
    if whole is not None:
        return whole
    text = _DRESS.sub(lambda found: f" {found[1] or ''}", _sentence(text))
    while (cut := _EQUATION.match(text)) is not None:
        text = text[cut.end() :]
    text = text.strip()
    found = _NUMBER.match(text)
    if found is None:
        return None
    rest = text[found.end() :]
    if rest[:1].isalnum() or _OPEN.search(rest):
        return None
    return number(found[0])


def number(text: str) -> Fraction | None:
    """Its exact value: `1,200`, `-0.5`, `3/4`, `50%`, `\\frac{1}{2}`; None if it is no number."""
    text = _FRACTION.sub(r"\1/\2", _bare(text)).replace("−", "-")
    percent = text.endswith("%")
    for mark in ("{,}", ",", "$", " "):
        text = text.replace(mark, "")
    text = text.rstrip("%\\")
    if _VALUE.fullmatch(text) is None:
        return None
    above, _, below = text.partition("/")
    try:
        exact = Fraction(above) / Fraction(below or 1)
    except (ValueError, ZeroDivisionError):  # more digits than Python reads; nothing to divide by
        return None
    return exact / 100 if percent else exact


def _sentence(text: str) -> str:
    """The first sentence, without what explains it; a point between digits ends none."""
    return _SENTENCE.split(text, maxsplit=1)[0].strip()


def _bare(text: str) -> str:
    return text.strip().strip("$").strip().rstrip(".").strip()


def _bold(text: str) -> str:
    """The last number in bold of the last line; empty if there is none."""
    lines = text.strip().splitlines()
    last = lines[-1] if lines else ""
    numbering = _NUMBERING.match(last)
    found = [one[1] for one in _BOLD.finditer(last, numbering.end() - 1 if numbering else 0)]
    return next((one for one in reversed(found) if value(one) is not None), "")


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
