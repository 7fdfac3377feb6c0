"""How many tokens are trained: those with a weight, whatever it is, less what is only measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tunesmith.data.store import Dataset, Shard


class Counted(NamedTuple):
    """Tokens of some items."""

    trained: int
    measured: int
    """With a weight, but measured for others: KTO's mismatched answers."""


def tokens(data: Dataset, measured: Sequence[int] = ()) -> Counted:
    """Counts the targets of all items.

    Args:
        data: Items.
        measured: Which examples of each item are not trained on.
    """
    total = aside = 0
    for number in np.unique(data.shard_N).tolist():
        items = np.flatnonzero(data.shard_N == number)
        first, count = data.first_N[items], data.count_N[items]
        targets_E = _targets(data.shards[number])
        before = np.concatenate([[0], np.cumsum(targets_E)])
        total += int((before[first + count] - before[first]).sum())
        for place in measured:
            has = count > place
            aside += int(targets_E[first[has] + place].sum())
    return Counted(total - aside, aside)


def _targets(shard: Shard) -> np.ndarray:
    """int64, tokens with a weight in each example of a shard, shape (E,)."""
    length_E = shard.length_E.astype(np.int64)
    if shard.weights_T is None:  # all of a corpus is trained but what begins a text
        return np.maximum(length_E - 1, 0)
    targets_E = np.zeros_like(length_E)
    some = length_E > 0  # a sum from one example to the next, which lie end to end
    if some.any():
        starts = shard.start_E[some].astype(np.int64)
        targets_E[some] = np.add.reduceat(shard.weights_T != 0, starts, dtype=np.int64)
    return targets_E
