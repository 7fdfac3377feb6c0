"""What is true of each encoded item, found shard by shard without a loop over rows.

Legend: `N` items of a dataset, `E` examples of a shard, `T` its tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from tunesmith.data.store import Dataset, Shard

LOOKED_AT = 300_000_000
"""Tokens looked at before a run; about a second for a hundred million."""


class Facts(NamedTuple):
    """One value for each item that was looked at; arrays of shape (N,)."""

    items_N: np.ndarray
    """int64, numbers of the items."""
    endless_N: np.ndarray
    """bool, an example's last trained token is no end marker."""
    hollow_N: np.ndarray
    """bool, a trained answer is nothing but an end marker."""
    double_bos_N: np.ndarray
    """bool, an example begins with BOS twice."""


def facts(
    data: Dataset, end_ids: Collection[int], bos_id: int | None, limit: int = LOOKED_AT
) -> Facts:
    """Looks through the first shards, until `limit` tokens are seen.

    Args:
        data: Items.
        end_ids: End-of-turn markers and EOS.
        bos_id: What begins a text.
        limit: Tokens; at least one shard is looked at.
    """
    ends = np.asarray(sorted(end_ids), np.int64)
    seen = 0
    parts: list[tuple[np.ndarray, ...]] = []
    for number in np.unique(data.shard_N).tolist():
        if seen > limit:
            break
        shard = data.shards[number]
        items = np.flatnonzero(data.shard_N == number)
        seen += int(data.lengths[items].sum())
        first, count = data.first_N[items], data.count_N[items]
        flags_E = _of_examples(shard, ends, bos_id)
        parts.append((items, *(_any(flag_E, first, count) for flag_E in flags_E)))
    if not parts:
        none = np.zeros(0, bool)
        return Facts(np.zeros(0, np.int64), none, none, none)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return Facts(*(column[order] for column in columns))


def _any(flag_E: np.ndarray, first_N: np.ndarray, count_N: np.ndarray) -> np.ndarray:
    """Whether one of each item's examples has the flag."""
    total = np.concatenate([[0], np.cumsum(flag_E, dtype=np.int64)])
    return total[first_N + count_N] > total[first_N]


def _of_examples(shard: Shard, ends: np.ndarray, bos_id: int | None) -> tuple[np.ndarray, ...]:
    start_E = shard.start_E.astype(np.int64)
    length_E = shard.length_E.astype(np.int64)
    last_E = start_E + np.maximum(length_E - 1, 0)
    ids_T = shard.ids_T
    double = (
        (length_E > 1)
        & (ids_T[start_E] == (-1 if bos_id is None else bos_id))
        & (ids_T[np.minimum(start_E + 1, last_E)] == ids_T[start_E])
    )
    if shard.weights_T is None:  # all of a corpus is trained
        return ~np.isin(ids_T[last_E], ends), np.zeros(len(start_E), bool), double
    trained_T = shard.weights_T != 0
    at_T = np.where(trained_T, np.arange(len(ids_T)), -1)
    last_trained = np.maximum.reduceat(at_T, start_E) if len(start_E) else start_E
    endless = (last_trained >= start_E) & ~np.isin(ids_T[last_trained], ends)
    # An answer's first trained token is its end marker, and the next token is not trained.
    begins_T = trained_T.copy()
    begins_T[1:] &= ~trained_T[:-1]
    begins_T[start_E] = trained_T[start_E]
    stops_T = trained_T.copy()
    stops_T[:-1] &= ~trained_T[1:]
    stops_T[last_E] = trained_T[last_E]
    hollow_T = begins_T & stops_T
    places = np.flatnonzero(hollow_T)
    places = places[np.isin(ids_T[places], ends)]
    hollow = np.zeros(len(start_E), bool)
    hollow[np.searchsorted(start_E, places, side="right") - 1] = True
    return endless, hollow, double
