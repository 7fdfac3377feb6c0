"""Mistakes of a recipe are gathered and told together: run once, mend once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith.errors import ConfigErrors, TunesmithError

_AT = re.compile(r"(.+?):(\d+):(\d+)(\s|$)")


class Problems:
    """What was found wrong so far; raised together, in the order of the file."""

    def __init__(self) -> None:
        self.found: list[TunesmithError] = []

    def add(self, error: TunesmithError) -> None:
        """Takes one error, or each of several; the same one twice counts once."""
        for one in error.errors if isinstance(error, ConfigErrors) else (error,):
            if not any(str(one) == str(known) for known in self.found):
                self.found.append(one)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Takes what the block raises, and goes on after it."""
        try:
            yield
        except TunesmithError as error:
            self.add(error)

    def raise_any(self) -> None:
        """Raises the one error that was found, or all of them as one.

        Raises:
            TunesmithError: the only one.
            ConfigErrors: there are several.
        """
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise ConfigErrors(sorted(self.found, key=_position))


def _position(error: TunesmithError) -> tuple[int, str, int, int]:
    """Places in files first, by file, line and column; what has no line keeps its order."""
    at = _AT.match(error.where)
    return (0, at[1], int(at[2]), int(at[3])) if at else (1, "", 0, 0)
