"""1 where the answer is the reference, white space around it aside; else 0."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.rewards.answer_impl import Answer, unused


def check(argument: str | None) -> None:
    unused("exact_match", argument)


def score(answers: Sequence[Answer], argument: str | None) -> list[float]:
    return [float(one.text.strip() == one.reference.strip()) for one in answers]
