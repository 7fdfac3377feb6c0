"""1 where a pattern is found in the answer, else 0."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.rewards.answer_impl import Answer, missing


def check(argument: str | None) -> None:
    if not argument:
        raise missing("regex", "a pattern such as ^\\d+$")
    try:
        re.compile(argument)
    except re.error as error:
        raise missing("regex", f"`{argument}` is no pattern ({error})") from None


def score(answers: Sequence[Answer], argument: str | None) -> list[float]:
    pattern = re.compile(argument or "")
    return [float(pattern.search(one.text) is not None) for one in answers]
