"""What rewards share: naming one, checking it before any weight is loaded, and scoring answers.

A named reward is a module with `check(argument)` and `score(answers, argument)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tunesmith import registry
from tunesmith.errors import ConfigError, RunError
from tunesmith.rewards import user_impl
from tunesmith.rewards.answer_impl import Answer

__all__ = ["Answer", "Reward", "Rewards", "check"]

Score = Callable[[Sequence[Answer]], Sequence[float]]


@dataclass(frozen=True)
class Reward:
    """One source of rewards; several are added up by weight."""

    path: str
    """A name of rewards/ (exact_match, math_answer, regex, length, token_count), a function of your
    own (rewards.py:function; your code runs), a service (http://…) or a reward model (run:…)."""
    weight: float = 1.0
    """What its score counts in the sum."""
    argument: str | None = None
    """regex: the pattern; length: tokens wanted; token_count: the text that is counted."""


class Scores(NamedTuple):
    """Scores of answers: their weighted sum, and what each source gave."""

    total_N: np.ndarray
    """float64, shape (N,)."""
    each: dict[str, np.ndarray]


@dataclass(frozen=True)
class Rewards:
    """Sources ready to score."""

    sources: tuple[tuple[Reward, Score], ...]

    @classmethod
    def build(
        cls,
        rewards: Sequence[Reward],
        scorer: Callable[[str], Score] | None,
        say: Callable[[str], None],
    ) -> Rewards:
        """Loads functions and models.

        Args:
            rewards: What the recipe names.
            scorer: Loads a reward model by name.
            say: Is told when a user's code is run or answers are sent away.

        Raises:
            ConfigError: C110, C225; what the scorer raises.
        """
        return cls(tuple((reward, _score_of(reward, scorer, say)) for reward in rewards))

    def score(self, answers: Sequence[Answer]) -> Scores:
        """Scores of each answer.

        Raises:
            RunError: R240, a function failed; R241, it gave something other than a finite number
                for each answer; R242, the service did not answer.
        """
        total_N = np.zeros(len(answers))
        each: dict[str, np.ndarray] = {}
        for reward, function in self.sources:
            found_N = _checked(reward.path, function(answers), len(answers))
            each[_label(reward, each)] = found_N
            total_N += reward.weight * found_N
        return Scores(total_N, each)


def is_model(path: str) -> bool:
    """Whether a reward is a reward model: a run, or a directory."""
    return not _is_named(path) and not user_impl.is_function(path) and not _is_remote(path)


def check(rewards: Sequence[Reward]) -> None:
    """Refuses what can be told without loading anything.

    Raises:
        ConfigError: C110, no reward of that name; C224, no or wrong argument; C225, no such
            function; C226, there is no reward at all.
    """
    if not rewards:
        raise ConfigError(
            "C226", "no reward is named", where="stage.rewards", fix="stage.rewards=[exact_match]"
        )
    for reward in rewards:
        if not math.isfinite(reward.weight):
            raise ConfigError(
                "C224", f"the weight of {reward.path} is {reward.weight}", where="stage.rewards",
                fix="give it a finite weight",
            )  # fmt: skip
        if user_impl.is_function(reward.path):
            user_impl.find(reward.path)
        elif _is_named(reward.path):
            registry.load("rewards", reward.path).check(reward.argument)


def _is_named(path: str) -> bool:
    """A word alone is a name; runs are written with `run:`, directories with a slash."""
    return path.isidentifier()


def _is_remote(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def _score_of(reward: Reward, scorer: Any, say: Callable[[str], None]) -> Score:
    path = reward.path
    if user_impl.is_function(path):
        say(f"reward {path}: running your code in this process")
        return user_impl.function(path)
    if _is_named(path):
        module = registry.load("rewards", path)
        return lambda answers: module.score(answers, reward.argument)
    if _is_remote(path):
        from tunesmith.rewards import remote_impl

        say(f"reward {path}: prompts and answers are sent there")
        return remote_impl.service(path)
    say(f"reward {path}: a reward model, loaded beside the one in training")
    return scorer(path)


def _label(reward: Reward, taken: dict[str, Any]) -> str:
    """A short name for metrics; a second source of the same name gets a number."""
    name = reward.path
    if user_impl.is_function(name):
        name = name.rpartition(":")[2]
    elif not _is_named(name):
        name = "service" if _is_remote(name) else "model"
    return name if name not in taken else f"{name}_{sum(n.startswith(name) for n in taken) + 1}"


def _checked(path: str, found: Sequence[float], count: int) -> np.ndarray:
    """Scores as float64, one finite number an answer; text that reads like one is none."""
    texts = [at for at, score in enumerate(found) if isinstance(score, (str, bytes, bytearray))]
    if texts:
        raise _wrong(path, f"the score of answer {texts[0]} is text: {found[texts[0]]!r:.80}")
    try:
        scores_N = np.asarray([float(score) for score in found], np.float64)
    except (TypeError, ValueError) as error:
        raise _wrong(path, f"{type(error).__name__}: {error}") from error
    if len(scores_N) != count:
        raise _wrong(path, f"{len(scores_N)} scores for {count} answers")
    bad = np.flatnonzero(~np.isfinite(scores_N))
    if len(bad):
        raise _wrong(path, f"the score of answer {int(bad[0])} is {scores_N[bad[0]]}")
    return scores_N


def _wrong(path: str, why: str) -> RunError:
    return RunError(
        "R241",
        f"the reward {path} gave no score for each answer",
        where="stage.rewards",
        why=why,
        fix="it must give a list with one finite number for each answer",
    )
