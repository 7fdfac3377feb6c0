"""Mixtures have the counts of `interleave_datasets`, and are functions of seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tunesmith.data import mix
from tunesmith.errors import DataError

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=4)
UNDER, OVER = "interleave_under", "interleave_over"


def by_rule(draws, sizes, over):
    """The loop of datasets' `_interleave_map_style_datasets`, on the draws that were made."""
    taken, done, made = [0] * len(sizes), [False] * len(sizes), []
    for source in draws:
        if all(done) if over else any(done):
            break
        made.append(source)
        taken[source] += 1
        if taken[source] >= sizes[source]:
            done[source], taken[source] = True, 0
    return made


@given(SIZES, st.integers(0, 9), st.booleans(), st.data())
def test_drawn_sources_end_as_the_rule_says(sizes, seed, over, data):
    probs = data.draw(st.lists(st.floats(0.1, 9), min_size=len(sizes), max_size=len(sizes)))
    found = mix.sources(sizes, OVER if over else UNDER, probs, seed).tolist()
    assert by_rule([*found, *range(len(sizes))], sizes, over) == found
    counts = [found.count(source) for source in range(len(sizes))]
    full = [count >= size for count, size in zip(counts, sizes, strict=True)]
    assert all(full) if over else any(full)


@given(SIZES)
def test_in_turn(sizes):
    under, over = (mix.sources(sizes, s, None, 1) for s in (UNDER, OVER))
    assert len(under) == len(sizes) * min(sizes)
    assert len(over) == len(sizes) * max(sizes)
    assert under.tolist() == [i % len(sizes) for i in range(len(under))]


def test_counts_are_those_of_datasets():
    """The oracle itself, where it is installed."""
    datasets = pytest.importorskip("datasets")
    sizes = [5, 3, 7]
    sets = [
        datasets.Dataset.from_dict({"x": [100 * source + i for i in range(size)]})
        for source, size in enumerate(sizes)
    ]
    source_N = np.repeat(np.arange(3), sizes)
    names = np.array([100 * source + i for source, size in enumerate(sizes) for i in range(size)])
    for ours, theirs in ((UNDER, "first_exhausted"), (OVER, "all_exhausted")):
        expected = datasets.interleave_datasets(sets, stopping_strategy=theirs)["x"]
        rows = mix.rows(source_N, ours, None, seed=1, epoch=0, shuffle=False)
        assert names[rows].tolist() == list(expected)


@given(SIZES, st.integers(0, 5), st.booleans(), st.sampled_from([UNDER, OVER, "concat"]))
def test_rows_are_of_their_source_and_evenly_used(sizes, seed, shuffle, strategy):
    source_N = np.repeat(np.arange(len(sizes)), sizes)
    place = mix.sources(sizes, strategy, None, seed)
    used = np.zeros(len(source_N), int)
    for epoch in range(3):
        rows = mix.rows(source_N, strategy, None, seed=seed, epoch=epoch, shuffle=shuffle)
        assert len(rows) == len(place)
        if strategy != "concat":
            assert source_N[rows].tolist() == place.tolist()
        seen = np.bincount(rows, minlength=len(source_N))
        for source in range(len(sizes)):
            counts = seen[source_N == source]
            assert counts.max() - counts.min() <= 1  # no row twice before all were taken once
        used += seen
    if strategy == OVER:
        assert (used > 0).all()


def test_probabilities_are_met():
    found = mix.sources([70_000, 70_000], UNDER, [3, 1], 5)
    assert abs(np.mean(found == 0) - 0.75) < 0.01
    assert (found != mix.sources([70_000, 70_000], UNDER, [3, 1], 6)[: len(found)]).any()


def test_unshuffled_epochs_go_on_where_the_last_one_stopped():
    source_N = np.array([0, 0, 0, 0, 1, 1])
    epochs = [
        mix.rows(source_N, UNDER, None, seed=1, epoch=e, shuffle=False).tolist() for e in (0, 1)
    ]
    assert epochs == [[0, 4, 1, 5], [2, 4, 3, 5]]


@pytest.mark.parametrize(
    ("strategy", "probs", "what"),
    [
        ("concat", (0.5, 0.5), "mix_strategy is concat"),
        (UNDER, (0.5,), "1 probabilities for 2"),
        (UNDER, (0.5, 0.0), "above 0"),
        (UNDER, (0.5, float("nan")), "above 0"),
        (UNDER, (0.7, 0.7), "sum to 1.4, not to 1"),
        (UNDER, (3, 1), "the same shares as 0.75, 0.25"),
    ],
)
def test_probabilities_that_do_not_fit(strategy, probs, what):
    with pytest.raises(DataError, match="D210") as caught:
        mix.check(2, strategy, probs)
    assert what in str(caught.value)


def test_probabilities_may_be_rounded():
    mix.check(3, UNDER, (0.333, 0.333, 0.333))


def test_a_source_without_rows():
    with pytest.raises(DataError, match="D210"):
        mix.sources([3, 0], UNDER, None, 1)


# ---------------------------------------------------------------- the buffer


@settings(max_examples=50)
@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 5), st.integers(0, 3))
def test_a_buffer_permutes_and_never_reads_ahead(n, size, seed, epoch):
    order = mix.buffered(n, size, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == mix.buffered(n, size, seed, epoch).tolist()
    if size < n:  # the row at place k has been read by then: so far the file is read, no farther
        assert all(row <= place + size for place, row in enumerate(order))


def test_a_buffer_moves_rows_and_differs_between_epochs():
    first, second = (mix.buffered(1000, 100, 7, epoch) for epoch in (0, 1))
    assert (first != second).any()
    assert np.abs(first - np.arange(1000)).mean() > 30
