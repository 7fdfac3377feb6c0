"""Best fit decreasing: every item once, no bin too full, dense, fast, deterministic."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, strategies as st

from tunesmith.data.order import permutation
from tunesmith.data.pack import best_fit

LENGTHS = st.lists(st.integers(1, 40), min_size=0, max_size=80)


@given(LENGTHS, st.integers(1, 50), st.integers(0, 9))
def test_every_item_is_in_one_bin_that_is_not_too_full(lengths, capacity, seed):
    order = permutation(len(lengths), seed, 0)
    bins = best_fit(np.array(lengths, np.int32), capacity, order)
    assert sorted(int(i) for items in bins for i in items) == list(range(len(lengths)))
    for items in bins:
        size = sum(lengths[i] for i in items)
        assert size <= capacity or len(items) == 1


def naive(lengths, capacity, order):
    """Best fit decreasing as the textbook has it."""
    bins = []
    for item in sorted(order, key=lambda i: -lengths[i]):
        room = [capacity - sum(lengths[i] for i in b) for b in bins]
        fitting = [(r, n) for n, r in enumerate(room) if r >= lengths[item]]
        if fitting:
            bins[min(fitting)[1]].append(item)
        else:
            bins.append([item])
    return len(bins)


@given(LENGTHS, st.integers(40, 99), st.integers(0, 9))
def test_needs_as_many_bins_as_the_textbook(lengths, capacity, seed):
    order = permutation(len(lengths), seed, 0)
    bins = best_fit(np.array(lengths, np.int32), capacity, order)
    assert len(bins) == naive(lengths, capacity, order.tolist())


@given(LENGTHS, st.integers(1, 50), st.integers(0, 9))
def test_order_only_breaks_ties(lengths, capacity, seed):
    """How many bins there are does not depend on the epoch: the length of a run must not."""
    sizes = np.array(lengths, np.int32)
    one = best_fit(sizes, capacity, np.arange(len(lengths)))
    other = best_fit(sizes, capacity, permutation(len(lengths), seed, 1))
    fill = lambda bins: sorted(tuple(sorted(lengths[i] for i in items)) for items in bins)
    assert fill(one) == fill(other)
    assert [int(items[0]) for items in one] == sorted(int(items[0]) for items in one)


def test_fifty_thousand_rows_in_a_second_and_nearly_full():
    lengths = np.clip(np.random.default_rng(0).lognormal(4.6, 0.7, 52_000), 8, 2048).astype(
        np.int32
    )
    began = time.process_time()
    bins = best_fit(lengths, 2048, permutation(len(lengths), 1, 0))
    assert time.process_time() - began < 1
    assert lengths.sum() / (2048 * len(bins)) > 0.99
