"""Order is a permutation and a pure function of (seed, epoch)."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from tunesmith.data.order import permutation


@given(st.integers(0, 300), st.integers(-5, 1 << 70), st.integers(0, 5))
def test_is_a_permutation(n, seed, epoch):
    drawn = permutation(n, seed, epoch)
    assert sorted(drawn.tolist()) == list(range(n))
    assert (drawn == permutation(n, seed, epoch)).all()


def test_depends_on_seed_epoch_and_purpose():
    drawn = [permutation(100, 1, 0), permutation(100, 2, 0), permutation(100, 1, 1)]
    drawn.append(permutation(100, 1, 0, "bins"))
    assert len({tuple(one.tolist()) for one in drawn}) == 4


def test_is_what_it_was():
    """A change here changes the order of every run: resumed runs would not be exact."""
    assert permutation(10, 42, 0).tolist() == [3, 4, 7, 5, 9, 8, 6, 0, 1, 2]


def test_is_uniform_enough():
    first = np.array([permutation(8, seed, 0) for seed in range(4000)])
    for column in first.T:
        assert np.abs(np.bincount(column, minlength=8) - 500).max() < 110  # 5 sigma
