"""Packing: best fit decreasing, deterministic, over the rows of a whole epoch.

Each item goes, longest first, into the fullest bin that still takes it. Source: Johnson 1974; at
most 11/9 of the optimum, in practice within a few bins of it for rows much shorter than a bin.
"""

from __future__ import annotations

import numpy as np


def best_fit(lengths_N: np.ndarray, capacity: int, order_N: np.ndarray) -> list[np.ndarray]:
    """Bins of item indices whose lengths sum to at most `capacity`.

    Args:
        lengths_N: Tokens of each item, ints, shape (N,).
        capacity: Tokens of a bin. A longer item gets a bin of its own.
        order_N: A permutation of the items: ties are broken by it, items of a bin lie in it, and
            bins are sorted by their first item in it.

    Returns:
        Bins, each an int64 array of indices; every item is in exactly one.
    """
    lengths_N = np.asarray(lengths_N)
    by_length = order_N[np.argsort(-lengths_N[order_N], kind="stable")]
    bin_of = _assign(lengths_N[by_length].tolist(), capacity)
    place_N = np.empty(len(order_N), np.int64)
    place_N[order_N] = np.arange(len(order_N))
    place = place_N[by_length]
    grouped = np.lexsort((place, bin_of))
    borders = np.flatnonzero(np.diff(bin_of[grouped])) + 1
    bins = np.split(by_length[grouped], borders) if len(order_N) else []
    return sorted(bins, key=lambda items: place_N[items[0]])


def _assign(descending: list[int], capacity: int) -> np.ndarray:
    """The bin of each item; items come longest first."""
    open_bins: dict[int, list[int]] = {}  # free tokens → bins with exactly so many
    free = 0  # bit r is set if some bin has r free tokens: the next one up is found at once
    chosen = np.empty(len(descending), np.int64)
    count = 0
    for index, length in enumerate(descending):
        fitting = free >> length if length <= capacity else 0
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            stack = open_bins[room]
            target = stack.pop()
            if not stack:
                free ^= 1 << room
        else:
            room, target, count = max(capacity, length), count, count + 1
        left = room - length
        if left:
            stack = open_bins.setdefault(left, [])
            if not stack:
                free |= 1 << left
            stack.append(target)
        chosen[index] = target
    return chosen
