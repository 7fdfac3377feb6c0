"""How often a text, usually of one token, stands in the answer."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.rewards.answer_impl import Answer, missing


def check(argument: str | None) -> None:
    if not argument:
        raise missing("token_count", "the text that is counted")


def score(answers: Sequence[Answer], argument: str | None) -> list[float]:
    return [float(one.text.count(argument or "")) for one in answers]
