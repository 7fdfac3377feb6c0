"""Where tokens of an example were cut away: its ids compared with those it had without a limit.

Legend: `T` tokens of the example, `U` of what it was cut from.
"""

from __future__ import annotations

import numpy as np

ALIKE = 16
"""Tokens that must be equal for the example to go on at a place."""
NEW = 4
"""Tokens at a border that may be other ones: text that was cut is tokenised again."""


def gaps(ids_T: np.ndarray, whole_U: np.ndarray | None) -> dict[int, int]:
    """How many tokens are missing in front of which token; in front of len(ids_T): at the end.

    Args:
        ids_T: The example.
        whole_U: What it was cut from; None: nothing was cut, or it is not known.
    """
    found: dict[int, int] = {}
    if whole_U is None or len(whole_U) <= len(ids_T):
        return found
    at = there = 0
    while True:
        same = _equal(ids_T[at:], whole_U[there:])
        at, there = at + same, there + same
        if at == len(ids_T) or there == len(whole_U):
            break
        skipped, jump = _next(ids_T[at:], whole_U[there:])
        if not jump:  # text that can't be found again: one place for all that is missing
            found[at] = len(whole_U) - len(ids_T) - sum(found.values())
            return {place: count for place, count in found.items() if count > 0}
        if jump > skipped:
            place = at + skipped
            if not skipped:  # what both begin with may be the beginning of what follows: a turn's
                last = max(found, default=0)
                place -= _equal(ids_T[last:at][::-1], whole_U[: there + jump][::-1])
            found[place] = jump - skipped
        at, there = at + skipped, there + jump
    if there < len(whole_U):
        found[len(ids_T)] = len(whole_U) - there
    return found


def _equal(left: np.ndarray, right: np.ndarray) -> int:
    """How many tokens both begin with."""
    shorter = min(len(left), len(right))
    other = np.flatnonzero(left[:shorter] != right[:shorter])
    return int(other[0]) if len(other) else shorter


def _next(ids_T: np.ndarray, whole_U: np.ndarray) -> tuple[int, int]:
    """(tokens of the example that are new, tokens of the whole that are passed over) up to where
    both go on alike; (0, 0) if they never do."""
    for skipped in range(NEW + 1):
        rest = ids_T[skipped:]
        if not len(rest):
            break
        if len(rest) <= ALIKE:  # an end: the last place where it stands, an end marker is frequent
            if len(whole_U) >= len(rest) and (whole_U[len(whole_U) - len(rest) :] == rest).all():
                return skipped, len(whole_U) - len(rest)
            continue
        if (jump := _find(rest[:ALIKE], whole_U)) > 0:
            return skipped, jump
    return 0, 0


def _find(wanted: np.ndarray, within: np.ndarray) -> int:
    """The first place where these tokens stand; -1: nowhere."""
    needle = np.ascontiguousarray(wanted, np.int32).tobytes()
    hay = np.ascontiguousarray(within, np.int32).tobytes()
    place = hay.find(needle)
    while place >= 0 and place % 4:
        place = hay.find(needle, place + 1)
    return place // 4 if place >= 0 else -1
