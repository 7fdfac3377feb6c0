"""A holdout is drawn once, by the seed, and leaves rows on both sides."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from tunesmith.data.split import holdout
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Holdout


@given(st.integers(2, 200), st.integers(0, 99), st.data())
def test_parts_are_disjoint_and_complete(n, seed, data):
    count = data.draw(st.integers(1, n - 1))
    train, evaluation = holdout(n, Holdout(count=count), seed)
    assert len(evaluation) == count
    assert sorted([*train, *evaluation]) == list(range(n))
    again = holdout(n, Holdout(count=count), seed)
    assert (again[0] == train).all()
    assert (again[1] == evaluation).all()


def test_fraction():
    assert len(holdout(200, Holdout(fraction=0.05), 1)[1]) == 10
    assert len(holdout(3, Holdout(fraction=0.05), 1)[1]) == 1
    drawn = [holdout(200, Holdout(fraction=0.05), seed)[1].tolist() for seed in (1, 2)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("config", [Holdout(count=0), Holdout(count=9), Holdout(fraction=0.99)])
def test_neither_side_may_be_empty(config):
    with pytest.raises(DataError, match="D208"):
        holdout(9, config, 1)
