"""What a reward is told of an answer."""

from __future__ import annotations

from typing import NamedTuple

from tunesmith.errors import ConfigError


class Answer(NamedTuple):
    """A sampled answer to a prompt of the data."""

    prompt: str
    """The prompt as the model saw it, markup included."""
    text: str
    """The answer, without its end marker."""
    reference: str
    """The last assistant turn of the row; empty where it has none."""
    ids: tuple[int, ...]
    """Tokens of prompt and answer, end marker included."""
    tokens: int
    """Tokens of the answer alone."""
    finished: bool
    """Whether it ended by itself rather than at the longest length."""


def missing(name: str, wanted: str) -> ConfigError:
    """C224: a named reward without the argument it needs, or with a wrong one."""
    return ConfigError(
        "C224",
        f"the reward {name} needs an argument: {wanted}",
        where="stage.rewards",
        fix=f"write {{path: {name}, argument: …}}",
    )


def unused(name: str, argument: str | None) -> None:
    """Refuses an argument that would be ignored.

    Raises:
        ConfigError: C224.
    """
    if argument is not None:
        raise ConfigError(
            "C224",
            f"the reward {name} takes no argument, it was given `{argument}`",
            where="stage.rewards",
            fix="leave the argument out",
        )
