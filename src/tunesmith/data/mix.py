"""Which rows of several sources an epoch takes, and in which order: pure functions of the seed.

concat              every row once
interleave_under    sources in turn (or drawn), until the first one has no row left
interleave_over     sources in turn (or drawn), until every one has been seen whole; shorter ones
                    begin again

The counts are those of `datasets.interleave_datasets` with `first_exhausted` and `all_exhausted`.
Which source a place of the epoch belongs to depends on the seed alone, so that every epoch has the
same number of rows; which row of the source it is depends on the epoch too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from tunesmith.data.order import permutation, uniform
from tunesmith.errors import DataError

Strategy = Literal["concat", "interleave_under", "interleave_over"]
PROBS = "data.interleave_probs"
NEAR_ONE = 2e-3
"""How far a sum of rounded probabilities may be from one: 0.333 three times is meant as thirds."""
DRAWN = 4096
"""Draws made at once."""


def sources(
    sizes: Sequence[int], strategy: Strategy, probs: Sequence[float] | None, seed: int
) -> np.ndarray:
    """The source of each place of an epoch, int32, shape (N,).

    Args:
        sizes: Rows of each source, at least one each.
        strategy: See above.
        probs: Chance of each source; default: in turn. `check` wants a sum of one, this does not.
        seed: Of the draws.

    Raises:
        DataError: D210, probabilities that don't fit the sources.
    """
    _check_shape(len(sizes), strategy, probs)
    if any(size < 1 for size in sizes):
        raise DataError("D210", "a source without rows can't be mixed", where="data.train")
    if strategy == "concat":
        return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    if probs is None:
        rounds = min(sizes) if strategy == "interleave_under" else max(sizes)
        return np.tile(np.arange(len(sizes), dtype=np.int32), rounds)
    return _drawn(np.asarray(sizes), strategy == "interleave_over", probs, seed)


def check(
    count: int,
    strategy: Strategy,
    probs: Sequence[float] | None,
    said_as: str = PROBS,
) -> None:
    """Refuses probabilities that don't fit. They must sum to one, as `datasets` wants them: of
    0.7, 0.7 nobody can say which was meant to be 0.3.

    Raises:
        DataError: D210.
    """
    _check_shape(count, strategy, probs, said_as)
    if probs is not None and abs(sum(probs) - 1) > NEAR_ONE:
        what = f"the probabilities sum to {sum(probs):.6g}, not to 1"
        shares = ", ".join(f"{p / sum(probs):.4g}" for p in probs)
        given = shares if said_as.startswith("data.") else shares.replace(" ", "")
        raise DataError("D210", what, where=said_as, fix=f"the same shares as {given}")


def _check_shape(
    count: int, strategy: Strategy, probs: Sequence[float] | None, said_as: str = PROBS
) -> None:
    if probs is None:
        return
    what = ""
    if strategy == "concat":
        what = "interleave_probs says how to interleave, but mix_strategy is concat"
    elif len(probs) != count:
        what = f"{len(probs)} probabilities for {count} sources"
    elif any(not 0 < p < float("inf") for p in probs):
        what = "every probability must be above 0"
    if what:
        fix = "one number for each source, e.g. [0.7, 0.3], and mix_strategy: interleave_under"
        if not said_as.startswith("data."):
            fix = f"one number for each file: {said_as} {','.join([f'{1 / count:.4g}'] * count)}"
        raise DataError("D210", what, where=said_as, fix=fix)


def _drawn(sizes: np.ndarray, over: bool, probs: Sequence[float], seed: int) -> np.ndarray:
    """Draws until a source (or, with `over`, every source) has been taken whole."""
    cut = np.cumsum(np.asarray(probs, np.float64) / np.sum(probs))[:-1]
    taken = np.zeros(len(sizes), np.int64)
    parts: list[np.ndarray] = []
    while True:
        draws = uniform(DRAWN, seed, len(parts), "mix")
        drawn = np.searchsorted(cut, draws, side="right").astype(np.int32)
        counts = taken[:, None] + np.cumsum(drawn == np.arange(len(sizes))[:, None], axis=1)
        done = counts >= sizes[:, None]
        ended = done.all(axis=0) if over else done.any(axis=0)
        if ended.any():
            parts.append(drawn[: int(ended.argmax()) + 1])
            return np.concatenate(parts)
        parts.append(drawn)
        taken = counts[:, -1]


def rows(
    source_N: np.ndarray,
    strategy: Strategy,
    probs: Sequence[float] | None,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
) -> np.ndarray:
    """The rows of an epoch in their order, int64; with `interleave_over` some stand twice.

    Args:
        source_N: The source of each row of the dataset, shape (N,).
        strategy: How sources are mixed; concat is `order.permutation` over all rows.
        probs: As in `sources`.
        seed: The run's seed.
        epoch: From 0.
        shuffle: Draw each source's rows anew each epoch; else they come in their order, and the
            next epoch goes on where this one stopped.
    """
    if strategy == "concat":
        return permutation(len(source_N), seed, epoch) if shuffle else np.arange(len(source_N))
    found = np.unique(source_N)
    members = [np.flatnonzero(source_N == source) for source in found]
    place = sources([len(one) for one in members], strategy, probs, seed)
    chosen = np.empty(len(place), np.int64)
    for number, items in enumerate(members):
        at = np.flatnonzero(place == number)
        chosen[at] = items[_turns(len(at), len(items), number, seed, epoch, shuffle)]
    return chosen


def _turns(count: int, size: int, source: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """`count` of `size` rows: as often whole as it takes, each time in another order."""
    if not shuffle:
        return (epoch * count + np.arange(count)) % size
    passes = -(-count // size)
    orders = [permutation(size, seed, epoch * passes + i, f"mix {source}") for i in range(passes)]
    return np.concatenate([*orders, np.empty(0, np.int64)])[:count].astype(np.int64)


def stream(
    sizes: Sequence[int],
    strategy: Strategy,
    probs: Sequence[float] | None,
    seed: int,
) -> Iterator[int]:
    """The sources of `sources`, one after the other, as plain numbers."""
    return iter(sources(sizes, strategy, probs, seed).tolist())


def buffered(n: int, size: int, seed: int, epoch: int) -> np.ndarray:
    """An order that a buffer of `size` rows makes of rows read one after the other, int64 (n,).

    Each row that comes in takes the place of one drawn from the buffer, which goes out; at the end
    the buffer is emptied in the order of a draw. Row k is read at most k places too early and the
    files are read from their beginning to their end: what that costs in memory is `size` rows.
    The state of such a buffer is the number of rows taken, since the order is a function of it.

    Args:
        n: Rows.
        size: Of the buffer; at least `n` is a full shuffle.
        seed: The run's seed.
        epoch: From 0.
    """
    if size >= n:
        return permutation(n, seed, epoch)
    slots = (uniform(n - size, seed, epoch, "buffer") * size).astype(np.int64).tolist()
    buffer = list(range(size))
    order = np.empty(n, np.int64)
    for place, slot in enumerate(slots):
        order[place] = buffer[slot]
        buffer[slot] = size + place
    order[n - size :] = np.asarray(buffer)[permutation(size, seed, epoch, "buffer rest")]
    return order
