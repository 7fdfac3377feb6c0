"""0 for an answer of the wanted number of tokens, −1 for one that misses it by as many again."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.rewards.answer_impl import Answer, missing


def check(argument: str | None) -> None:
    if not (argument or "").isdecimal() or int(argument or 0) < 1:
        raise missing("length", "the wanted number of tokens, end marker included")


def score(answers: Sequence[Answer], argument: str | None) -> list[float]:
    wanted = int(argument or 1)
    return [-abs(one.tokens - wanted) / wanted for one in answers]
